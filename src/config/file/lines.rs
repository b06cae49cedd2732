//! Lines to other servers: what is wrong with a URL, and who could listen.
//!
//! A URL may hold a password, and where it is misspelt there is no telling which part that is. So
//! nothing here shows any of it.

use std::net::IpAddr;

const REDIS: &str = "expected redis://HOST:PORT/0, rediss://… or redis+unix://PATH";
const PASSWORDS: &str = "; in a password, write / as %2F, ? as %3F, # as %23 and @ as %40";

/// The parts of `SCHEME://USER:PASSWORD@HOST:PORT/PATH?QUERY#FRAGMENT`, behind the scheme.
struct Parts<'u> {
    host: &'u str,
    port: Option<&'u str>,
    path: &'u str,
    query: &'u str,
    fragment: Option<&'u str>,
}

impl<'u> Parts<'u> {
    fn of(rest: &'u str) -> Self {
        let (rest, fragment) = cut(rest, '#');
        let (rest, query) = cut(rest, '?');
        let (authority, path) = cut(rest, '/');
        let address = authority.rsplit_once('@').map_or(authority, |(_, address)| address);
        let (host, port) = match address.strip_prefix('[').and_then(|it| it.split_once(']')) {
            Some((host, port)) => (host, port.strip_prefix(':')),
            None => cut(address, ':'),
        };
        let (path, query) = (path.unwrap_or_default(), query.unwrap_or_default());
        Self { host, port, path, query, fragment }
    }

    /// Whether the line ends on this very machine.
    fn is_local(&self) -> bool {
        let socket = self.host.starts_with("%2F") || self.query.contains("host=/");
        let address = self.host.parse::<IpAddr>();
        socket || self.host == "localhost" || address.is_ok_and(|ip| ip.is_loopback())
    }
}

fn cut(text: &str, at: char) -> (&str, Option<&str>) {
    text.split_once(at).map_or((text, None), |(before, behind)| (before, Some(behind)))
}

/// A URL of Redis.
pub(super) fn redis(text: &str) -> Result<(), String> {
    if let Some(path) = text.strip_prefix("redis+unix://") {
        return match path.strip_prefix('/') {
            Some(rest) if !rest.is_empty() => Ok(()),
            _ => Err("a socket's path is whole: write redis+unix:///run/redis.sock".to_owned()),
        };
    }
    let rest = ["redis://", "rediss://"].iter().find_map(|scheme| text.strip_prefix(scheme));
    let parts = Parts::of(rest.ok_or(REDIS)?);
    let wrong = |what: &str| Err(format!("{what}{PASSWORDS}"));
    match &parts {
        Parts { fragment: Some(_), .. } => {
            wrong("nothing may follow a #: every server has to show who it is (redis_ca)")
        }
        Parts { host: "", .. } => Err(format!("names no host: {REDIS}")),
        Parts { host, .. } if host.contains(|c: char| c == ',' || c.is_whitespace()) => {
            wrong("names more than one host: name one server")
        }
        Parts { port: Some(port), .. } if !is_port(port) => {
            wrong("its port is no number from 1 to 65535")
        }
        Parts { path, .. } if !path.is_empty() && path.parse::<u32>().is_err() => {
            wrong("what follows the host is no number of a database, such as /0")
        }
        Parts { query, .. } if !matches!(*query, "" | "protocol=resp2" | "protocol=resp3") => {
            wrong("knows no settings but ?protocol=resp2 and resp3")
        }
        _ => Ok(()),
    }
}

fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok_and(|port| port > 0)
}

/// A URL of PostgreSQL, behind its scheme.
pub(super) fn postgres(rest: &str) -> Result<(), String> {
    let parts = Parts::of(rest);
    let wrong = |what: &str| Err(format!("{what}{PASSWORDS}"));
    let several = |text: &str| text.contains(',');
    if several(parts.host) || parts.port.is_some_and(several) {
        return Err("names more than one host: name one, such as an address that moves with the \
                    primary"
            .to_owned());
    }
    match parts.port {
        Some(port) if !port.is_empty() && !is_port(port) => {
            wrong("its port is no number from 1 to 65535")
        }
        _ => Ok(()),
    }
}

/// Whether this is where something is, and no password to it.
pub(super) fn may_be_shown(text: &str) -> bool {
    let Some((_, rest)) = text.split_once("://") else { return text.starts_with("sqlite") };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let user = authority.rsplit_once('@').map_or("", |(user, _)| user);
    let query = Parts::of(rest).query;
    let named = query.split('&').any(|pair| pair.starts_with("pass"));
    !user.contains(':') && !named
}

