//! The stand-in for Ollama keeps its word: the traps that make a test of a gateway honest, each
//! shown on the real process over real sockets.

mod dialects;
mod faults;
mod process;
mod reading;
mod scheduling;
mod slots;

use serde_json::{Value, json};

use crate::support::http::{Request, Wire};
use crate::support::sim::Sim;

/// Fast loads and tokens.
const FAST: [&str; 2] = ["--speed", "1000"];

/// A chat of one message with `tokens` tokens to come, streamed.
fn chat(sim: &Sim, model: &str, text: &str, tokens: u32) -> Request {
    sim.post("/api/chat", &chat_body(model, text, tokens))
}

fn chat_body(model: &str, text: &str, tokens: u32) -> Value {
    json!({
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "options": {"num_predict": tokens},
    })
}

/// Starts requests for `model` until so many are on their way.
fn many(sim: &Sim, model: &str, count: usize) -> Vec<Wire> {
    (0..count).map(|n| chat(sim, model, &format!("{n}"), 2).start()).collect()
}
