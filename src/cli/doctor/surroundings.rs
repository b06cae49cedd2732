//! What stands around the gateway: the instances, who else can reach them, and secrets on disk.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use reqwest::Client;
use serde::Serialize;
use serde_json::Value;

use crate::cli::remote;
use crate::config::{Config, Database, JwtSecret, Upstream, UpstreamKind};

/// Before it, `/api/create` let whoever reached an Ollama read its memory (CVE-2026-7482).
const OLDEST: [u64; 3] = [0, 17, 1];
/// An address of this very machine answers at once or not at all.
const NEARBY: Duration = Duration::from_millis(500);

/// An instance as it answers this machine.
#[derive(Serialize)]
pub(super) struct Seen {
    name: String,
    kind: &'static str,
    url: String,
    version: Option<String>,
    models: Vec<String>,
    /// Null if it answers.
    error: Option<String>,
}

impl Seen {
    /// What is wrong with its version.
    pub(super) fn warning(&self) -> Option<String> {
        let version = self.version.as_deref()?;
        let old = numbers(version).as_slice() < OLDEST.as_slice();
        let [major, minor, patch] = OLDEST;
        old.then(|| {
            let name = &self.name;
            format!("{name} is Ollama {version}, older than {major}.{minor}.{patch}: upgrade it")
        })
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = self.version.as_deref().map(|it| format!(" {it}")).unwrap_or_default();
        write!(f, "{} ({}{version}) at {}", self.name, self.kind, self.url)?;
        match &self.error {
            Some(error) => write!(f, "\n  {error}"),
            None if self.models.is_empty() => write!(f, "\n  no models"),
            None => write!(f, "\n  {}", self.models.join("\n  ")),
        }
    }
}

fn numbers(version: &str) -> Vec<u64> {
    let release = version.split(['-', '+']).next().unwrap_or_default();
    release.split('.').map_while(|digits| digits.parse().ok()).collect()
}

/// Asks every instance for its version and its models.
pub(super) async fn upstreams(client: &Client, config: &Config) -> Vec<Seen> {
    let mut seen = Vec::new();
    for upstream in &config.upstreams {
        seen.push(look(client, upstream).await);
    }
    seen
}

async fn look(client: &Client, upstream: &Upstream) -> Seen {
    let url = url(upstream, &upstream.host);
    let ollama = upstream.kind == UpstreamKind::Ollama;
    let (path, list, name) = match ollama {
        true => ("/api/tags", "models", "name"),
        false => ("/v1/models", "data", "id"),
    };
    let get = |path: &str| {
        let request = client.get(format!("{url}{path}"));
        match &upstream.api_key {
            Some(key) => request.bearer_auth(key.expose()),
            None => request,
        }
    };
    let version = match ollama {
        true => remote::ask(get("/api/version")).await.ok(),
        false => None,
    };
    let answer = remote::ask(get(path)).await;
    let names = |answer: &Value| -> Vec<String> {
        let items = remote::list(answer, list).iter();
        items.filter_map(|item| remote::text(item, name)).map(str::to_owned).collect()
    };
    Seen {
        name: upstream.name.clone(),
        kind: if ollama { "ollama" } else { "openai" },
        version: version.and_then(|answer| remote::text(&answer, "version").map(str::to_owned)),
        models: answer.as_ref().map(names).unwrap_or_default(),
        error: answer.err().map(|error| format!("{error:#}")),
        url,
    }
}

fn url(upstream: &Upstream, host: &str) -> String {
    let scheme = if upstream.tls { "https" } else { "http" };
    match host.contains(':') {
        true => format!("{scheme}://[{host}]:{}", upstream.port),
        false => format!("{scheme}://{host}:{}", upstream.port),
    }
}

