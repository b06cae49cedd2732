//! Smuggling: a request that two parsers could cut differently is refused, and its connection
//! ends; what passes reaches an instance exactly once.

use std::time::Duration;

use super::{assert_refused, beside_probes, pair, posted, question, say};
use crate::support::gateway::Gateway;

/// What a smuggler hides: it must never be answered, nor reach an instance.
const HIDDEN: &str = "POST /api/pull HTTP/1.1\r\nHost: usher\r\nContent-Length: 0\r\n\r\n";

fn head(gateway: &Gateway, version: &str, lines: &str) -> String {
    let key = gateway.key("admin");
    format!("POST /api/generate {version}\r\nHost: usher\r\nX-API-Key: {key}\r\n{lines}")
}

#[test]
fn heads_that_could_be_read_in_two_ways_are_refused_and_the_connection_ends() {
    let (sim, gateway) = pair();
    let body = question(false).to_string();
    let length = body.len();
    let lines = [
        format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n"),
        format!("Transfer-Encoding: chunked\r\nContent-Length: {length}\r\n"),
        format!("Content-Length: {length}\r\nContent-Length: {length}\r\n"),
        format!("Content-Length: {length}\r\nContent-Length: 0\r\n"),
        format!("Content-Length: {length}, {length}\r\n"),
        format!("Content-Length: +{length}\r\n"),
        format!("Content-Length: -{length}\r\n"),
        format!("Content-Length: 0x{length:x}\r\n"),
        format!("Content-Length: {length} 0\r\n"),
        format!("Content-Length:\u{b}{length}\r\n"),
        format!("Content-Length: {length}.0\r\n"),
        "Content-Length: 99999999999999999999999\r\n".to_owned(),
        "Content-Length:\r\n".to_owned(),
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n".to_owned(),
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n".to_owned(),
        "Transfer-Encoding: identity, chunked\r\n".to_owned(),
        "Transfer-Encoding: gzip, chunked\r\n".to_owned(),
        "Transfer-Encoding: chunked, identity\r\n".to_owned(),
        "Transfer-Encoding: xchunked\r\n".to_owned(),
        "Transfer-Encoding: \"chunked\"\r\n".to_owned(),
        "Transfer-Encoding: chunked;q=1\r\n".to_owned(),
        "Transfer-Encoding: identity\r\n".to_owned(),
        "Transfer-Encoding:\r\n".to_owned(),
        "Transfer-Encoding:\u{b}chunked\r\n".to_owned(),
        "Transfer-Encoding : chunked\r\n".to_owned(),
        "Transfer-Encoding\t: chunked\r\n".to_owned(),
        format!("Content-Length: {length}\r\nTransfer_Encoding: chunked\r\n"),
        format!("Content_Length: 0\r\nContent-Length: {length}\r\n"),
        format!("X_Forwarded_For: 1.2.3.4\r\nContent-Length: {length}\r\n"),
        format!("X: y\r\n Transfer-Encoding: chunked\r\nContent-Length: {length}\r\n"),
        format!("X: y\r\n\tfolded\r\nContent-Length: {length}\r\n"),
        format!(" Content-Length: {length}\r\n"),
        format!("X: y\nTransfer-Encoding: chunked\r\nContent-Length: {length}\r\n"),
        format!("X: y\rTransfer-Encoding: chunked\r\nContent-Length: {length}\r\n"),
        format!("X: a\0b\r\nContent-Length: {length}\r\n"),
        format!("X\0: a\r\nContent-Length: {length}\r\n"),
        format!("X: a\u{7f}\r\nContent-Length: {length}\r\n"),
        format!(": nameless\r\nContent-Length: {length}\r\n"),
        format!("no colon\r\nContent-Length: {length}\r\n"),
        format!("Host: other\r\nContent-Length: {length}\r\n"),
        format!("Host: usher\r\nContent-Length: {length}\r\n"),
    ];
    for lines in lines {
        let mut wire = gateway.connect();
        wire.send(head(&gateway, "HTTP/1.1", &lines)).send("\r\n").send(&body).send(HIDDEN);
        let answer = wire.answer("POST");
        wire.half_close();
        assert_refused(&gateway, &answer, &[400], &lines);
        assert_eq!(answer.header("connection"), Some("close"), "{lines:?}");
        let behind = wire.drain(Duration::from_secs(5));
        assert_eq!(String::from_utf8_lossy(&behind), "", "{lines:?}");
    }
    assert_eq!(beside_probes(&sim), [] as [serde_json::Value; 0]);
}

