//! Which headers pass, in either direction.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{before_one, pair, posted, question};
use crate::support::eventually;
use crate::support::http::Answer;
use crate::support::sim::Sim;

/// The headers of the last request that is no probe, by name.
fn seen(sim: &Sim) -> BTreeMap<String, String> {
    let requests = posted(sim);
    let headers = requests.last().expect("there is one")["headers"].clone();
    let pairs: Vec<(String, String)> = serde_json::from_value(headers).expect("pairs");
    let names = pairs.len();
    let by_name: BTreeMap<_, _> = pairs.into_iter().collect();
    assert_eq!(by_name.len(), names, "a header came twice: {requests:#?}");
    by_name
}

#[test]
fn only_what_an_instance_needs_reaches_it() {
    let (sim, gateway) = pair();
    let request = gateway
        .post("/api/generate", &question(false))
        .key(gateway.key("admin"))
        .header("Accept", "application/x-ndjson")
        .header("User-Agent", "curl/8")
        .header("anthropic-version", "2023-06-01")
        .header("OpenAI-Beta", "assistants=v2")
        .header("X-Request-Id", "abc-123");
    let noise = [
        ("Accept-Encoding", "gzip, br"),
        ("Authorization", "Bearer usk_other"),
        ("Proxy-Authorization", "Basic eDp5"),
        ("Cookie", "session=1"),
        ("Origin", "https://evil.example"),
        ("Referer", "https://evil.example/"),
        ("Forwarded", "for=10.0.0.1"),
        ("X-Forwarded-For", "10.0.0.1"),
        ("X-Forwarded-Host", "evil.example"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Prefix", "/evil"),
        ("X-Real-IP", "10.0.0.1"),
        ("X-Original-URL", "/api/pull"),
        ("X-Rewrite-URL", "/api/pull"),
        ("X-HTTP-Method-Override", "DELETE"),
        ("X-Portkey-Custom-Host", "http://evil.example"),
        ("X-Usher-Upstream", "a"),
        ("X-OpenWebUI-User-Id", "7"),
        ("Range", "bytes=0-1"),
        ("If-None-Match", "*"),
        ("TE", "trailers"),
        ("Trailer", "X-API-Key"),
        ("Via", "1.1 x"),
        ("Max-Forwards", "0"),
        ("Keep-Alive", "timeout=1"),
        ("api-key", "x"),
        ("openai-organization", "o"),
    ];
    let request = noise.iter().fold(request, |request, (name, value)| request.header(name, value));
    let answer = request.send();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let length = question(false).to_string().len().to_string();
    let address = sim.address().to_string();
    let expected: BTreeMap<String, String> = [
        ("accept", "application/x-ndjson"),
        ("anthropic-version", "2023-06-01"),
        ("content-length", &length),
        ("content-type", "application/json"),
        ("host", &address),
        ("openai-beta", "assistants=v2"),
        ("user-agent", "curl/8"),
        ("x-request-id", "abc-123"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    assert_eq!(seen(&sim), expected);
}

#[test]
fn a_header_that_the_client_calls_its_connections_own_stays_here() {
    let (sim, gateway) = pair();
    let send = |connection: &str| {
        let request = gateway.post("/api/generate", &question(false)).key(gateway.key("admin"));
        let request = request.header("OpenAI-Beta", "x").header("User-Agent", "curl/8");
        request.header("Connection", connection).send()
    };
    for connection in ["openai-beta", "OpenAI-Beta, close", "keep-alive,openai-beta"] {
        assert_eq!(send(connection).status, 200, "{connection}");
        let seen = seen(&sim);
        assert!(!seen.contains_key("openai-beta"), "{connection}: {seen:#?}");
        assert_eq!(seen["user-agent"], "curl/8");
    }
    // what Usher says itself is not the client's to take back
    let length = question(false).to_string().len().to_string();
    for connection in ["x-api-key, x-request-id", "content-length", "content-length, x-request-id"]
    {
        let answer = send(connection);
        assert!(matches!(answer.status, 200 | 400), "{connection}: {}", answer.text());
        let seen = seen(&sim);
        assert_eq!(seen["content-length"], length);
        assert!(seen.contains_key("x-request-id"));
        assert!(!seen.contains_key("transfer-encoding"));
    }
}

#[test]
fn a_connection_header_that_cannot_be_honoured_is_the_clients_fault() {
    let (sim, gateway) = pair();
    let many: Vec<String> = (0..64).map(|number| format!("x-{number}")).collect();
    let connections =
        ["host", "x-forwarded-for", "x-forwarded-host", "host, close", &many.join(",")];
    for connection in connections {
        // more often than an instance may fail
        for _ in 0..4 {
            let request = gateway.post("/api/generate", &question(false)).key(gateway.key("admin"));
            let answer = request.header("Connection", connection).send();
            assert!(matches!(answer.status, 200 | 400), "{connection}: {}", answer.text());
        }
    }
    assert_eq!(gateway.get("/ready").send().status, 200, "no instance is to blame");
    let request = gateway.post("/api/generate", &question(false)).key(gateway.key("admin"));
    assert_eq!(request.send().status, 200);
    assert!(sim.counter("connections") > 0);
}

#[test]
fn what_an_instance_says_about_itself_stays_here() {
    let (sim, gateway) = pair();
    sim.misbehave(&json!({ "kind": "headers", "path": "/api/generate", "headers": [
        ["Set-Cookie", "a=b"],
        ["Location", "http://evil.example/"],
        ["Server", "ollama"],
        ["Access-Control-Allow-Origin", "*"],
        ["Access-Control-Allow-Credentials", "true"],
        ["Access-Control-Expose-Headers", "X"],
        ["Connection", "X-Private"],
        ["X-Private", "1"],
        ["Keep-Alive", "timeout=5"],
        ["Proxy-Authenticate", "Basic"],
        ["Proxy-Connection", "keep-alive"],
        ["Trailer", "X"],
        ["Upgrade", "h2c"],
        ["WWW-Authenticate", "Basic"],
        ["X-Request-Id", "theirs"],
        ["X-Usher-Upstream", "theirs"],
        ["Server-Timing", "theirs"],
        ["TE", "trailers"],
        ["Proxy-Authorization", "Basic eDp5"],
        ["X-RateLimit-Limit-Requests", "7"],
        ["x-ratelimit-reset", "1s"],
        ["X-Custom", "passes"],
    ]}));
    for stream in [false, true] {
        let request = gateway.post("/api/generate", &question(stream)).key(gateway.key("admin"));
        let answer = request.header("X-Request-Id", "mine").send();
        assert_eq!(answer.status, 200, "{}", answer.text());
        let mut names: Vec<_> = answer.headers.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        let framing = if stream { "transfer-encoding" } else { "content-length" };
        let mut expected = vec![
            framing,
            "content-type",
            "date",
            "server-timing",
            "x-custom",
            "x-request-id",
            "x-usher-upstream",
        ];
        expected.sort_unstable();
        names.retain(|name| *name != "connection");
        assert_eq!(names, expected);
        assert_eq!(answer.header("x-request-id"), Some("mine"));
        assert_eq!(answer.header("x-usher-upstream"), Some("a"));
        assert!(matches!(answer.header("connection"), None | Some("keep-alive" | "close")));
    }
}

#[test]
fn redirects_upgrades_and_refusals_of_an_instance_are_no_answers() {
    let (sim, gateway) = pair();
    for (status, headers) in [
        (302, json!([["Location", "http://evil.example/"]])),
        (307, json!([["Location", "/api/pull"]])),
        (401, json!([["WWW-Authenticate", "Basic"]])),
        (403, json!([])),
    ] {
        sim.misbehave(&json!({
            "kind": "status", "status": status, "headers": headers,
            "path": "/api/generate", "times": 1,
        }));
        let request = gateway.post("/api/generate", &question(false)).key(gateway.key("admin"));
        let answer = request.send();
        assert_eq!(answer.status, 502, "{status}: {}", answer.text());
        assert!(answer.detail().starts_with("Upstream 'a' "), "{}", answer.detail());
        assert_eq!(answer.header("location"), None);
        eventually("the instance is trusted again", || gateway.get("/ready").send().status == 200);
    }
}

#[test]
fn an_upgrade_on_a_good_answer_is_no_tunnel() {
    let (sim, gateway) = pair();
    sim.misbehave(&json!({ "kind": "headers", "path": "/api/generate", "headers": [
        ["Connection", "upgrade"], ["Upgrade", "websocket"],
    ]}));
    let mut wire = gateway.connect();
    let request = gateway.post("/api/generate", &question(false)).key(gateway.key("admin"));
    let request = request.header("Connection", "upgrade").header("Upgrade", "websocket");
    wire.send(request.bytes());
    let answer = wire.answer("POST");
    assert!(matches!(answer.status, 200 | 400), "{}", answer.text());
    assert_eq!(answer.header("upgrade"), None);
    wire.try_send(b"tunnelled").ok();
    assert_eq!(posted(&sim).iter().filter(|it| it["target"] != "/api/generate").count(), 0);
}

#[test]
fn a_harmless_request_id_is_the_clients_own() {
    let (sim, gateway) = pair();
    let long = "x".repeat(64);
    for id in ["a", "3f2c-AB-9", &long] {
        let request = gateway.post("/api/generate", &question(false)).key(gateway.key("admin"));
        let answer = request.header("X-Request-Id", id).send();
        assert_eq!(answer.header("x-request-id"), Some(id));
        assert_eq!(seen(&sim)["x-request-id"], id);
        gateway.access_line(id);
    }
    let longer = "x".repeat(65);
    for id in ["", "a b", "a_b", "a\u{1b}[31m", "é", "a.b", "\"", &longer] {
        let bytes = gateway.get("/health").header("X-Request-Id", id).bytes();
        let answer = super::say(&gateway, bytes);
        let given = answer.header("x-request-id").expect("always one").to_owned();
        assert_ne!(given, id);
        assert!(given.len() >= 16 && given.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        gateway.access_line(&given);
    }
}

#[test]
fn answers_that_are_made_here_tell_it_too_and_which_instance_they_are_about() {
    let (sim, builder) = before_one();
    let gateway = builder
        .config("timeouts: { first_byte: 1s }")
        .config("tiers: { slow: { requests: 1/h, allow: [read, inference] } }")
        .user("ann", "slow")
        .start();
    let ask = |key| gateway.post("/api/generate", &question(false)).key(key).send();
    let timing = |answer: &Answer| {
        let timing = answer.header("server-timing").unwrap_or_default();
        ["auth;dur=", "queue;dur=", "upstream;dur="].iter().all(|part| timing.contains(part))
    };
    let (admin, ann) = (gateway.key("admin"), gateway.key("ann"));
    for path in ["/health", "/api/tags", "/v1/models", "/auth/me", "/nonsense"] {
        let answer = gateway.get(path).key(admin).send();
        assert!(timing(&answer), "{path} {:?}", answer.headers);
        assert_eq!(answer.header("x-usher-upstream"), None, "{path}");
    }
    assert_eq!(ask(ann).status, 200);
    let limited = ask(ann);
    assert!(limited.status == 429 && timing(&limited), "{:?}", limited.headers);
    sim.misbehave(&json!({ "kind": "hang", "path": "/api/generate", "times": 1 }));
    let late = ask(admin);
    assert_eq!((late.status, late.header("x-usher-upstream")), (504, Some("a")));
    assert!(timing(&late), "{:?}", late.headers);
}

#[test]
fn a_request_id_is_kept_by_refusals_of_what_is_no_request() {
    let (_sim, gateway) = pair();
    for (id, lines, status) in [
        ("two-hosts", "Host: a\r\nHost: b\r\n", 400),
        ("bare-feed", "Host: a\nX: y\r\n", 400),
        ("many", &*format!("Host: a\r\n{}", "X: y\r\n".repeat(200)), 431),
    ] {
        let head = format!("GET /health HTTP/1.1\r\nX-Request-Id: {id}\r\n{lines}\r\n");
        let answer = super::say(&gateway, head);
        assert_eq!((answer.status, answer.header("x-request-id")), (status, Some(id)));
        assert_eq!(gateway.access_line(id)["status"], status);
    }
    let odd = "GET /health HTTP/1.1\r\nX-Request-Id: a b\r\n\r\n";
    let given = super::say(&gateway, odd).header("x-request-id").map(str::to_owned);
    assert!(given.is_some_and(|id| id.len() == 16), "a harmful one is replaced");
}

#[test]
fn an_answer_tells_where_its_time_went() {
    let (_sim, builder) = before_one();
    let gateway = builder.start();
    let request = gateway.post("/api/generate", &question(false)).key(gateway.key("admin"));
    let answer = request.send();
    let timing = answer.header("server-timing").expect("it is told").to_owned();
    let names: Vec<_> = timing.split(", ").filter_map(|it| it.split_once(";dur=")).collect();
    assert_eq!(
        names.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
        ["auth", "queue", "upstream"]
    );
    assert!(names.iter().all(|(_, ms)| ms.parse::<f64>().is_ok_and(|ms| ms >= 0.0)), "{timing}");
    let line = gateway.access_line(answer.header("x-request-id").expect("always one"));
    for field in ["auth_ms", "queue_ms", "first_byte_ms", "total_ms"] {
        assert!(line[field].as_f64().is_some(), "{field} in {line}");
    }
    assert_eq!(line["outcome"], Value::from("ok"));
}