/// Instances of this machine that answer at an address which others can reach: whoever can reach
/// them needs no key.
pub(super) async fn exposed(client: &Client, config: &Config) -> Vec<String> {
    let addresses = outward_addresses();
    let mut warnings = Vec::new();
    for upstream in &config.upstreams {
        let host = upstream.host.parse::<IpAddr>();
        let here = upstream.host == "localhost"
            || host.is_ok_and(|ip| ip.is_loopback() || addresses.contains(&ip));
        for address in addresses.iter().filter(|_| here) {
            let request = client.get(url(upstream, &address.to_string())).timeout(NEARBY);
            if request.send().await.is_ok() {
                let reached = SocketAddr::new(*address, upstream.port);
                let name = &upstream.name;
                warnings.push(format!(
                    "{name} answers at {reached} too, where others may reach it without a key: \
                     let it listen on loopback alone"
                ));
            }
        }
    }
    warnings
}

/// The addresses of this machine that are not its own business.
fn outward_addresses() -> Vec<IpAddr> {
    let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let addresses = interfaces.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::from(address.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::from(address.ip())))
    });
    // link-local ones mean nothing without their interface
    let outward = |address: &IpAddr| {
        let local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
        !address.is_loopback() && !local
    };
    addresses.filter(outward).collect()
}

/// Secrets that every account of this machine can read, but for those that reading the
/// configuration has warned of: what is written into it, and the files of single values.
pub(super) fn readable_secrets(config: &Config) -> Vec<String> {
    let mut files = vec![config.state_dir.join("jwt_secret")];
    if let JwtSecret::File(file) = &config.auth.jwt.secret {
        files.push(file.path.clone());
    }
    files.extend(config.auth.jwt.previous.iter().map(|file| file.path.clone()));
    let tls = config.listen.iter().filter_map(|listen| listen.tls.as_ref());
    files.extend(tls.map(|tls| tls.key.clone()));
    if let Database::Sqlite(path) = &config.database {
        files.push(path.clone());
    }
    let readable = |path: &std::path::PathBuf| {
        let mode = std::fs::metadata(path).ok()?.permissions().mode();
        let shown = path.display();
        (mode & 0o004 != 0)
            .then(|| format!("{shown} can be read by everybody on this machine: chmod 600 {shown}"))
    };
    files.iter().filter_map(readable).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ollama(version: Option<&str>) -> Option<String> {
        Seen {
            name: "gpu0".to_owned(),
            kind: "ollama",
            url: String::new(),
            version: version.map(str::to_owned),
            models: Vec::new(),
            error: None,
        }
        .warning()
    }

    #[test]
    fn secrets_that_everybody_can_read_are_told_wherever_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let yaml = "upstreams: [ { name: a, url: http://127.0.0.1:1 } ]\nstate_dir: state\n\
                    auth: { jwt: { secret_file: now, previous_secret_files: [before, safe] } }\n\
                    listen: [ { address: '127.0.0.1:1', tls: { cert: tls, key: tls } } ]";
        for (name, mode) in [("now", 0o644), ("before", 0o604), ("safe", 0o600), ("tls", 0o604)] {
            std::fs::write(dir.path().join(name), "x").unwrap();
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(dir.path().join(name), mode).unwrap();
        }
        let config = Config::parse(yaml, &dir.path().join("usher.yaml"), &|_| None).unwrap();
        let told = readable_secrets(&config);
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(told[0].contains("/now can be read by everybody"), "{told:?}");
        assert!(told[1].contains("/before can be read by everybody"), "{told:?}");
        assert!(told[2].contains("/tls can be read by everybody"), "{told:?}");
    }

    #[test]
    fn an_old_ollama_is_told_by_its_numbers() {
        for old in ["0.9.6", "0.17.0", "0.17.0-rc1"] {
            let warning = ollama(Some(old)).unwrap();
            assert_eq!(warning, format!("gpu0 is Ollama {old}, older than 0.17.1: upgrade it"));
        }
        for new in ["0.17.1", "0.33.0-rc2", "1.0.0"] {
            assert_eq!(ollama(Some(new)), None, "{new}");
        }
        assert_eq!(ollama(None), None);
    }
}
