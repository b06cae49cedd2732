//! Who comes in: keys, the ways to present them, and what those hear who do not.

use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::support::gateway::{Gateway, gateway};
use crate::support::http::{Answer, Request};
use crate::support::postgres::{PASSWORD, fresh_database};
use crate::support::sim::{Sim, sim};
use crate::support::{chat, eventually};

const FOREIGN: &str = "a-key-that-nobody-has-issued";

#[test]
fn without_a_credential_every_dialect_reads_the_same_sentence() {
    let (gateway, _sim) = open();
    for path in ["/api/chat", "/v1/chat/completions", "/v1/messages", "/v1/responses"] {
        let answer = gateway.post(path, &chat("llama3.2")).send();
        expect_401(&answer, "Not authenticated");
        assert!(answer.text().starts_with("{\"detail\":"), "detail comes first: {}", answer.text());
        let (body, text) = (answer.json(), "Not authenticated");
        let shown = match path {
            "/api/chat" => body["error"] == text,
            "/v1/messages" => {
                body["type"] == "error"
                    && body["error"] == json!({ "type": "authentication_error", "message": text })
            }
            _ => body["error"]["message"] == text && body["error"]["param"].is_null(),
        };
        assert!(shown, "{path}: {body}");
    }
    expect_401(&gateway.get("/api/tags").send(), "Not authenticated");
    expect_401(&gateway.get("/v1/models").send(), "Not authenticated");
}

#[test]
fn whatever_is_wrong_with_a_key_the_answer_is_the_same() {
    let (gateway, _sim) = open_with(|it| it.user("bob", "free").user("eve", "free"));
    let (bob, eve) = (gateway.key("bob"), gateway.key("eve"));
    let id = key_id(&gateway, "bob");
    gateway.home().usher_json(&["keys", "revoke", &id]);
    gateway.home().usher_json(&["users", "disable", "eve"]);
    let mut mistyped = gateway.key("ann").to_owned();
    mistyped.pop();
    mistyped.push('!');
    eventually("the server knows of both changes", || {
        [bob, eve].iter().all(|key| tags(&gateway).key(key).send().status == 401)
    });
    for key in [bob, eve, &mistyped, FOREIGN, "usk_", "short"] {
        let answer = tags(&gateway).key(key).send();
        expect_401(&answer, "Invalid API key");
        assert_eq!(
            answer.json(),
            json!({ "detail": "Invalid API key", "error": "Invalid API key" })
        );
    }
}

#[test]
fn a_key_may_come_in_any_of_four_ways() {
    let (gateway, _sim) = open();
    let key = gateway.key("ann");
    let basic = |user: &str| format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{key}")));
    for (name, value) in [
        ("X-API-Key", key.to_owned()),
        ("x-api-key", key.to_owned()),
        ("Authorization", format!("Bearer {key}")),
        ("authorization", format!("bearer {key}")),
        ("Authorization", basic("anybody")),
        ("Authorization", basic("")),
    ] {
        let answer = tags(&gateway).header(name, &value).send();
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
    }
}

#[test]
fn the_first_credential_that_resolves_wins() {
    let (gateway, _sim) = open();
    let good = gateway.key("ann");
    let send = |request: Request| request.send().status;
    assert_eq!(send(tags(&gateway).key(FOREIGN).bearer(good)), 200);
    assert_eq!(send(tags(&gateway).key(good).bearer(FOREIGN)), 200);
    assert_eq!(send(tags(&gateway).key(FOREIGN).bearer(FOREIGN)), 401);
    assert_eq!(send(tags(&gateway).bearer(good).bearer(good)), 400, "two Authorization lines");
}

#[test]
fn two_authorization_lines_are_malformed_where_none_is_needed_as_well() {
    let (gateway, _sim) = open();
    let key = gateway.key("ann");
    for path in ["/", "/health", "/ready", "/api/tags"] {
        assert_eq!(gateway.get(path).bearer(key).send().status, 200, "{path}");
        let twice = gateway.get(path).bearer(key).bearer(key).send();
        let detail = "more than one Authorization header";
        assert_eq!((twice.status, twice.detail().as_str()), (400, detail), "{path}");
    }
    let login = gateway.post("/auth/login", &json!({ "username": "ann", "password": "x" }));
    assert_eq!(login.bearer(key).bearer(key).send().status, 400);
}

