//! An instance that fails is left alone, tried, and taken back.

use serde_json::json;

use crate::support::crowd::{all_up, before, paced, seen, stops_clean, whole};
use crate::support::eventually;
use crate::support::gateway::Gateway;
use crate::support::http::Answer;
use crate::support::sim::Sim;

fn ask(gateway: &Gateway) -> Answer {
    gateway.post("/api/chat", &whole(2)).key(gateway.key("ann")).send()
}

fn two() -> (Vec<Sim>, Gateway) {
    let sims: Vec<Sim> = (0..2).map(|_| paced(1000, 2, &[])).collect();
    let gateway = before(&sims, 2).start();
    all_up(&gateway, sims.len());
    (sims, gateway)
}

#[test]
fn an_instance_that_answers_503_at_once_does_not_attract_the_traffic() {
    let (sims, gateway) = two();
    sims[0].misbehave(&json!({ "path": "/api/chat", "kind": "status", "status": 503 }));
    for _ in 0..60 {
        let answer = ask(&gateway);
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    // three that took it out, and a trial for every pause that is over by now
    assert!((1..=6).contains(&seen(&sims[0])), "{}", seen(&sims[0]));
    sims[0].behave();
    sims[1].turn(&json!({ "refuse": true }));
    sims[1].cut();
    sims[0].reset();
    eventually("it is back at work", || ask(&gateway).status == 200 && seen(&sims[0]) > 2);
    stops_clean(gateway);
}

#[test]
fn an_instance_that_resets_at_once_does_not_attract_the_traffic() {
    let (sims, gateway) = two();
    sims[0].misbehave(&json!({ "path": "/api/chat", "kind": "close" }));
    let failed = (0..60).filter(|_| ask(&gateway).status != 200).count();
    // on a pooled connection one more look at it is allowed
    assert!(seen(&sims[0]) <= 12, "{}", seen(&sims[0]));
    assert!((1..=6).contains(&failed), "{failed} of its victims were told");
    sims[0].behave();
    let before = seen(&sims[0]);
    sims[1].turn(&json!({ "refuse": true }));
    sims[1].cut();
    eventually("it is taken back", || ask(&gateway).status == 200 && seen(&sims[0]) > before);
    stops_clean(gateway);
}

#[test]
fn a_hung_list_of_residents_takes_no_instance_down() {
    let sims = [paced(1000, 1, &[])];
    let health = "health: { interval: 50ms, timeout: 100ms, fall: 2, rise: 1 }";
    let gateway = before(&sims, 1).config(health).start();
    sims[0].turn(&json!({ "ps_stall_ms": 600_000 }));
    sims[0].reset();
    let probes = || {
        let requests = sims[0].requests();
        requests.iter().filter(|entry| entry["target"] == "/api/version").count()
    };
    eventually("several probes are over", || probes() > 8);
    assert_eq!(ask(&gateway).status, 200);
    assert!(!gateway.log().iter().any(|line| line.contains("is down")));
    stops_clean(gateway);
}

#[test]
fn a_wedged_instance_is_down_and_comes_back() {
    let sims = [paced(1000, 1, &[])];
    let health = "health: { interval: 50ms, timeout: 100ms, fall: 2, rise: 1 }";
    let gateway = before(&sims, 1).config(health).start();
    sims[0].misbehave(&json!({ "path": "/api/version", "kind": "hang" }));
    eventually("it is down", || gateway.get("/ready").send().status == 503);
    let answer = ask(&gateway);
    assert_eq!((answer.status, answer.detail().as_str()), (503, "No healthy upstream"));
    eventually("the log says so", || {
        gateway.log().iter().any(|line| line.contains("upstream gpu0 is down: "))
    });
    sims[0].behave();
    eventually("it is back", || ask(&gateway).status == 200);
    stops_clean(gateway);
}
