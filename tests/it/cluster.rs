//! Several gateways that share a database and a Redis, and every way in which Redis can fail.

mod faults;
mod forgery;
mod lines;
mod logins;
mod quotas;
mod seats;
mod sharing;
mod stale;

use serde_json::Value;

use crate::support::eventually;
use crate::support::gateway::{Builder, Gateway, gateway};
use crate::support::http::{Answer, Request};
use crate::support::metrics::value;
use crate::support::postgres;
use crate::support::sim::{Sim, sim};

/// The same on every gateway; what is in Redis is sealed with it.
const SECRET: &str = "the same forty characters on all of them";

/// A gateway on this database and this Redis. The time that Redis has is long, unless a test is
/// about that: on a busy machine a slow answer is no fault.
fn member(sim: &Sim, database: &str, redis: &str) -> Builder {
    impatient_member(sim, database, redis, "5s")
}

/// A gateway that waits for Redis no longer than this.
fn impatient_member(sim: &Sim, database: &str, redis: &str, timeout: &str) -> Builder {
    gateway()
        .upstream_with("gpu0", &sim.url(), "slots: 32")
        .database(database)
        .env("JWT_SECRET", SECRET)
        .config("metrics: { address: 127.0.0.1:0 }")
        .config(&format!("redis: {redis}\nredis_timeout: {timeout}"))
}

/// A stand-in that is quick about everything.
fn quick() -> Sim {
    sim().args(&["--speed", "1000"]).start()
}

/// A fresh database on the PostgreSQL server of the tests.
fn database() -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(postgres::fresh_database())
}

/// Asks for something that needs a key and no instance's work.
fn tags(gateway: &Gateway, key: &str) -> Answer {
    Request::new(gateway.address(), "GET", "/api/tags").key(key).send()
}

/// A new key of a user, made as an administrator with a shell would.
fn new_key(gateway: &Gateway, user: &str, name: &str) -> (String, i64) {
    let made = gateway.home().usher_json(&["keys", "create", "--user", user, "--name", name]);
    let text = made["key"].as_str().expect("a key");
    (text.to_owned(), made["id"].as_i64().expect("an id"))
}

/// The parts that a gateway says it goes without.
fn degraded(gateway: &Gateway) -> Vec<String> {
    let ready = gateway.get("/ready").send();
    assert_eq!(ready.status, 200, "{}", ready.text());
    let parts = ready.json()["degraded"].as_array().cloned().unwrap_or_default();
    parts.iter().filter_map(Value::as_str).map(Into::into).collect()
}

fn until_shared(gateway: &Gateway) {
    eventually("Redis is in use", || degraded(gateway).is_empty());
}

fn until_alone(gateway: &Gateway) {
    eventually("Redis is given up", || degraded(gateway) == ["redis"]);
    assert!(value(gateway, r#"usher_degraded{part="redis"}"#) > 0.0);
}

/// Lines of the log that say that Redis went, and that it came.
fn comings_and_goings(gateway: &Gateway) -> (usize, usize) {
    let log = gateway.log();
    let count = |text: &str| log.iter().filter(|line| line.contains(text)).count();
    (count("Redis is away"), count("Redis answers"))
}
