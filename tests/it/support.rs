//! What the tests are written in: a gateway, simulated instances, HTTP as bytes, the real SDKs.

pub mod authority;
pub mod crowd;
pub mod gateway;
pub mod http;
pub mod metrics;
pub mod postgres;
pub mod proxy;
pub mod python;
pub mod redis;
pub mod sim;

use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Waits until `fact` holds; fails the test, naming the fact, when it does not come to be.
pub fn eventually(what: &str, mut fact: impl FnMut() -> bool) {
    let until = Instant::now() + http::PATIENCE;
    while !fact() {
        assert!(Instant::now() < until, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A short question to a model, in the form that every chat route understands; no stream.
pub fn chat(model: &str) -> Value {
    json!({
        "model": model,
        "messages": [{ "role": "user", "content": "Why is the sky blue?" }],
        "max_tokens": 64,
        "stream": false,
    })
}
