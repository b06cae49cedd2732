//! How large, how long, how many bytes at once; and answers that come before the end of a body.

use std::time::{Duration, Instant};

use super::{Model, posted, prompt};
use crate::support::eventually;
use crate::support::gateway::{Gateway, gateway};
use crate::support::http::{Request, Wire};
use crate::support::sim::{Sim, sim};

/// Bodies of up to 1 MiB, memory for one and a half of them for a user and for two in all.
const SMALL: &str = "limits: { body: 1MiB, body_memory_per_user: 1536KiB, body_memory: 2MiB }\n\
     timeouts: { body: 1s }";

fn pair(config: &str) -> (Sim, Gateway) {
    let sim = sim().args(&["--speed", "1000"]).holding("llama3.2").start();
    let gateway = gateway()
        .upstream("a", &sim.url())
        .user("anna", "free")
        .user("bert", "free")
        .user("carl", "free")
        .config(config)
        .start();
    (sim, gateway)
}

/// Begins a request with a body of `size` bytes and sends the first `sent` of them.
fn begin(gateway: &Gateway, user: &str, size: usize, sent: usize) -> (Wire, Vec<u8>) {
    let body = prompt(size, Model::Last);
    let request = Request::new(gateway.address(), "POST", "/api/generate");
    let bytes = request.key(gateway.key(user)).body(body).bytes();
    let head = bytes.len() - size;
    let mut wire = gateway.connect();
    wire.send(&bytes[..head + sent]);
    (wire, bytes[head + sent..].to_vec())
}

/// Bytes of bodies that the gateway holds, by its last words.
fn held_at_the_end(gateway: Gateway) -> String {
    let log = gateway.stop();
    let last = log.iter().rev().find(|line| line.contains("stopped:")).expect("it says goodbye");
    last.clone()
}

#[test]
fn a_body_that_declares_to_be_too_large_is_refused_before_it_comes() {
    let (sim, gateway) = pair(SMALL);
    let mut wire = gateway.connect();
    let key = gateway.key("anna");
    wire.send(format!(
        "POST /api/generate HTTP/1.1\r\nHost: usher\r\nX-API-Key: {key}\r\n\
         Content-Length: 1048577\r\nExpect: 100-continue\r\n\r\n"
    ));
    let answer = wire.answer("POST");
    assert_eq!((answer.status, answer.interim.as_slice()), (413, [].as_slice()));
    assert_eq!(answer.detail(), "Request body is larger than 1048576 bytes");
    assert_eq!(posted(&sim).len(), 0);
}

#[test]
fn a_chunked_body_is_refused_when_it_grows_too_large() {
    let (sim, gateway) = pair(SMALL);
    let fits = prompt(1 << 20, Model::Last);
    let request = gateway.request("POST", "/api/generate").key(gateway.key("anna")).chunked();
    let answer = request.clone().body(fits).send();
    assert_eq!(answer.status, 200, "{}", answer.text());
    for size in [(1 << 20) + 1, 10 << 20] {
        let answer = request.clone().body(prompt(size, Model::Last)).send();
        assert_eq!(answer.status, 411, "{}", answer.text());
        let detail = "Request body is larger than 1048576 bytes and has no Content-Length";
        assert_eq!(answer.detail(), detail);
    }
    assert_eq!(posted(&sim).len(), 1);
    assert!(held_at_the_end(gateway).contains("body_bytes=0"));
}

