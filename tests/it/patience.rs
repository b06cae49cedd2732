//! Who waits for a stream of events hears so, if the operator wants it: comments that every reader
//! of events skips, and after them the answer as it would have been.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::crowd::{all_up, before, paced, question, seen, stops_clean, with};
use crate::support::eventually;
use crate::support::gateway::{Builder, Gateway, gateway};
use crate::support::http::{Answer, Exchange};
use crate::support::python::{python, snippet};
use crate::support::sim::{Sim, sim};

const COMMENT: &str = ": waiting\n\n";
const OFTEN: &str = "balance: { keep_alive_comments: 150ms }";

/// A stand-in with one slot whose answers to the same question are always the same.
fn instance() -> Sim {
    paced(200, 1, &["--deterministic"])
}

/// A stream of events in each dialect.
fn streams() -> Vec<(&'static str, Value)> {
    let chat = with(question(4), "options", Value::Null);
    let prompt = json!({ "model": "llama3.2", "prompt": "Why?", "max_tokens": 4, "stream": true });
    let input =
        json!({ "model": "llama3.2", "input": "Why?", "max_output_tokens": 4, "stream": true });
    vec![
        ("/v1/chat/completions", chat.clone()),
        ("/v1/completions", prompt),
        ("/v1/responses", input),
        ("/v1/messages", chat),
    ]
}

/// Takes one of the seats until it is left: its answer has begun, and has no end.
fn occupy(gateway: &Gateway) -> Exchange {
    gateway.post("/api/chat", &question(100_000)).key(gateway.key("ann")).open()
}

/// The answer so far, until it has this many comments.
fn comforted(gateway: &Gateway, path: &str, body: &Value, comments: usize) -> Exchange {
    let mut exchange = gateway.post(path, body).key(gateway.key("ann")).open();
    assert_eq!(exchange.status, 200, "{path}");
    let kind = exchange.headers.iter().find(|(name, _)| name == "content-type");
    assert_eq!(kind.expect("a type").1, "text/event-stream", "{path}");
    for _ in 0..comments {
        let chunk = exchange.chunk().unwrap_or_else(|| panic!("{path}: it ended"));
        assert_eq!(String::from_utf8_lossy(&chunk.bytes), COMMENT, "{path}");
    }
    exchange
}

/// What follows the comments.
fn behind_comments(answer: &Answer) -> String {
    let text = answer.text();
    let rest = text.trim_start_matches(COMMENT);
    assert!(rest.len() < text.len(), "there were comments: {text}");
    assert!(!rest.contains(": waiting"), "none comes once the answer has begun: {text}");
    rest.to_owned()
}

/// Without the usage that nobody asked for, and with ids as they are.
fn direct(gateway: &Gateway, path: &str, body: &Value) -> String {
    let answer = gateway.post(path, body).key(gateway.key("ann")).send();
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.text()
}

#[test]
fn a_client_in_the_queue_hears_that_it_waits_and_then_gets_the_very_same_answer() {
    let sims = [instance()];
    let gateway = before(&sims, 1).config(OFTEN).start();
    for (path, body) in streams() {
        let expected = direct(&gateway, path, &body);
        assert!(!expected.contains(": waiting"), "{path}: who waits for nothing hears nothing");
        let occupied = occupy(&gateway);
        let reached = seen(&sims[0]);
        let waiting = comforted(&gateway, path, &body, 3);
        assert_eq!(seen(&sims[0]), reached, "{path}: the instance knows nothing of it yet");
        occupied.leave();
        let answer = waiting.rest();
        assert_eq!(answer.cut, None, "{path}: {}", answer.text());
        assert_eq!(behind_comments(&answer), expected, "{path}");
    }
    stops_clean(gateway);
}

