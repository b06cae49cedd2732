//! A body that is sent a second time is the same body.

use serde_json::json;

use super::{Model, assert_arrived, posted, prompt};
use crate::support::eventually;
use crate::support::gateway::{Gateway, gateway};
use crate::support::sim::{Sim, sim};

/// Probes so rare that only requests find out how the instances are.
const BLIND: &str = "health: { interval: 60s, timeout: 1s, fall: 3, rise: 1 }";
const CASES: [(usize, bool); 4] = [(200, false), (200, true), (1 << 20, false), (1 << 20, true)];

/// A gateway before two instances that asks `a` first, because the model is loaded there.
fn pair() -> (Sim, Sim, Gateway) {
    let start = || sim().args(&["--speed", "1000", "--keep-alive", "-1"]).start();
    let (a, b) = (start(), start());
    let loading = a.request("POST", "/api/generate").body(prompt(200, Model::First));
    assert_eq!(loading.send().status, 200);
    let gateway = gateway().upstream("a", &a.url()).upstream("b", &b.url()).config(BLIND).start();
    let is_up = |name: &str| format!("upstream {name} is up");
    eventually("both are known", || {
        let log = gateway.log().join("\n");
        log.contains(&is_up("a")) && log.contains(&is_up("b"))
    });
    for _ in 0..2 {
        assert_eq!(send(&gateway, &prompt(200, Model::First), false), "a");
    }
    a.reset();
    b.reset();
    (a, b, gateway)
}

/// Sends a body that must be served, and returns the name of the instance that did.
fn send(gateway: &Gateway, body: &[u8], chunked: bool) -> String {
    let request = gateway.request("POST", "/api/generate").key(gateway.key("admin")).body(body);
    let answer = if chunked { request.chunked().send() } else { request.send() };
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.header("x-usher-upstream").expect("it names the instance").to_owned()
}

#[test]
fn after_a_failed_connect_another_instance_gets_the_same_bytes() {
    for (size, chunked) in CASES {
        let (mut a, b, gateway) = pair();
        a.kill();
        let body = prompt(size, Model::Last);
        assert_eq!(send(&gateway, &body, chunked), "b");
        assert_arrived(&b, &[&body], &format!("{size} chunked: {chunked}"));
    }
}

#[test]
fn after_a_503_of_an_instance_another_one_gets_the_same_bytes() {
    for (size, chunked) in CASES {
        let (a, b, gateway) = pair();
        a.misbehave(&json!({
            "kind": "status", "status": 503, "path": "/api/generate", "times": 1,
            "body": r#"{"error":"server busy, please try again.  maximum pending requests exceeded"}"#,
        }));
        let body = prompt(size, Model::Last);
        assert_eq!(send(&gateway, &body, chunked), "b");
        let what = format!("{size} chunked: {chunked}");
        assert_arrived(&a, &[&body], &what);
        assert_arrived(&b, &[&body], &what);
        assert_eq!(posted(&a)[0]["status"], 503);
    }
}

#[test]
fn after_a_pooled_connection_was_closed_a_fresh_one_gets_the_same_bytes() {
    for (size, chunked) in CASES {
        let (a, b, gateway) = pair();
        a.misbehave(&json!({ "kind": "close_reused", "path": "/api/generate", "times": 1 }));
        let body = prompt(size, Model::Last);
        assert_eq!(send(&gateway, &body, chunked), "a");
        let seen = posted(&a);
        let served = seen.last().expect("it was served");
        assert_eq!(served["body_sha256"], super::sha256(&body), "{size} chunked: {chunked}");
        assert_eq!(seen.len(), 2, "{seen:#?}");
        assert_eq!(posted(&b).len(), 0);
    }
}
