//! Administration behind a door of its own.

use std::net::SocketAddr;

use serde_json::json;

use super::FAST;
use crate::support::gateway::gateway;
use crate::support::http::{Answer, Request, Wire};
use crate::support::sim::sim;
use crate::support::{chat, eventually};

#[test]
fn with_an_address_of_its_own_administration_is_there_alone() {
    let sim = sim().args(&FAST).start();
    let gateway = gateway()
        .upstream("gpu0", &sim.url())
        .user("ann", "premium")
        .listener("proxy_protocol: [10.0.0.0/24]")
        .config("admin: { address: '127.0.0.1:0' }")
        .start();
    let door = gateway.own_door();
    let key = gateway.key("admin");
    let at_door = |method: &str, path: &str| Request::new(door, method, path);
    for (method, path) in [
        ("GET", "/admin/keys"),
        ("POST", "/admin/keys"),
        ("PUT", "/admin/keys"),
        ("GET", "/admin/upstreams"),
        ("GET", "/admin/openapi.json"),
        ("DELETE", "/admin/keys/1"),
    ] {
        let answer = gateway.request(method, path).key(key).send();
        assert_eq!(answer.status, 404, "{method} {path}: {}", answer.text());
        let unknown = gateway.request(method, "/nowhere").key(key).send();
        assert_eq!(answer.text(), unknown.text(), "as if it were not there");
    }
    assert_eq!(at_door("GET", "/admin/keys").key(key).send().status, 200);
    assert_eq!(at_door("GET", "/admin/keys").send().status, 401);
    assert_eq!(at_door("GET", "/admin/keys").key(gateway.key("ann")).send().status, 403);
    let made = at_door("POST", "/admin/keys").key(key).json(&json!({ "user": "ann", "name": "x" }));
    let made = made.send();
    assert_eq!(made.status, 201, "{}", made.text());
    let new = made.json()["key"].as_str().expect("a key").to_owned();
    assert_eq!(gateway.post("/api/chat", &chat("llama3.2")).key(&new).send().status, 200);
    for path in ["/api/chat", "/v1/chat/completions", "/api/pull"] {
        let answer = at_door("POST", path).key(key).json(&chat("llama3.2")).send();
        assert_eq!(answer.status, 404, "{path}");
    }
    for path in ["/", "/health", "/ready"] {
        assert_eq!(at_door("GET", path).send().status, 200, "{path}");
        assert_eq!(gateway.get(path).send().status, 200, "{path}");
    }
    let id = "through-the-own-door";
    at_door("GET", "/admin/upstreams").key(key).header("X-Request-Id", id).send();
    assert_eq!(gateway.access_line(id)["route"], "/admin/upstreams");
}

#[test]
fn a_door_that_others_could_listen_at_is_a_decision() {
    let home =
        gateway().upstream("gpu0", "http://127.0.0.1:1").config("admin: { address: '0.0.0.0:0' }");
    let checked = home.home().usher(&["check"]);
    assert_eq!(checked.status.code(), Some(1));
    let text = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(text.contains("admin.address: 0.0.0.0:0 can be reached from other machines"), "{text}");
    let meant = gateway()
        .upstream("gpu0", "http://127.0.0.1:1")
        .config("admin: { address: '0.0.0.0:0', plaintext: allow }");
    assert_eq!(meant.home().usher(&["check"]).status.code(), Some(0));
}

/// A GET of the list of keys under this name, with an admin's key.
fn under(address: SocketAddr, key: &str, host: &str) -> Answer {
    let mut wire = Wire::connect(address);
    wire.send(format!("GET /admin/keys HTTP/1.1\r\nHost: {host}\r\nX-API-Key: {key}\r\n\r\n"));
    wire.exchange("GET").rest()
}

#[test]
fn a_page_whose_name_was_made_to_lead_here_administers_nothing() {
    let sim = sim().args(&FAST).start();
    let config = "admin: { address: '127.0.0.1:0', hosts: [Box.example] }";
    let apart = gateway().upstream("gpu0", &sim.url()).config(config).start();
    let beside = gateway().upstream("gpu0", &sim.url()).config("admin: { hosts: [box.example] }");
    let beside = beside.start();
    for (door, key) in
        [(apart.own_door(), apart.key("admin")), (beside.address(), beside.key("admin"))]
    {
        for host in ["127.0.0.1", "localhost:8080", "[::1]:1", "gpubox", "box.example:8443"] {
            assert_eq!(under(door, key, host).status, 200, "{host}");
        }
        for host in ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8080"] {
            let refused = under(door, key, host);
            assert_eq!(refused.status, 421, "{host}: {}", refused.text());
            let detail = refused.detail();
            assert!(detail.contains(host) && detail.contains("admin.hosts"), "{detail}");
            assert_eq!(under(door, "nobody's", host).status, 421, "before anybody is asked for");
        }
        for host in ["localhost/#@x", "a?b", "user@localhost", "local host"] {
            let refused = under(door, key, host);
            assert!([400, 421].contains(&refused.status), "{host}: {}", refused.status);
        }
    }
    let models = beside.get("/api/tags").key(beside.key("admin"));
    assert_eq!(models.send().status, 200);
    let mut wire = beside.connect();
    let key = beside.key("admin");
    wire.send(format!("GET /api/tags HTTP/1.1\r\nHost: evil.example\r\nX-API-Key: {key}\r\n\r\n"));
    assert_eq!(wire.exchange("GET").rest().status, 200, "any name leads to models");
    eventually("it is logged", || {
        let lines = beside.security_lines();
        lines.iter().any(|line| line.contains("denied") && line.contains("evil.example"))
    });
}
