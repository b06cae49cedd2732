//! Keys over HTTP: made, rotated, changed, revoked.

use jiff::Timestamp;
use serde_json::{Value, json};
use usher::auth::{KeyHash, api_key};

use super::{Office, ids, text};
use crate::support::eventually;

fn moment(object: &Value, field: &str) -> Timestamp {
    let text = text(object, field);
    assert!(text.ends_with('Z'), "{field} is in UTC: {text}");
    text.parse().expect("RFC 3339")
}

#[test]
fn a_key_is_made_rotated_and_revoked_and_each_act_holds_at_once() {
    let (office, _sim) = Office::open();
    let user = office.post("/admin/users", &json!({ "username": "bob", "tier": "premium" }));
    assert_eq!((&user["tier"], &user["disabled"]), (&json!("premium"), &json!(false)));

    let made = office.post("/admin/keys", &json!({ "user": "bob", "name": "laptop" }));
    let (id, key) = (made["id"].as_i64().expect("an integer"), text(&made, "key"));
    assert!(api_key::classify(&key).is_ok() && key.starts_with(&text(&made, "prefix")));
    assert_eq!((&made["user"], &made["name"]), (&json!("bob"), &json!("laptop")));
    assert_eq!((&made["expires_at"], &made["state"]), (&Value::Null, &json!("active")));
    assert_eq!(office.status_of(&key), 200);

    let path = format!("/admin/keys/{id}");
    let before = Timestamp::now();
    let rotated = office.ask("POST", &format!("{path}/rotate"), None, 201);
    let (new_id, new) = (rotated["id"].as_i64().expect("an integer"), text(&rotated, "key"));
    assert_ne!(new, key);
    assert_eq!((&rotated["replaces"], &rotated["name"]), (&json!(id), &json!("laptop")));
    let grace = moment(&rotated, "old_expires_at").duration_since(before).as_secs();
    assert!((7 * 86_400 - 60..=7 * 86_400 + 60).contains(&grace), "the usual 7d: {grace}");
    assert_eq!((office.status_of(&key), office.status_of(&new)), (200, 200), "both work");
    let again = office.refusal("POST", &format!("{path}/rotate"), &json!({}), 409);
    assert_eq!(again, format!("Key {id} was replaced by key {new_id} already"));
    let chain = office.refusal("POST", &format!("/admin/keys/{new_id}/rotate"), &json!({}), 409);
    assert!(chain.contains(&format!("replaces key {id}, which works until")), "{chain}");

    office.ask("DELETE", &path, None, 204);
    assert_eq!((office.status_of(&key), office.status_of(&new)), (401, 200), "at once");
    let refused = office.gateway.get("/api/tags").bearer(&key).send();
    assert_eq!(refused.detail(), "Invalid API key");
    office.ask("DELETE", &path, None, 204);
    office.ask("DELETE", &format!("/admin/keys/{new_id}"), None, 204);
    assert_eq!(office.status_of(&new), 401);
}

#[test]
fn a_free_key_may_not_administer_and_an_unknown_key_is_not_found() {
    let (office, _sim) = Office::open();
    let free = office.gateway.get("/admin/keys").key(office.gateway.key("ann")).send();
    assert_eq!(free.status, 403);
    assert_eq!(free.detail(), "Role 'free' not authorized for this endpoint");
    let unknown = office.ask("DELETE", "/admin/keys/4711", None, 404);
    assert_eq!(unknown["detail"], "There is no key 4711");
}

#[test]
fn an_old_key_stops_when_its_grace_is_over_and_not_before() {
    let (office, _sim) = Office::open();
    let made = office.post("/admin/keys", &json!({ "user": "ann", "name": "laptop" }));
    let (key, path) = (text(&made, "key"), format!("/admin/keys/{}/rotate", made["id"]));
    let rotated = office.post(&path, &json!({ "grace": "2s" }));
    let (new, end) = (text(&rotated, "key"), moment(&rotated, "old_expires_at"));
    let mut last_welcome = None;
    eventually("the grace is over", || {
        let asked = Timestamp::now();
        let welcome = office.status_of(&key) == 200;
        if welcome {
            last_welcome = Some(asked);
        }
        !welcome
    });
    assert!(Timestamp::now() >= end, "not before");
    assert!(last_welcome.is_none_or(|asked| asked < end), "not after: {last_welcome:?}, {end}");
    assert_eq!(office.status_of(&new), 200);
    let shown = office.get(&format!("/admin/keys/{}", made["id"]));
    assert_eq!((&shown["state"], &shown["replaced_by"]), (&json!("expired"), &rotated["id"]));
    let at_once = office.post("/admin/keys", &json!({ "user": "ann", "name": "leaked" }));
    let path = format!("/admin/keys/{}/rotate", at_once["id"]);
    office.post(&path, &json!({ "grace": "0s" }));
    assert_eq!(office.status_of(&text(&at_once, "key")), 401, "no grace at all");
}

