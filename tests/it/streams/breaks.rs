//! A stream that breaks ends so that everybody sees it: with an error, and without its proper end.

use serde_json::{Value, json};

use super::streaming;
use crate::support::crowd::{SOON, before, idle_after, paced, stops_clean, whole};
use crate::support::gateway::Gateway;
use crate::support::http::Answer;
use crate::support::sim::Sim;

fn ask(gateway: &Gateway, path: &str, body: &Value, id: &str) -> Answer {
    gateway.post(path, body).key(gateway.key("ann")).header("X-Request-Id", id).send()
}

/// The stream broke, and says so in its last line or event.
fn assert_visible(path: &str, answer: &Answer) -> String {
    let text = answer.text();
    assert_eq!(answer.status, 200, "{path}: {text}");
    assert!(answer.cut.is_some(), "{path}: it must not end as a complete one does: {text}");
    assert!(!text.contains("[DONE]") && !text.contains(r#""done":true"#), "{path}: {text}");
    let last = text.trim_end().lines().last().expect("a last line");
    let error: Value = if path.starts_with("/api/") {
        assert!(text.ends_with('\n'), "{path}: {text}");
        serde_json::from_str(last).unwrap_or_else(|error| panic!("{path}: {error} in {last}"))
    } else {
        assert!(text.ends_with("\n\n"), "{path}: {text}");
        let data = last.strip_prefix("data: ").unwrap_or_else(|| panic!("{path}: {text}"));
        serde_json::from_str(data).unwrap_or_else(|error| panic!("{path}: {error} in {data}"))
    };
    assert_dialect(path, &text, &error);
    let message = match &error["error"] {
        Value::String(message) => message.clone(),
        object => object["message"].as_str().expect("a message").to_owned(),
    };
    assert!(message.contains("'gpu0'") && !message.contains("127.0.0.1"), "{message}");
    message
}

/// The error is one that the route's own clients understand.
fn assert_dialect(path: &str, text: &str, error: &Value) {
    if path == "/v1/messages" {
        assert_eq!(error["type"], "error", "{error}");
        assert!(text.contains("\n\nevent: error\ndata: "), "an event of its own: {text}");
    } else if path == "/v1/responses" {
        assert!(text.contains("\n\nevent: error\ndata: {\"type\":\"error\","), "{text}");
        let before = text.matches("\ndata: ").count() as u64 - 1;
        let number = error["sequence_number"].as_u64().expect("a number");
        // the last one may have been cut in its middle
        assert!((before.saturating_sub(1)..=before).contains(&number), "{number}: {text}");
        assert_eq!(error["message"], error["error"]["message"], "{error}");
        assert!(error["code"].is_null() && error["param"].is_null(), "{error}");
    } else if path.starts_with("/v1/") {
        assert!(text.contains("\n\ndata: {\"error\":"), "an event of its own: {text}");
    }
}

fn each(kind: &str, gateway: &Gateway, sim: &Sim, check: impl Fn(&str, &Answer, &Value)) {
    for (number, (path, body)) in streaming(50).into_iter().enumerate() {
        let fault =
            json!({ "path": path, "kind": kind, "after": 8, "times": 1, "message": "CUDA error" });
        sim.misbehave(&fault);
        let id = format!("{}-{number}", kind.replace('_', "-"));
        let answer = ask(gateway, path, &body, &id);
        let line = gateway.access_line(&id);
        check(path, &answer, &line);
        let healthy = ask(gateway, path, &body, &format!("{id}-after"));
        assert_eq!((healthy.status, healthy.cut), (200, None), "{path}: the next one is whole");
    }
}

#[test]
fn a_connection_that_is_reset_in_the_middle_of_a_chunk_ends_the_stream_visibly() {
    let sims = [paced(1000, 1, &[])];
    let gateway = before(&sims, 1).start();
    each("reset_after", &gateway, &sims[0], |path, answer, line| {
        let message = assert_visible(path, answer);
        assert!(message.contains("failed while it worked on the request"), "{message}");
        assert_eq!((&line["outcome"], &line["status"]), (&json!("upstream_failed"), &json!(200)));
        assert!(line["cause"].is_string(), "{line}");
    });
    stops_clean(gateway);
}

#[test]
fn a_connection_that_is_closed_in_the_middle_ends_the_stream_visibly() {
    // slow enough that a chunk has left the stand-in before it hangs up
    let sims = [paced(100, 1, &[])];
    let gateway = before(&sims, 1).start();
    each("cut_after", &gateway, &sims[0], |path, answer, line| {
        assert_visible(path, answer);
        assert_eq!(line["outcome"], "upstream_failed", "{line}");
    });
    stops_clean(gateway);
}

#[test]
fn silence_in_the_middle_ends_the_stream_visibly() {
    let sims = [paced(1000, 1, &[])];
    let gateway = before(&sims, 1).config("timeouts: { idle: 300ms }").start();
    each("hang_after", &gateway, &sims[0], |path, answer, line| {
        let message = assert_visible(path, answer);
        assert!(message.contains("did not answer in time"), "{message}");
        assert_eq!(line["outcome"], "upstream_timeout", "{line}");
        let now = std::time::Instant::now();
        assert!(idle_after(&[&sims[0]], now) < SOON, "the instance is left");
    });
    stops_clean(gateway);
}

#[test]
fn a_stream_that_ends_without_its_last_message_ends_visibly() {
    let sims = [paced(1000, 1, &[])];
    let gateway = before(&sims, 1).start();
    each("end_after", &gateway, &sims[0], |path, answer, line| {
        let message = assert_visible(path, answer);
        assert!(message.contains("ended its answer too early"), "{message}");
        assert_eq!(line["outcome"], "broken", "{line}");
    });
    stops_clean(gateway);
}

#[test]
fn an_error_that_the_instance_puts_into_a_stream_passes_as_it_is_and_the_stream_is_cut() {
    let sims = [paced(1000, 1, &[])];
    let gateway = before(&sims, 1).start();
    each("error_after", &gateway, &sims[0], |path, answer, line| {
        assert_eq!(line["outcome"], "broken", "{path}: {line}");
        match path {
            // Ollama loses it there and just stops
            "/v1/chat/completions" | "/v1/completions" => {
                assert_visible(path, answer);
            }
            _ => {
                let text = answer.text();
                assert_eq!(text.matches("CUDA error").count(), 1, "{path}: {text}");
                assert!(!text.contains("gpu0"), "{path}: nothing is added to it: {text}");
                assert!(answer.cut.is_some(), "{path}: it is no complete answer: {text}");
            }
        }
    });
    stops_clean(gateway);
}

#[test]
fn an_answer_in_one_piece_that_breaks_is_cut() {
    let sims = [paced(1000, 1, &[])];
    let gateway = before(&sims, 1).start();
    sims[0].misbehave(&json!({ "path": "/api/chat", "kind": "reset_after", "after": 1 }));
    let answer = ask(&gateway, "/api/chat", &whole(50), "piece");
    assert!(answer.status == 200 && answer.cut.is_some(), "{answer:?}");
    stops_clean(gateway);
}

#[test]
fn a_stream_may_take_only_so_long_in_all() {
    let sims = [paced(100, 1, &[])];
    let gateway = before(&sims, 1).config("timeouts: { total: 500ms }").start();
    let (path, body) = streaming(100_000).swap_remove(0);
    let answer = ask(&gateway, path, &body, "long");
    assert!(answer.lines().len() > 5, "it streamed until then");
    assert_visible(path, &answer);
    stops_clean(gateway);
}