#[test]
fn a_client_hears_so_while_its_model_loads() {
    let sim = sim().args(&["--load-base", "1500ms", "--keep-alive", "0s"]).start();
    let gateway = gateway().config(OFTEN).user("ann", "free").upstream("gpu0", &sim.url()).start();
    for (path, body) in streams() {
        let answer = comforted(&gateway, path, &body, 2).rest();
        assert_eq!(answer.cut, None, "{path}: {}", answer.text());
        let events = behind_comments(&answer);
        assert!(events.starts_with("data: ") || events.starts_with("event: "), "{path}: {events}");
        eventually("the model is gone again", || sim.loaded().is_empty());
    }
    assert!(sim.counter("loads") >= streams().len() as u64, "each was waited for");
    stops_clean(gateway);
}

#[test]
fn the_connection_serves_the_next_request_as_if_nothing_had_been() {
    let sims = [instance()];
    let gateway = before(&sims, 1).config(OFTEN).start();
    let occupied = occupy(&gateway);
    let (path, body) = streams().remove(0);
    let request = gateway.post(path, &body).key(gateway.key("ann"));
    let mut wire = request.start();
    let from_comment = |line: &str| line == ": waiting";
    while !from_comment(wire.next_line().lines().next().unwrap_or_default()) {}
    occupied.leave();
    eventually("the first answer is over", || {
        let lines = gateway.access_lines();
        lines.iter().any(|line| line["route"] == path && line["outcome"] == "ok")
    });
    while wire.next_line() != "0" {}
    assert_eq!(wire.next_line(), "");
    for _ in 0..2 {
        let answer = wire.send(request.bytes()).answer("POST");
        assert_eq!((answer.status, &answer.cut), (200, &None));
        assert!(answer.header("x-usher-upstream").is_some(), "its head is the instance's again");
        assert_eq!(answer.events().last().expect("events"), "[DONE]");
    }
    let refused = wire.send(gateway.get("/nowhere").bytes()).answer("GET");
    assert_eq!(refused.status, 404);
    stops_clean(gateway);
}

#[test]
fn nobody_else_hears_anything_before_an_answer() {
    let sims = [instance()];
    let gateway = before(&sims, 1).config(OFTEN).start();
    let occupied = occupy(&gateway);
    let (path, body) = streams().remove(0);
    let others = [
        gateway.post("/api/chat", &question(4)),
        gateway.post(path, &with(body.clone(), "stream", json!(false))),
        gateway.post("/v1/embeddings", &json!({ "model": "nomic-embed-text", "input": "x" })),
    ];
    let mut others: Vec<_> =
        others.iter().map(|request| request.clone().key(gateway.key("ann")).start()).collect();
    let old = gateway.post(path, &body).key(gateway.key("ann")).bytes();
    let old = String::from_utf8(old).expect("text").replace("HTTP/1.1", "HTTP/1.0");
    let mut wire = gateway.connect();
    wire.send(old);
    others.push(wire);
    let waiting = comforted(&gateway, path, &body, 4);
    for wire in &mut others {
        assert_eq!(wire.drain(Duration::from_millis(50)), b"", "not a byte");
    }
    occupied.leave();
    assert_eq!(waiting.rest().cut, None);
    for wire in &mut others {
        assert!(wire.next_line().ends_with(" 200 OK"));
    }
    drop(others);
    stops_clean(gateway);
}

#[test]
fn without_the_setting_nobody_hears_anything_before_an_answer() {
    let sims = [instance()];
    let gateway = before(&sims, 1).start();
    let occupied = occupy(&gateway);
    let (path, body) = streams().remove(0);
    let mut wire = gateway.post(path, &body).key(gateway.key("ann")).start();
    assert_eq!(wire.drain(Duration::from_millis(600)), b"", "not a byte");
    occupied.leave();
    assert!(wire.next_line().ends_with(" 200 OK"));
    stops_clean(gateway);
}

