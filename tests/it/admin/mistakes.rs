//! What is sent and not meant: fields that are not there, bodies that are none, ids of other kinds.

use serde_json::{Value, json};

use super::{Office, text};

#[test]
fn a_field_that_is_not_known_is_refused_and_nothing_is_done() {
    let (office, _sim) = Office::open();
    let made = office.post("/admin/keys", &json!({ "user": "ann", "name": "laptop" }));
    let key = format!("/admin/keys/{}", made["id"]);
    let users = office.get("/admin/users");
    let ann = users["data"].as_array().expect("a list").iter().find(|u| u["username"] == "ann");
    let ann = format!("/admin/users/{}", ann.expect("ann is listed")["id"]);
    // the key that asks is used meanwhile, so only the others are compared
    let keys = || office.get("/admin/keys?user=ann");
    let before = [office.get(&key), office.get(&ann), keys(), users];
    let new_key = |field: &str, value: Value| {
        let mut body = json!({ "user": "ann", "name": "more" });
        body[field] = value;
        body
    };
    for (method, path, body) in [
        ("POST", "/admin/keys", new_key("id", json!(1))),
        ("POST", "/admin/keys", new_key("key", json!("usk_mine"))),
        ("POST", "/admin/keys", new_key("key_hash", json!("00"))),
        ("POST", "/admin/keys", new_key("prefix", json!("usk_"))),
        ("POST", "/admin/keys", new_key("user_id", json!(1))),
        ("POST", "/admin/keys", new_key("expires_at", json!("2030-01-01T00:00:00Z"))),
        ("POST", "/admin/keys", new_key("limits", json!({ "reads": "1/s" }))),
        ("POST", "/admin/keys", new_key("User", json!("admin"))),
        ("PATCH", &key, json!({ "user": "admin" })),
        ("PATCH", &key, json!({ "tier": "admin" })),
        ("PATCH", &key, json!({ "revoked_at": null })),
        ("PATCH", &key, json!({ "delegating": true })),
        ("PATCH", &key, json!({ "state": "active" })),
        ("PATCH", &key, json!({ "replaced_by": 1 })),
        ("POST", &format!("{key}/rotate"), json!({ "user": "admin" })),
        ("POST", "/admin/users", json!({ "username": "eve", "role": "admin" })),
        ("POST", "/admin/users", json!({ "username": "eve", "password_hash": "x" })),
        ("POST", "/admin/users", json!({ "username": "eve", "token_version": 0 })),
        ("PATCH", &ann, json!({ "role": "admin" })),
        ("PATCH", &ann, json!({ "username": "admin" })),
        ("PATCH", &ann, json!({ "id": 1 })),
        ("PATCH", &ann, json!({ "issuer": "x" })),
        ("PATCH", &ann, json!({ "is_admin": true })),
        ("POST", "/admin/reload", json!({ "upstreams": [] })),
        ("GET", "/admin/usage", json!({ "by": "key" })),
        ("GET", "/auth/usage", json!({ "user": "admin" })),
        ("GET", "/auth/me", json!({ "user": "admin" })),
        ("POST", "/auth/logout", json!({ "everywhere": true })),
    ] {
        let detail = office.refusal(method, path, &body, 400);
        assert!(detail.contains("unknown field"), "{method} {path} {body}: {detail}");
    }
    let after = [office.get(&key), office.get(&ann), keys(), office.get("/admin/users")];
    assert_eq!(after, before);
    for (path, body) in [
        ("/admin/keys", json!({ "user": "admin", "name": "mine" })),
        ("/admin/users", json!({ "username": "eve", "tier": "admin" })),
    ] {
        let request = office.gateway.post(path, &body).key(office.gateway.key("ann"));
        assert_eq!(request.send().status, 403, "{path}");
    }
}

