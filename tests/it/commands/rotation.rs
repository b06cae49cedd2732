//! `usher keys rotate`.

use std::collections::BTreeSet;

use serde_json::json;

use super::{KEY_FIELDS, Machine, fields, is_key, utf8};

#[test]
fn a_key_is_rotated_and_both_are_shown() {
    let machine = Machine::new();
    machine.text("users create bob");
    let old = machine.json("keys create --user bob --name laptop --models llama3*");
    let new = machine.json(&format!("keys rotate {} --grace 24h", old["id"]));
    let more: BTreeSet<&str> = KEY_FIELDS.into_iter().chain(["key", "old_expires_at"]).collect();
    assert_eq!(fields(&new), more);
    assert!(is_key(&new["key"].as_str().unwrap()));
    assert_eq!((&new["replaces"], &new["models"]), (&old["id"], &json!(["llama3*"])));
    let end: jiff::Timestamp = new["old_expires_at"].as_str().unwrap().parse().unwrap();
    let left = end.duration_since(jiff::Timestamp::now()).as_secs();
    assert!((86_400 - 120..=86_400).contains(&left), "{left}");
    let shown = machine.json(&format!("keys show {}", old["id"]));
    assert_eq!((&shown["replaced_by"], &shown["state"]), (&new["id"], &json!("active")));
    assert_eq!(shown["expires_at"], new["old_expires_at"]);
    let again = machine.refusal(&format!("keys rotate {}", old["id"]));
    assert_eq!(
        again,
        format!("usher: key {} was replaced by key {} already", old["id"], new["id"])
    );
    let output = machine.usher(&format!("keys rotate {}", machine.json("init")["id"]));
    assert!(is_key(&utf8(&output.stdout).trim_end()), "the key alone: {output:?}");
    assert!(utf8(&output.stderr).contains("only this once"), "{output:?}");
}