#[test]
fn a_key_in_a_query_or_a_cookie_is_none() {
    let (gateway, _sim) = open();
    let key = gateway.key("ann");
    let by_query = gateway.get(&format!("/api/tags?key={key}&api_key={key}")).send();
    expect_401(&by_query, "Not authenticated");
    let by_cookie = tags(&gateway).header("Cookie", &format!("X-API-Key={key}")).send();
    expect_401(&by_cookie, "Not authenticated");
}

#[test]
fn what_a_command_changes_in_sqlite_the_server_knows_within_a_second() {
    let (gateway, _sim) = open();
    follow_changes(&gateway);
}

#[tokio::test]
async fn what_a_command_changes_in_postgresql_the_server_knows_within_a_second() {
    let url = fresh_database().await;
    let followed = tokio::task::spawn_blocking(move || {
        let (gateway, _sim) = open_with(|it| it.database(&url));
        follow_changes(&gateway);
        assert!(!gateway.stop().join("\n").contains(PASSWORD), "the log shows the password");
    });
    followed.await.expect("it is followed");
}

fn follow_changes(gateway: &Gateway) {
    let home = gateway.home();
    let status = |key: &str| tags(gateway).key(key).send().status;
    let ann = gateway.key("ann").to_owned();
    assert_eq!(status(&ann), 200);

    let legacy = "legacy-key-of-the-old-system";
    assert_eq!(status(legacy), 401, "and from now on known to be unknown");
    let hash = ring::digest::digest(&ring::digest::SHA256, legacy.as_bytes());
    let hex: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    home.usher_json(&["keys", "import", "--sha256", &hex, "--user", "ann"]);
    within_a_second("an imported key opens the door", || status(legacy) == 200);

    home.usher_json(&["users", "set-tier", "ann", "admin"]);
    let absent = json!({ "model": "no-such-model" });
    let manage = || gateway.request("DELETE", "/api/delete").json(&absent).key(&ann).send().status;
    within_a_second("a promoted user may manage", || manage() != 403);
    home.usher_json(&["users", "set-tier", "ann", "free"]);
    within_a_second("a demoted one may not", || manage() == 403);

    home.usher_json(&["users", "disable", "ann"]);
    within_a_second("a disabled user's keys are dead", || status(&ann) == 401);
    home.usher_json(&["users", "enable", "ann"]);
    within_a_second("and alive again", || status(&ann) == 200);
    home.usher_json(&["keys", "revoke", &key_id(gateway, "ann")]);
    within_a_second("a revoked key is dead", || status(&ann) == 401);
}

#[test]
fn a_key_ends_at_the_second_of_its_expiry() {
    let (gateway, _sim) = open();
    let made = gateway.home().usher_json(&[
        "keys",
        "create",
        "--user",
        "ann",
        "--name",
        "brief",
        "--expires",
        "3s",
    ]);
    let key = made["key"].as_str().expect("a key");
    let expires: jiff::Timestamp =
        made["expires_at"].as_str().expect("a time").parse().expect("RFC 3339");
    let mut last = jiff::Timestamp::now();
    eventually("the key has expired", || {
        let before = jiff::Timestamp::now();
        let good = tags(&gateway).key(key).send().status == 200;
        assert!(!good || before <= expires, "{before} is after {expires}");
        last = before;
        !good
    });
    assert!(jiff::Timestamp::now() >= expires, "refused too early, at {last}");
    expect_401(&tags(&gateway).key(key).send(), "Invalid API key");
}

#[test]
fn a_key_narrows_its_user_and_never_widens() {
    let (gateway, _sim) = open_with(|it| {
        it.key("ann", &["--tier", "admin"])
            .user("root", "admin")
            .key("root", &["--tier", "free", "--models", "qwen3*"])
    });
    let absent = json!({ "model": "no-such-model" });
    let forbidden = "Role 'free' not authorized for this endpoint";
    for user in ["ann", "root"] {
        let delete = gateway.request("DELETE", "/api/delete").json(&absent);
        let answer = delete.key(gateway.key(user)).send();
        assert_eq!((answer.status, answer.detail()), (403, forbidden.to_owned()), "{user}");
    }
    let other = gateway.post("/api/chat", &chat("llama3.2")).key(gateway.key("root")).send();
    assert_eq!(other.status, 403);
    assert_eq!(other.detail(), "Model 'llama3.2' is not allowed for this key");
    let seen = tags(&gateway).key(gateway.key("root")).send().json();
    assert_eq!(names(&seen), ["qwen3:8b"], "lists show what the key may use");
}

