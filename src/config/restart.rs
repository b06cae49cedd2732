//! What is read only when a process starts: a reload keeps it as it is.

use super::{Config, JwtSecret, Listen};

/// The file that `usher init` makes in the state directory.
const JWT_SECRET_FILE: &str = "jwt_secret";

impl Config {
    /// Takes from `in_force` what takes effect only when a process starts, and returns the keys
    /// that would have changed. What is in force is one whole: a database of this file beside a
    /// secret of that one would end every token.
    pub fn keep_what_needs_a_restart(&mut self, in_force: &Self) -> Vec<&'static str> {
        if let JwtSecret::Made(file) = &mut self.auth.jwt.secret {
            file.path = in_force.state_dir.join(JWT_SECRET_FILE);
        }
        let rows = [
            ("listen", keep_sockets(&mut self.listen, &in_force.listen)),
            ("admin", keep(&mut self.admin, &in_force.admin)),
            ("state_dir", keep(&mut self.state_dir, &in_force.state_dir)),
            ("database", keep(&mut self.database, &in_force.database)),
            ("redis", keep(&mut self.redis, &in_force.redis)),
            ("auth.max_stale", keep(&mut self.auth.max_stale, &in_force.auth.max_stale)),
            ("metrics", keep(&mut self.metrics, &in_force.metrics)),
            ("threads", keep(&mut self.threads, &in_force.threads)),
        ];
        rows.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
    }
}

/// Puts what is in force in the place of what is wanted, and tells whether they differ.
fn keep<T: Clone + PartialEq>(wanted: &mut T, in_force: &T) -> bool {
    let differs = wanted != in_force;
    wanted.clone_from(in_force);
    differs
}

/// The sockets stay, each with the certificate that is wanted for it.
fn keep_sockets(wanted: &mut Vec<Listen>, in_force: &[Listen]) -> bool {
    let listed = std::mem::take(wanted);
    let differs = listed.len() != in_force.len()
        || listed.iter().zip(in_force).any(|(one, another)| !one.is_same(another));
    *wanted = in_force
        .iter()
        .enumerate()
        .map(|(index, own)| {
            let same = |other: &&Listen| other.is_same(own);
            // its own line first: with port 0, another may look the same
            let line = listed.get(index).filter(same).or_else(|| listed.iter().find(same));
            line.unwrap_or(own).clone()
        })
        .collect();
    differs
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(text: &str) -> Config {
        let text = format!("upstreams: [ {{ name: a, url: http://h }} ]\n{text}");
        Config::parse(&text, Path::new("/etc/usher/usher.yaml"), &|_| None).unwrap()
    }

    #[test]
    fn what_needs_a_restart_stays_and_is_named() {
        let before = config("state_dir: one\nmetrics: off\nthreads: 1");
        let mut after = config(
            "state_dir: two\nthreads: 2\nadmin: { address: '127.0.0.1:1' }\nlog: { level: debug }\n\
             redis: redis://localhost\nauth: { max_stale: 3m, rotation_grace: 1d }",
        );
        let keys = after.keep_what_needs_a_restart(&before);
        let expected = ["admin", "state_dir", "database", "redis", "auth.max_stale", "metrics"];
        assert_eq!(keys[..6], expected);
        assert_eq!(keys[6..], ["threads"]);
        assert_eq!((after.threads, after.admin, &after.redis), (1, None, &None));
        assert_eq!((after.metrics, &after.database), (None, &before.database));
        assert_eq!(after.state_dir, Path::new("/etc/usher/one"));
        assert_eq!(after.auth.jwt.secret, before.auth.jwt.secret, "it is beside the database");
        assert_eq!(after.auth.max_stale, before.auth.max_stale);
        assert_eq!(after.log.level, log::LevelFilter::Debug);
        assert_ne!(after.auth.rotation_grace, before.auth.rotation_grace);
        assert!(after.keep_what_needs_a_restart(&before).is_empty());
    }

    #[test]
    fn sockets_stay_and_take_the_certificates_that_their_addresses_are_given() {
        let tls = |port: u16, name: &str| {
            format!("{{ address: '127.0.0.1:{port}', tls: {{ cert: {name}, key: {name} }} }}")
        };
        let before = config(&format!("listen: [ {}, {} ]", tls(1, "a"), tls(2, "b")));
        let certificates = |config: &Config| {
            let files = config.listen.iter().filter_map(|listen| listen.tls.as_ref());
            files.map(|tls| tls.cert.display().to_string()).collect::<Vec<_>>()
        };
        let mut after = config(&format!("listen: [ {}, {} ]", tls(1, "c"), tls(2, "b")));
        assert!(after.keep_what_needs_a_restart(&before).is_empty());
        assert_eq!(certificates(&after), ["/etc/usher/c", "/etc/usher/b"]);
        let mut after = config(&format!("listen: [ {}, {} ]", tls(3, "d"), tls(1, "c")));
        assert_eq!(after.keep_what_needs_a_restart(&before), ["listen"]);
        assert_eq!(certificates(&after), ["/etc/usher/c", "/etc/usher/b"]);
        assert_eq!(after.listen.len(), 2);
    }
}
