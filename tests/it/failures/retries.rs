//! What is tried again, where, how often, and what never is.

use std::time::Instant;

use serde_json::{Value, json};

use crate::support::crowd::{
    MODEL, SOON, all_up, before, idle_after, paced, question, seen, stops_clean, whole,
};
use crate::support::eventually;
use crate::support::gateway::Gateway;
use crate::support::http::Answer;
use crate::support::sim::Sim;

/// Probes so rare that only requests find out that something is wrong.
const RARELY: &str = "health: { interval: 60s, timeout: 1s, fall: 100, rise: 1 }";

fn ask(gateway: &Gateway) -> Answer {
    gateway.post("/api/chat", &whole(2)).key(gateway.key("ann")).send()
}

fn four(config: &str) -> (Vec<Sim>, Gateway) {
    let sims: Vec<Sim> = (0..4).map(|_| paced(1000, 1, &[])).collect();
    let gateway = before(&sims, 1).config(config).start();
    all_up(&gateway, sims.len());
    (sims, gateway)
}

#[test]
fn a_refused_connection_is_tried_at_two_other_instances() {
    let (sims, gateway) = four(RARELY);
    sims.iter().take(2).for_each(refuse);
    for _ in 0..6 {
        let answer = ask(&gateway);
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    stops_clean(gateway);
}

#[test]
fn after_two_other_instances_the_answer_is_502() {
    let (sims, gateway) = four(RARELY);
    sims.iter().for_each(refuse);
    let answer = ask(&gateway);
    assert_eq!(answer.status, 502, "{}", answer.text());
    assert!(answer.detail().starts_with("Upstream 'gpu"), "{}", answer.detail());
    assert!(!answer.text().contains("127.0.0.1"), "it names no address");
    stops_clean(gateway);
}

#[test]
fn a_busy_instance_is_left_once_for_another() {
    let (sims, gateway) = four(RARELY);
    let busy = json!({ "path": "/api/chat", "kind": "status", "status": 503, "body":
        r#"{"error":"server busy, please try again.  maximum pending requests exceeded"}"# });
    sims[0].misbehave(&busy);
    let answer = ask(&gateway);
    assert_eq!((answer.status, seen(&sims[0])), (200, 1), "{}", answer.text());
    sims.iter().skip(1).for_each(|sim| sim.misbehave(&busy));
    sims.iter().for_each(Sim::reset);
    let answer = ask(&gateway);
    assert_eq!(answer.status, 503, "{}", answer.text());
    let wait: u64 = answer.header("retry-after").expect("when to come again").parse().expect("s");
    assert!((1..=60).contains(&wait));
    assert_eq!(sims.iter().map(seen).sum::<usize>(), 2, "once more, and no further");
    stops_clean(gateway);
}

#[test]
fn a_pooled_connection_that_was_closed_is_no_news_for_the_client() {
    let sims = [paced(1000, 1, &[])];
    let gateway = before(&sims, 1).start();
    assert_eq!(ask(&gateway).status, 200);
    // closed while it idles in the pool
    sims[0].cut();
    assert_eq!(ask(&gateway).status, 200);
    // closed in the moment in which it is used; what takes longer may be an instance that died
    // at work, and a loaded machine can make it take longer
    let reused = json!({ "path": "/api/chat", "kind": "close_reused", "times": 1 });
    let (mut attempts, mut repeated) = (0, 0);
    eventually("it was closed in that moment several times", || {
        sims[0].reset();
        sims[0].misbehave(&reused);
        attempts += 1;
        let id = format!("reused-{attempts}");
        let request = gateway.post("/api/chat", &whole(2)).key(gateway.key("ann"));
        let answer = request.header("X-Request-Id", &id).send();
        let took = gateway.access_line(&id)["total_ms"].as_f64().expect("a number");
        assert!(answer.status == 200 || took >= 20.0, "{took}: {}", answer.text());
        repeated += usize::from(answer.status == 200 && seen(&sims[0]) == 2);
        sims[0].behave();
        repeated == 3
    });
    stops_clean(gateway);
}

#[test]
fn what_an_instance_died_of_is_not_given_to_another() {
    let mut sims = vec![paced(1000, 1, &[]), paced(1000, 1, &[])];
    let gateway = before(&sims, 1).start();
    all_up(&gateway, 2);
    // a first one each, so that the one that matters travels on a pooled connection
    (0..4).for_each(|_| assert_eq!(ask(&gateway).status, 200));
    sims.iter().for_each(|sim| {
        sim.reset();
        sim.turn(&json!({ "wedged": true }));
    });
    let request = gateway.post("/api/chat", &question(5)).key(gateway.key("ann"));
    let wire = request.header("X-Request-Id", "fatal").start();
    let mut victim = None;
    eventually("an instance works on it", || {
        victim = sims.iter().position(|sim| sim.counter("slots_in_use") == 1);
        victim.is_some()
    });
    let victim = victim.expect("found a moment ago");
    let begun = Instant::now();
    eventually("it has worked for a while", || begun.elapsed().as_millis() > 50);
    sims[victim].kill();
    let answer = wire.exchange("POST").rest();
    assert_eq!(answer.status, 502, "{}", answer.text());
    assert!(answer.detail().contains(&format!("'gpu{victim}'")), "{}", answer.detail());
    assert_eq!(seen(&sims[1 - victim]), 0, "it would die of it too");
    let line = gateway.access_line("fatal");
    assert_eq!((&line["outcome"], &line["status"]), (&json!("upstream_failed"), &json!(502)));
    stops_clean(gateway);
}

#[test]
fn an_instance_that_hangs_up_at_once_on_a_fresh_connection_saw_it_once() {
    let (sims, gateway) = four(RARELY);
    sims.iter().for_each(|sim| {
        sim.misbehave(&json!({ "path": "/api/chat", "kind": "close" }));
    });
    let answer = ask(&gateway);
    assert_eq!(answer.status, 502, "{}", answer.text());
    assert_eq!(sims.iter().map(seen).sum::<usize>(), 1);
    stops_clean(gateway);
}

#[test]
fn no_first_byte_in_time_is_504_and_not_repeated() {
    let (sims, gateway) = four("timeouts: { first_byte: 300ms }");
    sims.iter().for_each(|sim| {
        sim.misbehave(&json!({ "path": "/api/chat", "kind": "hang" }));
    });
    let asked = Instant::now();
    let answer = ask(&gateway);
    assert_eq!(answer.status, 504, "{}", answer.text());
    assert!(answer.detail().contains("did not answer in time"), "{}", answer.detail());
    assert!(asked.elapsed().as_millis() >= 300);
    assert_eq!(sims.iter().map(seen).sum::<usize>(), 1, "a slow model is slow everywhere");
    let all: Vec<&Sim> = sims.iter().collect();
    let answered = Instant::now();
    assert!(idle_after(&all, answered) < SOON, "the instance does not go on with it");
    stops_clean(gateway);
}

#[test]
fn garbage_is_502_and_reaches_nobody() {
    let (sims, gateway) = four(RARELY);
    let garbage = json!({ "path": "/api/chat", "kind": "garbage", "times": 1 });
    sims.iter().for_each(|sim| sim.misbehave(&garbage));
    let answer = ask(&gateway);
    assert_eq!(answer.status, 502, "{}", answer.text());
    assert!(!answer.text().contains("HTP/9.9"));
    stops_clean(gateway);
}

#[test]
fn an_error_of_the_model_passes_as_it_is_and_takes_no_instance_out() {
    let sims = [paced(1000, 1, &[])];
    let gateway = before(&sims, 1).start();
    let broken = r#"{"error":"llama runner process has terminated: CUDA error"}"#;
    let fault =
        json!({ "path": "/api/chat", "kind": "status", "status": 500, "body": broken, "times": 5 });
    sims[0].misbehave(&fault);
    for _ in 0..5 {
        let answer = ask(&gateway);
        assert_eq!((answer.status, answer.text().as_str()), (500, broken));
    }
    assert_eq!(ask(&gateway).status, 200, "it is still asked");
    let unknown: Value = json!({ "model": format!("{MODEL}-unknown"), "messages": [] });
    let answer = gateway.post("/api/chat", &unknown).key(gateway.key("ann")).send();
    assert_eq!(answer.status, 404);
    stops_clean(gateway);
}

fn refuse(sim: &Sim) {
    sim.turn(&json!({ "refuse": true }));
    sim.cut();
}