#[test]
fn every_failure_is_told_to_the_security_log_without_the_credential() {
    let (gateway, _sim) = open();
    let wrong = format!("usk_AAAAAAAAAAAA_{}", "b".repeat(49));
    tags(&gateway).header("X-Request-Id", "no-key").send();
    tags(&gateway).header("X-Request-Id", "bad-key").key(&wrong).send();
    tags(&gateway).header("X-Request-Id", "odd-key").bearer(FOREIGN).send();
    let pull = gateway.post("/api/pull", &json!({ "model": "llama3.2" }));
    pull.header("X-Request-Id", "denied").key(gateway.key("ann")).send();
    for id in ["no-key", "bad-key", "odd-key", "denied"] {
        gateway.access_line(id);
        let lines = gateway.security_lines();
        let line = lines.iter().find(|line| line.contains(&format!("request_id={id} ")));
        let line = line.unwrap_or_else(|| panic!("nothing about {id} in {lines:#?}"));
        assert!(line.contains(" address=127.0.0.1 "), "fail2ban needs it bare: {line}");
        let time = line.split(' ').next().and_then(|time| time.parse::<jiff::Timestamp>().ok());
        assert!(time.is_some(), "no time: {line}");
    }
    let log = gateway.stop().join("\n");
    for secret in [wrong.as_str(), FOREIGN] {
        assert!(!log.contains(secret), "{secret} was logged");
    }
}

#[test]
fn no_credential_reaches_an_instance_or_the_log() {
    let (gateway, sim) = open();
    let key = gateway.key("ann").to_owned();
    let basic = format!("Basic {}", BASE64_STANDARD.encode(format!("ann:{key}")));
    let ask = || gateway.post("/api/chat", &chat("llama3.2"));
    assert_eq!(ask().key(&key).send().status, 200);
    assert_eq!(ask().bearer(&key).send().status, 200);
    assert_eq!(ask().header("Authorization", &basic).send().status, 200);
    assert_eq!(ask().key(&key).header("Cookie", &format!("k={key}")).send().status, 200);
    let seen = Value::from(sim.requests()).to_string();
    let log = gateway.stop().join("\n");
    for secret in [key.as_str(), &key[17..], basic.trim_start_matches("Basic ")] {
        assert!(!seen.contains(secret), "an instance saw a credential");
        assert!(!log.contains(secret), "a credential was logged");
    }
}

fn open() -> (Gateway, Sim) {
    open_with(|it| it)
}

fn open_with(
    more: impl FnOnce(crate::support::gateway::Builder) -> crate::support::gateway::Builder,
) -> (Gateway, Sim) {
    let sim = sim().args(&["--speed", "50"]).start();
    let described = gateway().upstream("only", &sim.url()).user("ann", "free");
    (more(described).start(), sim)
}

fn tags(gateway: &Gateway) -> Request {
    gateway.get("/api/tags")
}

fn expect_401(answer: &Answer, detail: &str) {
    assert_eq!(answer.status, 401, "{}", answer.text());
    assert_eq!(answer.detail(), detail);
    assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert!(answer.header("x-request-id").is_some());
}

fn key_id(gateway: &Gateway, user: &str) -> String {
    let listed = gateway.home().usher_json(&["keys", "list", "--user", user]);
    listed["data"][0]["id"].to_string()
}

fn names(tags: &Value) -> Vec<&str> {
    let models = tags["models"].as_array().into_iter().flatten();
    models.filter_map(|model| model["name"].as_str()).collect()
}

/// Fails if the fact takes longer than the second that the contract grants.
fn within_a_second(what: &str, fact: impl FnMut() -> bool) {
    let begun = Instant::now();
    eventually(what, fact);
    let took = begun.elapsed();
    assert!(took < Duration::from_millis(1200), "{what}: after {took:?}");
}