/// Both have waited so long that they were told so, and are told in the stream that it was for
/// nothing: by the dialect's own error, and without a clean end.
fn ends_visibly(answer: &Answer, path: &str, message: &str) {
    assert!(answer.cut.is_some(), "{path}: no clean end: {}", answer.text());
    let end = behind_comments(answer);
    let data = end.trim().rsplit("data: ").next().expect("an event");
    let event: Value = serde_json::from_str(data).unwrap_or_else(|_| panic!("{path}: {end}"));
    assert_eq!(event["error"]["message"], message, "{path}: {end}");
    let named = ["/v1/messages", "/v1/responses"].contains(&path);
    assert_eq!(end.contains("event: error"), named, "{path}: {end}");
}

#[test]
fn a_wait_that_was_too_long_ends_in_the_streams_own_dialect() {
    let sims = [instance()];
    let tiers = "tiers: { hasty: { max_queue_wait: 1s } }";
    let gateway = gateway()
        .config(tiers)
        .config(OFTEN)
        .user("bob", "premium")
        .user("ann", "hasty")
        .upstream("gpu0", &sims[0].url())
        .start();
    let blocker = gateway.post("/api/chat", &question(100_000)).key(gateway.key("bob")).open();

    for (path, body) in streams() {
        let answer = comforted(&gateway, path, &body, 1).rest();
        ends_visibly(&answer, path, "No seat became free in time");
    }
    eventually("the log tells it", || {
        let lines = gateway.access_lines();
        let told =
            lines.iter().filter(|line| line["outcome"] == "queue_timeout" && line["status"] == 200);
        told.count() == streams().len()
    });
    assert_eq!(seen(&sims[0]), 1, "only the blocker was ever there");
    blocker.leave();
    stops_clean(gateway);
}

