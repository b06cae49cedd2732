//! Seats, the queue, and the choice of an instance.

mod choice;
mod loads;
mod openai;
mod seats;
mod unions;

use std::thread::ScopedJoinHandle;

use serde_json::Value;

use crate::support::gateway::Gateway;
use crate::support::http::Answer;

/// Asks as this user, with this id for the log.
fn ask_as(gateway: &Gateway, user: &str, id: &str, body: &Value) -> Answer {
    gateway.post("/api/chat", body).key(gateway.key(user)).header("X-Request-Id", id).send()
}

fn ask(gateway: &Gateway, body: &Value) -> Answer {
    gateway.post("/api/chat", body).key(gateway.key("ann")).send()
}

/// A refusal's `Retry-After`, which is always there and always sane.
fn retry_after(answer: &Answer) -> u64 {
    let seconds = answer.header("retry-after").expect("when to come again");
    let seconds = seconds.parse().expect("seconds");
    assert!((1..=60).contains(&seconds), "{seconds}");
    seconds
}

fn joined(handles: Vec<ScopedJoinHandle<'_, Answer>>) -> Vec<Answer> {
    handles.into_iter().map(|handle| handle.join().expect("a client ends well")).collect()
}
