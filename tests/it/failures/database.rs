//! The database fails in every way it can: who is known is served, nothing is half done, and it
//! is used again as soon as it can be.

mod files;
mod servers;

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::gateway::Gateway;
use crate::support::http::{Answer, Request};

/// How soon a database that can be used again must be. The rest is for machines that run other
/// tests meanwhile.
const SOON: Duration = Duration::from_secs(2);

/// Asks for something that needs a key and no instance's work.
fn tags(gateway: &Gateway, key: &str) -> Answer {
    Request::new(gateway.address(), "GET", "/api/tags").key(key).send()
}

/// Makes a key by the admin API.
fn make_key(gateway: &Gateway, name: &str) -> Answer {
    let body: Value = json!({ "user": "ann", "name": name });
    gateway.post("/admin/keys", &body).key(gateway.key("admin")).send()
}

/// A key that was just made.
fn key_in(answer: &Answer) -> String {
    assert_eq!(answer.status, 201, "{}", answer.text());
    answer.json()["key"].as_str().expect("a key").to_owned()
}

/// How many keys of this name there are, and how many acts about them.
fn traces(gateway: &Gateway, name: &str) -> (usize, usize) {
    let admin = gateway.key("admin");
    let keys = gateway.get("/admin/keys?user=ann&limit=100").key(admin).send().json();
    let acts = gateway.get("/admin/audit?limit=100").key(admin).send().json();
    let entries = |list: &Value| list["data"].as_array().cloned().unwrap_or_default();
    let keys = entries(&keys).iter().filter(|key| key["name"] == name).count();
    let made = |act: &&Value| act["action"] == "key.create" && act.to_string().contains(name);
    (keys, entries(&acts).iter().filter(made).count())
}

/// A change that cannot be made now: said as such, soon, and with when to come again.
fn refused(answer: &Answer, since: Instant) {
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.header("retry-after").is_some(), "{}", answer.text());
    let reasons = ["nothing was changed", "Identity cannot be checked now"];
    assert!(reasons.iter().any(|it| answer.text().contains(it)), "{}", answer.text());
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
}
