//! Pages of other sites, in the browser of an administrator.

use serde_json::json;

use super::{FAST, Office};
use crate::support::gateway::gateway;
use crate::support::http::Request;
use crate::support::sim::sim;

/// As a browser sends it that was once given the key as a password for this server.
fn from_a_browser(office: &Office, method: &str, path: &str) -> Request {
    use base64::Engine;
    let pair = format!("admin:{}", office.gateway.key("admin"));
    let pair = base64::prelude::BASE64_STANDARD.encode(pair);
    office.gateway.request(method, path).header("Authorization", &format!("Basic {pair}"))
}

#[test]
fn a_page_of_another_site_changes_nothing_with_a_remembered_password() {
    let (office, _sim) = Office::open();
    let before = office.get("/admin/keys");
    let body = json!({ "user": "admin", "name": "stolen" });
    for origin in ["https://evil.example", "null", "http://127.0.0.1:1", "http://localhost", ""] {
        let post = || from_a_browser(&office, "POST", "/admin/keys").header("Origin", origin);
        for answer in [
            post().json(&body).send(),
            post().header("Content-Type", "text/plain").body(body.to_string()).send(),
        ] {
            assert_eq!(answer.status, 403, "{origin}: {}", answer.text());
            assert_eq!(answer.header("access-control-allow-origin"), None);
        }
        for path in ["/admin/upstreams/gpu0/drain", "/admin/reload"] {
            let answer = from_a_browser(&office, "POST", path).header("Origin", origin).send();
            assert_eq!(answer.status, 403, "{origin} {path}");
        }
        let read = from_a_browser(&office, "GET", "/admin/keys").header("Origin", origin).send();
        assert_eq!(read.status, 403, "{origin}");
    }
    for (method, path) in [("DELETE", "/api/delete"), ("POST", "/api/pull")] {
        let model = from_a_browser(&office, method, path).header("Origin", "https://evil.example");
        let answer = model.header("Content-Type", "text/plain").body(r#"{"model":"m"}"#).send();
        assert_eq!(answer.status, 403, "{path}: {}", answer.text());
        assert!(answer.text().contains("may not administer"), "{path}: {}", answer.text());
    }
    let told = from_a_browser(&office, "DELETE", "/admin/keys/1");
    assert_eq!(told.header("Sec-Fetch-Site", "cross-site").send().status, 403);
    assert_eq!(office.get("/admin/keys"), before);
    let preflight = office.gateway.request("OPTIONS", "/admin/keys");
    let preflight = preflight.header("Access-Control-Request-Method", "POST");
    let answer = preflight.header("Origin", "https://evil.example").send();
    assert_eq!(answer.header("access-control-allow-origin"), None);
    assert!(answer.status >= 400, "{}", answer.status);
}

#[test]
fn our_own_pages_listed_ones_and_programs_may() {
    let sim = sim().args(&FAST).start();
    let gateway = gateway()
        .upstream("gpu0", &sim.url())
        .config("cors: { origins: ['https://app.example'] }")
        .start();
    let office = Office::of(gateway);
    let own = office.gateway.url();
    for (origin, read) in
        [(own.as_str(), None), ("https://app.example", Some("https://app.example"))]
    {
        let body = json!({ "user": "admin", "name": "mine" });
        let answer = from_a_browser(&office, "POST", "/admin/keys")
            .header("Origin", origin)
            .header("Sec-Fetch-Site", if read.is_some() { "cross-site" } else { "same-origin" })
            .json(&body)
            .send();
        assert_eq!(answer.status, 201, "{origin}: {}", answer.text());
        assert_eq!(answer.header("access-control-allow-origin"), read);
    }
    let preflight = office.gateway.request("OPTIONS", "/admin/keys/1");
    let preflight = preflight.header("Access-Control-Request-Method", "PATCH");
    let answer = preflight.header("Origin", "https://app.example").send();
    assert_eq!(answer.status, 204);
    assert_eq!(answer.header("access-control-allow-methods"), Some("GET, PATCH, DELETE"));
    assert_eq!(from_a_browser(&office, "GET", "/admin/keys").send().status, 200);
}
