//! The walk of the README, as it stands there.

use std::process::Command;

use super::FAST;
use crate::support::gateway::gateway;
use crate::support::sim::sim;

const HEADING: &str = "### Administer over HTTP";

/// The shell lines under the heading.
fn walk() -> String {
    let readme = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = std::fs::read_to_string(readme).expect("there is a README");
    let (_, section) = text.split_once(HEADING).expect("the section");
    let (_, code) = section.split_once("```sh\n").expect("its lines");
    code.split_once("```").expect("their end").0.to_owned()
}

#[test]
fn the_walk_through_administration_is_what_happens() {
    let sim = sim().args(&FAST).start();
    let gateway = gateway().upstream("gpu0", &sim.url()).start();
    let script = walk();
    assert!(script.contains("http://127.0.0.1:8080/admin/"), "{script}");
    let script = script.replace("http://127.0.0.1:8080", &gateway.url());
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", &script])
        .env("USHER_KEY", gateway.key("admin"))
        .output()
        .expect("bash runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{complaint}");
    let is_status = |line: &&str| line.len() == 3 && line.bytes().all(|b| b.is_ascii_digit());
    let tried: Vec<&str> = text
        .lines()
        .filter_map(|line| line.get(line.len().saturating_sub(3)..))
        .filter(is_status)
        .collect();
    assert_eq!(tried, ["200", "200", "200", "401", "200"], "{text}");
    let told: Vec<Vec<&str>> =
        text.lines().filter(|line| line.contains('\t')).map(|l| l.split('\t').collect()).collect();
    let acts: Vec<&str> = told.iter().map(|columns| columns[3]).collect();
    assert_eq!(acts, ["key.revoke", "key.rotate", "key.create"], "{text}");
    assert!(told.iter().all(|columns| columns[1..3] == ["admin", "127.0.0.1"]), "{text}");
}
