//! Chunks pass when they come, not when there are enough of them.

use std::time::Duration;

use serde_json::json;

use super::{about_usage, streaming};
use crate::support::crowd::{before, paced, question, stops_clean};
use crate::support::sim::{Sim, pieces};

#[test]
fn a_chunk_is_with_the_client_before_there_is_a_next_one() {
    const LET_THROUGH: usize = 5;
    let sims = [paced(1000, 2, &["--deterministic"])];
    let gateway = before(&sims, 2).start();
    let mut questions = streaming(50);
    questions.push(("/v1/chat/completions", about_usage(question(50), true)));
    for (path, question) in questions {
        sims[0].misbehave(&json!({ "path": path, "kind": "hang_after", "after": LET_THROUGH }));
        let mut direct = sims[0].post(path, &question).open();
        let expected = pieces(&mut direct, LET_THROUGH).concat();
        let mut through = gateway.post(path, &question).key(gateway.key("ann")).open();
        let mut text = String::new();
        // how TCP cuts the bytes into reads is nobody's promise; that they arrive is
        while text.len() < expected.len() {
            let chunk = through.chunk().unwrap_or_else(|| panic!("{path}: it ended at {text}"));
            text += &String::from_utf8_lossy(&chunk.bytes);
        }
        assert_eq!(text, expected, "{path}");
        direct.leave();
        through.leave();
        sims[0].behave();
    }
    stops_clean(gateway);
}

#[test]
fn chunks_arrive_in_the_instances_own_rhythm() {
    const TOKENS: u32 = 10;
    let sims = [paced(20, 1, &[])];
    let gateway = before(&sims, 1).start();
    for (path, question) in streaming(TOKENS) {
        let answer = gateway.post(path, &question).key(gateway.key("ann")).send();
        let (first, last) = (&answer.chunks[0], answer.chunks.last().expect("chunks"));
        // on a loaded machine a reader that slept finds two at once
        assert!(answer.chunks.len() > TOKENS as usize / 2, "{path}: {}", answer.chunks.len());
        // nine pauses of 50 ms; half of it leaves room for a loaded machine
        assert!(last.at - first.at >= Duration::from_millis(225), "{path}");
    }
    stops_clean(gateway);
}

#[test]
fn the_first_chunk_is_there_while_the_last_is_far_away() {
    let sims: Vec<Sim> = vec![paced(200, 1, &[])];
    let gateway = before(&sims, 1).start();
    for (path, question) in streaming(100_000) {
        let mut stream = gateway.post(path, &question).key(gateway.key("ann")).open();
        stream.chunk().expect("a first chunk");
        assert_eq!(sims[0].counter("decoding"), 1, "{path}: the instance is still at it");
        stream.leave();
        sims[0].wait_for("slots_in_use", 0);
    }
    stops_clean(gateway);
}