/// Why a good URL deserves a word: somebody on the way could listen, or be taken for the server.
pub(super) fn danger(url: &str) -> Option<&'static str> {
    let (scheme, rest) = url.split_once("://")?;
    let parts = Parts::of(rest);
    let verifies = ["sslmode=verify-full", "sslmode=verify-ca"];
    match scheme {
        _ if parts.is_local() => None,
        "redis" => Some("who is on the way can read what passes, its password too: use rediss://"),
        "postgres" | "postgresql" if !verifies.iter().any(|mode| parts.query.contains(mode)) => {
            Some(
                "who is on the way can read what passes or answer in its place: add \
                 ?sslmode=verify-full, and &sslrootcert=FILE for an authority of your own",
            )
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_redis_are_right_or_said_to_be_wrong_without_being_shown() {
        for good in [
            "redis://127.0.0.1:6379/0",
            "redis://h",
            "redis://u:p%2F@h:1/3",
            "redis://:p@[::1]:6379",
            "rediss://redis.lan/0?protocol=resp3",
            "redis+unix:///run/redis.sock",
            "redis+unix:///run/redis.sock?db=2&pass=x",
        ] {
            assert_eq!(redis(good), Ok(()), "{good}");
        }
        for (bad, part) in [
            ("http://h", "expected redis://HOST"),
            ("redis:/h", "expected redis://HOST"),
            ("valkey://h", "expected redis://HOST"),
            ("redis://", "names no host"),
            ("redis://u:secret@:6379", "names no host"),
            ("redis://h:", "port is no number"),
            ("redis://h:0", "port is no number"),
            ("redis://h:70000", "port is no number"),
            ("redis://u:sec/ret@h:1", "write / as %2F"),
            ("redis://h:1/main", "no number of a database"),
            ("redis://h:1/0?db=3", "no settings but"),
            ("rediss://h#insecure", "every server has to show who it is"),
            ("redis://a:1,b:2", "port is no number"),
            ("redis://a,b", "more than one host"),
            ("redis+unix://run/redis.sock", "a socket's path is whole"),
        ] {
            let said = redis(bad).unwrap_err();
            assert!(said.contains(part) && !said.contains("secret"), "{bad}: {said}");
        }
    }

    #[test]
    fn urls_of_postgresql_name_one_host() {
        for good in ["u:p@h/usher", "u:p@h:5432/usher", "u@localhost/d?host=/run/pg", "/usher"] {
            assert_eq!(postgres(good), Ok(()), "{good}");
        }
        for bad in ["u:p@a,b/usher", "u:p@a:1,b:2/usher"] {
            assert!(postgres(bad).unwrap_err().contains("more than one host"), "{bad}");
        }
        assert!(postgres("u:sec/ret@h/usher").unwrap_err().contains("write / as %2F"));
    }

    #[test]
    fn a_line_without_a_password_may_be_shown() {
        for open in [
            "sqlite",
            "sqlite:u.db",
            "redis://127.0.0.1:6379/0",
            "redis+unix:///run/redis.sock?db=2",
            "postgres://usher@db.lan/usher?sslmode=verify-full",
        ] {
            assert!(may_be_shown(open), "{open}");
        }
        for secret in [
            "a password alone",
            "redis://:p@127.0.0.1:6379/0",
            "redis+unix:///run/redis.sock?db=2&pass=p",
            "postgres://usher:p@db.lan/usher",
            "postgres://usher@db.lan/usher?password=p",
        ] {
            assert!(!may_be_shown(secret), "{secret}");
        }
    }

    #[test]
    fn a_line_that_others_can_listen_to_deserves_a_word() {
        for safe in [
            "redis://127.0.0.1:6379",
            "redis://[::1]",
            "redis+unix:///run/redis.sock",
            "rediss://redis.lan",
            "postgres://u:p@localhost/usher",
            "postgres://u:p@%2Frun%2Fpostgresql/usher",
            "postgres://u:p@db/usher?host=/run/postgresql",
            "postgres://u:p@db.lan/usher?sslmode=verify-full&sslrootcert=ca.pem",
        ] {
            assert_eq!(danger(safe), None, "{safe}");
        }
        for open in [
            "redis://redis.lan",
            "redis://10.0.0.7:6379/0",
            "postgres://u:p@db.lan/usher",
            "postgresql://u:p@db.lan/usher?sslmode=require",
        ] {
            assert!(danger(open).is_some(), "{open}");
        }
    }
}
