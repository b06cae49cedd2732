//! `usher check`: is the configuration right? Touches nothing.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::auth::tokens;
use crate::config::{Config, Draft, locate};
use crate::server::certificate;
use crate::store::{Redis, Store};

/// Prints `FILE: ok`, or every mistake, one a line, on standard error.
pub fn run(config: Option<PathBuf>) -> ExitCode {
    let env = |name: &str| std::env::var(name).ok();
    let path = locate(config, &env);
    let findings = look(&path, &env);
    // a reader that has gone away changes nothing about the answer
    let (_, code) = tell(&findings, &path, &mut io::stdout().lock(), &mut io::stderr().lock());
    code
}

/// What was found, each as `FILE:LINE: path.to.key: text`.
#[derive(Default)]
struct Findings {
    warnings: Vec<String>,
    problems: Vec<String>,
}

fn look(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Findings {
    match Draft::load(path, env) {
        Ok(Draft { config, problems }) => Findings {
            problems: problems.lines().chain(in_files(&config)).collect(),
            warnings: config.warnings,
        },
        Err(problems) => Findings { problems: problems.lines().collect(), ..Findings::default() },
    }
}

/// A configuration that can be read may still name files and servers that are of no use.
fn in_files(config: &Config) -> Vec<String> {
    let certificates = certificate::check(config);
    let mut bad: Vec<String> = certificates.iter().map(ToString::to_string).collect();
    bad.extend(tokens::check(&config.auth));
    bad.extend(config.redis.as_ref().and_then(|redis| Redis::check(redis).err()));
    let database = Store::check(&config.database).err();
    bad.extend(database.map(|wrong| format!("{}: {wrong}", config.database_place)));
    bad
}

fn tell(
    findings: &Findings,
    path: &Path,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> (io::Result<()>, ExitCode) {
    let Findings { warnings, problems } = findings;
    let told = warnings.iter().chain(problems).try_for_each(|line| writeln!(err, "{line}"));
    if problems.is_empty() {
        (told.and_then(|()| writeln!(out, "{}: ok", path.display())), ExitCode::SUCCESS)
    } else {
        (told, ExitCode::FAILURE)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::ExitCode;

    use super::{look, tell};

    fn answer(text: &str) -> (ExitCode, String, String) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("usher.yaml");
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let (told, code) = tell(&look(&file, &|_| None), &file, &mut out, &mut err);
        told.unwrap();
        let text = |bytes: Vec<u8>| {
            String::from_utf8(bytes).unwrap().replace(&format!("{}/", dir.path().display()), "")
        };
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "it touches nothing");
        (code, text(out), text(err))
    }

    #[test]
    fn a_good_file_is_ok() {
        let (code, out, err) = answer("upstreams: [ { name: a, url: http://127.0.0.1:1 } ]");
        assert_eq!(code, ExitCode::SUCCESS);
        assert_eq!((&*out, &*err), ("usher.yaml: ok\n", ""));
    }

    #[test]
    fn every_mistake_is_a_line_on_standard_error() {
        let (code, out, err) = answer("thread: 1\nupstreams: [ { name: a, ur: http://h } ]");
        assert_eq!(code, ExitCode::FAILURE);
        assert_eq!(out, "");
        assert_eq!(
            err,
            "usher.yaml:1: thread: unknown key: did you mean `threads`?\n\
             usher.yaml:2: upstreams[0].url: is missing: add it\n\
             usher.yaml:2: upstreams[0].ur: unknown key: did you mean `url`?\n"
        );
    }

    #[test]
    fn what_is_wrong_with_files_is_told_beside_what_is_wrong_with_the_text() {
        let (code, out, err) = answer(
            "upstreams: [ { name: a, url: http://127.0.0.1:1 } ]\n\
             listen: [ { address: '127.0.0.1:1', tls: { cert: a.pem, key: b.pem } } ]\n\
             auth:\n  jwt: { previous_secret_files: [before] }\n  issuers:\n    \
             - name: one\n      issuer: https://one\n      audience: usher\n      \
             default_tier: free\n      secrets: [Zm9yIHRlc3RzIGFsb25lLCBuZXZlciB1c2Vk]\n    \
             - name: two\n      issuer: https://two\n      audience: usher\n      \
             default_tier: free\n      jwks_file: keys.json\n      \
             secrets:\n        - Zm9yIHRlc3RzIGFsb25lLCBuZXZlciB1c2Vk\n\
             redis: rediss://h\nredis_ca: ca.pem\n\
             database: postgres://localhost/d?sslrootcert=root.pem\nthread: 1\n",
        );
        assert_eq!((code, &*out), (ExitCode::FAILURE, ""));
        let none = "cannot be read: No such file or directory (os error 2)";
        let shared = "issuer two has a secret of one, so each could make the other's tokens: give \
                      one of them a secret of its own, from `openssl rand -base64 48`";
        let root = "there is no file root.pem, which its URL's sslrootcert names";
        let expected = [
            "usher.yaml:21: thread: unknown key: did you mean `threads`?",
            &format!("usher.yaml:2: listen[0].tls.cert: a.pem {none}"),
            &format!("usher.yaml:2: listen[0].tls.key: b.pem {none}"),
            &format!("usher.yaml:4: auth.jwt.previous_secret_files[0]: before {none}"),
            &format!("usher.yaml:17: auth.issuers[1].secrets[0]: {shared}"),
            &format!("usher.yaml:15: auth.issuers[1].jwks_file: keys.json {none}"),
            &format!("usher.yaml:19: redis_ca: ca.pem {none}"),
            &format!("usher.yaml:20: database: {root}"),
        ];
        assert_eq!(err.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn keys_of_an_issuer_that_verify_nothing_are_a_mistake() {
        let (code, _, err) = answer(
            "upstreams: [ { name: a, url: http://127.0.0.1:1 } ]\n\
             auth: { issuers: [ { name: one, issuer: https://one, audience: usher, \
             default_tier: free, jwks_file: usher.yaml } ] }\n",
        );
        assert_eq!(code, ExitCode::FAILURE);
        let place = "usher.yaml:2: auth.issuers[0].jwks_file";
        assert_eq!(err, format!("{place}: usher.yaml: not a set of keys\n"));
    }
}