#[test]
fn a_body_that_takes_too_long_is_refused() {
    let (sim, gateway) = pair(SMALL);
    let (mut wire, rest) = begin(&gateway, "anna", 200, 100);
    // each byte comes in time; all of them do not
    let until = Instant::now() + Duration::from_millis(1200);
    for byte in &rest {
        if Instant::now() > until || wire.try_send(&[*byte]).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let answer = wire.answer("POST");
    assert_eq!(answer.status, 408, "{}", answer.text());
    assert_eq!(answer.detail(), "Request body was not received in time");
    assert_eq!(posted(&sim).len(), 0);
    assert!(held_at_the_end(gateway).contains("in_flight=0 seats=0 waiting=0 body_bytes=0"));
}

#[test]
fn a_slow_body_holds_no_seat() {
    let (sim, gateway) = pair("timeouts: { body: 30s }");
    let (mut slow, rest) = begin(&gateway, "anna", 1000, 500);
    let quick = gateway.request("POST", "/api/generate").key(gateway.key("bert"));
    let answer = quick.body(prompt(200, Model::First)).send();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(posted(&sim).len(), 1, "the slow one is not there yet");
    slow.send(rest);
    assert_eq!(slow.answer("POST").status, 200);
}

#[test]
fn the_memory_for_bodies_is_bounded_and_comes_back() {
    let config = SMALL.replace("body: 1s", "body: 30s");
    let (_sim, gateway) = pair(&config);
    let mebibyte = 1 << 20;
    let (annas, _) = begin(&gateway, "anna", mebibyte, mebibyte - 1);
    let request = |user: &str| {
        let request = gateway.request("POST", "/api/generate").key(gateway.key(user));
        request.body(prompt(mebibyte, Model::Last))
    };
    // what is in the socket is not yet in the budget
    eventually("anna has no room for a second one", || request("anna").send().status == 429);
    let answer = request("anna").send();
    assert_eq!(answer.status, 429, "{}", answer.text());
    assert!(answer.header("retry-after").is_some());
    let answer = request("bert").send();
    assert_eq!(answer.status, 200, "bert has room: {}", answer.text());
    let (berts, _) = begin(&gateway, "bert", mebibyte, mebibyte - 1);
    eventually("there is no room in all", || request("carl").send().status == 503);
    let answer = request("carl").send();
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.header("retry-after").is_some());
    annas.reset();
    eventually("anna's room came back", || request("anna").send().status == 200);
    drop(berts);
    eventually("bert's room came back", || request("bert").send().status == 200);
    assert!(held_at_the_end(gateway).contains("body_bytes=0"));
}

#[test]
fn a_client_that_still_sends_reads_why_it_is_refused() {
    let (sim, gateway) = pair("limits: { body: 2MiB }");
    let anna = gateway.key("anna");
    let wrong = "usk_000000000000_0000000000000000000000000000000000000000000000000";
    let cases = [
        (401, "/api/generate", ""),
        (401, "/api/generate", wrong),
        (403, "/api/pull", anna),
        (
            403,
            "/api/blobs/sha256:0000000000000000000000000000000000000000000000000000000000000000",
            anna,
        ),
        (404, "/api/nonsense", anna),
        (405, "/api/tags", anna),
        (413, "/api/generate", anna),
    ];
    // what comes behind the answer looks like a request, and must never be taken for one
    let smuggled = b"\r\n\r\nGET /health HTTP/1.1\r\nHost: usher\r\n\r\n";
    let body = smuggled.repeat((10 << 20) / smuggled.len());
    for (status, path, key) in cases {
        for chunked in [false, true] {
            let request = gateway.request("POST", path).key(key).body(&*body);
            let bytes = if chunked { request.chunked().bytes() } else { request.bytes() };
            let mut wire = gateway.connect();
            let (first, rest) = bytes.split_at(64 * 1024);
            wire.send(first);
            // it goes on sending, as a client does that does not look
            let sent = wire.try_send(rest);
            let answer = wire.answer("POST");
            let status = if chunked && status == 413 { 411 } else { status };
            assert_eq!(answer.status, status, "{path} chunked {chunked}: {}", answer.text());
            assert_eq!(answer.cut, None);
            answer.detail();
            assert!(sent.is_ok(), "{status} {path} chunked {chunked}: {sent:?}");
            let behind = wire.drain(Duration::from_secs(5));
            assert_eq!(String::from_utf8_lossy(&behind), "", "{status} {path}");
            gateway.access_line(answer.header("x-request-id").expect("every refusal has one"));
        }
    }
    assert_eq!(posted(&sim).len(), 0);
    let health = gateway.access_lines().iter().filter(|it| it["route"] == "/health").count();
    assert_eq!(health, 0, "the body became a request");
}

#[test]
fn a_refused_request_whose_body_is_there_leaves_nothing_behind() {
    let (_sim, gateway) = pair("");
    let body = "GET /health HTTP/1.1\r\nHost: usher\r\n\r\n";
    for path in ["/api/generate", "/nonsense", "/health"] {
        let bytes = gateway.request("POST", path).body(body).bytes();
        let mut wire = gateway.connect();
        wire.send(&bytes);
        let answer = wire.answer("POST");
        assert!(matches!(answer.status, 401 | 404 | 405), "{}", answer.text());
        // whether the connection stays is Usher's choice; if it does, it is at its next request
        if answer.header("connection") != Some("close") && wire.try_send(&bytes).is_ok() {
            assert_eq!(wire.answer("POST").status, answer.status);
        }
    }
    let health = gateway.access_lines();
    let health =
        health.iter().filter(|it| it["route"] == "/health" && it["method"] == "GET").count();
    assert_eq!(health, 0, "the body became a request");
}
