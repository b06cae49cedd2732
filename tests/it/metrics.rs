//! Metrics: every one is read from `/metrics` after traffic that moves it.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::gateway::{Gateway, gateway};
use crate::support::http::{Answer, Request};
use crate::support::sim::{Sim, pieces, sim};

const OWN: &str = "metrics: { address: 127.0.0.1:0 }";
const FAST: [&str; 2] = ["--speed", "50"];
const CHAT: &str = "/api/chat";

/// Where a gateway says that its metrics are.
fn place(gateway: &Gateway) -> SocketAddr {
    let mut place = None;
    eventually("metrics are announced", || {
        place = gateway.log().iter().find_map(|line| {
            line.split_once("metrics on http://")?.1.strip_suffix("/metrics")?.parse().ok()
        });
        place.is_some()
    });
    place.expect("found a moment ago")
}

/// One reading of all metrics.
struct Reading(String);

impl Reading {
    fn of(gateway: &Gateway) -> Self {
        let answer = Request::new(place(gateway), "GET", "/metrics").send();
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4"));
        Self(answer.text())
    }

    /// The value of a series as it is written; 0 if it is not there.
    fn value(&self, series: &str) -> f64 {
        let line = self.0.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().expect("a number"))
    }
}

/// Waits until a series has a value: a request is counted a moment after its answer.
fn wait_for(gateway: &Gateway, series: &str, value: f64) {
    let mut last = String::new();
    let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        eventually(&format!("{series} is {value}"), || {
            let reading = Reading::of(gateway);
            let reached = (reading.value(series) - value).abs() < f64::EPSILON;
            last = reading.0;
            reached
        });
    }));
    assert!(found.is_ok(), "waited in vain for {series} {value} in:\n{last}");
}

fn ask(gateway: &Gateway, key: &str, body: &Value) -> Answer {
    gateway.post(CHAT, body).key(key).send()
}

fn words(model: &str, stream: bool) -> Value {
    json!({
        "model": model,
        "stream": stream,
        "messages": [{ "role": "user", "content": "Why is the sky blue?" }],
        "options": { "num_predict": 4 },
    })
}

fn one(sim: &Sim) -> Gateway {
    gateway().upstream("gpu0", &sim.url()).user("ann", "premium").config(OWN).start()
}

