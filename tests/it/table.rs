//! The route table from outside: what exists, what passes to an instance, what comes back.

use serde_json::{Value, json};

use crate::support::chat;
use crate::support::gateway::{Gateway, gateway};
use crate::support::http::Wire;
use crate::support::sim::{Sim, sim};

#[test]
fn the_open_routes_ask_for_no_key() {
    let (gateway, _sim) = open();
    let banner = gateway.get("/").send();
    assert_eq!((banner.status, banner.text().as_str()), (200, "usher"));
    let head = gateway.request("HEAD", "/").send();
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("content-length"), Some("5"));
    for path in ["/health", "/ready"] {
        assert_eq!(gateway.get(path).send().status, 200, "{path}");
    }
}

#[test]
fn what_is_not_in_the_table_does_not_exist() {
    let (gateway, sim) = open();
    let key = gateway.key("admin");
    for path in [
        "/api/me",
        "/api/signout",
        "/api/user/keys/1",
        "/api/experimental/x",
        "/api",
        "/v1",
        "/favicon.ico",
        "/api/chat/",
        "//api/chat",
        "/api//chat",
        "/api/./chat",
        "/api/x/../chat",
        "/api/ch%61t",
        "/api%2fchat",
        "/api/chat;x=1",
        "/api/chat%00",
        "/API/chat",
        "/api\\chat",
        "/v1/models/",
        "/api/blobs/sha256:0123",
        "/api/blobs/../chat",
    ] {
        let answer = gateway.post(path, &chat("llama3.2")).key(key).send();
        assert_eq!(answer.status, 404, "{path}: {}", answer.text());
        assert!(!answer.detail().is_empty());
    }
    let forwarded = asked(&sim);
    assert!(forwarded.is_empty(), "an instance saw {forwarded:?}");
}

#[test]
fn a_known_path_tells_its_methods() {
    let (gateway, _sim) = open();
    for (method, path, allow) in [
        ("GET", "/api/chat", "POST"),
        ("DELETE", "/api/tags", "GET, HEAD"),
        ("POST", "/health", "GET"),
        ("PUT", "/v1/models", "GET"),
        ("GET", "/api/delete", "DELETE"),
    ] {
        let answer = gateway.request(method, path).key(gateway.key("ann")).send();
        assert_eq!(answer.status, 405, "{method} {path}");
        assert_eq!(answer.header("allow"), Some(allow), "{method} {path}");
    }
}

#[test]
fn an_instance_sees_the_tables_path_and_a_short_list_of_headers() {
    let (gateway, sim) = open();
    let answer = gateway
        .post("/api/chat?path=/api/pull&x=%zz", &chat("llama3.2"))
        .key(gateway.key("ann"))
        .header("X-Request-Id", "my-own-id")
        .header("Accept", "application/x-ndjson")
        .header("User-Agent", "tester/1")
        .header("anthropic-version", "2023-06-01")
        .header("openai-beta", "x")
        .header("Origin", "https://evil.example")
        .header("Referer", "https://evil.example/")
        .header("X-Forwarded-For", "10.0.0.1")
        .header("X-Forwarded-Host", "evil.example")
        .header("Forwarded", "for=10.0.0.1")
        .header("X-Usher-Upstream", "only")
        .header("X-Anything", "else")
        .send();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("x-request-id"), Some("my-own-id"));
    let [request] = &asked(&sim)[..] else { panic!("one request: {:?}", asked(&sim)) };
    assert_eq!(request["target"], "/api/chat");
    let mut names = headers(request).map(|(name, _)| name).collect::<Vec<_>>();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "accept",
            "anthropic-version",
            "content-length",
            "content-type",
            "host",
            "openai-beta",
            "user-agent",
            "x-request-id"
        ]
    );
    let value = |name| headers(request).find(|(each, _)| *each == name).map(|(_, value)| value);
    assert_eq!(value("host"), Some(sim.address().to_string().as_str()));
    assert_eq!(value("x-request-id"), Some("my-own-id"));
}

#[test]
fn an_instances_private_headers_stop_here() {
    let (gateway, sim) = open();
    let private = [
        "Set-Cookie",
        "Server",
        "Location",
        "Access-Control-Allow-Origin",
        "Access-Control-Allow-Methods",
        "Keep-Alive",
        "Alt-Svc",
    ];
    let list: Vec<_> = private.iter().map(|name| json!([name, "x"])).collect();
    let headers = [list, vec![json!(["X-Harmless", "y"])]].concat();
    sim.misbehave(&json!({ "path": "/api/chat", "kind": "headers", "headers": headers }));
    let answer = ask(&gateway, "llama3.2").send();
    assert_eq!(answer.status, 200, "{}", answer.text());
    for name in private {
        assert_eq!(answer.header(name), None, "{name}");
    }
    assert_eq!(answer.header("x-harmless"), Some("y"));
    assert_eq!(answer.header("x-usher-upstream"), Some("only"));
    let timing = answer.header("server-timing").expect("a timing");
    for part in ["auth;dur=", "queue;dur=", "upstream;dur="] {
        assert!(timing.contains(part), "{timing}");
    }
}

