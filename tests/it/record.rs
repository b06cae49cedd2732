//! What is written down: one access line a request, always; nothing that must not be there.

use serde_json::{Value, json};

use crate::support::gateway::{Gateway, gateway};
use crate::support::http::Request;
use crate::support::sim::{Sim, sim};
use crate::support::{chat, eventually};

const SECRET: &str = "my-most-private-question";

#[test]
fn every_request_has_one_access_line() {
    let (gateway, _sim) = open("");
    let key = gateway.key("ann");
    let asked = [
        ("served", gateway.post("/api/chat", &chat("llama3.2")).key(key), 200),
        ("listed", gateway.get("/api/tags").key(key), 200),
        ("open", gateway.get("/health"), 200),
        ("unknown-path", gateway.get("/nowhere").key(key), 404),
        ("no-key", gateway.get("/api/tags"), 401),
        ("bad-body", gateway.post("/api/chat", &json!([])).key(key), 400),
        ("no-model", gateway.post("/api/chat", &chat("mistral")).key(key), 404),
    ];
    for (id, request, status) in asked {
        assert_eq!(request.header("X-Request-Id", id).send().status, status, "{id}");
        assert_eq!(gateway.access_line(id)["status"], status, "{id}");
        let lines = gateway.access_lines();
        let count = lines.iter().filter(|line| line["request_id"] == id).count();
        assert_eq!(count, 1, "{id} has {count} lines");
    }
    let unknown = gateway.access_line("unknown-path");
    assert_eq!(unknown["route"], "-", "what a client wrote is no route");
}

#[test]
fn an_access_line_says_what_applied_and_leaves_out_what_did_not() {
    let (gateway, _sim) = open("");
    let named = |request: Request, id| request.header("X-Request-Id", id).send();
    named(gateway.post("/api/chat", &chat("llama3.2")).key(gateway.key("ann")), "served");
    named(gateway.get("/api/tags").key(gateway.key("ann")), "listed");
    named(gateway.get("/api/tags"), "no-key");
    let line = gateway.access_line("served");
    let expected = json!({
        "client": "127.0.0.1", "tier": "free", "method": "POST", "route": "/api/chat",
        "model": "llama3.2", "upstream": "only", "status": 200, "outcome": "ok",
    });
    for (field, value) in expected.as_object().expect("an object") {
        assert_eq!(&line[field], value, "{field} in {line}");
    }
    for field in ["user_id", "key_id", "bytes", "tokens_in", "tokens_out"] {
        assert!(line[field].as_u64() > Some(0), "{field} in {line}");
    }
    for field in ["auth_ms", "queue_ms", "first_byte_ms", "total_ms"] {
        assert!(line[field].as_f64() >= Some(0.0), "{field} in {line}");
    }
    assert!(line["time"].as_str().is_some_and(|time| time.parse::<jiff::Timestamp>().is_ok()));
    let listed = gateway.access_line("listed");
    assert!(listed.get("upstream").is_none() && listed.get("model").is_none(), "{listed}");
    assert!(gateway.access_line("no-key").get("user_id").is_none());
}

#[test]
fn a_head_that_is_refused_before_it_is_a_request_has_its_line_too() {
    let (gateway, _sim) = open("");
    let mut wire = gateway.connect();
    wire.send("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n");
    assert_eq!(wire.answer("GET").status, 400);
    eventually("it is told", || {
        gateway.access_lines().iter().any(|line| line["status"] == 400 && line["route"] == "-")
    });
}

#[test]
fn no_line_holds_a_prompt_or_what_could_be_one() {
    let (gateway, sim) = open("log: { level: debug }");
    let mut question = chat("llama3.2");
    question["messages"][0]["content"] = json!(SECRET);
    let ask = |path: &str, body: &Value| {
        let request = gateway.post(path, body).key(gateway.key("ann"));
        request.header("User-Agent", SECRET).send().status
    };
    assert_eq!(ask("/api/chat", &question), 200);
    assert_eq!(ask("/v1/chat/completions", &question), 200);
    assert_eq!(ask(&format!("/{SECRET}"), &question), 404);
    assert_eq!(ask(&format!("/api/chat?prompt={SECRET}"), &question), 200);
    let broken = gateway.request("POST", "/api/chat").key(gateway.key("ann"));
    assert_eq!(broken.body(format!("{{\"model\": {SECRET}")).send().status, 400);
    for kind in ["close", "garbage"] {
        sim.misbehave(&json!({ "path": "/api/chat", "kind": kind }));
        assert_eq!(ask("/api/chat", &question), 502);
        sim.behave();
    }
    let log = gateway.stop();
    let line = log.iter().find(|line| line.contains(SECRET));
    assert!(line.is_none(), "{line:?}");
}

#[test]
fn what_clients_write_cannot_forge_a_line() {
    let (gateway, _sim) = open("");
    let model = "x\n{\"request_id\":\"forged\"}\u{1b}[31m";
    let answer = gateway.post("/api/chat", &chat(model)).key(gateway.key("ann")).send();
    assert!(matches!(answer.status, 400 | 404), "{}", answer.text());
    let wrong = gateway.get("/api/tags").header("X-Request-Id", "x request_id=forged").send();
    assert_eq!(wrong.status, 401);
    let log = gateway.stop();
    assert!(!log.iter().any(|line| line.starts_with("{\"request_id\":\"forged\"")), "{log:#?}");
    assert!(!log.iter().any(|line| line.contains('\u{1b}')), "{log:#?}");
    assert!(!log.iter().any(|line| line.contains("request_id=forged")), "{log:#?}");
}

#[test]
fn the_access_log_may_be_text_or_off() {
    let (gateway, _sim) = open("log: { access: text }");
    gateway.get("/health").header("X-Request-Id", "as-text").send();
    eventually("the line is written", || {
        gateway
            .log()
            .iter()
            .any(|line| line.contains(" request_id=as-text ") && line.contains(" status=200 "))
    });
    let (gateway, _sim) = open("log: { access: off }");
    gateway.get("/health").header("X-Request-Id", "unheard").send();
    gateway.get("/api/tags").header("X-Request-Id", "a-failure").send();
    let log = gateway.stop();
    assert!(!log.iter().any(|line| line.contains("unheard")));
    let failure = |line: &String| line.contains("usher::security") && line.contains("a-failure");
    assert!(log.iter().any(failure), "the security log cannot be switched off: {log:#?}");
}

#[test]
fn a_stopping_server_lets_streams_finish_and_takes_no_more() {
    let sim = sim().args(&["--decode-rate", "30", "--load-base", "1ms"]).start();
    let gateway = gateway().upstream("only", &sim.url()).user("ann", "free").start();
    let mut body = chat("llama3.2");
    body["stream"] = json!(true);
    let mut exchange = gateway.post("/api/chat", &body).key(gateway.key("ann")).open();
    exchange.chunk().expect("a first piece");
    let address = gateway.address();
    let stopping = std::thread::spawn(move || gateway.stop());
    eventually("nobody is let in", || std::net::TcpStream::connect(address).is_err());
    let answer = exchange.rest();
    assert_eq!(answer.cut, None, "the stream was cut");
    assert_eq!(answer.lines().last().expect("a last line")["done"], true);
    let log = stopping.join().expect("it stops");
    assert!(log.iter().any(|line| line.contains("stopping: 1 requests in flight")), "{log:#?}");
}

fn open(config: &str) -> (Gateway, Sim) {
    let sim = sim().args(&["--speed", "50"]).start();
    let described = gateway().upstream("only", &sim.url()).user("ann", "free").config(config);
    (described.start(), sim)
}