#[test]
fn requests_are_counted_by_route_tier_and_code_with_their_times_and_tokens() {
    let sim = sim().args(&FAST).start();
    let gateway = one(&sim);
    let key = gateway.key("ann");
    assert_eq!(ask(&gateway, key, &words("llama3.2", true)).status, 200);
    assert_eq!(ask(&gateway, key, &words("LLAMA3.2:latest", false)).status, 200);
    assert_eq!(ask(&gateway, key, &words("no-such-model", false)).status, 404);
    assert_eq!(gateway.get("/no/such/path").send().status, 404);
    assert_eq!(gateway.get("/health").send().status, 200);
    for (series, value) in [
        (r#"usher_requests_total{code="200",route="/api/chat",tier="premium"}"#, 2.0),
        (r#"usher_requests_total{code="404",route="/api/chat",tier="premium"}"#, 1.0),
        (r#"usher_requests_total{code="404",route="-",tier="-"}"#, 1.0),
        (r#"usher_requests_total{code="200",route="/health",tier="-"}"#, 1.0),
        (r#"usher_request_seconds_count{route="/api/chat"}"#, 3.0),
        (r#"usher_queue_wait_seconds_count{tier="premium"}"#, 2.0),
        (r#"usher_time_to_first_token_seconds_count{model="llama3.2:latest"}"#, 1.0),
        (r#"usher_tokens_total{kind="completion",model="llama3.2:latest"}"#, 8.0),
        (r#"usher_cold_loads_total{model="llama3.2:latest",upstream="gpu0"}"#, 1.0),
    ] {
        wait_for(&gateway, series, value);
    }
    let reading = Reading::of(&gateway);
    assert!(reading.value(r#"usher_tokens_total{kind="prompt",model="llama3.2:latest"}"#) > 0.0);
    assert!(reading.value("usher_overhead_seconds_count") >= 5.0);
    assert!(!reading.0.contains("no-such-model"), "labels are never what clients write");
    assert!(!reading.0.contains("ann") && !reading.0.contains(key), "nobody is named");
}

#[test]
fn seats_are_counted_by_whether_the_prompt_was_read_there_before() {
    let sims = [sim().args(&FAST).start(), sim().args(&FAST).start()];
    let gateway = gateway()
        .upstream("gpu0", &sims[0].url())
        .upstream("gpu1", &sims[1].url())
        .user("ann", "premium")
        .config(OWN)
        .start();
    let talk = |turns: usize| {
        let turns = (0..turns).map(|turn| {
            json!({ "role": if turn % 2 == 0 { "user" } else { "assistant" },
                "content": format!("{turn} {}", "a long story, told at length ".repeat(100)) })
        });
        let messages: Vec<Value> = turns.collect();
        let body = json!({ "model": "llama3.2", "messages": messages,
            "options": { "num_predict": 4 }, "stream": false });
        assert_eq!(ask(&gateway, gateway.key("ann"), &body).status, 200);
    };
    let affinity = |result: &str| format!(r#"usher_affinity_total{{result="{result}"}}"#);
    talk(1);
    wait_for(&gateway, &affinity("none"), 1.0);
    talk(3);
    talk(5);
    wait_for(&gateway, &affinity("hit"), 2.0);
    assert!(Reading::of(&gateway).0.contains(&format!("{} 0", affinity("miss"))));
    assert_eq!(sims.each_ref().map(|sim| sim.counter("loads")).iter().sum::<u64>(), 1);
}

#[test]
fn our_own_work_is_counted_without_the_instances() {
    let sim = sim().args(&["--load-base", "1s", "--speed", "1"]).start();
    let gateway = one(&sim);
    assert_eq!(ask(&gateway, gateway.key("ann"), &words("llama3.2", false)).status, 200);
    wait_for(&gateway, r#"usher_request_seconds_count{route="/api/chat"}"#, 1.0);
    let reading = Reading::of(&gateway);
    let whole = reading.value(r#"usher_request_seconds_sum{route="/api/chat"}"#);
    let own = reading.value("usher_overhead_seconds_sum");
    assert!(whole > 1.0, "the load alone takes a second: {whole}");
    assert!(own < whole / 2.0, "{own} of {whole} seconds cannot be ours");
}

#[test]
fn failures_to_authenticate_are_counted_by_reason_and_lookups_by_cache() {
    let sim = sim().args(&FAST).start();
    let gateway = one(&sim);
    let unknown = "usk_00000000000000000000000000000000000000000000000000000000000000";
    assert_eq!(gateway.get("/api/tags").send().status, 401);
    assert_eq!(gateway.get("/api/tags").key("nonsense").send().status, 401);
    assert_eq!(gateway.get("/api/tags").key(unknown).send().status, 401);
    for _ in 0..3 {
        assert_eq!(gateway.get("/api/tags").key(gateway.key("ann")).send().status, 200);
    }
    let id = gateway.home().usher_json(&["keys", "list", "--user", "ann"])["data"][0]["id"].clone();
    gateway.home().usher_json(&["keys", "revoke", &id.to_string()]);
    eventually("the key is dead", || {
        gateway.get("/api/tags").key(gateway.key("ann")).send().status == 401
    });
    wait_for(&gateway, r#"usher_auth_failures_total{reason="missing"}"#, 1.0);
    let reading = Reading::of(&gateway);
    let failures =
        |reason: &str| reading.value(&format!(r#"usher_auth_failures_total{{reason="{reason}"}}"#));
    assert!(failures("key_malformed") >= 1.0, "{}", reading.0);
    assert!(failures("key_revoked") >= 1.0, "{}", reading.0);
    let cache = |layer: &str, result: &str| {
        let labels = format!(r#"{{layer="{layer}",result="{result}"}}"#);
        reading.value(&format!("usher_cache_requests_total{labels}"))
    };
    assert!(cache("known", "hit") >= 1.0 && cache("known", "miss") >= 1.0, "{}", reading.0);
    assert!(cache("unknown", "miss") >= 1.0, "{}", reading.0);
}

#[test]
fn logins_that_fail_and_those_that_are_too_many_are_counted() {
    let sim = sim().args(&FAST).start();
    let gateway = one(&sim);
    gateway.home().set_password("ann", "correct horse battery");
    let wrong = json!({ "username": "ann", "password": "wrong horse battery" });
    let statuses: Vec<u16> =
        (0..6).map(|_| gateway.post("/auth/login", &wrong).send().status).collect();
    assert_eq!(statuses.last(), Some(&429), "{statuses:?}");
    let count = |wanted: u16| statuses.iter().filter(|status| **status == wanted).count() as f64;
    wait_for(&gateway, r#"usher_auth_failures_total{reason="password"}"#, count(401));
    wait_for(&gateway, r#"usher_limited_total{limit="login"}"#, count(429));
}

#[test]
fn the_queue_the_instances_and_the_clients_that_leave_are_seen() {
    let sim = sim().args(&FAST).start();
    let gateway = gateway()
        .upstream("gpu0", &sim.url())
        .user("ann", "premium")
        .config(OWN)
        .config("balance: { queue: 1, max_queue_wait: 60s }")
        .start();
    let key = gateway.key("ann");
    ask(&gateway, key, &words("llama3.2", false));
    wait_for(&gateway, r#"usher_upstream_up{upstream="gpu0"}"#, 1.0);
    wait_for(&gateway, r#"usher_upstream_slots{upstream="gpu0"}"#, 1.0);
    sim.turn(&json!({ "wedged": true }));
    let served = gateway.post(CHAT, &words("llama3.2", true)).key(key).start();
    wait_for(&gateway, r#"usher_upstream_inflight{upstream="gpu0"}"#, 1.0);
    let queued = gateway.post(CHAT, &words("llama3.2", true)).key(key).start();
    wait_for(&gateway, "usher_queue_depth", 1.0);
    assert_eq!(ask(&gateway, key, &words("llama3.2", true)).status, 503);
    wait_for(&gateway, r#"usher_limited_total{limit="queue"}"#, 1.0);
    queued.reset();
    wait_for(&gateway, r#"usher_client_gone_total{state="queued"}"#, 1.0);
    wait_for(&gateway, "usher_queue_depth", 0.0);
    served.reset();
    wait_for(&gateway, r#"usher_client_gone_total{state="waiting"}"#, 1.0);
    sim.turn(&json!({ "wedged": false }));
    sim.misbehave(&json!({ "path": CHAT, "kind": "hang_after", "after": 1 }));
    let mut streaming = gateway.post(CHAT, &words("llama3.2", true)).key(key).open();
    assert_eq!(pieces(&mut streaming, 1).len(), 1);
    streaming.reset();
    wait_for(&gateway, r#"usher_client_gone_total{state="streaming"}"#, 1.0);
    wait_for(&gateway, r#"usher_upstream_inflight{upstream="gpu0"}"#, 0.0);
}

#[test]
fn an_instance_that_dies_is_seen_to_be_down() {
    let mut sim = sim().args(&FAST).start();
    let gateway = one(&sim);
    wait_for(&gateway, r#"usher_upstream_up{upstream="gpu0"}"#, 1.0);
    sim.kill();
    wait_for(&gateway, r#"usher_upstream_up{upstream="gpu0"}"#, 0.0);
}

#[test]
fn heads_that_are_no_requests_are_counted_too() {
    let sim = sim().args(&FAST).start();
    let gateway = one(&sim);
    let mut wire = gateway.connect();
    wire.send("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n");
    assert_eq!(wire.answer("GET").status, 400);
    wait_for(&gateway, r#"usher_requests_total{code="400",route="-",tier="-"}"#, 1.0);
    let long = "x".repeat(40 * 1024);
    assert_eq!(gateway.get("/health").header("x-long", &long).send().status, 431);
    wait_for(&gateway, r#"usher_limited_total{limit="headers"}"#, 1.0);
}

#[test]
fn the_process_tells_what_it_is_and_that_all_is_well() {
    let sim = sim().args(&FAST).start();
    let gateway = one(&sim);
    let reading = Reading::of(&gateway);
    assert!(reading.0.contains(&format!(r#"version="{}"}} 1"#, env!("CARGO_PKG_VERSION"))));
    assert!(reading.value("usher_config_ok") > 0.0);
    assert!(reading.0.contains(r#"usher_degraded{part="database"} 0"#), "{}", reading.0);
    assert!(reading.0.contains("usher_log_dropped_total 0"), "{}", reading.0);
    assert!(reading.value("process_resident_memory_bytes") > 1e6);
    let elsewhere = Request::new(place(&gateway), "GET", "/").send();
    assert_eq!(elsewhere.status, 404, "nothing else is served there");
    assert_eq!(gateway.get("/metrics").send().status, 404, "nor metrics where clients are");
}

#[test]
fn an_address_that_is_taken_ends_the_start_with_one_clear_line() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = taken.local_addr().expect("it is bound");
    let home = gateway()
        .upstream("gpu0", "http://127.0.0.1:1")
        .config(&format!("metrics: {{ address: {address} }}"))
        .home();
    home.usher_json(&["init"]);
    let output = home.usher(&["serve"]);
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{complaint}");
    assert!(complaint.contains(&format!("cannot listen on {address} for metrics")), "{complaint}");
}
