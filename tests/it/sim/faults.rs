//! Misbehaviour on command.

use std::net::TcpStream;

use serde_json::{Value, json};

use super::{FAST, chat};
use crate::support::eventually;
use crate::support::http::{Answer, Wire};
use crate::support::sim::{Sim, pieces, sim};

const MODEL: &str = "llama3.2";

fn with_fault(fault: &Value) -> Sim {
    let sim = sim().args(&FAST).start();
    sim.misbehave(fault);
    sim
}

fn streamed(sim: &Sim) -> Answer {
    let body = json!({
        "model": MODEL, "max_tokens": 5, "stream": true,
        "messages": [{"role": "user", "content": "hi"}],
    });
    sim.post("/v1/chat/completions", &body).send()
}

#[test]
fn a_status_is_answered_at_once_and_as_often_as_ordered() {
    let sim = with_fault(&json!({
        "path": "/api/*", "times": 2, "kind": "status", "status": 503,
        "body": "{\"error\":\"x\"}", "headers": [["Retry-After", "7"]],
    }));
    for _ in 0..2 {
        let answer = chat(&sim, MODEL, "hi", 1).send();
        assert_eq!((answer.status, answer.text().as_str()), (503, r#"{"error":"x"}"#));
        assert_eq!(answer.header("retry-after"), Some("7"));
    }
    assert_eq!(sim.counter("loads"), 0);
    assert_eq!(chat(&sim, MODEL, "hi", 1).send().status, 200);
    assert_eq!(sim.counter("faults_fired"), 2);
}

#[test]
fn a_redirect_and_foreign_headers_are_sent_on_order() {
    let sim = with_fault(&json!([
        {"path": "/api/version", "times": 1, "kind": "status", "status": 302,
         "headers": [["Location", "http://elsewhere/"]]},
        {"path": "/api/version", "kind": "headers",
         "headers": [["Set-Cookie", "a=1"], ["Access-Control-Allow-Origin", "*"], ["Server", "s"]]},
    ]));
    let moved = sim.get("/api/version").send();
    assert_eq!((moved.status, moved.header("location")), (302, Some("http://elsewhere/")));
    let extra = sim.get("/api/version").send();
    assert_eq!((extra.status, extra.header("set-cookie")), (200, Some("a=1")));
    assert_eq!(extra.header("server"), Some("s"));
}

#[test]
fn a_hang_says_nothing_until_the_client_leaves() {
    let sim = with_fault(&json!({"path": "/api/chat", "kind": "hang"}));
    let wire = chat(&sim, MODEL, "hi", 1).start();
    sim.wait_for("faults_fired", 1);
    assert_eq!((sim.counter("bytes_out"), sim.counter("inflight")), (0, 1));
    drop(wire);
    sim.wait_for("inflight", 0);
    assert_eq!(sim.requests()[0]["outcome"], "cancelled");
}

#[test]
fn a_stream_hangs_in_the_middle_and_its_slot_with_it() {
    let sim = with_fault(&json!({"path": "/api/chat", "kind": "hang_after", "after": 2}));
    let mut stream = chat(&sim, MODEL, "hi", 5).open();
    assert_eq!(pieces(&mut stream, 2).len(), 2);
    assert_eq!(sim.counter("slots_in_use"), 1);
    stream.leave();
    sim.wait_for("slots_in_use", 0);
}

#[test]
fn a_connection_is_reset_in_the_middle_of_a_chunk() {
    let sim = with_fault(&json!({"path": "/api/chat", "kind": "reset_after", "after": 2}));
    let answer = chat(&sim, MODEL, "hi", 5).send();
    assert_eq!(answer.status, 200);
    let cut = answer.cut.as_deref().expect("the body is not whole");
    assert!(cut.contains("reset"), "{cut}");
    sim.wait_for("slots_in_use", 0);
    assert_eq!(sim.requests()[0]["outcome"], "fault");
}

#[test]
fn a_connection_is_closed_without_the_end_of_the_body() {
    let sim = with_fault(&json!({"path": "/api/chat", "kind": "cut_after", "after": 2}));
    let answer = chat(&sim, MODEL, "hi", 5).send();
    assert_eq!(answer.cut.as_deref(), Some("the connection was closed"));
    assert_eq!(answer.lines().len(), 2);
}

#[test]
fn a_stream_ends_properly_without_its_last_message() {
    let sim = with_fault(&json!({"kind": "end_after", "after": 3}));
    let native = chat(&sim, MODEL, "hi", 5).send();
    assert_eq!((native.cut.as_deref(), native.lines().len()), (None, 3));
    assert!(native.lines().iter().all(|line| line["done"] == false));
    let wrapped = streamed(&sim);
    assert!(wrapped.cut.is_none() && !wrapped.events().contains(&"[DONE]".to_owned()));
}

#[test]
fn an_error_in_a_stream_has_status_200_and_is_lost_in_the_openai_wrapper() {
    let sim = with_fault(&json!({"kind": "error_after", "after": 2, "message": "runner died"}));
    let native = chat(&sim, MODEL, "hi", 5).send();
    assert_eq!((native.status, native.lines().len()), (200, 3));
    assert_eq!(native.lines()[2], json!({"error": "runner died"}));
    let wrapped = streamed(&sim);
    assert_eq!((wrapped.status, wrapped.cut.is_none()), (200, true));
    assert!(!wrapped.text().contains("runner died") && !wrapped.text().contains("[DONE]"));
    assert!(wrapped.events()[2].contains(r#""delta":{"content":""}"#), "{}", wrapped.text());
    sim.wait_for("slots_in_use", 0);
}

#[test]
fn bytes_trickle() {
    let sim = with_fault(&json!({"path": "/api/version", "kind": "trickle", "every_ms": 1}));
    let answer = sim.get("/api/version").send();
    assert_eq!(answer.json()["version"], "0.33.0");
    assert_eq!(sim.requests()[0]["sent_chunks"], answer.body.len());
}

#[test]
fn garbage_is_no_http() {
    let sim = with_fault(&json!({"path": "/api/version", "kind": "garbage"}));
    let mut wire = sim.get("/api/version").start();
    let bytes = wire.drain(crate::support::http::PATIENCE);
    assert!(bytes.starts_with(b"HTP/9.9"), "{:?}", String::from_utf8_lossy(&bytes));
}

#[test]
fn a_pooled_connection_is_closed_when_it_is_used_again() {
    let sim = with_fault(&json!({"kind": "close_reused"}));
    let mut wire = Wire::connect(sim.address());
    let request = sim.get("/api/version").bytes();
    assert_eq!(wire.send(&request).answer("GET").status, 200);
    assert!(wire.send(&request).closes_within(crate::support::http::PATIENCE));
    assert_eq!(sim.get("/api/version").send().status, 200, "a fresh connection is served");
}

#[test]
fn connects_are_refused_or_closed_at_once() {
    let sim = sim().args(&FAST).start();
    sim.turn(&json!({"refuse": true}));
    eventually("connects are refused", || TcpStream::connect(sim.address()).is_err());
    sim.turn(&json!({"refuse": false, "close_at_accept": true}));
    eventually("connects are taken", || TcpStream::connect(sim.address()).is_ok());
    let mut wire = Wire::connect(sim.address());
    assert!(wire.closes_within(crate::support::http::PATIENCE));
    sim.turn(&json!({"close_at_accept": false}));
    assert_eq!(sim.get("/").send().status, 200);
}

#[test]
fn open_connections_are_cut_on_order() {
    let sim = sim().args(&FAST).start();
    sim.turn(&json!({"wedged": true}));
    let mut wire = chat(&sim, MODEL, "hi", 1).start();
    sim.wait_for("slots_in_use", 1);
    sim.cut();
    assert!(wire.closes_within(crate::support::http::PATIENCE));
    sim.wait_for("connections_open", 0);
    assert_eq!(sim.counter("slots_in_use"), 0);
}

#[test]
fn a_wedged_runner_leaves_the_health_routes_green() {
    let sim = sim().args(&FAST).start();
    sim.turn(&json!({"wedged": true}));
    let wire = chat(&sim, MODEL, "hi", 2).start();
    sim.wait_for("slots_in_use", 1);
    for path in ["/", "/api/tags", "/api/version", "/v1/models"] {
        assert_eq!(sim.get(path).send().status, 200, "{path}");
    }
    assert_eq!(sim.counter("decoded_tokens"), 0);
    sim.turn(&json!({"wedged": false}));
    assert_eq!(wire.exchange("POST").rest().lines().len(), 3);
}

#[test]
fn mistaken_orders_are_refused() {
    let sim = sim().args(&FAST).start();
    let control = |method: &str, path: &str, body: &Value| {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| sim.control(method, path, body)))
    };
    assert!(control("POST", "/knobs", &json!({"wdged": true})).is_err());
    assert!(control("POST", "/faults", &json!({"kind": "explode"})).is_err());
    assert!(control("GET", "/nothing", &Value::Null).is_err());
    assert!(control("GET", "/knobs", &Value::Null).is_ok());
}
