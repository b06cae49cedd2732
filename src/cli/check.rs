//! `usher check`: is the configuration right? Touches nothing.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;

use crate::admin::answers::{MISTAKES, Reloaded};
use crate::auth::tokens;
use crate::config::{Config, Draft, locate};
use crate::server::certificate;
use crate::store::{Redis, Store};

/// Prints `FILE: ok`, or every mistake, one a line, on standard error; for programs what
/// `POST /admin/reload` would answer, on standard output.
pub fn run(config: Option<PathBuf>, json: bool) -> ExitCode {
    let env = |name: &str| std::env::var(name).ok();
    let path = locate(config, &env);
    let findings = look(&path, &env);
    let code = if findings.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    let (mut out, mut err) = (io::stdout().lock(), io::stderr().lock());
    // a reader that has gone away changes nothing about the answer
    let _ = match json {
        true => answer(findings, &mut out),
        false => tell(&findings, &path, &mut out, &mut err),
    };
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
) -> io::Result<()> {
    let Findings { warnings, problems } = findings;
    warnings.iter().chain(problems).try_for_each(|line| writeln!(err, "{line}"))?;
    if problems.is_empty() {
        writeln!(out, "{}: ok", path.display())?;
    }
    Ok(())
}

fn answer(findings: Findings, out: &mut dyn Write) -> io::Result<()> {
    let Findings { warnings, problems } = findings;
    let answer = if problems.is_empty() {
        serde_json::to_string(&Reloaded { warnings, need_restart: Vec::new() })
    } else {
        serde_json::to_string(&json!({ "detail": MISTAKES, "problems": problems }))
    };
    writeln!(out, "{}", answer?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::{answer, look, tell};

    /// What is printed, for people and for programs.
    fn said(text: &str) -> [String; 3] {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("usher.yaml");
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let findings = look(&file, &|_| None);
        tell(&findings, &file, &mut out, &mut err).unwrap();
        let mut json = Vec::new();
        answer(findings, &mut json).unwrap();
        let text = |bytes: Vec<u8>| {
            String::from_utf8(bytes).unwrap().replace(&format!("{}/", dir.path().display()), "")
        };
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "it touches nothing");
        [out, err, json].map(text)
    }

    #[test]
    fn a_good_file_is_ok() {
        let [out, err, _] = said("upstreams: [ { name: a, url: http://127.0.0.1:1 } ]");
        assert_eq!((&*out, &*err), ("usher.yaml: ok\n", ""));
    }

    #[test]
    fn every_mistake_is_a_line_on_standard_error() {
        let [out, err, _] = said("thread: 1\nupstreams: [ { name: a, ur: http://h } ]");
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
        let [out, err, _] = said(
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
        assert_eq!(out, "");
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
        let [out, err, _] = said(
            "upstreams: [ { name: a, url: http://127.0.0.1:1 } ]\n\
             auth: { issuers: [ { name: one, issuer: https://one, audience: usher, \
             default_tier: free, jwks_file: usher.yaml } ] }\n",
        );
        assert_eq!(out, "");
        let place = "usher.yaml:2: auth.issuers[0].jwks_file";
        assert_eq!(err, format!("{place}: usher.yaml: not a set of keys\n"));
    }
}
