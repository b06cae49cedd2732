//! Servers that speak `/v1` alone, and want a key of their own.

use serde_json::{Value, json};

use crate::support::crowd::{all_up, before, paced, question, seen, stops_clean, whole, with};
use crate::support::eventually;
use crate::support::gateway::{Builder, Gateway};
use crate::support::http::Answer;
use crate::support::sim::Sim;

const KEY: &str = "sk-of-the-server-alone";
const MODEL: &str = "org/big-model";

fn server() -> Sim {
    let models = format!("{MODEL}=size:1GiB,vram:1GiB;llama3.2=size:1GiB,vram:1GiB");
    paced(1000, 4, &["--openai-only", "--api-key", KEY, "--models", &models])
}

fn beside(ollama: &[Sim], server: &Sim, key: &str) -> Builder {
    let settings = format!("slots: 4, kind: openai, api_key: '{key}'");
    before(ollama, 2).upstream_with("vllm", &server.url(), &settings)
}

fn ask(gateway: &Gateway, path: &str, model: &str) -> Answer {
    let body = with(question(3), "model", json!(model));
    gateway.post(path, &body).key(gateway.key("ann")).send()
}

#[test]
fn it_serves_v1_with_its_own_key_and_never_sees_the_clients() {
    let (ollama, server) = ([paced(1000, 2, &[])], server());
    let gateway = beside(&ollama, &server, KEY).start();
    all_up(&gateway, 2);
    let answer = ask(&gateway, "/v1/chat/completions", MODEL);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("x-usher-upstream"), Some("vllm"));
    assert_eq!(answer.events().last().expect("events"), "[DONE]");
    let bearer = gateway.post("/v1/chat/completions", &with(whole(1), "model", json!(MODEL)));
    assert_eq!(bearer.bearer(gateway.key("ann")).send().status, 200);
    let log = server.requests();
    assert!(seen(&server) == 2 && log.len() > 2, "the probes are there too");
    for entry in &log {
        let headers = entry["headers"].as_array().expect("headers");
        let named = |name: &str| -> Vec<&Value> {
            headers.iter().filter(|header| header[0] == name).map(|header| &header[1]).collect()
        };
        assert_eq!(named("authorization"), [&json!(format!("Bearer {KEY}"))], "{entry}");
        assert!(!entry.to_string().contains(gateway.key("ann")), "{entry}");
    }
    let elsewhere = ollama[0].requests();
    assert!(elsewhere.iter().all(|entry| !entry.to_string().contains(KEY)), "the key is its own");
    assert!(!gateway.log().join("\n").contains(KEY));
    stops_clean(gateway);
}

#[test]
fn a_model_that_only_it_has_is_not_there_for_api_routes() {
    let (ollama, server) = ([paced(1000, 2, &[])], server());
    let gateway = beside(&ollama, &server, KEY).start();
    all_up(&gateway, 2);
    let answer = ask(&gateway, "/api/chat", MODEL);
    assert_eq!(answer.status, 404, "{}", answer.text());
    // one that both have: `/api` goes to Ollama, whoever is less busy
    for _ in 0..6 {
        let answer = ask(&gateway, "/api/chat", "llama3.2");
        assert_eq!(answer.header("x-usher-upstream"), Some("gpu0"));
    }
    let list = |path: &str| gateway.get(path).key(gateway.key("ann")).send().text();
    assert!(list("/v1/models").contains(MODEL));
    assert!(!list("/api/tags").contains(MODEL), "{}", list("/api/tags"));
    let one = gateway.get("/v1/models/org%2Fbig-model").key(gateway.key("ann")).send();
    assert_eq!((one.status, one.json()["id"].clone()), (200, json!(format!("{MODEL}:latest"))));
    stops_clean(gateway);
}

#[test]
fn without_any_ollama_api_routes_have_no_instance() {
    let server = server();
    let gateway = beside(&[], &server, KEY).start();
    let answer = ask(&gateway, "/api/chat", MODEL);
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert_eq!(ask(&gateway, "/v1/chat/completions", MODEL).status, 200);
    stops_clean(gateway);
}

#[test]
fn a_key_that_it_refuses_is_the_gateways_trouble_and_not_the_clients() {
    let (ollama, server) = ([paced(1000, 2, &[])], server());
    let gateway = beside(&ollama, &server, KEY).start();
    all_up(&gateway, 2);
    for status in [401, 403] {
        let body = r#"{"error":{"message":"Incorrect API key provided","code":"invalid_api_key"}}"#;
        let fault = json!({ "path": "/v1/chat/completions", "times": 1, "kind": "status",
            "status": status, "body": body, "headers": [["WWW-Authenticate", "Bearer"]] });
        server.misbehave(&fault);
        let answer = ask(&gateway, "/v1/chat/completions", MODEL);
        assert_eq!(answer.status, 502, "{}", answer.text());
        assert_eq!(answer.detail(), "Upstream 'vllm' refused the gateway");
        assert_eq!(answer.header("www-authenticate"), None);
    }
    stops_clean(gateway);
}

#[test]
fn with_a_wrong_key_it_is_never_up_and_the_log_says_why() {
    let server = server();
    let gateway = beside(&[], &server, "sk-wrong").without_waiting().start();
    eventually("the log says why", || {
        let log = gateway.log();
        log.iter().any(|line| line.contains("upstream vllm does not answer yet: answered 401"))
    });
    let answer = ask(&gateway, "/v1/chat/completions", MODEL);
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(!gateway.log().join("\n").contains("sk-wrong"));
    stops_clean(gateway);
}
