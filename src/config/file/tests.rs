//! The configuration as a user meets it: files in, configurations or lists of mistakes out.

mod bad;
mod files;
mod shipped;

use std::path::Path;

use super::Problems;
use crate::config::Config;

const FILE: &str = "/etc/usher/usher.yaml";
const UPSTREAM: &str = "upstreams: [ { name: gpu0, url: http://127.0.0.1:11434 } ]\n";

/// An environment with `PORT` and `EMPTY`.
fn env(name: &str) -> Option<String> {
    match name {
        "PORT" => Some("8080".to_owned()),
        "KEY" => Some("s3cret: [value]".to_owned()),
        "EMPTY" => Some(String::new()),
        _ => None,
    }
}

fn parse(text: &str) -> Result<Config, Problems> {
    Config::parse(text, Path::new(FILE), &env)
}

/// A configuration with one instance and this.
fn with(text: &str) -> Config {
    parse(&format!("{UPSTREAM}{text}")).unwrap_or_else(|problems| panic!("{problems}"))
}

/// What is wrong with `text`, without the name of the file.
fn wrong(text: &str) -> Vec<String> {
    let problems = parse(text).expect_err("there is a mistake");
    problems.lines().map(|line| line.strip_prefix(FILE).unwrap().to_owned()).collect()
}

/// What is wrong with `text` from the second line on, after one instance.
fn wrong_with(text: &str) -> Vec<String> {
    wrong(&format!("{UPSTREAM}{text}"))
}
