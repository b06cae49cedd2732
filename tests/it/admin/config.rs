//! The configuration in force, and rereading it on request.

use std::path::PathBuf;

use serde_json::json;

use super::{FAST, Office};
use crate::support::gateway::gateway;
use crate::support::sim::{Sim, sim};
use crate::support::{chat, eventually};

fn office() -> (Office, Sim) {
    let sim = sim().args(&FAST).start();
    let gateway = gateway()
        .upstream_with("gpu0", &sim.url(), "slots: 3, api_key: hunter2-upstream")
        .user("ann", "free")
        .config("tiers: { free: { models: ['llama3*'] } }")
        .config("timeouts: { drain: 90s }")
        .start();
    (Office::of(gateway), sim)
}

fn file(office: &Office) -> PathBuf {
    office.gateway.home().path().join("usher.yaml")
}

fn change(office: &Office, old: &str, new: &str) {
    let text = std::fs::read_to_string(file(office)).expect("the file is there");
    assert!(text.contains(old), "{old} in {text}");
    let beside = file(office).with_extension("new");
    // an editor keeps a file's mode
    std::fs::copy(file(office), &beside).expect("the directory is ours");
    std::fs::write(&beside, text.replace(old, new)).expect("the directory is ours");
    std::fs::rename(beside, file(office)).expect("the directory is ours");
}

#[test]
fn the_configuration_in_force_is_shown_without_its_secrets() {
    let (office, sim) = office();
    let shown = office.get("/admin/config");
    assert_eq!(shown["tiers"]["free"]["models"], json!(["llama3*"]));
    assert_eq!(shown["tiers"]["free"]["concurrency"], 2, "a default is in force, too");
    assert_eq!(shown["timeouts"]["drain"], "90s");
    assert_eq!(shown["auth"]["rotation_grace"], "7d");
    assert_eq!(shown["limits"]["body"], "64MiB");
    let instance = &shown["upstreams"][0];
    assert_eq!((&instance["name"], &instance["slots"]), (&json!("gpu0"), &json!(3)));
    assert_eq!(instance["url"], sim.url());
    assert_eq!(instance["api_key"], "[secret]");
    assert!(!shown.to_string().contains("hunter2"), "{shown}");
}

#[test]
fn the_file_is_reread_when_an_administrator_says_so() {
    let (office, _sim) = office();
    let ask = || {
        let question = office.gateway.post("/api/chat", &chat("llama3.2"));
        question.key(office.gateway.key("ann")).send().status
    };
    assert_eq!(ask(), 200);
    change(&office, "['llama3*']", "['qwen*']");
    let done = office.ask("POST", "/admin/reload", None, 200);
    assert_eq!(done, json!({ "warnings": [], "need_restart": [] }));
    assert_eq!(ask(), 403, "at once");
    assert_eq!(office.get("/admin/config")["tiers"]["free"]["models"], json!(["qwen*"]));
    change(
        &office,
        "metrics: off",
        "metrics: { address: '127.0.0.1:0' }\nadmin: { address: '127.0.0.1:0' }",
    );
    let done = office.ask("POST", "/admin/reload", Some(&json!({})), 200);
    assert_eq!(done["need_restart"], json!(["admin", "metrics"]));
    assert_eq!(office.ask("GET", "/admin/upstreams", None, 200)["data"][0]["name"], "gpu0");
    let trail = office.get("/admin/audit?action=config.reload");
    assert_eq!(trail["data"].as_array().map(Vec::len), Some(2), "{trail}");
    assert_eq!(trail["data"][0]["actor"], "admin");
    let free = office.gateway.request("POST", "/admin/reload").key(office.gateway.key("ann"));
    assert_eq!(free.send().status, 403);
}

#[test]
fn a_bad_file_changes_nothing_and_every_mistake_is_answered_with_its_line() {
    let (office, _sim) = office();
    let before = office.get("/admin/config");
    change(&office, "timeouts: { drain: 90s }", "timeouts: { drain: 90 }\nthread: 4");
    let answer = office.ask("POST", "/admin/reload", None, 422);
    assert_eq!(answer["detail"], "The file has mistakes, so nothing was changed");
    let problems = answer["problems"].as_array().expect("a list");
    let told = |text: &str| {
        problems.iter().any(|line| line.as_str().is_some_and(|line| line.contains(text)))
    };
    assert_eq!(problems.len(), 2, "{answer}");
    assert!(told("timeouts.drain: the unit is missing"), "{answer}");
    assert!(told("thread: unknown key: did you mean `threads`?"), "{answer}");
    for line in problems {
        let line = line.as_str().expect("a text");
        let (_, rest) = line.split_once("usher.yaml:").expect("the file's name");
        assert!(rest.split_once(": ").is_some_and(|(n, _)| n.parse::<u32>().is_ok()), "{line}");
    }
    assert_eq!(office.get("/admin/config"), before);
    eventually("the log tells it too", || {
        office.gateway.log().iter().any(|line| line.contains("usher.yaml was not taken"))
    });
    std::fs::remove_file(file(&office)).expect("the file is there");
    assert_eq!(
        office.ask("POST", "/admin/reload", None, 422)["problems"].as_array().map(Vec::len),
        Some(1)
    );
    assert_eq!(office.get("/admin/config"), before);
}