#[test]
fn request_lines_that_are_none_are_refused() {
    let (sim, gateway) = pair();
    let key = gateway.key("admin");
    let rest = format!("Host: usher\r\nX-API-Key: {key}\r\n\r\n");
    for line in [
        "GET /api/tags HTTP/1.1 x",
        "GET  /api/tags HTTP/1.1",
        "GET /api/tags  HTTP/1.1",
        " GET /api/tags HTTP/1.1",
        "GET\t/api/tags\tHTTP/1.1",
        "GET /api/tags",
        "GET /api/tags HTTP/0.9",
        "GET /api/tags HTTP/1.2",
        "GET /api/tags HTTP/2.0",
        "GET /api/tags http/1.1",
        "GET /api/tags HTTP/1.1\t",
        "GET /api/tags\u{a0}HTTP/1.1",
        "\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}",
        "PRI * HTTP/2.0",
    ] {
        let answer = say(&gateway, format!("{line}\r\n{rest}"));
        assert_refused(&gateway, &answer, &[400], line);
    }
    for lines in ["", "X-API-Key: k\r\n", "Host:\r\n", "Host: \r\n"] {
        let answer = say(&gateway, format!("GET /api/tags HTTP/1.1\r\n{lines}\r\n"));
        assert_refused(&gateway, &answer, &[400], lines);
    }
    assert_eq!(beside_probes(&sim), [] as [serde_json::Value; 0]);
}

#[test]
fn http_1_0_with_a_transfer_coding_is_refused() {
    let (sim, gateway) = pair();
    let head = head(&gateway, "HTTP/1.0", "Transfer-Encoding: chunked\r\n\r\n");
    let answer = say(&gateway, format!("{head}0\r\n\r\n{HIDDEN}"));
    assert_refused(&gateway, &answer, &[400], "HTTP/1.0 with chunks");
    assert_eq!(beside_probes(&sim).len(), 0);
}

#[test]
fn chunks_that_could_be_read_in_two_ways_are_refused() {
    let (sim, gateway) = pair();
    let body = question(false).to_string();
    let size = format!("{:x}", body.len());
    let rest = format!("\r\n{body}\r\n0\r\n\r\n");
    let mut bodies: Vec<String> = ["+", "-", "0x", "_", " ", "\t", "\u{b}", "g", "\u{ff11}"]
        .iter()
        .map(|prefix| format!("{prefix}{size}{rest}"))
        .collect();
    bodies.extend([
        format!("{size}_0{rest}"),
        format!("{size} 1{rest}"),
        format!("fffffffffffffffff{size}{rest}"),
        rest.to_string(),
        format!("{size}\n{body}\r\n0\r\n\r\n"),
        format!("{size}\r{body}\r\n0\r\n\r\n"),
        format!("{size}\r\n{body}0\r\n\r\n"),
        format!("{size}\r\n{body}xx0\r\n\r\n"),
        format!("{size}\r\n{body}\n0\r\n\r\n"),
        format!("{size};{}{rest}", "x".repeat(100_000)),
    ]);
    for chunks in bodies {
        let what: String = chunks.chars().take(40).collect();
        let mut wire = gateway.connect();
        wire.send(head(&gateway, "HTTP/1.1", "Transfer-Encoding: chunked\r\n\r\n"));
        wire.try_send(chunks.as_bytes()).ok();
        wire.try_send(HIDDEN.as_bytes()).ok();
        let answer = wire.answer("POST");
        assert_refused(&gateway, &answer, &[400], &what);
        let behind = wire.drain(Duration::from_secs(5));
        assert_eq!(String::from_utf8_lossy(&behind), "", "{what:?}");
    }
    assert_eq!(beside_probes(&sim), [] as [serde_json::Value; 0]);
}

#[test]
fn what_comes_behind_a_body_is_another_request_or_nothing() {
    let (sim, gateway) = pair();
    let body = question(false).to_string();
    let request = gateway.post("/api/generate", &question(false)).key(gateway.key("admin"));
    let mut wire = gateway.connect();
    wire.send([&request.bytes(), b"GARBAGE\0\xff\r\n\r\n".as_slice()].concat());
    let answer = wire.answer("POST");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(posted(&sim).len(), 1);
    assert_eq!(posted(&sim)[0]["body_bytes"], body.len());
    let behind = String::from_utf8_lossy(&wire.drain(Duration::from_secs(5))).into_owned();
    assert!(behind.is_empty() || behind.starts_with("HTTP/1.1 400 "), "{behind}");
    assert_eq!(posted(&sim).len(), 1);
}

