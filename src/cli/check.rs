//! `usher check`: is the configuration right? Touches nothing.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::auth::tokens;
use crate::config::{Config, locate};
use crate::server::certificate;
use crate::store::{Redis, Store};

/// Prints `FILE: ok`, or every mistake, one a line, on standard error.
pub fn run(config: Option<PathBuf>) -> ExitCode {
    let env = |name: &str| std::env::var(name).ok();
    let path = locate(config, &env);
    check(&path, &env, &mut io::stdout().lock(), &mut io::stderr().lock())
}

fn check(
    path: &Path,
    env: &dyn Fn(&str) -> Option<String>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> ExitCode {
    // a reader that has gone away changes nothing about the answer
    let (printed, code) = match Config::load(path, env) {
        Ok(config) => judge(&config, path, out, err),
        Err(problems) => (writeln!(err, "{problems}"), ExitCode::FAILURE),
    };
    drop(printed);
    code
}

/// A configuration that can be read may still name certificates that cannot serve.
fn judge(
    config: &Config,
    path: &Path,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> (io::Result<()>, ExitCode) {
    let warned = config.warnings.iter().try_for_each(|line| writeln!(err, "{line}"));
    let certificates = certificate::check(config);
    let mut bad: Vec<String> = certificates.iter().map(ToString::to_string).collect();
    bad.extend(tokens::check(&config.auth));
    let redis = config.redis.as_ref().and_then(|redis| Redis::check(redis).err());
    bad.extend(redis);
    let database = Store::check(&config.database).err();
    bad.extend(database.map(|wrong| format!("{}: {wrong}", config.database_place)));
    if bad.is_empty() {
        let printed = warned.and_then(|()| writeln!(out, "{}: ok", path.display()));
        return (printed, ExitCode::SUCCESS);
    }
    let printed = warned.and_then(|()| bad.iter().try_for_each(|bad| writeln!(err, "{bad}")));
    (printed, ExitCode::FAILURE)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::ExitCode;

    use super::check;

    fn answer(text: &str) -> (ExitCode, String, String) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("usher.yaml");
        fs::write(&file, text).unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = check(&file, &|_| None, &mut out, &mut err);
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
}