#[test]
fn a_mistake_is_named() {
    let (office, _sim) = Office::open();
    for (body, told) in [
        (json!({ "user": "ann" }), "missing field `name`"),
        (json!({ "user": "nobody", "name": "x" }), "There is no user 'nobody'"),
        (json!({ "user": "ann", "name": "" }), "'' cannot be a key's name"),
        (json!({ "user": "ann", "name": "two\nlines" }), "cannot be a key's name"),
        (json!({ "user": 7, "name": "x" }), "field 'user': invalid type"),
        (
            json!({ "user": "ann", "name": "x", "tier": "gold" }),
            "field 'tier': there is no tier 'gold'",
        ),
        (
            json!({ "user": "ann", "name": "x", "expires_in": "soon" }),
            "field 'expires_in': expected a duration",
        ),
        (
            json!({ "user": "ann", "name": "x", "expires_in": "0s" }),
            "field 'expires_in': must be longer",
        ),
        (json!({ "user": "ann", "name": "x", "models": "llama3" }), "field 'models': invalid type"),
        (
            json!({ "user": "ann", "name": "x", "models": ["a b"] }),
            "'a b' cannot be the name of a model",
        ),
        (
            json!({ "user": "ann", "name": "x", "limits": { "requests": "5/m" } }),
            "field 'limits.requests': minutes",
        ),
        (
            json!({ "user": "ann", "name": "x", "limits": { "concurrency": 0 } }),
            "field 'limits.concurrency'",
        ),
        (
            json!({ "user": "ann", "name": "x", "limits": ["5/min"] }),
            "field 'limits': invalid type: sequence",
        ),
        (json!(["ann", "x"]), "expected an object"),
        (json!("ann"), "expected an object"),
        (json!(null), "expected an object"),
    ] {
        let request = office.gateway.post("/admin/keys", &body).key(office.gateway.key("admin"));
        let answer = request.send();
        assert!(matches!(answer.status, 400 | 404), "{body}: {}", answer.text());
        assert!(answer.detail().contains(told), "{body}: {}", answer.detail());
    }
    let made = office.post("/admin/keys", &json!({ "user": "ann", "name": "x" }));
    let path = format!("/admin/keys/{}", made["id"]);
    let both = json!({ "expires_in": "1h", "expires_at": "2030-01-01T00:00:00Z" });
    assert!(office.refusal("PATCH", &path, &both, 400).contains("not both"));
    office.refusal("PATCH", &path, &json!({ "expires_at": "tomorrow" }), 400);
    office.refusal("POST", &format!("{path}/rotate"), &json!({ "grace": 7 }), 400);
    office.refusal("POST", &format!("{path}/rotate"), &json!({ "grace": "-1s" }), 400);
    assert_eq!(office.status_of(&text(&made, "key")), 200);
}

