//! Slots of a loaded model: waiting, cancelling, sharing, and the prefixes they keep.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{FAST, chat, many};
use crate::support::http::Wire;
use crate::support::sim::{Sim, pieces, sim};

const MODEL: &str = "llama3.2";

fn last_line(wire: Wire) -> serde_json::Value {
    wire.exchange("POST").rest().lines().pop().expect("a stream has a last line")
}

#[test]
fn slots_bound_what_runs_at_a_time() {
    let sim = sim().args(&FAST).args(&["--slots", "3"]).start();
    chat(&sim, MODEL, "warm", 1).send();
    sim.turn(&json!({"wedged": true}));
    let wires = many(&sim, MODEL, 10);
    sim.wait_for("waiting_slot", 7);
    assert_eq!(sim.counter("slots_in_use"), 3);
    sim.turn(&json!({"wedged": false}));
    for wire in wires {
        assert_eq!(last_line(wire)["done"], true);
    }
    assert_eq!(sim.counter("max_concurrent"), 3);
    sim.wait_for("slots_in_use", 0);
}

#[test]
fn some_families_and_embedding_models_have_one_slot_whatever_is_asked_for() {
    let models = "v=family:qwen3vl;e=caps:embedding;own=slots:2";
    let sim = sim().args(&FAST).args(&["--slots", "4", "--models", models]).start();
    chat(&sim, "v", "warm", 1).send();
    chat(&sim, "own", "warm", 1).send();
    sim.turn(&json!({"wedged": true}));
    let _family = many(&sim, "v", 3);
    sim.wait_for("waiting_slot", 2);
    let _own = many(&sim, "own", 3);
    sim.wait_for("waiting_slot", 3);
}

#[test]
fn a_client_that_leaves_while_it_decodes_frees_its_slot_within_a_token() {
    let sim =
        sim().args(&["--load-base", "0s", "--load-rate", "100GiB", "--decode-rate", "20"]).start();
    let mut stream = chat(&sim, MODEL, "long", 10_000).open();
    pieces(&mut stream, 3);
    let next = chat(&sim, MODEL, "next", 1).start();
    sim.wait_for("waiting_slot", 1);
    let before = sim.counter("decoded_tokens");
    stream.leave();
    assert_eq!(last_line(next)["done"], true);
    sim.wait_for("cancelled_requests", 1);
    let wasted = sim.counter("decoded_tokens") - 1 - before;
    assert!(wasted <= 1, "{wasted} tokens were decoded for nobody");
    assert_eq!(sim.counter("cancelled_tokens") + sim.counter("saved_tokens"), 10_000);
}

#[test]
fn a_reset_is_noticed_like_a_close_and_so_is_a_client_that_only_finished_sending() {
    let sim = sim().args(&FAST).start();
    chat(&sim, MODEL, "warm", 1).send();
    sim.turn(&json!({"wedged": true}));
    let holder = chat(&sim, MODEL, "a", 1).start();
    sim.wait_for("slots_in_use", 1);
    let (resets, mut finishes) =
        (chat(&sim, MODEL, "b", 1).start(), chat(&sim, MODEL, "c", 1).start());
    sim.wait_for("waiting_slot", 2);
    resets.reset();
    sim.wait_for("waiting_slot", 1);
    finishes.half_close();
    sim.wait_for("waiting_slot", 0);
    assert_eq!(sim.counter("cancelled_requests"), 2);
    assert_eq!(sim.counter("slots_in_use"), 1, "the one that stayed");
    drop(holder);
    sim.wait_for("slots_in_use", 0);
}

/// Time from the start of a prefill of one second to a free slot, when its client leaves at once.
fn prefill_left(mode: &str) -> (Sim, Duration) {
    let args = ["--load-base", "0s", "--load-rate", "100GiB", "--prefill-rate", "1000"];
    let sim = sim().args(&args).args(&["--batch", "100", "--prefill-cancel", mode]).start();
    sim.post("/api/generate", &json!({"model": MODEL})).send();
    let started = Instant::now();
    let wire = chat(&sim, MODEL, &"word ".repeat(800), 1).start();
    sim.wait_for("slots_in_use", 1);
    drop(wire);
    sim.wait_for("slots_in_use", 0);
    (sim, started.elapsed())
}

