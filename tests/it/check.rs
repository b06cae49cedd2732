//! `usher check`, as an operator meets it.

use serde_json::{Value, json};

use crate::support::gateway::gateway;

#[test]
fn every_mistake_is_named_at_once_with_its_line_and_its_remedy() {
    let home = gateway()
        .upstream("gpu0", "http://127.0.0.1:11434")
        .config("timeouts: { idel: 5m }")
        .config("limits:\n  body: 64MB")
        .home();
    let output = home.usher(&["check"]);
    assert_eq!(output.status.code(), Some(1));
    let file = home.path().join("usher.yaml");
    let text = std::fs::read_to_string(&file).expect("it was just written");
    let line = |part: &str| 1 + text.lines().position(|line| line.contains(part)).expect(part);
    let (idel, body, file) = (line("idel"), line("64MB"), file.display());
    let expected = [
        format!("{file}:{idel}: timeouts.idel: unknown key: did you mean `idle`?"),
        format!("{file}:{body}: limits.body: sizes count in 1024s: write MiB, found `64MB`"),
    ];
    let said = String::from_utf8_lossy(&output.stderr);
    let said: Vec<&str> = said.lines().collect();
    assert_eq!(said, expected);
    assert!(!home.path().join("state").exists(), "it touches nothing");
}

#[test]
fn a_good_file_is_said_to_be_good() {
    let home = gateway().upstream("gpu0", "http://127.0.0.1:11434").home();
    let output = home.usher(&["check"]);
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).ends_with("usher.yaml: ok\n"));
}

#[test]
fn programs_are_told_what_a_reload_would_answer() {
    let answer = |more: &str| {
        let home = gateway().upstream("gpu0", "http://127.0.0.1:11434").config(more).home();
        let output = home.usher(&["check", "--json"]);
        assert!(output.stderr.is_empty(), "{output:?}");
        let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        (output.status.code(), answer)
    };
    assert_eq!(answer(""), (Some(0), json!({ "warnings": [], "need_restart": [] })));
    let (code, warned) = answer("redis: redis://redis.lan");
    let warning = warned["warnings"][0].as_str().unwrap_or_default();
    assert!(code == Some(0) && warning.contains(": redis: who is on the way can read"), "{warned}");
    let (code, refused) = answer("thread: 1");
    assert_eq!(code, Some(1));
    assert_eq!(refused["detail"], "The file has mistakes, so nothing was changed");
    let problem = refused["problems"][0].as_str().unwrap_or_default();
    assert!(problem.ends_with(": thread: unknown key: did you mean `threads`?"), "{refused}");
}
