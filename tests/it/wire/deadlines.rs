//! Time, size and number: what a connection may take before it must give way.

use std::time::{Duration, Instant};

use serde_json::json;
use socket2::{Domain, Socket, Type};
use std::io::Write;

use super::{assert_refused, before_one, pair, posted, question, say};
use crate::support::eventually;
use crate::support::metrics::value;

#[test]
fn a_head_that_comes_byte_by_byte_is_refused_when_its_time_is_over() {
    let (_sim, builder) = before_one();
    let gateway = builder.config("timeouts: { header: 1s }").start();
    let mut wire = gateway.connect();
    let endless = [b'x'; 400];
    wire.send("GET /health HTTP/1.1\r\nHost: usher\r\nX-Slow: ");
    // the write fails once the other side has closed
    wire.dribble(&endless, 1, Duration::from_millis(10)).ok();
    let answer = wire.answer("GET");
    assert_refused(&gateway, &answer, &[408], "a slow head");
}

#[test]
fn lines_that_end_in_a_line_feed_alone_are_refused_at_once() {
    let (_sim, builder) = before_one();
    let gateway = builder.config("timeouts: { header: 60s }").start();
    for head in ["GET /health HTTP/1.1\nHost: usher\n\n", "GET /health HTTP/1.1\r\nHost: usher\n"] {
        let begun = Instant::now();
        let answer = say(&gateway, head);
        assert_refused(&gateway, &answer, &[400], head);
        assert_eq!(answer.detail(), "Malformed line end in request head");
        assert!(begun.elapsed() < Duration::from_secs(20), "{head:?}");
    }
    let mut wire = gateway.connect();
    wire.send("GET /health HTTP/1.1\r").send("\nHost: usher\r").send("\n\r");
    std::thread::sleep(Duration::from_millis(50));
    wire.send("\n");
    assert_eq!(wire.answer("GET").status, 200, "cut in the middle of an end is no fault");
}

#[test]
fn a_connection_that_says_nothing_is_closed() {
    let (_sim, builder) = before_one();
    let gateway = builder.config("timeouts: { header: 1s }").start();
    assert!(gateway.connect().closes_within(Duration::from_secs(10)));
}

#[test]
fn a_head_that_is_too_large_or_too_long_is_refused() {
    let (_sim, gateway) = pair();
    let large =
        format!("GET /health HTTP/1.1\r\nHost: usher\r\nX: {}\r\n\r\n", "x".repeat(32 << 10));
    assert_refused(&gateway, &say(&gateway, &large), &[431], "a large header");
    let target = format!("GET /{} HTTP/1.1\r\nHost: usher\r\n\r\n", "x".repeat(32 << 10));
    assert_refused(&gateway, &say(&gateway, &target), &[431], "a large target");
    let endless = format!("GET /health HTTP/1.1\r\nHost: usher\r\n{}", "X: y\r\n".repeat(100_000));
    let mut wire = gateway.connect();
    wire.try_send(endless.as_bytes()).ok();
    assert_refused(&gateway, &wire.answer("GET"), &[431], "an endless head");
    let many = format!("GET /health HTTP/1.1\r\nHost: usher\r\n{}\r\n", "X: y\r\n".repeat(1000));
    assert_refused(&gateway, &say(&gateway, &many), &[431], "a thousand headers");
    let fits =
        format!("GET /health HTTP/1.1\r\nHost: usher\r\nX: {}\r\n\r\n", "x".repeat(31 << 10));
    assert_eq!(say(&gateway, &fits).status, 200);
    let fits = format!("GET /health HTTP/1.1\r\nHost: usher\r\n{}\r\n", "X: y\r\n".repeat(100));
    assert_eq!(say(&gateway, &fits).status, 200);
}

#[test]
fn there_are_only_so_many_connections() {
    for (config, status) in
        [("limits: { connections: 3 }", 503), ("limits: { connections_per_ip: 3 }", 429)]
    {
        let (_sim, builder) = before_one();
        let gateway = builder.config(config).config("metrics: { address: 127.0.0.1:0 }").start();
        let held: Vec<_> = (0..3)
            .map(|_| {
                let mut held = None;
                eventually("there is room for it", || {
                    let mut wire = gateway.connect();
                    wire.send("GET /health HTTP/1.1\r\nHost: usher\r\n\r\n");
                    let served = wire.answer("GET").status == 200;
                    held = served.then_some(wire);
                    served
                });
                held
            })
            .collect();
        let mut wire = gateway.connect();
        wire.try_send(b"GET /health HTTP/1.1\r\nHost: usher\r\n\r\n").ok();
        let answer = wire.answer("GET");
        assert_refused(&gateway, &answer, &[status], config);
        assert!(answer.header("retry-after").is_some(), "{config}");
        let id = answer.header("x-request-id").expect("always one");
        let told = format!("limited address=127.0.0.1 request_id={id} route=- reason=");
        eventually("the security log tells it", || {
            gateway.security_lines().iter().any(|line| line.contains(&told))
        });
        let counted = format!("usher_requests_total{{code=\"{status}\",route=\"-\",tier=\"-\"}}");
        eventually("it is counted as it was answered", || value(&gateway, &counted) >= 1.0);
        drop(held);
        eventually("there is room again", || gateway.get("/health").send().status == 200);
    }
}

