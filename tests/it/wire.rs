//! The wire as the hostile and the clumsy use it: heads, paths, framing, headers, deadlines.

mod answers;
mod deadlines;
mod framing;
mod headers;
mod paths;
mod secrets;

use serde_json::{Value, json};

use crate::support::gateway::{Builder, Gateway, gateway};
use crate::support::http::Answer;
use crate::support::sim::{Sim, sim};

/// A fast instance and what stands before it.
fn before_one() -> (Sim, Builder) {
    let sim = sim().args(&["--speed", "1000"]).holding("llama3.2").start();
    let builder = gateway().upstream("a", &sim.url());
    (sim, builder)
}

fn pair() -> (Sim, Gateway) {
    let (sim, builder) = before_one();
    (sim, builder.start())
}

/// A request that is answered at once, or streamed.
fn question(stream: bool) -> Value {
    json!({ "model": "llama3.2", "prompt": "Why?", "stream": stream })
}

/// The requests that are no probe, oldest first.
fn posted(sim: &Sim) -> Vec<Value> {
    sim.requests().into_iter().filter(|request| request["method"] == "POST").collect()
}

/// Whatever arrived beside the probes, which know three paths.
fn beside_probes(sim: &Sim) -> Vec<Value> {
    let probes = ["/api/version", "/api/tags", "/api/ps"].map(Value::from);
    let requests = sim.requests().into_iter();
    requests.filter(|it| it["method"] != "GET" || !probes.contains(&it["target"])).collect()
}

/// Sends these bytes on a connection of their own and returns the answer.
fn say(gateway: &Gateway, bytes: impl AsRef<[u8]>) -> Answer {
    let bytes = bytes.as_ref();
    let method = String::from_utf8_lossy(bytes);
    let method = method.split(' ').next().unwrap_or_default().to_owned();
    let mut wire = gateway.connect();
    wire.send(bytes);
    wire.answer(&method)
}

/// Says that this is a refusal as it must be, with its one access line, which it returns.
fn assert_refused(gateway: &Gateway, answer: &Answer, statuses: &[u16], what: &str) -> Value {
    assert!(statuses.contains(&answer.status), "{what}: {} {}", answer.status, answer.text());
    assert_eq!(answer.cut, None, "{what}");
    let content_type = answer.header("content-type");
    assert_eq!(content_type, Some("application/json"), "{what}: {}", answer.text());
    answer.detail();
    let id = answer.header("x-request-id").unwrap_or_else(|| panic!("{what}: no id"));
    let line = gateway.access_line(id);
    assert_eq!(line["status"], answer.status, "{what}");
    line
}
