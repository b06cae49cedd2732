//! Every way to send a body, at every size that matters.

use std::time::Duration;

use super::{Model, SIZES, assert_arrived, posted, prompt, sha256};
use crate::support::eventually;
use crate::support::gateway::{Gateway, gateway};
use crate::support::http::{Answer, Wire, chunked};
use crate::support::sim::{Sim, sim};

fn pair() -> (Sim, Gateway) {
    let sim = sim().args(&["--speed", "1000"]).start();
    let gateway = gateway().upstream("a", &sim.url()).start();
    (sim, gateway)
}

/// A head with the admin's key and these further lines.
fn head(gateway: &Gateway, version: &str, lines: &str) -> String {
    let key = gateway.key("admin");
    format!("POST /api/generate {version}\r\nHost: usher\r\nX-API-Key: {key}\r\n{lines}\r\n")
}

fn assert_served(sim: &Sim, answer: &Answer, body: &[u8], what: &str) {
    assert_eq!(answer.status, 200, "{what}: {}", answer.text());
    assert_eq!(answer.cut, None, "{what}");
    assert_arrived(sim, &[body], what);
    assert_eq!(posted(sim)[0]["target"], "/api/generate", "{what}");
    sim.reset();
}

#[test]
fn bodies_of_known_length_arrive_unchanged_over_one_connection() {
    let (sim, gateway) = pair();
    let mut wire = gateway.connect();
    for size in SIZES {
        for model in [Model::First, Model::Last] {
            let body = prompt(size, model);
            let head = head(&gateway, "HTTP/1.1", &format!("Content-Length: {size}\r\n"));
            wire.send([head.as_bytes(), &body].concat());
            let answer = wire.answer("POST");
            assert_served(&sim, &answer, &body, &format!("{size} {model:?} in one burst"));
            wire.send(&head);
            wire.dribble(&body, size / 7 + 1, Duration::from_millis(1)).expect("it reads");
            let answer = wire.answer("POST");
            assert_served(&sim, &answer, &body, &format!("{size} {model:?} in pieces"));
        }
    }
    eventually("each has its access line", || {
        let lines = gateway.access_lines();
        lines.iter().filter(|line| line["route"] == "/api/generate").count() == 2 * 2 * SIZES.len()
    });
    assert!(gateway.access_lines().iter().all(|line| line["outcome"] != "client_gone"));
}

#[test]
fn a_body_of_a_few_bytes_at_a_time_arrives_unchanged() {
    let (sim, gateway) = pair();
    let body = prompt(300, Model::Last);
    let mut wire = gateway.connect();
    wire.send(head(&gateway, "HTTP/1.1", "Content-Length: 300\r\n"));
    wire.dribble(&body, 1, Duration::from_micros(200)).expect("it reads");
    assert_served(&sim, &wire.answer("POST"), &body, "byte by byte");
}

#[test]
fn chunked_bodies_arrive_unchanged_whatever_their_chunks() {
    let (sim, gateway) = pair();
    let head = head(&gateway, "HTTP/1.1", "Transfer-Encoding: chunked\r\n");
    for size in SIZES {
        let body = prompt(size, Model::Last);
        for chunk in [97, 4093, 65_536, usize::MAX] {
            let pieces: Vec<_> = body.chunks(chunk.max(size / 200)).collect();
            let mut wire = gateway.connect();
            wire.send([head.as_bytes(), &chunked(&pieces)].concat());
            let answer = wire.answer("POST");
            assert_served(&sim, &answer, &body, &format!("{size} in chunks of {chunk}"));
        }
    }
}

#[test]
fn chunk_extensions_and_trailers_go_no_further() {
    let (sim, gateway) = pair();
    let body = prompt(200, Model::First);
    let (one, two) = body.split_at(77);
    let mut wire = gateway.connect();
    wire.send(head(&gateway, "HTTP/1.1", "Transfer-Encoding: chunked\r\nTrailer: X-API-Key\r\n"));
    wire.send("4D;name=value\r\n").send(one).send("\r\n7b\r\n").send(two);
    wire.send("\r\n0\r\nX-API-Key: usk_other\r\n\r\n");
    assert_eq!(body.len(), 0x4d + 0x7b);
    let answer = wire.answer("POST");
    assert_served(&sim, &answer, &body, "chunks with extensions and trailers");
}