#[test]
fn a_body_is_json_that_says_so_once() {
    let (office, _sim) = Office::open();
    let send = |method: &str, path: &str, kind: Option<&str>, body: &str| {
        let request = office.gateway.request(method, path).key(office.gateway.key("admin"));
        let request = match kind {
            Some(kind) => request.header("Content-Type", kind),
            None => request,
        };
        request.body(body).send()
    };
    let good = r#"{"user":"ann","name":"x"}"#;
    let json = Some("application/json");
    for kind in [
        None,
        Some("text/plain"),
        Some("application/x-www-form-urlencoded"),
        Some("multipart/form-data"),
    ] {
        let answer = send("POST", "/admin/keys", kind, good);
        assert_eq!(answer.status, 415, "{kind:?}: {}", answer.text());
    }
    for body in [
        "",
        "{",
        "nonsense",
        "{\"user\":\"ann\",\"user\":\"admin\",\"name\":\"x\"}",
        "{\"user\":\"ann\",\"name\":\"x\"} {}",
        "{\"user\":\"ann\",\"name\":\"\u{0}\"}",
    ] {
        let answer = send("POST", "/admin/keys", json, body);
        assert_eq!(answer.status, 400, "{body:?}: {}", answer.text());
    }
    let deep = format!("{{\"user\":{}1{}}}", "[".repeat(30_000), "]".repeat(30_000));
    assert_eq!(send("POST", "/admin/keys", json, &deep).status, 400);
    let large = format!("{{\"user\":\"ann\",\"name\":\"{}\"}}", "x".repeat(100_000));
    assert_eq!(send("POST", "/admin/keys", json, &large).status, 413);
    assert_eq!(
        send("POST", "/admin/keys", Some("Application/JSON; charset=utf-8"), good).status,
        201
    );
    // where the path says all, a body says something that nobody would hear
    for (method, path) in [
        ("GET", "/admin/keys"),
        ("GET", "/admin/audit"),
        ("GET", "/admin/config"),
        ("POST", "/admin/upstreams/gpu0/drain"),
        ("DELETE", "/admin/keys/1"),
    ] {
        let answer = send(method, path, json, r#"{"force":true}"#);
        assert_eq!(answer.status, 400, "{method} {path}: {}", answer.text());
    }
    assert_eq!(send("POST", "/admin/upstreams/gpu0/drain", json, "{}").status, 200);
    assert_eq!(office.status_of(office.gateway.key("admin")), 200, "its key was not revoked");
}

#[test]
fn ids_of_other_kinds_do_not_exist() {
    let (office, _sim) = Office::open();
    let before = office.get("/admin/keys");
    for id in
        ["0", "-1", "+1", "01", "1.0", "1e0", "[0]", "0x1", "%31", "first", "*", "1,2", "1;2", "١"]
    {
        for (method, path) in [
            ("GET", format!("/admin/keys/{id}")),
            ("DELETE", format!("/admin/keys/{id}")),
            ("POST", format!("/admin/keys/{id}/rotate")),
            ("DELETE", format!("/admin/users/{id}")),
        ] {
            let request = office.gateway.request(method, &path).key(office.gateway.key("admin"));
            let status = request.send().status;
            // what is no request target at all is refused before it is a route
            assert!(matches!(status, 400 | 404), "{method} {path}: {status}");
        }
    }
    for path in [
        "/admin//keys",
        "/admin/keys/",
        "/admin/Keys",
        "/admin/x/../keys",
        "/admin/keys%2F1",
        "/admin",
    ] {
        let request = office.gateway.get(path).key(office.gateway.key("admin"));
        assert_eq!(request.send().status, 404, "{path}");
    }
    for (method, path) in [
        ("PUT", "/admin/keys/1"),
        ("DELETE", "/admin/keys"),
        ("PATCH", "/admin/users"),
        ("HEAD", "/admin/keys"),
        ("POST", "/admin/config"),
    ] {
        let request = office.gateway.request(method, path).key(office.gateway.key("admin"));
        assert_eq!(request.send().status, 405, "{method} {path}");
    }
    assert_eq!(office.get("/admin/keys"), before);
}

#[test]
fn whoever_may_not_administer_learns_nothing_of_what_is_there() {
    let (office, _sim) = Office::open();
    let made = office.post("/admin/keys", &json!({ "user": "ann", "name": "x" }));
    let ask = |method: &str, path: &str, key: Option<&str>| {
        let request = office.gateway.request(method, path);
        let request = match key {
            Some(key) => request.key(key),
            None => request,
        };
        let answer = request.send();
        (answer.status, answer.detail())
    };
    let there = format!("/admin/keys/{}", made["id"]);
    for method in ["GET", "DELETE"] {
        for key in [None, Some("usk_wrong"), Some(office.gateway.key("ann"))] {
            let status = if key == Some(office.gateway.key("ann")) { 403 } else { 401 };
            let answer = ask(method, &there, key);
            assert_eq!(answer.0, status);
            assert_eq!(answer, ask(method, "/admin/keys/99999", key), "{method} {key:?}");
        }
    }
    assert_eq!(office.get(&there)["state"], "active");
}