#[test]
fn the_usual_grace_is_the_configurations() {
    let sim = crate::support::sim::sim().args(&super::FAST).start();
    let gateway = crate::support::gateway::gateway()
        .upstream("gpu0", &sim.url())
        .config("auth: { rotation_grace: 3h }")
        .start();
    let office = Office::of(gateway);
    let made = office.post("/admin/keys", &json!({ "user": "admin", "name": "laptop" }));
    let before = Timestamp::now();
    let path = format!("/admin/keys/{}/rotate", made["id"]);
    let rotated = office.ask("POST", &path, None, 201);
    let grace = moment(&rotated, "old_expires_at").duration_since(before).as_secs();
    assert!((3 * 3600 - 60..=3 * 3600 + 60).contains(&grace), "{grace}");
}

#[test]
fn a_key_has_what_was_said_and_changes_where_it_is_told_to() {
    let (office, _sim) = Office::open();
    let made = office.post(
        "/admin/keys",
        &json!({
            "user": "ann", "name": "lab", "tier": "free", "expires_in": "30d",
            "models": ["llama3*"], "delegating": true,
            "limits": { "requests": "5/min", "tokens": "1M/d", "concurrency": 1 },
        }),
    );
    let limits = json!({ "requests": "5/min", "tokens": "1M/d", "concurrency": 1 });
    assert_eq!((&made["limits"], &made["delegating"]), (&limits, &json!(true)));
    assert_eq!((&made["models"], &made["tier"]), (&json!(["llama3*"]), &json!("free")));
    let lifetime = moment(&made, "expires_at").duration_since(moment(&made, "created_at"));
    assert!((30 * 86_400 - 60..=30 * 86_400 + 60).contains(&lifetime.as_secs()));
    let (key, path) = (text(&made, "key"), format!("/admin/keys/{}", made["id"]));
    let ask = |model: &str| {
        let body = crate::support::chat(model);
        office.gateway.post("/api/chat", &body).key(&key).send().status
    };
    assert_eq!((ask("llama3.2"), ask("qwen3:8b")), (200, 403));

    let change = |body: Value| office.ask("PATCH", &path, Some(&body), 200);
    let changed = change(json!({ "models": ["qwen3*"], "name": "desk" }));
    assert_eq!((&changed["name"], &changed["limits"]), (&json!("desk"), &limits));
    assert_eq!((ask("llama3.2"), ask("qwen3:8b")), (403, 200), "at once");
    let changed = change(json!({ "models": null, "limits": { "tokens": null, "concurrency": 2 } }));
    let limits = json!({ "requests": "5/min", "tokens": null, "concurrency": 2 });
    assert_eq!((&changed["limits"], &changed["models"]), (&limits, &Value::Null));
    let end = "2030-01-01T00:00:00Z";
    assert_eq!(change(json!({ "expires_at": end }))["expires_at"], end);
    assert_eq!(change(json!({}))["expires_at"], end, "nothing said, nothing changed");
    assert_eq!(change(json!({ "expires_in": null }))["expires_at"], Value::Null);
    change(json!({ "expires_at": "2020-01-01T00:00:00Z" }));
    assert_eq!(office.status_of(&key), 401, "it ended long ago");
    assert_eq!(office.get(&path)["state"], "expired");
    change(json!({ "expires_in": "1h" }));
    assert_eq!(office.status_of(&key), 200);
}

