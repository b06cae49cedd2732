//! Pages of listed origins, as their browsers ask.

use serde_json::json;

use crate::support::chat;
use crate::support::gateway::{Gateway, gateway};
use crate::support::http::Request;
use crate::support::sim::{Sim, sim};

const PAGE: &str = "https://app.example";

fn house() -> (Sim, Gateway) {
    let instance = sim().args(&["--speed", "20"]).start();
    let gateway = gateway()
        .upstream_with("one", &instance.url(), "slots: 4")
        .user("ada", "premium")
        .config("cors: { origins: ['https://app.example', 'http://localhost:3000'] }")
        .start();
    (instance, gateway)
}

fn preflight(gateway: &Gateway, path: &str, origin: &str) -> Request {
    gateway
        .request("OPTIONS", path)
        .header("Origin", origin)
        .header("Access-Control-Request-Method", "POST")
        .header("Access-Control-Request-Headers", "authorization,content-type,x-stainless-os")
}

#[test]
fn a_preflight_of_a_listed_page_is_answered_here_without_a_credential() {
    let (instance, gateway) = house();
    instance.reset();
    for origin in [PAGE, "http://localhost:3000"] {
        let answer = preflight(&gateway, "/v1/chat/completions", origin).send();
        assert_eq!(answer.status, 204, "{}", answer.text());
        assert_eq!(answer.header("access-control-allow-origin"), Some(origin));
        assert_eq!(answer.header("access-control-allow-methods"), Some("POST"));
        assert_eq!(answer.header("vary"), Some("Origin"));
        assert_eq!(answer.header("access-control-allow-credentials"), None);
        let headers = answer.header("access-control-allow-headers").unwrap();
        for needed in
            ["authorization", "x-api-key", "content-type", "anthropic-version", "x-stainless-os"]
        {
            assert!(headers.split(", ").any(|header| header == needed), "{needed} in {headers}");
        }
    }
    let tags = preflight(&gateway, "/api/tags", PAGE).send();
    assert_eq!(tags.header("access-control-allow-methods"), Some("GET, HEAD"));
    let unknown = preflight(&gateway, "/api/me", PAGE).send();
    assert_eq!(unknown.status, 404);
    let no_key_in_paths = preflight(&gateway, "/k/usk_x/v1/chat/completions", PAGE).send();
    assert_eq!(no_key_in_paths.status, 404);
    let asked = instance.requests();
    assert!(asked.iter().all(|request| request["method"] != "OPTIONS"), "{asked:?}");
}

#[test]
fn a_preflight_of_a_path_with_a_key_before_it_is_that_of_the_path() {
    let instance = sim().args(&["--speed", "20"]).start();
    let gateway = gateway()
        .upstream("one", &instance.url())
        .user("ada", "premium")
        .config("cors: { origins: ['https://app.example'] }")
        .config("auth: { api_keys: { path: true } }")
        .start();
    let key = gateway.key("ada").to_owned();
    for key in [&key, "usk_nobodys"] {
        let answer = preflight(&gateway, &format!("/k/{key}/v1/chat/completions"), PAGE).send();
        assert_eq!(answer.status, 204, "{}", answer.text());
        assert_eq!(answer.header("access-control-allow-origin"), Some(PAGE));
        assert_eq!(answer.header("access-control-allow-methods"), Some("POST"));
    }
    let path = format!("/k/{key}/v1/chat/completions");
    let sent = gateway.post(&path, &chat("llama3.2")).header("Origin", PAGE).send();
    assert_eq!((sent.status, sent.header("access-control-allow-origin")), (200, Some(PAGE)));
    assert_eq!(preflight(&gateway, &format!("/k/{key}/nowhere"), PAGE).send().status, 404);
    assert_eq!(preflight(&gateway, &path, "https://evil.example").send().status, 405);
}

#[test]
fn answers_refusals_and_streams_may_be_read_by_listed_pages() {
    let (instance, gateway) = house();
    let key = gateway.key("ada").to_owned();
    let mut stream = chat("llama3.2");
    stream["stream"] = json!(true);
    let asked = [
        (200, gateway.get("/health")),
        (200, gateway.get("/api/tags").key(&key)),
        (200, gateway.post("/api/chat", &chat("llama3.2")).key(&key)),
        (200, gateway.post("/v1/chat/completions", &stream).key(&key)),
        (401, gateway.post("/v1/chat/completions", &stream)),
        (404, gateway.post("/v1/chat/completions", &chat("nobody-has-it")).key(&key)),
        (404, gateway.get("/nowhere")),
        (405, gateway.get("/api/chat").key(&key)),
    ];
    for (status, request) in asked {
        let answer = request.header("Origin", PAGE).send();
        assert_eq!(answer.status, status, "{}", answer.text());
        assert_eq!(answer.header("access-control-allow-origin"), Some(PAGE));
        assert_eq!(answer.header("vary"), Some("Origin"));
        let exposed = answer.header("access-control-expose-headers").unwrap();
        for name in
            ["X-Request-Id", "Retry-After", "X-Usher-Upstream", "x-ratelimit-limit-requests"]
        {
            assert!(exposed.split(", ").any(|header| header == name), "{name} in {exposed}");
        }
    }
    let forwarded = instance.requests();
    assert!(!format!("{forwarded:?}").contains(PAGE), "the origin went on: {forwarded:?}");
    assert_eq!(instance.counter("forbidden"), 0);
}

#[test]
fn other_pages_get_nothing() {
    let (_instance, gateway) = house();
    let key = gateway.key("ada").to_owned();
    for origin in
        ["null", "https://evil.example", "https://app.example.evil.example", "http://app.example"]
    {
        let asked = preflight(&gateway, "/api/chat", origin).send();
        assert_eq!(asked.status, 405, "{origin}");
        let sent = gateway.post("/api/chat", &chat("llama3.2")).key(&key).header("Origin", origin);
        let sent = sent.send();
        assert_eq!(sent.status, 200, "{origin}");
        for answer in [asked, sent] {
            let told = answer.headers.iter().find(|(name, _)| name.starts_with("access-control"));
            assert_eq!(told, None, "{origin}");
        }
    }
    let none = gateway.get("/health").send();
    assert_eq!(none.header("access-control-allow-origin"), None);
}
