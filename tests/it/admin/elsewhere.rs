//! Other processes on the same database, and a database that does not take part.

use serde_json::json;
use sqlx::{Connection, SqliteConnection};

use super::{Office, text};
use crate::support::eventually;
use crate::support::http::Request;

#[test]
fn another_gateway_on_the_database_follows_by_itself() {
    let (office, _sim) = Office::open();
    let twin = office.gateway.twin();
    let at_twin =
        |key: &str| Request::new(twin.address(), "GET", "/api/tags").key(key).send().status;
    let made = office.post("/admin/keys", &json!({ "user": "ann", "name": "laptop" }));
    let (key, path) = (text(&made, "key"), format!("/admin/keys/{}", made["id"]));
    eventually("the new key is known there", || at_twin(&key) == 200);
    let rotated = office.ask("POST", &format!("{path}/rotate"), None, 201);
    let new = text(&rotated, "key");
    eventually("and its successor", || at_twin(&new) == 200);
    assert_eq!(at_twin(&key), 200, "both work");
    office.ask("DELETE", &path, None, 204);
    eventually("the old one is refused there", || at_twin(&key) == 401);
    assert_eq!(at_twin(&new), 200);
    let by_twin = |method: &str, path: &str| {
        Request::new(twin.address(), method, path).key(office.gateway.key("admin")).send()
    };
    let new_path = format!("/admin/keys/{}", rotated["id"]);
    assert_eq!(by_twin("DELETE", &new_path).status, 204);
    assert_eq!(at_twin(&new), 401, "at once where it was done");
    eventually("and soon elsewhere", || office.status_of(&new) == 401);
    assert_eq!(office.get(&new_path)["state"], "revoked", "the database is one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_written_down_is_not_done() {
    let (office, _sim) = Office::open();
    let before = office.get("/admin/keys");
    let database = office.gateway.home().path().join("state/usher.db");
    let mut other = SqliteConnection::connect(&format!("sqlite:{}", database.display()))
        .await
        .expect("the database is a file");
    let lock = other.begin_with("BEGIN IMMEDIATE").await.expect("nobody writes");
    let acts = [
        ("POST", "/admin/keys", Some(json!({ "user": "ann", "name": "x" }))),
        ("POST", "/admin/upstreams/gpu0/drain", None),
        ("POST", "/api/pull", Some(json!({ "model": "mistral" }))),
    ];
    let wires = acts.map(|(method, path, body)| {
        let request = office.gateway.request(method, path).key(office.gateway.key("admin"));
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        (method, request.start())
    });
    for (method, wire) in wires {
        let answer = wire.exchange(method).rest();
        assert_eq!(answer.status, 503, "{method}: {}", answer.text());
        assert_eq!(answer.detail(), "The database does not answer now, so nothing was changed");
        assert!(answer.header("retry-after").is_some());
    }
    assert_eq!(office.get("/admin/keys"), before, "whoever only reads is not held up");
    assert_eq!(office.get("/admin/upstreams")["data"][0]["state"], "up");
    lock.rollback().await.expect("it was ours");
    office.post("/admin/keys", &json!({ "user": "ann", "name": "x" }));
}