#[test]
fn what_an_instance_refuses_late_is_told_in_its_own_words() {
    let sims = [instance()];
    let gateway = before(&sims, 1).config(OFTEN).start();
    for (path, body) in streams() {
        for (status, answer, says) in [
            (400, r#"{"error":{"message":"too hot"}}"#, "too hot"),
            (500, r#"{"error":"too cold"}"#, "too cold"),
            (500, "", "Upstream 'gpu0' answered 500 where a stream was due"),
            (403, r#"{"error":"you"}"#, "Upstream 'gpu0' refused the gateway"),
        ] {
            let occupied = occupy(&gateway);
            let waiting = comforted(&gateway, path, &body, 1);
            let rule = json!({ "path": path, "times": 1, "kind": "status", "status": status,
                "body": answer, "headers": [["Content-Type", "application/json"]] });
            sims[0].misbehave(&rule);
            occupied.leave();
            ends_visibly(&waiting.rest(), path, says);
        }
    }
    stops_clean(gateway);
}

#[test]
fn a_busy_instance_and_a_dead_one_are_left_for_another_as_ever() {
    for dies in [false, true] {
        let sims = [instance(), instance()];
        let gateway = before(&sims, 1).config(OFTEN).start();
        all_up(&gateway, 2);
        let (first, second) = (occupy(&gateway), occupy(&gateway));
        let (path, body) = streams().remove(0);
        let waiting = comforted(&gateway, path, &body, 1);
        if dies {
            sims[0].turn(&json!({ "refuse": true }));
        } else {
            sims[0].misbehave(&json!({ "path": path, "times": 1, "kind": "status",
                "status": 503, "body": r#"{"error":"server busy"}"# }));
        }
        first.leave();
        second.leave();
        let answer = waiting.rest();
        assert_eq!(answer.cut, None, "{}", answer.text());
        assert!(behind_comments(&answer).ends_with("data: [DONE]\n\n"), "{}", answer.text());
        stops_clean(gateway);
    }
}

#[test]
fn an_instance_that_dies_meanwhile_ends_the_stream_visibly() {
    let mut sim = sim().args(&["--load-base", "60s"]).start();
    let gateway = gateway().config(OFTEN).user("ann", "free").upstream("gpu0", &sim.url()).start();
    let (path, body) = streams().remove(0);
    let waiting = comforted(&gateway, path, &body, 2);
    assert_eq!(seen(&sim), 1);
    sim.kill();
    ends_visibly(&waiting.rest(), path, "Upstream 'gpu0' failed while it worked on the request");
    stops_clean(gateway);
}

#[test]
fn a_client_that_leaves_leaves_as_ever() {
    let sims = [instance()];
    let gateway = before(&sims, 1).config(OFTEN).start();
    let occupied = occupy(&gateway);
    for (number, (path, body)) in streams().into_iter().enumerate() {
        let waiting = comforted(&gateway, path, &body, 1);
        if number % 2 == 0 { waiting.leave() } else { waiting.reset() }
    }
    eventually("their lines are written", || {
        let lines = gateway.access_lines();
        let gone = |line: &&Value| line["outcome"] == "client_gone" && line["queue_ms"].is_number();
        lines.iter().filter(gone).count() == streams().len()
    });
    assert_eq!(seen(&sims[0]), 1, "they cost the instance nothing");
    occupied.leave();
    sims[0].wait_for("inflight", 0);
    stops_clean(gateway);
}

/// A gateway before an instance that loads its model anew for every request.
fn slow_house() -> (Sim, Builder) {
    let sim = sim().args(&["--load-base", "1s", "--keep-alive", "0s"]).start();
    let builder = gateway().config(OFTEN).user("ann", "free").upstream("gpu0", &sim.url());
    (sim, builder)
}

#[test]
fn the_sdks_read_over_the_comments() {
    let (_sim, builder) = slow_house();
    let gateway = builder.start();
    for (script, steps) in [
        ("openai_walk.py", &["chat_stream", "completion_stream", "response_stream"][..]),
        ("anthropic_walk.py", &["message_stream", "text_stream"][..]),
    ] {
        let url = gateway.url();
        let arguments = [&[url.as_str(), gateway.key("ann"), "llama3.2"][..], steps].concat();
        let walk = python(script, &arguments);
        for step in steps {
            let told = &walk["steps"][step];
            assert!(told["raised"].is_null(), "{script} {step}: {told}");
        }
        let received = walk["received"].as_array().expect("a list");
        assert_eq!(received.len(), steps.len());
        for response in received {
            let body = response["body"].as_str().expect("text");
            assert!(body.starts_with(COMMENT), "{script}: it was there to be read over: {body}");
        }
        let parts = walk["steps"][steps[0]].as_array().expect("a stream").len();
        assert!(parts > 2, "{script}: {parts} parts");
    }
    stops_clean(gateway);
}

#[test]
fn the_sdks_raise_what_is_told_behind_the_comments() {
    let (sim, builder) = slow_house();
    let gateway = builder.start();
    sim.turn(&json!({ "load_error": "no room on the card" }));
    for (library, code) in [
        (
            "openai",
            "client = OpenAI(base_url=BASE + '/v1', api_key=KEY, max_retries=0)
ask = lambda: list(client.chat.completions.create(model='llama3.2', stream=True,
    messages=[{'role': 'user', 'content': 'hi'}]))",
        ),
        (
            "anthropic",
            "client = Anthropic(base_url=BASE, api_key=KEY, max_retries=0)
ask = lambda: list(client.messages.create(model='llama3.2', stream=True, max_tokens=9,
    messages=[{'role': 'user', 'content': 'hi'}]))",
        ),
    ] {
        let class = if library == "openai" { "OpenAI" } else { "Anthropic" };
        let script = format!(
            "import os
from {library} import {class}, APIError
BASE, KEY = '{}', os.environ['USHER_KEY']
{code}
try:
    print('answered', ask())
except APIError as error:
    print(type(error).__name__, error)",
            gateway.url()
        );
        let printed = snippet(&script, gateway.key("ann"));
        assert!(printed.contains("no room on the card"), "{library} printed {printed:?}");
        assert!(!printed.contains("answered"), "{library} printed {printed:?}");
    }
    stops_clean(gateway);
}
