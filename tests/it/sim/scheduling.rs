//! Loads: serial, in order, aborted, repeated; and how long a model stays.

use std::time::Duration;

use serde_json::{Value, json};

use super::{FAST, chat, many};
use crate::support::eventually;
use crate::support::http::Wire;
use crate::support::sim::{Sim, sim};

const LLAMA: &str = "llama3.2";
const QWEN: &str = "qwen3:8b";

fn load(sim: &Sim, body: &Value) -> Value {
    let answer = sim.post("/api/generate", body).send();
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

#[test]
fn nothing_is_sent_before_the_first_token() {
    let sim = sim().args(&FAST).start();
    sim.turn(&json!({"load_stall": true}));
    let wire = chat(&sim, LLAMA, "hello", 3).start();
    sim.wait_for("loading", 1);
    assert_eq!(sim.counter("bytes_out"), 0, "a load is silent");
    sim.turn(&json!({"load_stall": false, "wedged": true}));
    sim.wait_for("slots_in_use", 1);
    assert_eq!(sim.counter("bytes_out"), 0, "a prefill is silent");
    sim.turn(&json!({"wedged": false}));
    let answer = wire.exchange("POST").rest();
    assert_eq!(answer.status, 200);
    assert_eq!(answer.chunks.len(), 4, "one chunk a token, and the last line");
}

#[test]
fn a_full_pending_queue_is_503_and_a_loaded_model_takes_any_number() {
    let sim = sim().args(&FAST).args(&["--max-queue", "2"]).start();
    chat(&sim, LLAMA, "warm", 1).send();
    sim.turn(&json!({"wedged": true, "load_stall": true}));
    let waiting = many(&sim, LLAMA, 50);
    sim.wait_for("waiting_slot", 49);
    let loading = chat(&sim, QWEN, "a", 1).start();
    sim.wait_for("loading", 1);
    let queued = many(&sim, QWEN, 2);
    sim.wait_for("queued", 2);
    let refused = chat(&sim, QWEN, "too many", 1).send();
    assert_eq!(refused.status, 503);
    assert_eq!(
        refused.text(),
        r#"{"error":"server busy, please try again.  maximum pending requests exceeded"}"#
    );
    assert_eq!(refused.header("retry-after"), None);
    assert_eq!(sim.counter("refused_busy"), 1);
    sim.turn(&json!({"wedged": false, "load_stall": false}));
    for wire in waiting.into_iter().chain(queued).chain([loading]) {
        assert_eq!(wire.exchange("POST").rest().status, 200);
    }
    assert_eq!(sim.counter("max_concurrent"), 2, "one slot a model");
}

#[test]
fn loads_are_serial_and_first_come_first_served_while_loaded_models_bypass_them() {
    let models = "a=vram:1GiB;b=vram:1GiB;c=vram:1GiB;d=vram:1GiB";
    let sim = sim().args(&FAST).args(&["--models", models, "--max-loaded", "9"]).start();
    chat(&sim, "a", "warm", 1).send();
    sim.turn(&json!({"load_stall": true}));
    let mut order = Vec::new();
    for (position, model) in ["b", "c", "d"].iter().enumerate() {
        order.push(chat(&sim, model, "hi", 1).start());
        sim.wait_for("loading", 1);
        sim.wait_for("queued", position as u64);
    }
    assert_eq!(chat(&sim, "a", "hi", 1).send().status, 200, "what is loaded does not wait");
    sim.turn(&json!({"load_stall": false}));
    let last = |wire: Wire| wire.exchange("POST").rest().lines().pop().expect("a last line");
    let lines: Vec<Value> = order.into_iter().map(last).collect();
    let ended = |n: usize| lines[n]["created_at"].as_str().map(|stamp| stamp.trim_end_matches('Z'));
    assert!(ended(0) < ended(1) && ended(1) < ended(2), "first come, first served: {lines:?}");
    // the last one arrived before the load ahead of it began: it waited for all of that
    let own = 2_000_000_000;
    assert!(lines[1]["load_duration"].as_u64() >= Some(own), "{lines:?}");
    assert!(lines[2]["load_duration"].as_u64() >= Some(2 * own), "the wait counts: {lines:?}");
    assert_eq!(sim.counter("loads"), 4);
}

#[test]
fn a_requester_that_leaves_takes_its_load_along() {
    let sim = sim().args(&FAST).start();
    sim.turn(&json!({"load_stall": true}));
    let leaves = chat(&sim, LLAMA, "a", 1).start();
    sim.wait_for("loading", 1);
    let stays = chat(&sim, LLAMA, "b", 1).start();
    sim.wait_for("queued", 1);
    drop(leaves);
    sim.wait_for("aborted_loads", 1);
    sim.wait_for("queued", 0);
    assert_eq!(sim.counter("loads"), 0);
    sim.turn(&json!({"load_stall": false}));
    assert_eq!(stays.exchange("POST").rest().status, 200, "the next one starts it afresh");
    assert_eq!(sim.counter("loads"), 1);
    assert_eq!(sim.counter("cancelled_requests"), 1);
}

#[test]
fn another_runner_option_reloads_and_a_sampling_option_does_not() {
    let sim = sim().args(&FAST).start();
    let with = |options: Value| {
        load(&sim, &json!({"model": LLAMA, "prompt": "x", "stream": false, "options": options}))
    };
    with(json!({"temperature": 0.1}));
    with(json!({"temperature": 0.9, "seed": 3}));
    assert_eq!((sim.counter("loads"), sim.counter("reloads")), (1, 0));
    with(json!({"num_ctx": 8192}));
    assert_eq!((sim.counter("loads"), sim.counter("reloads")), (2, 1));
    assert_eq!(sim.loaded()[0]["num_ctx"], 8192);
    with(json!({"num_ctx": 8192, "num_thread": 4}));
    assert_eq!(sim.counter("reloads"), 2);
    let plain = json!({"model": LLAMA, "messages": [{"role": "user", "content": "x"}]});
    sim.post("/v1/chat/completions", &plain).send();
    assert_eq!(sim.counter("reloads"), 3, "/v1 brings the defaults back");
}

#[test]
fn a_reload_waits_until_the_model_is_idle_and_new_requests_keep_it_busy() {
    let sim = sim().args(&FAST).start();
    chat(&sim, LLAMA, "warm", 1).send();
    sim.turn(&json!({"wedged": true}));
    let busy = chat(&sim, LLAMA, "busy", 1).start();
    sim.wait_for("slots_in_use", 1);
    let mut other = super::chat_body(LLAMA, "other", 1);
    other["options"]["num_ctx"] = json!(2048);
    let waits = sim.post("/api/chat", &other).start();
    eventually("the reload is under way", || sim.counter("inflight") == 2);
    let bypasses = chat(&sim, LLAMA, "bypass", 1).start();
    sim.wait_for("waiting_slot", 1);
    assert_eq!(sim.counter("reloads"), 0);
    sim.turn(&json!({"wedged": false}));
    for wire in [busy, bypasses, waits] {
        assert_eq!(wire.exchange("POST").rest().status, 200);
    }
    assert_eq!(sim.counter("loads"), 2);
}

#[test]
fn an_empty_request_loads_and_with_keep_alive_zero_unloads_for_everyone() {
    let sim = sim().args(&FAST).start();
    let loaded = load(&sim, &json!({"model": LLAMA}));
    assert_eq!((&loaded["done_reason"], &loaded["done"]), (&json!("load"), &json!(true)));
    assert!(loaded.get("total_duration").is_none(), "zero durations are left out: {loaded}");
    assert_eq!(sim.loaded().len(), 1);
    let unloaded = load(&sim, &json!({"model": LLAMA, "keep_alive": 0}));
    assert_eq!(unloaded["done_reason"], "unload");
    assert_eq!((sim.loaded().len(), sim.counter("unloads")), (0, 1));
    let body = json!({"model": LLAMA, "messages": []});
    assert_eq!(sim.post("/api/chat", &body).send().json()["done_reason"], "load");
    let body = json!({"model": LLAMA, "messages": [], "keep_alive": "0s"});
    assert_eq!(sim.post("/api/chat", &body).send().json()["done_reason"], "unload");
}

#[test]
fn the_last_keep_alive_wins() {
    let sim = sim().args(&FAST).start();
    let expires = |keep_alive: Value| {
        load(&sim, &json!({"model": LLAMA, "keep_alive": keep_alive}));
        let ps = sim.get("/api/ps").send().json();
        ps["models"][0]["expires_at"].as_str().map(str::to_owned)
    };
    let usual = expires(Value::Null).expect("it is loaded");
    let forever = expires(json!(-1)).expect("it is loaded");
    assert!(forever.as_str() > "2300", "about 292 years: {forever}");
    let hour = expires(json!("1h")).expect("it is loaded");
    assert!(usual < hour && hour < forever, "{usual} {hour} {forever}");
    let same = expires(Value::Null).expect("it is loaded");
    assert!(same >= hour, "a request without one keeps it: {same}");
    let mut last = super::chat_body(LLAMA, "bye", 1);
    last["keep_alive"] = json!(0);
    sim.post("/api/chat", &last).send();
    sim.wait_for("unloads", 1);
}

#[test]
fn an_idle_model_expires() {
    let sim = sim().args(&FAST).args(&["--keep-alive", "20s"]).start();
    chat(&sim, LLAMA, "hi", 1).send();
    sim.wait_for("unloads", 1);
    assert!(sim.loaded().is_empty());
}

#[test]
fn room_is_made_by_evicting_the_idle_model_that_would_stay_the_shortest() {
    let models = "a=vram:4GiB;b=vram:4GiB;c=vram:4GiB";
    let sim = sim().args(&FAST).args(&["--models", models, "--vram", "10GiB"]).start();
    load(&sim, &json!({"model": "a", "keep_alive": "2m"}));
    load(&sim, &json!({"model": "b", "keep_alive": "1m"}));
    load(&sim, &json!({"model": "c"}));
    let left: Vec<Value> = sim.loaded().into_iter().map(|one| one["model"].clone()).collect();
    assert_eq!(left, ["c:latest", "a:latest"]);
    assert_eq!(sim.counter("evictions"), 1);
}

#[test]
fn eviction_waits_for_a_busy_model() {
    let sim = sim().args(&FAST).args(&["--max-loaded", "1"]).start();
    chat(&sim, LLAMA, "warm", 1).send();
    sim.turn(&json!({"wedged": true}));
    let busy = chat(&sim, LLAMA, "busy", 1).start();
    sim.wait_for("slots_in_use", 1);
    let other = chat(&sim, QWEN, "hi", 1).start();
    sim.wait_for("inflight", 2);
    assert_eq!((sim.counter("loading"), sim.counter("evictions")), (0, 0));
    sim.turn(&json!({"wedged": false}));
    assert_eq!(busy.exchange("POST").rest().status, 200);
    assert_eq!(other.exchange("POST").rest().status, 200);
    assert_eq!(sim.loaded().len(), 1);
}

#[test]
fn ps_lacks_a_loading_model_and_shows_a_stale_expiry_while_busy() {
    let sim = sim().args(&FAST).args(&["--vram-recovery", "0s"]).start();
    let ps = || sim.get("/api/ps").send().json()["models"].clone();
    sim.turn(&json!({"load_stall": true}));
    let first = chat(&sim, LLAMA, "a", 1).start();
    sim.wait_for("loading", 1);
    assert_eq!(ps(), json!([]));
    sim.turn(&json!({"load_stall": false}));
    first.exchange("POST").rest();
    eventually("it is idle", || sim.loaded()[0]["users"] == 0);
    let idle = ps();
    assert!(idle[0]["expires_at"].is_string() && idle[0]["context_length"] == 32768, "{idle}");
    sim.turn(&json!({"wedged": true}));
    let mut longer = super::chat_body(LLAMA, "b", 1);
    longer["keep_alive"] = json!("9h");
    let _busy = sim.post("/api/chat", &longer).start();
    sim.wait_for("slots_in_use", 1);
    assert_eq!(ps(), idle, "nothing shows that it is in use");
}

#[test]
fn ps_may_stall_while_the_rest_answers() {
    let sim = sim().args(&FAST).start();
    sim.turn(&json!({"ps_stall_ms": 60_000}));
    let stalled = sim.get("/api/ps").start();
    sim.wait_for("inflight", 1);
    assert_eq!(sim.get("/api/tags").send().status, 200);
    assert_eq!(sim.counter("inflight"), 1, "it still stalls");
    drop(stalled);
    sim.wait_for("inflight", 0);
}

#[test]
fn a_load_that_fails_or_stalls_is_500() {
    let sim = sim().args(&FAST).args(&["--load-timeout", "20s"]).start();
    sim.turn(&json!({"load_error": "CUDA out of memory"}));
    let failed = chat(&sim, LLAMA, "a", 1).send();
    assert_eq!(failed.status, 500);
    assert!(failed.text().contains("llama-server process has terminated: CUDA out of memory"));
    sim.turn(&json!({"load_error": null, "load_stall": true}));
    let stalled = chat(&sim, LLAMA, "a", 1).send();
    assert_eq!(stalled.status, 500);
    assert!(stalled.text().contains("timed out waiting for llama-server to start"));
    assert_eq!(sim.counter("aborted_loads"), 0);
}

#[test]
fn a_load_takes_its_base_and_the_time_to_read_it() {
    let sim = sim().args(&["--speed", "20", "--load-rate", "1GiB", "--load-base", "1s"]).start();
    let answer = chat(&sim, LLAMA, "a", 1).send();
    let last = answer.lines().pop().expect("a last line");
    let load = Duration::from_nanos(last["load_duration"].as_u64().expect("it is reported"));
    assert!(load >= Duration::from_secs(3), "2 GiB at 1 GiB/s and a second: {load:?}");
    assert!(last["total_duration"].as_u64() >= last["load_duration"].as_u64());
}