#[test]
fn requests_that_come_at_once_are_answered_in_turn() {
    let (sim, gateway) = pair();
    let request = gateway.post("/api/generate", &question(false)).key(gateway.key("admin"));
    let version = gateway.get("/api/version").key(gateway.key("admin"));
    let mut wire = gateway.connect();
    // an empty line behind a body is none of them
    wire.send([&*request.bytes(), b"\r\n", &version.bytes(), &request.bytes()].concat());
    for method in ["POST", "GET", "POST"] {
        let answer = wire.answer(method);
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_ne!(answer.header("connection"), Some("close"));
    }
    assert_eq!(posted(&sim).len(), 2);
    wire.send([&*version.bytes(), b"\r\n"].concat());
    assert_eq!(wire.answer("GET").status, 200);
    wire.send(version.bytes());
    assert_eq!(wire.answer("GET").status, 200, "the connection goes on");
    let beginning = gateway.get("/health").bytes();
    let (first, rest) = beginning.split_at(20);
    wire.send([&*version.bytes(), first].concat());
    assert_eq!(wire.answer("GET").status, 200);
    wire.send(rest);
    assert_eq!(wire.answer("GET").status, 200, "a head that came in two pieces");
    wire.send([&*version.bytes(), b"GET /health HTTP/1.1\r\n\r\n"].concat());
    assert_eq!(wire.answer("GET").status, 200);
    assert_eq!(wire.answer("GET").status, 400, "each is judged");
}

#[test]
fn what_is_glued_to_an_upgrade_is_no_request() {
    let (sim, gateway) = pair();
    let body = question(false).to_string();
    for lines in [
        "Connection: upgrade\r\nUpgrade: foo\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
    ] {
        sim.reset();
        let lines = format!("{lines}Content-Length: {}\r\n\r\n", body.len());
        let mut wire = gateway.connect();
        wire.send(format!("{}{body}{HIDDEN}", head(&gateway, "HTTP/1.1", &lines)));
        let answer = wire.answer("POST");
        assert!(matches!(answer.status, 200 | 400), "{lines}: {}", answer.text());
        wire.drain(Duration::from_secs(5));
        let seen = beside_probes(&sim);
        assert!(seen.len() <= 1, "{lines}: {seen:#?}");
        for request in seen {
            assert_eq!(request["target"], "/api/generate");
            assert_eq!(request["body_bytes"], body.len());
            let headers = request["headers"].to_string().to_lowercase();
            assert!(!headers.contains("upgrade"), "{headers}");
        }
    }
}

#[test]
fn whatever_becomes_of_a_head_the_answer_is_the_gateways_own() {
    let (sim, gateway) = pair();
    let head = b"POST /api/chat?q=1 HTTP/1.1\r\nHost: usher\r\nConnection: close\r\nX-Y: z\r\n\
                 Content-Length: 2\r\n\r\n{}";
    let odd = b"\0\t\n\r \"#%'(),-./09:;<=>?@AZ[\\]^_`az{|}~\x7f\x80\xff";
    // every byte is changed in some way, and no two of its neighbours in the same
    for at in 0..head.len() {
        for step in 0..4 {
            let other = odd[(at * 11 + step * 13) % odd.len()];
            let mut changed = head.to_vec();
            match step % 2 {
                0 => changed[at] = other,
                _ => changed.insert(at, other),
            }
            let mut wire = gateway.connect();
            wire.send(&changed).half_close();
            let answer = String::from_utf8_lossy(&wire.drain(Duration::from_secs(10))).into_owned();
            let ours = answer.to_lowercase().contains("x-request-id: ");
            assert!(ours || answer.is_empty(), "{:?}: {answer}", String::from_utf8_lossy(&changed));
        }
    }
    assert_eq!(beside_probes(&sim).len(), 0);
}

#[test]
fn a_host_decides_nothing() {
    let (sim, gateway) = pair();
    let ask = |host: &str, credential: &str| {
        let head = format!("GET /admin/keys HTTP/1.1\r\nHost: {host}\r\n{credential}\r\n");
        say(&gateway, head)
    };
    let admin = format!("X-API-Key: {}\r\n", gateway.key("admin"));
    for host in ["localhost/#@x", "a?b", "user@usher"] {
        assert_refused(&gateway, &ask(host, &admin), &[400, 421], host);
    }
    for host in ["localhost", "127.0.0.1:11434", "ollama"] {
        assert_refused(&gateway, &ask(host, ""), &[401], host);
        assert_eq!(ask(host, &admin).status, 200, "{host}");
    }
    for credential in ["", &admin] {
        // a name that a page of anybody's may have
        assert_refused(&gateway, &ask("evil.example", credential), &[421], credential);
    }
    assert_eq!(beside_probes(&sim).len(), 0);
}
