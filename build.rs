//! Tells the program which commit and which Pingora it is made of.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=Cargo.lock");
    println!("cargo::rerun-if-env-changed=USHER_COMMIT");
    println!("cargo::rustc-env=USHER_COMMIT={}", commit());
    println!("cargo::rustc-env=USHER_PINGORA={}", locked_version("pingora"));
}

/// `$USHER_COMMIT`, or what git says, or `unknown` outside a checkout.
///
/// A release build looks again after every commit. A development build does not, since that would
/// rebuild everything after each commit; it says that it may be newer.
fn commit() -> String {
    if let Some(given) = std::env::var("USHER_COMMIT").ok().filter(|given| !given.is_empty()) {
        return given;
    }
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else {
        return "unknown".to_owned();
    };
    if std::env::var("PROFILE").as_deref() != Ok("release") {
        return format!("{commit} or later");
    }
    for name in ["HEAD", "logs/HEAD"] {
        // a path that does not exist would make every build start over
        if let Some(path) = git(&["rev-parse", "--git-path", name])
            && Path::new(&path).exists()
        {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    commit
}

fn git(arguments: &[&str]) -> Option<String> {
    let answer = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(answer.stdout).ok()?.trim().to_owned();
    (answer.status.success() && !text.is_empty()).then_some(text)
}

/// The version of a package that `Cargo.lock` holds.
fn locked_version(package: &str) -> String {
    let lock = std::fs::read_to_string("Cargo.lock").unwrap_or_default();
    let name = format!("name = \"{package}\"");
    let mut lines = lock.lines().skip_while(|line| *line != name);
    let version = lines.nth(1).and_then(|line| line.strip_prefix("version = \""));
    version.map_or("unknown", |version| version.trim_end_matches('"')).to_owned()
}
