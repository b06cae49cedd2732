//! Request bodies: whatever their size and framing, the instance gets the very bytes that the
//! client sent, and what may not pass is refused without a reset and without a cost.

mod framing;
mod limits;
mod meaning;
mod replay;

use ring::digest::{SHA256, digest};
use serde_json::Value;

use crate::support::sim::Sim;

/// Sizes around the 64 KiB that Pingora keeps by itself, and well beyond.
const SIZES: [usize; 6] = [200, 65_535, 65_536, 65_537, 131_073, 1 << 20];

/// Where in a body its model stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Model {
    First,
    Last,
}

/// A request for `/api/generate` that is `size` bytes long, no two stretches of it alike.
fn prompt(size: usize, model: Model) -> Vec<u8> {
    let rest = r#""prompt":"Why?","stream":false"#;
    let (before, after) = match model {
        Model::First => (format!(r#"{{"model":"llama3.2",{rest},"padding":""#), "\"}".to_owned()),
        Model::Last => (r#"{"padding":""#.to_owned(), format!(r#"",{rest},"model":"llama3.2"}}"#)),
    };
    let padding = size.checked_sub(before.len() + after.len()).expect("there is room");
    let mut body = before.into_bytes();
    body.extend((0..padding).map(|at| b'a' + ((at * 7 + at / 251 + at / 65_521) % 26) as u8));
    body.extend(after.into_bytes());
    body
}

/// What clients posted, oldest first. Their requests carry an id; those by which the gateway itself
/// has a model loaded do not.
fn posted(sim: &Sim) -> Vec<Value> {
    let names = |request: &Value| {
        let headers = request["headers"].as_array().into_iter().flatten();
        headers.filter_map(|header| header[0].as_str()).any(|name| name == "x-request-id")
    };
    let requests = sim.requests().into_iter();
    requests.filter(|request| request["method"] == "POST" && names(request)).collect()
}

/// Says that exactly these bodies arrived, in this order.
fn assert_arrived(sim: &Sim, bodies: &[&[u8]], what: &str) {
    let seen = posted(sim);
    let arrived: Vec<_> =
        seen.iter().map(|it| (it["body_bytes"].clone(), it["body_sha256"].clone())).collect();
    let sent: Vec<_> =
        bodies.iter().map(|it| (Value::from(it.len()), Value::from(sha256(it)))).collect();
    assert_eq!(arrived, sent, "{what}");
}

fn sha256(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
