//! Seats, the queue, and the choice of an instance.

mod cards;
mod choice;
mod drains;
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

/// The instances and the queue, as administrators see them.
fn upstreams(gateway: &Gateway) -> Value {
    let answer = gateway.get("/admin/upstreams").key(gateway.key("admin")).send();
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
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