#[test]
fn a_prefill_stops_at_the_next_batch_or_in_old_runners_at_its_end() {
    let (sim, newer) = prefill_left("batch");
    assert!(newer < Duration::from_millis(700), "{newer:?}");
    assert_eq!(sim.counter("cancelled_requests"), 1);
    let (sim, older) = prefill_left("end");
    assert!(older > Duration::from_millis(900), "{older:?}");
    assert_eq!(sim.counter("cancelled_requests"), 1);
    assert_eq!(sim.counter("decoded_tokens"), 0);
}

#[test]
fn neighbours_share_the_decode_rate() {
    let args =
        ["--slots", "4", "--speed", "4", "--load-rate", "100GiB", "--prefill-rate", "1000000"];
    let sim = sim().args(&args).start();
    chat(&sim, MODEL, "warm", 1).send();
    let rate = |line: serde_json::Value| {
        line["eval_count"].as_f64().unwrap() / line["eval_duration"].as_f64().unwrap() * 1e9
    };
    let alone = rate(last_line(chat(&sim, MODEL, "alone", 40).start()));
    let wires: Vec<Wire> = (0..4).map(|n| chat(&sim, MODEL, &format!("{n}"), 40).start()).collect();
    let crowded: Vec<f64> = wires.into_iter().map(|wire| rate(last_line(wire))).collect();
    assert!((35.0..=51.0).contains(&alone), "50 tokens a second: {alone}");
    for each in &crowded {
        assert!(*each < alone * 0.6, "a quarter of the rate each: {crowded:?}");
    }
}

#[test]
fn a_conversation_finds_its_prefix_again_and_a_reload_loses_it() {
    let sim = sim().args(&FAST).start();
    let history = "the same long beginning ".repeat(50);
    let ask = |text: &str| last_line(chat(&sim, MODEL, text, 1).start());
    let first = ask(&format!("{history} one"));
    assert_eq!(sim.counter("cache_hit_tokens"), 0);
    let second = ask(&format!("{history} two"));
    let hits = sim.counter("cache_hit_tokens");
    assert!(hits > 290, "{hits} of {}", second["prompt_eval_count"]);
    assert_eq!(first["prompt_eval_count"], second["prompt_eval_count"], "cached ones count too");
    sim.post("/api/generate", &json!({"model": MODEL, "keep_alive": 0})).send();
    ask(&format!("{history} three"));
    assert_eq!(sim.counter("cache_hit_tokens"), hits, "an unload empties the cache");
}

#[test]
fn one_slot_keeps_one_prefix_unless_host_memory_keeps_the_others() {
    for (ram, kept) in [("0", false), ("1GiB", true)] {
        let sim = sim().args(&FAST).args(&["--cache-ram", ram]).start();
        for text in ["a", "b", "a"] {
            chat(&sim, MODEL, &text.repeat(1000), 1).send();
        }
        assert_eq!(sim.counter("cache_hit_tokens") > 200, kept, "with {ram}");
    }
}

#[test]
fn each_input_of_an_embedding_batch_takes_a_slot_of_its_own() {
    let sim = sim().args(&FAST).start();
    let batch = |count: usize| {
        let inputs: Vec<String> = (0..count).map(|n| format!("text {n}")).collect();
        sim.post("/api/embed", &json!({"model": "nomic-embed-text", "input": inputs}))
    };
    batch(1).send();
    sim.reset();
    sim.turn(&json!({"wedged": true}));
    let parked = batch(100).start();
    sim.wait_for("waiting_slot", 99);
    let behind = batch(1).start();
    sim.wait_for("waiting_slot", 100);
    sim.turn(&json!({"wedged": false}));
    let answer = parked.exchange("POST").rest().json();
    assert_eq!(answer["embeddings"].as_array().map(Vec::len), Some(100));
    assert_eq!(behind.exchange("POST").rest().status, 200);
    assert_eq!(sim.counter("slot_acquisitions"), 101);
}