#[test]
fn what_changes_nothing_leaves_no_trace() {
    let (office, _sim) = Office::open();
    let made = office.post("/admin/keys", &json!({ "user": "ann", "name": "laptop" }));
    let key = format!("/admin/keys/{}", made["id"]);
    let users = office.get("/admin/users");
    let ann = users["data"].as_array().expect("a list").iter().find(|it| it["username"] == "ann");
    let user = format!("/admin/users/{}", ann.expect("she is there")["id"]);
    office.ask("DELETE", &key, None, 204);
    let trail = || office.get("/admin/audit");
    let before = trail();
    for (path, body) in [
        (&key, json!({})),
        (&key, json!({ "name": "laptop", "models": null })),
        (&user, json!({})),
        (&user, json!({ "tier": "free", "disabled": false, "email": null })),
    ] {
        office.ask("PATCH", path, Some(&body), 200);
    }
    office.ask("DELETE", &key, None, 204);
    assert_eq!(trail(), before);
    office.ask("PATCH", &user, Some(&json!({ "email": "ann@example.org" })), 200);
    let acts = || -> Vec<String> {
        let lines = office.gateway.security_lines().into_iter();
        lines.filter(|line| line.contains(" admin ")).collect()
    };
    eventually("what changed something is logged", || {
        acts().last().is_some_and(|line| line.contains("user.update ann"))
    });
    assert_eq!(acts().len(), 3, "made, revoked, changed: {:#?}", acts());
}

#[test]
fn a_key_that_does_not_work_any_more_is_not_rotated() {
    let (office, _sim) = Office::open();
    let make = |name: &str| office.post("/admin/keys", &json!({ "user": "ann", "name": name }));
    let (revoked, expired) = (make("revoked"), make("expired"));
    office.ask("DELETE", &format!("/admin/keys/{}", revoked["id"]), None, 204);
    let past = json!({ "expires_at": "2020-01-01T00:00:00Z" });
    office.ask("PATCH", &format!("/admin/keys/{}", expired["id"]), Some(&past), 200);
    for (key, why) in [(revoked, "revoked"), (expired, "expired")] {
        let path = format!("/admin/keys/{}/rotate", key["id"]);
        let refusal = office.refusal("POST", &path, &json!({}), 409);
        assert_eq!(refusal, format!("Key {} is {why}: create a new one", key["id"]));
    }
    assert_eq!(ids(&office.get("/admin/keys?user=ann")).len(), 3, "no successor was made");
}

#[test]
fn no_answer_but_the_first_holds_a_key_and_none_a_hash() {
    let (office, _sim) = Office::open();
    let made = office.post("/admin/keys", &json!({ "user": "ann", "name": "laptop" }));
    let key = text(&made, "key");
    let hash = KeyHash::of(key.as_bytes()).to_hex();
    let secret = key.get(17..).expect("a whole key");
    let path = format!("/admin/keys/{}", made["id"]);
    let changed = office.ask("PATCH", &path, Some(&json!({ "name": "desk" })), 200);
    let rotated = office.ask("POST", &format!("{path}/rotate"), None, 201);
    let answers = [
        made.to_string().replace(&key, ""),
        changed.to_string(),
        rotated.to_string(),
        office.get(&path).to_string(),
        office.get("/admin/keys").to_string(),
        office.get("/admin/users").to_string(),
        office.get("/admin/audit").to_string(),
        office.get("/admin/config").to_string(),
        office.gateway.log().join("\n"),
    ];
    for answer in answers {
        assert!(!answer.contains(secret) && !answer.contains(&hash), "{answer}");
    }
    let listed = office.get("/admin/keys?user=ann");
    assert!(ids(&listed).contains(&made["id"].as_i64().expect("an id")), "{listed}");
}

#[test]
fn what_was_done_is_told_with_who_and_from_where() {
    let (office, _sim) = Office::open();
    let made = office.post("/admin/keys", &json!({ "user": "ann", "name": "laptop" }));
    let id = made["id"].to_string();
    let rotated = office.ask("POST", &format!("/admin/keys/{id}/rotate"), None, 201);
    office.ask("DELETE", &format!("/admin/keys/{id}"), None, 204);
    let trail = office.get(&format!("/admin/audit?target={id}"));
    let acts: Vec<_> =
        trail["data"].as_array().expect("a list").iter().map(|act| text(act, "action")).collect();
    assert_eq!(acts, ["key.revoke", "key.rotate", "key.create"]);
    for act in trail["data"].as_array().expect("a list") {
        assert_eq!((&act["actor"], &act["address"]), (&json!("admin"), &json!("127.0.0.1")));
        moment(act, "at");
    }
    assert!(text(&trail["data"][1], "detail").contains(&format!("by key {}", rotated["id"])));
    eventually("the security log tells it too", || {
        let lines = office.gateway.security_lines();
        ["key.create", "key.rotate", "key.revoke"].iter().all(|act| {
            let told = format!("{act} {id}");
            lines.iter().any(|line| line.contains(" admin ") && line.contains(&told))
        })
    });
}
