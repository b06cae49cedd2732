//! The process: determinism, the stand-in for vLLM, its start and its end.

use std::process::Command;

use serde_json::json;

use super::{FAST, chat};
use crate::support::eventually;
use crate::support::sim::{Sim, sim};

const MODEL: &str = "llama3.2";

#[test]
fn the_same_request_gets_the_same_bytes_from_any_deterministic_process() {
    let start = |seed: &str| {
        sim().args(&FAST).args(&["--deterministic", "--slots", "2", "--seed", seed]).start()
    };
    let (one, two, other) = (start("1"), start("1"), start("2"));
    chat(&one, MODEL, "some history", 3).send();
    let hi = json!([{"role": "user", "content": "hi"}]);
    for (path, stream) in [
        ("/api/chat", true),
        ("/api/generate", false),
        ("/v1/chat/completions", true),
        ("/v1/chat/completions", false),
        ("/v1/completions", true),
        ("/v1/responses", true),
        ("/v1/messages", true),
        ("/v1/messages", false),
        ("/api/embed", false),
    ] {
        let body = json!({
            "model": MODEL, "messages": hi, "prompt": "hi", "input": "hi", "stream": stream,
            "max_tokens": 4,
        });
        let ask = |sim: &Sim| sim.post(path, &body).send();
        let (first, second) = (ask(&one), ask(&two));
        assert_eq!(first.status, 200, "{path}: {}", first.text());
        assert_eq!(first.text(), second.text(), "{path}");
        assert_eq!(first.headers, second.headers, "{path}");
        let length = |answer: &crate::support::http::Answer| answer.chunks.len();
        assert_eq!(length(&first), length(&second), "{path}");
        assert_ne!(first.text(), ask(&other).text(), "{path}: another seed says something else");
    }
    let ps = |sim: &Sim| sim.get("/api/ps").send().text();
    assert_eq!(ps(&one), ps(&two));
}

#[test]
fn different_prompts_get_different_answers() {
    let sim = sim().args(&FAST).args(&["--deterministic"]).start();
    let say = |text: &str| chat(&sim, MODEL, text, 8).send().text();
    assert_eq!(say("a"), say("a"));
    assert_ne!(say("a"), say("b"));
}

#[test]
fn the_stand_in_for_vllm_serves_v1_alone_and_wants_its_key() {
    let sim = sim().args(&["--openai-only", "--api-key", "k", "--slots", "8"]).start();
    let models = sim.get("/v1/models");
    assert_eq!(models.send().status, 401);
    assert_eq!(models.clone().bearer("wrong").send().status, 401);
    let listed = models.bearer("k").send();
    assert_eq!(listed.json()["data"][0]["owned_by"], "vllm");
    assert_eq!(sim.get("/health").send().status, 200);
    let missing = sim.get("/api/tags").send();
    assert_eq!((missing.status, missing.json()), (404, json!({"detail": "Not Found"})));
    let body =
        json!({"model": MODEL, "max_tokens": 1, "messages": [{"role": "user", "content": "x"}]});
    let answer = sim.post("/v1/chat/completions", &body).bearer("k").send();
    assert_eq!(answer.status, 200);
    assert_eq!(sim.counter("requests"), 6);
}

#[test]
fn it_ends_with_its_parent() {
    let mut sim = sim().args(&FAST).start();
    drop(sim.child().stdin.take());
    eventually("it has ended", || sim.child().try_wait().expect("it is ours").is_some());
}

#[test]
fn it_ends_when_it_is_told_to() {
    let mut sim = sim().args(&FAST).start();
    let id = sim.child().id().to_string();
    assert!(Command::new("kill").arg(&id).status().expect("kill exists").success());
    eventually("it has ended", || sim.child().try_wait().expect("it is ours").is_some());
    let status = sim.child().wait().expect("it is ours");
    assert!(status.success(), "{status}");
}