#[test]
fn a_connection_serves_many_requests_and_closes_when_asked() {
    let (_sim, gateway) = pair();
    let mut wire = gateway.connect();
    for _ in 0..20 {
        wire.send("GET /health HTTP/1.1\r\nHost: usher\r\n\r\n");
        let answer = wire.answer("GET");
        assert_eq!(answer.status, 200);
        assert_ne!(answer.header("connection"), Some("close"));
        wire.send(gateway.post("/api/generate", &question(true)).key(gateway.key("admin")).bytes());
        assert_eq!(wire.answer("POST").status, 200);
        // a refusal of a request that is all there does not cost the connection either
        wire.send("GET /nonsense HTTP/1.1\r\nHost: usher\r\n\r\n");
        assert_eq!(wire.answer("GET").status, 404);
    }
    wire.send("GET /health HTTP/1.1\r\nHost: usher\r\nConnection: close\r\n\r\n");
    let answer = wire.answer("GET");
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(wire.closes_within(Duration::from_secs(5)));
    for request in ["GET /health HTTP/1.0\r\n\r\n", "GET /nonsense HTTP/1.0\r\n\r\n"] {
        let mut wire = gateway.connect();
        wire.send(request);
        wire.answer("GET");
        assert!(wire.closes_within(Duration::from_secs(5)), "{request}");
    }
}

#[test]
fn an_empty_line_before_a_request_is_overlooked() {
    let (_sim, gateway) = pair();
    assert_eq!(say(&gateway, "\r\n\r\nGET /health HTTP/1.1\r\nHost: usher\r\n\r\n").status, 200);
}

#[test]
fn an_instance_without_a_first_byte_is_given_up_in_time() {
    let (sim, builder) = before_one();
    let gateway = builder.config("timeouts: { first_byte: 1s }").start();
    sim.misbehave(&json!({ "kind": "hang", "path": "/api/generate", "times": 1 }));
    let request = gateway.post("/api/generate", &question(true)).key(gateway.key("admin"));
    let answer = request.send();
    let line = assert_refused(&gateway, &answer, &[504], "a silent instance");
    assert_eq!(answer.detail(), "Upstream 'a' did not answer in time");
    assert_eq!(line["upstream"], "a");
    assert_eq!(posted(&sim).len(), 1, "a time-out is never tried again");
    eventually("the instance noticed", || posted(&sim)[0]["outcome"] != "open");
    let request = gateway.post("/api/generate", &question(true)).key(gateway.key("admin"));
    assert_eq!(request.send().status, 200, "the seat is free again");
}

#[test]
fn a_stream_that_falls_silent_ends_visibly() {
    let (sim, builder) = before_one();
    let gateway = builder.config("timeouts: { idle: 1s }").start();
    for path in ["/api/generate", "/v1/chat/completions"] {
        sim.misbehave(&json!({ "kind": "hang_after", "after": 3, "path": path, "times": 1 }));
        let mut body = question(true);
        body["messages"] = json!([{ "role": "user", "content": "Why?" }]);
        let answer = gateway.post(path, &body).key(gateway.key("admin")).send();
        assert_eq!(answer.status, 200);
        assert!(answer.cut.is_some(), "it must not look whole: {}", answer.text());
        assert!(answer.text().contains("did not answer in time"), "{}", answer.text());
        let id = answer.header("x-request-id").expect("always one");
        assert_eq!(gateway.access_line(id)["outcome"], "upstream_timeout");
        eventually("the instance is trusted again", || gateway.get("/ready").send().status == 200);
    }
}

#[test]
fn a_request_that_takes_too_long_in_all_ends_visibly() {
    let (sim, builder) = before_one();
    let gateway = builder.config("timeouts: { total: 1s }").start();
    sim.misbehave(&json!({ "kind": "trickle", "every_ms": 20, "path": "/api/generate" }));
    let request = gateway.post("/api/generate", &question(true)).key(gateway.key("admin"));
    let answer = request.send();
    assert_eq!(answer.status, 200);
    assert!(answer.cut.is_some(), "it must not look whole: {}", answer.text());
    assert!(answer.text().trim_end().ends_with('}'), "{}", answer.text());
    assert!(answer.text().contains(r#"{"error":"#), "{}", answer.text());
    eventually("the instance is free", || sim.counter("inflight") == 0);
}

#[test]
fn a_client_that_stops_reading_loses_its_seat() {
    let (sim, builder) = before_one();
    let gateway = builder.config("timeouts: { idle: 1s }").start();
    let body = json!({
        "model": "llama3.2", "prompt": "Why?", "stream": true,
        "options": { "num_predict": 400_000, "num_ctx": 400_000 },
    });
    let request = gateway.post("/api/generate", &body).key(gateway.key("admin"));
    let request = request.header("X-Request-Id", "stalled");
    // a window so small that the answer cannot hide in buffers
    let mut stalled = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    stalled.set_recv_buffer_size(4096).expect("a fresh socket takes options");
    stalled.connect(&gateway.address().into()).expect("it listens");
    stalled.write_all(&request.bytes()).expect("it reads");
    eventually("it has the seat", || sim.counter("slots_in_use") == 1);
    let line = gateway.access_line("stalled");
    assert_ne!(line["outcome"], "ok", "{line}");
    eventually("the instance is free", || sim.counter("inflight") == 0);
    let request = gateway.post("/api/generate", &question(false)).key(gateway.key("admin"));
    assert_eq!(request.send().status, 200);
    drop(stalled);
}