#[test]
fn http_1_0_is_answered_and_closed() {
    let (sim, gateway) = pair();
    for size in [200, 65_537] {
        let body = prompt(size, Model::Last);
        let mut wire = gateway.connect();
        let head = head(&gateway, "HTTP/1.0", &format!("Content-Length: {size}\r\n"));
        wire.send([head.as_bytes(), &body].concat());
        let answer = wire.answer("POST");
        assert_served(&sim, &answer, &body, "HTTP/1.0");
        assert_eq!(answer.header("transfer-encoding"), None, "HTTP/1.0 knows no chunks");
        assert!(wire.closes_within(Duration::from_secs(5)), "an HTTP/1.0 client waits for the end");
    }
}

#[test]
fn a_stream_to_http_1_0_has_no_chunks_and_ends_with_the_connection() {
    let (_sim, gateway) = pair();
    let body = r#"{"model":"llama3.2","prompt":"hi","options":{"num_predict":3}}"#;
    let mut wire = gateway.connect();
    let length = format!("Content-Length: {}\r\n", body.len());
    wire.send([head(&gateway, "HTTP/1.0", &length).as_bytes(), body.as_bytes()].concat());
    let answer = wire.answer("POST");
    assert_eq!(answer.header("transfer-encoding"), None);
    let lines = answer.lines();
    assert!(lines.len() > 1 && lines.last().unwrap()["done"] == true, "{}", answer.text());
}

#[test]
fn a_client_that_expects_100_gets_it_and_keeps_its_connection() {
    let (sim, gateway) = pair();
    let mut wire = gateway.connect();
    for size in [200, 65_537, 1 << 20] {
        let body = prompt(size, Model::Last);
        let lines = format!("Content-Length: {size}\r\nExpect: 100-continue\r\n");
        wire.send(head(&gateway, "HTTP/1.1", &lines));
        assert_eq!(wire.next_line(), "HTTP/1.1 100 Continue");
        assert_eq!(wire.next_line(), "");
        wire.send(&body);
        let answer = wire.answer("POST");
        assert_served(&sim, &answer, &body, &format!("{size} after 100"));
    }
}

#[test]
fn another_expectation_is_refused_and_no_body_is_asked_for() {
    let (sim, gateway) = pair();
    let key = gateway.key("admin");
    let upload = format!("/api/blobs/sha256:{}", "0".repeat(64));
    for (path, expected) in
        [("/api/generate", "200-ok"), ("/api/generate", "100-continue, x"), (&*upload, "200-ok")]
    {
        let mut wire = gateway.connect();
        wire.send(format!(
            "POST {path} HTTP/1.1\r\nHost: usher\r\nX-API-Key: {key}\r\nContent-Length: 5\r\n\
             Expect: {expected}\r\n\r\n"
        ));
        let answer = wire.answer("POST");
        assert_eq!((answer.status, answer.interim.as_slice()), (417, [].as_slice()), "{expected}");
        assert_eq!(answer.detail(), "Only 'Expect: 100-continue' can be met");
        assert_eq!(answer.header("connection"), Some("close"));
    }
    assert_eq!(posted(&sim).len(), 0);
    let body = prompt(200, Model::Last);
    let mut wire = gateway.connect();
    wire.send(head(&gateway, "HTTP/1.1", "Content-Length: 200\r\nExpect: 100-Continue\r\n"));
    assert_eq!(wire.next_line(), "HTTP/1.1 100 Continue", "in any case");
    assert_eq!(wire.next_line(), "");
    wire.send(&body);
    assert_served(&sim, &wire.answer("POST"), &body, "after 100");
}

#[test]
fn an_upload_that_expects_100_gets_it_too() {
    let (sim, gateway) = pair();
    let body = prompt(100_000, Model::Last);
    let path = format!("/api/blobs/sha256:{}", sha256(&body));
    let request = gateway.request("POST", &path).key(gateway.key("admin"));
    let bytes = request.header("Expect", "100-continue").body(&*body).bytes();
    let mut wire = gateway.connect();
    wire.send(&bytes[..bytes.len() - body.len()]);
    assert_eq!(wire.next_line(), "HTTP/1.1 100 Continue");
    assert_eq!(wire.next_line(), "");
    wire.send(&body);
    assert_eq!(wire.answer("POST").status, 201);
    assert_arrived(&sim, &[&body], "an upload after 100");
}

