//! Which instance gets a request, and which requests no instance gets.

use serde_json::{Value, json};

use super::{ask, ask_as};
use crate::support::crowd::{
    MODEL, all_up, before, paced, question, seen, stops_clean, whole, with,
};
use crate::support::eventually;
use crate::support::gateway::gateway;
use crate::support::http::{Answer, Wire};
use crate::support::sim::Sim;

const MINE: &str = "mine:7b=size:1GiB,vram:1GiB";
const BOTH: &str = "mine:7b=size:1GiB,vram:1GiB;llama3.2=size:1GiB,vram:1GiB";

fn about(model: &str) -> Value {
    with(whole(1), "model", json!(model))
}

fn upstream(answer: &Answer) -> &str {
    answer.header("x-usher-upstream").unwrap_or_else(|| panic!("{}", answer.text()))
}

#[test]
fn only_instances_that_have_the_model_get_the_request() {
    let sims = [paced(1000, 4, &[]), paced(1000, 4, &["--models", MINE]), paced(1000, 4, &[])];
    let gateway = before(&sims, 4).start();
    all_up(&gateway, 3);
    for _ in 0..9 {
        assert_eq!(upstream(&ask(&gateway, &about("mine:7b"))), "gpu1");
        assert_ne!(upstream(&ask(&gateway, &about(MODEL))), "gpu1");
        let show = gateway.post("/api/show", &json!({ "model": "mine:7b" }));
        assert_eq!(upstream(&show.key(gateway.key("ann")).send()), "gpu1");
    }
    stops_clean(gateway);
}

#[test]
fn a_model_in_memory_is_preferred_to_one_that_would_have_to_be_loaded() {
    let sims: Vec<Sim> = (0..3).map(|_| paced(1000, 4, &["--models", BOTH])).collect();
    // loaded by somebody else, before the gateway came
    assert_eq!(sims[2].post("/api/chat", &whole(1)).send().status, 200);
    assert_eq!(sims[1].post("/api/chat", &about("mine:7b")).send().status, 200);
    let gateway = before(&sims, 4).start();
    all_up(&gateway, 3);
    for _ in 0..6 {
        assert_eq!(upstream(&ask(&gateway, &whole(1))), "gpu2");
        assert_eq!(upstream(&ask(&gateway, &about("mine:7b"))), "gpu1");
    }
    assert_eq!(sims.iter().map(|sim| sim.counter("loads")).sum::<u64>(), 2);
    stops_clean(gateway);
}

#[test]
fn the_next_request_goes_where_the_fewest_are_in_flight_for_each_slot() {
    let sims = [paced(1000, 8, &[]), paced(1000, 8, &[])];
    for sim in &sims {
        assert_eq!(sim.post("/api/chat", &whole(1)).send().status, 200, "both hold the model");
        sim.reset();
    }
    let gateway = before(&sims[..1], 2).upstream_with("gpu1", &sims[1].url(), "slots: 6").start();
    all_up(&gateway, 2);
    sims.iter().for_each(|sim| sim.turn(&json!({ "wedged": true })));
    let mut held: Vec<Wire> = Vec::new();
    for count in 1..=8 {
        let request = gateway.post("/api/chat", &question(1)).key(gateway.key("ann"));
        held.push(request.start());
        let at_work = || sims.iter().map(|sim| sim.counter("slots_in_use")).sum::<u64>();
        eventually("it is at work", || at_work() == count);
        // after every four, one on the small instance and three on the large one
        if count == 4 {
            assert_eq!((seen(&sims[0]), seen(&sims[1])), (1, 3));
        }
    }
    assert_eq!((seen(&sims[0]), seen(&sims[1])), (2, 6));
    sims.iter().for_each(|sim| sim.turn(&json!({ "wedged": false })));
    held.into_iter().for_each(|wire| assert_eq!(wire.exchange("POST").rest().status, 200));
    stops_clean(gateway);
}

#[test]
fn all_spellings_of_a_name_are_one_model() {
    let sims = [paced(1000, 4, &[])];
    let gateway = before(&sims, 4).start();
    for name in [
        "llama3.2",
        "LLAMA3.2",
        "llama3.2:latest",
        "Llama3.2:LATEST",
        "library/llama3.2",
        "registry.ollama.ai/library/llama3.2:latest",
    ] {
        let answer = ask(&gateway, &about(name));
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
    }
    assert_eq!(sims[0].counter("loads"), 1);
    stops_clean(gateway);
}

#[test]
fn a_model_that_no_instance_has_is_404_in_the_callers_dialect() {
    let sims = [paced(1000, 4, &[])];
    let gateway = before(&sims, 4).start();
    let text = "model 'nobody:1b' not found";
    let ask = |path: &str| {
        let body = json!({ "model": "nobody:1b", "messages": [], "prompt": "", "input": "" });
        let answer = gateway.post(path, &body).key(gateway.key("ann")).send();
        assert_eq!((answer.status, answer.detail().as_str()), (404, text), "{path}");
        answer.json()
    };
    for path in ["/api/chat", "/api/generate", "/api/embed", "/api/embeddings", "/api/show"] {
        assert_eq!(ask(path)["error"], text, "{path}");
    }
    for path in ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"] {
        let error = ask(path)["error"].clone();
        assert_eq!(error["message"], text, "{path}");
        assert_eq!(error["code"], "model_not_found", "{path}");
    }
    let messages = ask("/v1/messages");
    assert_eq!(messages["type"], "error");
    assert_eq!(messages["error"], json!({ "type": "not_found_error", "message": text }));
    assert_eq!(seen(&sims[0]), 0, "no instance was asked");
    stops_clean(gateway);
}

#[test]
fn models_and_tools_that_leave_the_box_are_403_unless_a_tier_may() {
    let sims = [paced(1000, 4, &[])];
    let gateway = gateway()
        .config("tiers: { far: { cloud: true } }")
        .user("ann", "free")
        .user("eve", "far")
        .upstream_with("gpu0", &sims[0].url(), "slots: 4")
        .start();
    for name in ["llama3.2:cloud", "LLAMA3.2:Cloud", "gpt-oss:120b-cloud", "gpt-oss:120B-CLOUD"] {
        let answer = ask(&gateway, &about(name));
        assert_eq!(answer.status, 403, "{name}: {}", answer.text());
    }
    let search = json!([{ "type": "web_search_20250305", "name": "web_search" }]);
    let searching = with(whole(1), "tools", search);
    let answer = gateway.post("/v1/messages", &searching).key(gateway.key("ann")).send();
    assert_eq!(answer.status, 403, "{}", answer.text());
    assert_eq!(seen(&sims[0]), 0, "no instance was asked");
    assert!(sims[0].egress().is_empty());
    eventually("every denial is told to the security log", || {
        gateway.security_lines().iter().filter(|line| line.contains("denied")).count() >= 5
    });
    let answer = ask_as(&gateway, "eve", "far-away", &about("llama3.2:cloud"));
    assert_ne!(answer.status, 403, "a tier that may, may: {}", answer.text());
    let answer = gateway.post("/v1/messages", &searching).key(gateway.key("eve")).send();
    assert_eq!(answer.status, 200, "{}", answer.text());
    stops_clean(gateway);
}
