//! Streams pass as they come, are counted in passing, and never end as if they were whole.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::gateway::{Builder, Gateway, gateway};
use crate::support::http::{Answer, Request};
use crate::support::sim::{Sim, sim};

/// Every route that streams, with a question that makes it.
fn streams() -> [(&'static str, Value); 6] {
    let messages = json!([{ "role": "user", "content": "Why is the sky blue?" }]);
    let model = "llama3.2";
    [
        ("/api/chat", json!({ "model": model, "messages": messages })),
        ("/api/generate", json!({ "model": model, "prompt": "Why is the sky blue?" })),
        ("/v1/chat/completions", json!({ "model": model, "messages": messages, "stream": true })),
        ("/v1/completions", json!({ "model": model, "prompt": "Why?", "stream": true })),
        ("/v1/responses", json!({ "model": model, "input": "Why?", "stream": true })),
        (
            "/v1/messages",
            json!({ "model": model, "messages": messages, "stream": true, "max_tokens": 32 }),
        ),
    ]
}

#[test]
fn pieces_pass_when_they_come_and_not_at_the_end() {
    // 32 tokens at 40 a second, whatever the machine does besides
    let (gateway, _sim) = open(&["--decode-rate", "40", "--load-base", "1ms"], |it| it);
    for (path, body) in streams() {
        let answer = ask(&gateway, path, &body).send();
        assert_eq!((answer.status, &answer.cut), (200, &None), "{path}: {}", answer.text());
        let first = answer.chunks.first().expect("a stream has pieces").at;
        let last = answer.chunks.last().expect("a stream has pieces").at;
        let spread = last - first;
        assert!(spread > Duration::from_millis(400), "{path} came within {spread:?}");
        assert!(answer.chunks.len() >= 20, "{path} came in {} pieces", answer.chunks.len());
    }
}

#[test]
fn tokens_are_counted_in_every_dialect() {
    let (gateway, _sim) = open(&["--speed", "50", "--load-base", "1ms"], |it| it);
    for (path, body) in streams() {
        for stream in [true, false] {
            let mut body = body.clone();
            body["stream"] = json!(stream);
            let id = format!("{}-{stream}", path.replace('/', "-"));
            let answer = ask(&gateway, path, &body).header("X-Request-Id", &id).send();
            assert_eq!(answer.status, 200, "{path}: {}", answer.text());
            let line = gateway.access_line(&id);
            assert_eq!(line["tokens_out"], 32, "{path}: {line}");
            assert!(line["tokens_in"].as_u64() > Some(0), "{path}: {line}");
            assert_eq!(line["outcome"], "ok");
        }
    }
}

#[test]
fn the_counts_that_usher_asked_for_stay_with_usher() {
    let (gateway, sim) = open(&["--deterministic", "--speed", "50"], |it| it);
    for (path, mut body) in [streams()[2].clone(), streams()[3].clone()] {
        let plain = ask(&gateway, path, &body).send();
        let direct = sim.post(path, &body).send();
        assert_eq!(plain.text(), direct.text(), "{path}: as if nothing had been asked for");
        assert_eq!(plain.events().last().map(String::as_str), Some("[DONE]"));
        body["stream_options"] = json!({ "include_usage": true });
        let counted = ask(&gateway, path, &body).send();
        assert_eq!(counted.text(), sim.post(path, &body).send().text(), "{path}");
        let usage = |answer: &Answer| answer.text().matches("\"completion_tokens\":32").count();
        assert_eq!((usage(&plain), usage(&counted)), (0, 1), "{path}");
    }
}

#[test]
fn a_stream_that_breaks_ends_visibly() {
    let (gateway, sim) = open(&["--speed", "50"], |it| it);
    for kind in ["reset_after", "cut_after"] {
        for (path, body) in streams() {
            sim.behave();
            sim.misbehave(&json!({ "path": path, "kind": kind, "after": 5 }));
            let answer = ask(&gateway, path, &body).send();
            assert_eq!(answer.status, 200);
            assert!(answer.cut.is_some(), "{kind} {path} seems whole: {}", answer.text());
            let told = last_error(&answer, path);
            assert!(told.contains("Upstream 'only' failed"), "{kind} {path}: {told}");
        }
    }
}

#[test]
fn an_instances_own_error_line_passes() {
    let (gateway, sim) = open(&["--speed", "50"], |it| it);
    let (path, body) = &streams()[0];
    sim.misbehave(
        &json!({ "path": path, "kind": "error_after", "after": 3, "message": "no more" }),
    );
    let answer = ask(&gateway, path, body).send();
    assert_eq!(answer.status, 200);
    assert_eq!(last_error(&answer, path), "no more");
}

#[test]
fn a_stream_that_falls_silent_is_ended_after_the_idle_time() {
    let (gateway, sim) = open(&["--speed", "50"], |it| it.config("timeouts: { idle: 600ms }"));
    for (path, body) in streams() {
        sim.behave();
        sim.misbehave(&json!({ "path": path, "kind": "hang_after", "after": 5 }));
        let begun = Instant::now();
        let answer = ask(&gateway, path, &body).send();
        let took = begun.elapsed();
        assert!(answer.cut.is_some(), "{path} seems whole: {}", answer.text());
        assert!(last_error(&answer, path).contains("did not answer in time"), "{path}");
        assert!(took >= Duration::from_millis(600) && took < Duration::from_secs(4), "{took:?}");
    }
    sim.wait_for("inflight", 0);
}

#[test]
fn a_request_ends_with_its_total_time() {
    let slow = ["--decode-rate", "20", "--default-tokens", "400"];
    let (gateway, sim) = open(&slow, |it| it.config("timeouts: { total: 3s }"));
    let (path, body) = &streams()[0];
    let begun = Instant::now();
    let answer = ask(&gateway, path, body).send();
    let took = begun.elapsed();
    assert!(answer.cut.is_some(), "it seems whole: {}", answer.text());
    assert!(took >= Duration::from_secs(3) && took < Duration::from_secs(6), "{took:?}");
    sim.wait_for("slots_in_use", 0);
}

#[test]
fn a_client_that_stops_reading_frees_the_instance() {
    // answers that no buffer on the way takes in: some 60 MiB
    let endless = ["--decode-rate", "1000000", "--default-tokens", "400000", "--load-base", "1ms"];
    let (gateway, sim) = open(&endless, |it| it.config("timeouts: { idle: 1s }"));
    let (path, body) = &streams()[0];
    let wire = ask(&gateway, path, body).open();
    sim.wait_for("slots_in_use", 1);
    sim.wait_for("slots_in_use", 0);
    sim.wait_for("cancelled_requests", 1);
    drop(wire);
}

fn open(args: &[&str], more: impl FnOnce(Builder) -> Builder) -> (Gateway, Sim) {
    let sim = sim().args(args).start();
    let described = gateway().upstream_with("only", &sim.url(), "slots: 4").user("ann", "free");
    (more(described).start(), sim)
}

fn ask(gateway: &Gateway, path: &str, body: &Value) -> Request {
    gateway.post(path, body).key(gateway.key("ann"))
}

/// The text of the error that a stream ends with, in its own dialect.
fn last_error(answer: &Answer, path: &str) -> String {
    let text = answer.text();
    let last = text.lines().rev().find(|line| !line.is_empty()).unwrap_or_default();
    let last = last.strip_prefix("data: ").unwrap_or(last);
    let error: Value = serde_json::from_str(last).unwrap_or_else(|_| panic!("{path}: {text}"));
    let told = if path.starts_with("/api/") { &error["error"] } else { &error["error"]["message"] };
    if path == "/v1/messages" {
        assert_eq!(error["type"], "error");
        assert!(text.contains("event: error\ndata: "), "{text}");
    }
    told.as_str().unwrap_or_else(|| panic!("{path}: {error}")).to_owned()
}