#[test]
fn a_request_id_that_could_hurt_a_log_is_replaced() {
    let (gateway, _sim) = open();
    for id in ["a b", "a\"b", "%0d%0a", &"x".repeat(65)] {
        let answer = gateway.get("/health").header("X-Request-Id", id).send();
        let own = answer.header("x-request-id").expect("an id");
        assert_ne!(own, id);
        assert!(own.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'), "{own}");
    }
}

#[test]
fn management_is_for_those_who_may_and_goes_where_it_is_sent() {
    let sims = [0, 1].map(|_| sim().args(&["--speed", "50"]).start());
    let gateway = gateway()
        .upstream("left", &sims[0].url())
        .upstream("right", &sims[1].url())
        .user("ann", "free")
        .start();
    let pull = || gateway.post("/api/pull", &json!({ "model": "mistral" }));
    let refused = pull().key(gateway.key("ann")).header("X-Usher-Upstream", "right").send();
    assert_eq!(refused.status, 403);
    assert_eq!(refused.detail(), "Role 'free' not authorized for this endpoint");
    let unnamed = pull().key(gateway.key("admin")).send();
    assert_eq!(unnamed.status, 400, "{}", unnamed.text());
    assert!(unnamed.detail().contains("left, right"), "{}", unnamed.detail());
    let done = pull().key(gateway.key("admin")).header("X-Usher-Upstream", "right").send();
    assert_eq!(done.status, 200, "{}", done.text());
    assert_eq!(done.header("x-usher-upstream"), Some("right"));
    assert_eq!(asked(&sims[1]).len(), 1);
    assert!(asked(&sims[0]).is_empty());
}

#[test]
fn what_would_leave_the_box_is_refused() {
    let (gateway, sim) = open();
    for model in ["gpt-oss:120b-cloud", "gpt-oss:cloud", "GPT-OSS:Cloud"] {
        let answer = ask(&gateway, model).send();
        assert_eq!(answer.status, 403, "{model}: {}", answer.text());
    }
    let mut searching = chat("llama3.2");
    searching["tools"] = json!([{ "type": "web_search_20250305", "name": "web_search" }]);
    let answer = gateway.post("/v1/messages", &searching).key(gateway.key("ann")).send();
    assert_eq!(answer.status, 403, "{}", answer.text());
    assert_eq!(sim.egress(), Vec::<Value>::new());
}

#[test]
fn lists_are_the_union_over_the_instances() {
    let sims = [
        sim().args(&["--models", "llama3.2:latest;qwen3:8b", "--speed", "50"]).start(),
        sim().args(&["--models", "qwen3:8b;gemma3:4b", "--speed", "50"]).start(),
    ];
    let gateway = gateway()
        .upstream("left", &sims[0].url())
        .upstream("right", &sims[1].url())
        .user("ann", "free")
        .start();
    let get = |path: &str| gateway.get(path).key(gateway.key("ann")).send().json();
    crate::support::eventually("both instances are known", || {
        named(&get("/api/tags")["models"], "name").len() == 3
    });
    let all = ["gemma3:4b", "llama3.2:latest", "qwen3:8b"];
    assert_eq!(named(&get("/api/tags")["models"], "name"), all);
    assert_eq!(named(&get("/v1/models")["data"], "id"), all);
    assert_eq!(get("/v1/models")["object"], "list");
    assert_eq!(get("/v1/models/gemma3%3A4b")["id"], "gemma3:4b");
    assert_eq!(get("/api/ps")["models"], json!([]));
    for model in all {
        let answer = ask(&gateway, model).send();
        assert_eq!(answer.status, 200, "{model}: {}", answer.text());
    }
    crate::support::eventually("what is loaded is listed", || {
        named(&get("/api/ps")["models"], "name") == all
    });
}

#[test]
fn an_empty_list_of_models_is_a_list() {
    let sim = sim().args(&["--models", ";", "--speed", "50"]).start();
    let gateway = gateway().upstream("only", &sim.url()).user("ann", "free").start();
    let answer = gateway.get("/v1/models").key(gateway.key("ann")).send();
    assert_eq!(answer.json(), json!({ "object": "list", "data": [] }));
}

#[test]
fn a_model_that_no_instance_has_is_404_in_the_callers_dialect() {
    let (gateway, sim) = open();
    let text = "model 'mistral' not found";
    let send = |path| {
        let answer = gateway.post(path, &chat("mistral")).key(gateway.key("ann")).send();
        assert_eq!((answer.status, answer.detail()), (404, text.to_owned()), "{path}");
        answer.json()
    };
    assert_eq!(send("/api/chat")["error"], text);
    assert_eq!(send("/api/generate")["error"], text);
    assert_eq!(send("/v1/chat/completions")["error"]["code"], "model_not_found");
    assert_eq!(send("/v1/messages")["error"]["type"], "not_found_error");
    assert!(asked(&sim).is_empty());
}

#[test]
fn every_spelling_of_a_model_finds_it() {
    let (gateway, _sim) = open();
    for model in ["llama3.2", "llama3.2:latest", "library/llama3.2", "LLAMA3.2", "Llama3.2:LATEST"]
    {
        let answer = ask(&gateway, model).send();
        assert_eq!(answer.status, 200, "{model}: {}", answer.text());
        assert_eq!(answer.json()["model"], model, "the answer echoes what was asked");
    }
}

#[test]
fn an_openai_server_serves_v1_alone_and_with_its_own_key() {
    let vllm = sim()
        .args(&["--openai-only", "--api-key", "vllm-secret", "--models", "phi4:14b"])
        .args(&["--speed", "50"])
        .start();
    let settings = "slots: 8, kind: openai, api_key: vllm-secret";
    let gateway =
        gateway().upstream_with("vllm", &vllm.url(), settings).user("ann", "free").start();
    let send = |path| gateway.post(path, &chat("phi4:14b")).key(gateway.key("ann")).send();
    let answer = send("/v1/chat/completions");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let native = send("/api/chat");
    assert!(matches!(native.status, 404 | 503), "{} {}", native.status, native.text());
    let [request] = &asked(&vllm)[..] else { panic!("{:?}", asked(&vllm)) };
    let authorization = headers(request).find(|(name, _)| *name == "authorization");
    assert_eq!(authorization, Some(("authorization", "Bearer vllm-secret")));
}

#[test]
fn a_head_that_two_servers_could_read_differently_is_refused() {
    let (gateway, sim) = open();
    let key = gateway.key("ann");
    let smuggled = "GET /api/me HTTP/1.1\r\nHost: a\r\n\r\n";
    for extra in [
        "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Content_Length: 5\r\n",
        "Host: b\r\n",
        "X: a\nContent-Length: 7\r\n",
    ] {
        let mut wire = gateway.connect();
        wire.send(format!(
            "POST /api/chat HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\n{extra}\r\n{smuggled}"
        ));
        let answer = wire.answer("POST");
        assert_eq!(answer.status, 400, "{extra:?}: {}", answer.text());
        expect_closed(&mut wire);
    }
    assert!(asked(&sim).is_empty());
}

#[test]
fn a_connection_serves_many_requests() {
    let (gateway, _sim) = open();
    let mut wire = gateway.connect();
    for round in 0..3 {
        let tags = gateway.get("/api/tags").key(gateway.key("ann"));
        assert_eq!(wire.send(tags.bytes()).answer("GET").status, 200, "{round}");
        let question = ask(&gateway, "llama3.2");
        assert_eq!(wire.send(question.bytes()).answer("POST").status, 200, "{round}");
        let refused = gateway.get("/api/tags");
        assert_eq!(wire.send(refused.bytes()).answer("GET").status, 401, "{round}");
    }
}

fn open() -> (Gateway, Sim) {
    let sim = sim().args(&["--speed", "50"]).holding("llama3.2").start();
    let gateway = gateway().upstream("only", &sim.url()).user("ann", "free").start();
    (gateway, sim)
}

fn ask(gateway: &Gateway, model: &str) -> crate::support::http::Request {
    gateway.post("/api/chat", &chat(model)).key(gateway.key("ann"))
}

/// What an instance was asked for, besides probes.
fn asked(sim: &Sim) -> Vec<Value> {
    let probes = ["/api/version", "/api/tags", "/api/ps", "/v1/models"];
    let real = |request: &Value| !probes.iter().any(|probe| request["target"] == *probe);
    sim.requests().into_iter().filter(real).collect()
}

fn headers(request: &Value) -> impl Iterator<Item = (&str, &str)> {
    let list = request["headers"].as_array().into_iter().flatten();
    list.filter_map(|pair| Some((pair[0].as_str()?, pair[1].as_str()?)))
}

fn named<'a>(list: &'a Value, field: &str) -> Vec<&'a str> {
    let entries = list.as_array().unwrap_or_else(|| panic!("{list} is no list"));
    let mut names: Vec<_> = entries.iter().filter_map(|entry| entry[field].as_str()).collect();
    names.sort_unstable();
    names
}

fn expect_closed(wire: &mut Wire) {
    assert!(wire.closes_within(crate::support::http::PATIENCE), "the connection stays open");
}

#[test]
fn tokens_are_counted_for_models_that_are_there() {
    let (gateway, _sim) = open();
    let count = |model: &str| {
        let request = gateway.post("/v1/messages/count_tokens", &chat(model));
        request.key(gateway.key("ann")).send()
    };
    let there = count("llama3.2");
    assert_eq!(there.status, 200, "{}", there.text());
    assert!(there.json()["input_tokens"].as_u64() > Some(0));
    let absent = count("nobody-has-it");
    assert_eq!((absent.status, absent.detail().as_str()), (404, "model 'nobody-has-it' not found"));
    assert_eq!(absent.json()["error"]["type"], "not_found_error");
}
