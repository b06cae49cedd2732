//! Tokens are counted in every dialect, and nobody sees how.

use serde_json::Value;

use super::{about_usage, streaming, unbroken};
use crate::support::crowd::{before, paced, question, stops_clean};
use crate::support::http::Answer;

#[test]
fn the_access_line_has_the_tokens_of_every_answer() {
    let sims = [paced(5000, 2, &["--deterministic"])];
    let gateway = before(&sims, 2).start();
    let streams = streaming(12).into_iter().map(|(path, body)| (path, body, true));
    let wholes = unbroken(12).into_iter().map(|(path, body)| (path, body, false));
    for (number, (path, body, stream)) in streams.chain(wholes).enumerate() {
        // asked directly, and for usage where that is not given freely
        let telling = match path {
            "/v1/chat/completions" | "/v1/completions" if stream => about_usage(body.clone(), true),
            _ => body.clone(),
        };
        let told = counts_in(&sims[0].post(path, &telling).send());
        let id = format!("count-{number}");
        let request = gateway.post(path, &body).key(gateway.key("ann"));
        let answer = request.header("X-Request-Id", &id).send();
        assert_eq!(answer.status, 200, "{}", answer.text());
        let line = gateway.access_line(&id);
        assert_eq!(line["outcome"], "ok", "{path} {body}: {line}");
        let counted = (line["tokens_in"].as_u64(), line["tokens_out"].as_u64());
        assert_eq!(counted, told, "{path} {body}: {line}");
        if path != "/api/embeddings" {
            assert!(counted.0 > Some(0), "{path} {body}: {line}");
        }
        assert_eq!(line["bytes"].as_u64(), Some(answer.body.len() as u64), "{path}: {line}");
    }
    stops_clean(gateway);
}

#[test]
fn usage_comes_to_those_who_ask_and_to_no_one_else() {
    let sims = [paced(5000, 1, &[])];
    let gateway = before(&sims, 1).start();
    for path in ["/v1/chat/completions", "/v1/completions"] {
        let body = &streaming(5).into_iter().find(|(each, _)| *each == path).expect("listed").1;
        let ask = |body: &Value| gateway.post(path, body).key(gateway.key("ann")).send();
        let plain = ask(body);
        assert!(!plain.text().contains("usage"), "{}", plain.text());
        assert_eq!(plain.events().last().expect("events"), "[DONE]");
        let asked = ask(&about_usage(body.clone(), true));
        assert!(asked.text().contains(r#""completion_tokens":5"#), "{}", asked.text());
        let sent = sims[0].requests();
        let last_two = sent.iter().rev().filter(|entry| entry["target"] == path).take(2);
        for entry in last_two {
            let body = entry["body_head"].as_str().expect("text");
            assert!(body.contains("include_usage"), "the instance is always asked: {body}");
        }
    }
    stops_clean(gateway);
}

#[test]
fn a_stream_that_its_client_left_has_what_was_seen_of_it() {
    let sims = [paced(5000, 1, &[])];
    let gateway = before(&sims, 1).start();
    let request = gateway.post("/api/chat", &question(3)).key(gateway.key("ann"));
    let answer = request.header("X-Request-Id", "whole").send();
    let line = gateway.access_line("whole");
    assert_eq!(line["tokens_out"], 3, "{line}");
    assert_eq!(line["model"], "llama3.2");
    assert_eq!((&line["route"], &line["method"]), (&"/api/chat".into(), &"POST".into()));
    assert_eq!(line["upstream"], "gpu0");
    assert_eq!(answer.header("x-usher-upstream"), Some("gpu0"));
    for name in ["auth_ms", "queue_ms", "first_byte_ms", "total_ms"] {
        assert!(line[name].is_number(), "{name} in {line}");
    }
    stops_clean(gateway);
}

/// The counts that an answer tells, wherever its dialect puts them.
fn counts_in(answer: &Answer) -> (Option<u64>, Option<u64>) {
    let text = answer.text();
    let objects = text
        .lines()
        .map(|line| line.strip_prefix("data: ").unwrap_or(line))
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut found = (None, None);
    for object in objects {
        let places = ["", "/usage", "/message/usage", "/response/usage"];
        for place in places.iter().filter_map(|place| object.pointer(place)) {
            let number = |names: &[&str]| {
                names.iter().find_map(|name| place[*name].as_u64()).filter(|number| *number > 0)
            };
            let input = number(&["prompt_eval_count", "prompt_tokens", "input_tokens"]);
            let output = number(&["eval_count", "completion_tokens", "output_tokens"]);
            found = (input.or(found.0), output.or(found.1));
        }
    }
    found
}