#[test]
fn http_1_0_knows_no_100() {
    let (sim, gateway) = pair();
    let body = prompt(200, Model::Last);
    let lines = "Content-Length: 200\r\nExpect: 100-continue\r\n";
    let mut wire = gateway.connect();
    wire.send(head(&gateway, "HTTP/1.0", lines)).send(&body);
    let answer = wire.answer("POST");
    assert_eq!(answer.interim, [] as [u16; 0]);
    assert_served(&sim, &answer, &body, "HTTP/1.0 with Expect");
}

#[test]
fn a_body_that_no_route_reads_is_no_request_either() {
    let (_sim, gateway) = pair();
    let body = "GET /api/nonsense HTTP/1.1\r\nHost: usher\r\n\r\n";
    let mut wire = gateway.connect();
    for path in ["/health", "/api/version", "/api/tags", "/v1/models"] {
        for chunked in [false, true] {
            let request = gateway.request("GET", path).key(gateway.key("admin")).body(body);
            let bytes = if chunked { request.chunked().bytes() } else { request.bytes() };
            wire.send(&bytes);
            let answer = wire.answer("GET");
            assert_eq!(answer.status, 200, "{path} chunked {chunked}");
            if answer.header("connection") == Some("close") {
                assert_eq!(wire.drain(Duration::from_secs(5)), b"", "{path}");
                wire = gateway.connect();
            }
        }
    }
    let asked = |line: &serde_json::Value| line["route"] != "/ready";
    let lines = gateway.access_lines();
    let odd: Vec<_> = lines.iter().filter(|line| asked(line) && line["status"] != 200).collect();
    assert!(odd.is_empty(), "a body was served: {odd:?}");
}

#[test]
fn a_client_that_expects_100_and_is_refused_sends_nothing() {
    let (sim, gateway) = pair();
    let mut wire = gateway.connect();
    let lines = "Content-Length: 1048576\r\nExpect: 100-continue\r\n";
    wire.send(format!("POST /api/generate HTTP/1.1\r\nHost: usher\r\n{lines}\r\n"));
    let answer = wire.answer("POST");
    assert_eq!((answer.status, answer.interim.as_slice()), (401, [].as_slice()));
    assert_eq!(answer.detail(), "Not authenticated");
    assert_eq!(posted(&sim).len(), 0);
}

#[test]
fn sixty_mebibytes_arrive_unchanged() {
    let (sim, gateway) = pair();
    let body = prompt(60 << 20, Model::Last);
    let known = gateway.request("POST", "/api/generate").key(gateway.key("admin")).body(body);
    let answer = known.send();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let answer = known.chunked().send();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let body = prompt(60 << 20, Model::Last);
    assert_arrived(&sim, &[&body, &body], "60 MiB of known length, then in a chunk");
}

#[test]
fn uploads_pass_through_unread_down_to_no_byte_at_all() {
    let (sim, gateway) = pair();
    for body in [Vec::new(), b"x".to_vec(), prompt(65_537, Model::Last)] {
        let path = format!("/api/blobs/sha256:{}", sha256(&body));
        for chunked in [false, true] {
            let upload = gateway.request("POST", &path).key(gateway.key("admin")).body(&*body);
            let upload = if chunked { upload.chunked() } else { upload };
            let answer = upload.send();
            assert!(matches!(answer.status, 200 | 201), "{}", answer.text());
            assert_arrived(&sim, &[&body], &format!("{} chunked: {chunked}", body.len()));
            assert_eq!(posted(&sim)[0]["target"], *path);
            sim.reset();
        }
    }
}

#[test]
fn an_inference_request_without_a_body_is_told_so() {
    let (sim, gateway) = pair();
    let key = gateway.key("admin");
    for (version, lines) in
        [("HTTP/1.1", ""), ("HTTP/1.1", "Content-Length: 0\r\n"), ("HTTP/1.0", "")]
    {
        let mut wire: Wire = gateway.connect();
        wire.send(head(&gateway, version, lines));
        let answer = wire.answer("POST");
        assert_eq!((answer.status, answer.detail().as_str()), (400, "missing request body"));
    }
    let answer = gateway.request("POST", "/api/generate").key(key).chunked().send();
    assert_eq!((answer.status, answer.detail().as_str()), (400, "missing request body"));
    let answer = gateway.request("POST", "/api/generate").key(key).body("x").send();
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert_eq!(posted(&sim).len(), 0);
}
