//! Request bodies: what arrives at an instance is what was sent, whatever its size and framing.

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

use ring::digest::{SHA256, digest};
use serde_json::json;

use crate::support::eventually;
use crate::support::gateway::{Builder, Gateway, gateway};
use crate::support::http::{Request, chunked};
use crate::support::sim::{Sim, sim};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

#[test]
fn bodies_of_every_size_arrive_whole() {
    let (gateway, sim) = open(|it| it);
    for size in [80, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, 128 * KIB + 1, MIB, 60 * MIB] {
        for place in [Model::First, Model::Last] {
            let body = question(size, place);
            for framed in [Request::body as Framed, |it, body| it.body(body).chunked()] {
                sim.reset();
                let request = gateway.request("POST", "/api/chat").key(gateway.key("ann"));
                let answer = framed(request, body.clone()).send();
                assert_eq!(answer.status, 200, "{size}: {}", answer.text());
                assert_eq!(received(&sim, "/api/chat"), fingerprint(&body), "{size} {place:?}");
            }
        }
    }
}

#[test]
fn a_chunked_body_of_many_pieces_arrives_whole() {
    let (gateway, sim) = open(|it| it);
    let body = question(200 * KIB, Model::Last);
    let pieces: Vec<&[u8]> = body.chunks(997).collect();
    let mut wire = gateway.connect();
    wire.send(head(&gateway, "HTTP/1.1", "Transfer-Encoding: chunked\r\n"));
    wire.dribble(&chunked(&pieces), 8191, Duration::from_micros(200)).expect("it is read");
    let answer = wire.answer("POST");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(received(&sim, "/api/chat"), fingerprint(&body));
}

#[test]
fn a_body_that_passes_unread_arrives_whole() {
    let (gateway, sim) = open(|it| it);
    for size in [1, 64 * KIB + 1, 3 * MIB] {
        for (byte, framed) in
            [(b'x', Request::body as Framed), (b'y', |it, body| it.body(body).chunked())]
        {
            sim.reset();
            let body = vec![byte; size];
            let path = format!("/api/blobs/sha256:{}", hex(&body));
            let request = gateway.request("POST", &path).key(gateway.key("admin"));
            let answer = framed(request, body.clone()).send();
            assert_eq!(answer.status, 201, "{size}: {}", answer.text());
            assert_eq!(received(&sim, &path), fingerprint(&body), "{size}");
        }
    }
}

#[test]
fn a_blob_may_be_larger_than_any_question() {
    let (gateway, sim) = open(|it| it.config("limits: { body: 64KiB }"));
    let body = vec![b'x'; MIB];
    let path = format!("/api/blobs/sha256:{}", hex(&body));
    let answer = gateway.request("POST", &path).key(gateway.key("admin")).body(body.clone()).send();
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert_eq!(received(&sim, &path), fingerprint(&body));
}

#[test]
fn http_1_0_clients_are_served() {
    let (gateway, sim) = open(|it| it);
    let body = question(100 * KIB, Model::First);
    let mut wire = gateway.connect();
    let length = format!("Content-Length: {}\r\n", body.len());
    wire.send(head(&gateway, "HTTP/1.0", &length)).send(&body);
    let answer = wire.answer("POST");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.cut, None);
    assert!(wire.closes_within(Duration::from_secs(5)), "HTTP/1.0 ends with the connection");
    assert_eq!(received(&sim, "/api/chat"), fingerprint(&body));
}

#[test]
fn a_client_that_asks_before_it_sends_is_told_to_go_on() {
    let (gateway, sim) = open(|it| it);
    let body = question(100 * KIB, Model::First);
    let mut wire = gateway.connect();
    let expecting = format!("Content-Length: {}\r\nExpect: 100-continue\r\n", body.len());
    for _ in 0..2 {
        sim.reset();
        wire.send(head(&gateway, "HTTP/1.1", &expecting));
        assert_eq!(wire.interim(), 100, "nothing was sent of the body yet");
        let answer = wire.send(&body).answer("POST");
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(received(&sim, "/api/chat"), fingerprint(&body));
    }
}

#[test]
fn a_client_that_asks_before_it_sends_may_be_refused_instead() {
    let (gateway, _sim) = open(|it| it.config("limits: { body: 1MiB }"));
    let mut wire = gateway.connect();
    wire.send(head(&gateway, "HTTP/1.1", "Content-Length: 2000000\r\nExpect: 100-continue\r\n"));
    let answer = wire.answer("POST");
    assert_eq!((answer.status, answer.interim), (413, vec![]));
}

#[test]
fn a_body_over_the_limit_is_413_however_it_is_framed() {
    let (gateway, sim) = open(|it| it.config("limits: { body: 1MiB }"));
    let exact = question(MIB, Model::First);
    let over = question(MIB + 1, Model::First);
    let send = |body: &[u8]| ask(&gateway).body(body);
    assert_eq!(send(&exact).send().status, 200);
    assert_eq!(send(&exact).chunked().send().status, 200);
    sim.reset();
    for request in [send(&over), send(&over).chunked()] {
        let answer = request.send();
        assert_eq!(answer.status, 413, "{}", answer.text());
        assert_eq!(answer.detail(), "Request body is larger than 1048576 bytes");
    }
    assert_eq!(asked(&sim), 0, "nothing of it reached the instance");
}

#[test]
fn an_early_answer_is_read_by_a_client_that_still_sends() {
    let (gateway, _sim) = open(|it| it.config("limits: { body: 4MiB }"));
    let body = vec![b' '; 6 * MIB];
    for (key, status) in [(gateway.key("ann"), 413), ("a-key-that-nobody-has", 401)] {
        for request in [
            ask_with(&gateway, key).body(body.clone()),
            ask_with(&gateway, key).body(body.clone()).chunked(),
        ] {
            let mut wire = gateway.connect();
            let sent = wire.try_send(&request.bytes());
            let kind = sent.as_ref().err().map(std::io::Error::kind);
            assert!(kind.is_none(), "the client was cut off while it sent: {kind:?}");
            assert_ne!(kind, Some(ErrorKind::ConnectionReset));
            let answer = wire.answer("POST");
            assert_eq!(answer.status, status, "{}", answer.text());
            assert_eq!(answer.cut, None);
        }
    }
}

#[test]
fn an_encoded_body_is_415() {
    let (gateway, sim) = open(|it| it);
    let body = zstd::encode_all(&question(1000, Model::First)[..], 0).expect("zstd encodes");
    for path in ["/v1/chat/completions", "/api/chat"] {
        for encoding in ["zstd", "gzip", "br", "identity, zstd"] {
            let answer = gateway
                .request("POST", path)
                .key(gateway.key("ann"))
                .header("Content-Encoding", encoding)
                .body(body.clone())
                .send();
            assert_eq!(answer.status, 415, "{encoding}: {}", answer.text());
        }
    }
    assert_eq!(asked(&sim), 0);
}

#[test]
fn a_body_that_two_readers_could_read_differently_is_400_and_names_the_field() {
    let (gateway, sim) = open(|it| it);
    for (body, named) in [
        (r#"{"model":"llama3.2","model":"qwen3:8b"}"#, "model"),
        (r#"{"model":"llama3.2","MODEL":"qwen3:8b"}"#, "MODEL"),
        (r#"{"Model":"llama3.2"}"#, "Model"),
        (r#"{"model":"llama3.2","mode\u006c":"qwen3:8b"}"#, "model"),
        (r#"{"model":7}"#, "model"),
        (r#"{"messages":[]}"#, "model"),
        (r#"{"model":"../../etc/passwd"}"#, "model"),
    ] {
        let answer = ask(&gateway).body(body).send();
        assert_eq!(answer.status, 400, "{body}: {}", answer.text());
        assert!(answer.detail().contains(named), "{body}: {}", answer.detail());
    }
    for body in ["", "1", "[]", "{", r#"{"model":"llama3.2"} x"#, "\u{0}"] {
        let answer = ask(&gateway).body(body).send();
        assert_eq!(answer.status, 400, "{body:?}: {}", answer.text());
    }
    assert_eq!(asked(&sim), 0);
}

#[test]
fn a_user_may_fill_only_a_share_of_the_memory_for_bodies() {
    let limits = "limits: { body: 2MiB, body_memory: 5MiB, body_memory_per_user: 3MiB }";
    let (gateway, _sim) = open(|it| it.user("bob", "free").user("eve", "free").config(limits));
    let body = question(2 * MIB, Model::First);
    // held in the middle of their uploads
    let hold = |user: &str| {
        let request = ask_with(&gateway, gateway.key(user)).body(body.clone());
        let bytes = request.bytes();
        let mut wire = gateway.connect();
        wire.send(&bytes[..bytes.len() - 1]);
        eventually("the upload was read", || wire.is_read());
        wire
    };
    let probe = |user: &str| ask_with(&gateway, gateway.key(user)).body(body.clone()).send();
    let ann = hold("ann");
    let refused = probe("ann");
    assert_eq!(refused.status, 429, "a second one of hers is too much: {}", refused.text());
    assert!(refused.header("retry-after").is_some());
    let bob = hold("bob");
    let refused = probe("eve");
    assert_eq!(refused.status, 503, "a third user finds no room: {}", refused.text());
    assert!(refused.header("retry-after").is_some());
    drop((ann, bob));
    eventually("what they held is free again", || probe("eve").status == 200);
    assert_eq!(probe("ann").status, 200);
}

#[test]
fn a_head_or_a_body_that_does_not_come_is_408() {
    let timeouts = "timeouts: { header: 1s, body: 1s }";
    let (gateway, _sim) = open(|it| it.config(timeouts));
    let whole = ask(&gateway).body(question(200, Model::First)).bytes();
    let head = whole.windows(4).position(|it| it == b"\r\n\r\n").expect("a head ends");
    for stop in [head - 5, head + 50] {
        let begun = Instant::now();
        let mut wire = gateway.connect();
        wire.send(&whole[..stop]);
        let answer = wire.answer("POST");
        assert_eq!(answer.status, 408, "{}", answer.text());
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(900) && took < Duration::from_secs(5), "{took:?}");
    }
    let mut wire = gateway.connect();
    wire.dribble(&whole, 1, Duration::from_millis(20)).ok();
    assert_eq!(wire.answer("POST").status, 408, "a byte now and then keeps nobody waiting");
}

#[test]
fn a_head_that_is_too_large_is_431() {
    let (gateway, _sim) = open(|it| it.config("limits: { headers: 8KiB }"));
    let padded = |size: usize| gateway.get("/health").header("X-Padding", &"x".repeat(size)).send();
    assert_eq!(padded(7 * KIB).status, 200);
    assert_eq!(padded(9 * KIB).status, 431);
}

#[test]
fn a_retried_body_is_the_same_body() {
    let sims = [0, 1].map(|_| sim().args(&["--speed", "50"]).start());
    let gateway = gateway()
        .upstream("left", &sims[0].url())
        .upstream("right", &sims[1].url())
        .user("ann", "free")
        .start();
    let busy = json!({ "path": "/api/chat", "kind": "status", "status": 503, "body": "{}" });
    for size in [100, 64 * KIB + 1, 5 * MIB] {
        for (failing, serving) in [(&sims[0], &sims[1]), (&sims[1], &sims[0])] {
            failing.reset();
            serving.reset();
            failing.misbehave(&busy);
            let body = question(size, Model::Last);
            // whichever instance is asked first, both see this body before it is answered
            eventually("the failing one was asked", || {
                let answer = ask(&gateway).body(body.clone()).send();
                assert_eq!(answer.status, 200, "{}", answer.text());
                assert_eq!(received(serving, "/api/chat"), fingerprint(&body));
                asked(failing) > 0
            });
            assert_eq!(received(failing, "/api/chat"), fingerprint(&body));
            failing.behave();
        }
    }
}

/// Gives a request this body, in one framing or another.
type Framed = fn(Request, Vec<u8>) -> Request;

fn open(more: impl FnOnce(Builder) -> Builder) -> (Gateway, Sim) {
    let sim = sim().args(&["--speed", "200", "--prefill-rate", "100000000"]).start();
    let described = gateway().upstream_with("only", &sim.url(), "slots: 8").user("ann", "free");
    (more(described).start(), sim)
}

fn ask(gateway: &Gateway) -> Request {
    ask_with(gateway, gateway.key("ann"))
}

fn ask_with(gateway: &Gateway, key: &str) -> Request {
    gateway.request("POST", "/api/chat").key(key)
}

fn head(gateway: &Gateway, version: &str, framing: &str) -> String {
    let mut head = format!("POST /api/chat {version}\r\nHost: a\r\n");
    write!(head, "X-API-Key: {}\r\n{framing}\r\n", gateway.key("ann")).expect("memory suffices");
    head
}

/// Where the model stands in a body.
#[derive(Clone, Copy, Debug)]
enum Model {
    First,
    Last,
}

/// A question of exactly `size` bytes.
fn question(size: usize, model: Model) -> Vec<u8> {
    let (before, after) = match model {
        Model::First => (r#"{"model":"llama3.2","stream":false,"prompt":""#, r#""}"#),
        Model::Last => (r#"{"stream":false,"prompt":""#, r#"","model":"llama3.2"}"#),
    };
    let padding = "x".repeat(size - before.len() - after.len());
    format!("{before}{padding}{after}").into_bytes()
}

fn fingerprint(body: &[u8]) -> (usize, String) {
    (body.len(), hex(body))
}

fn hex(body: &[u8]) -> String {
    let hash = digest(&SHA256, body);
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Length and hash of the last body that an instance got on this path.
fn received(sim: &Sim, path: &str) -> (usize, String) {
    let requests = sim.requests();
    let last = requests.iter().rev().find(|request| request["target"] == path);
    let last = last.unwrap_or_else(|| panic!("nothing came to {path}: {requests:?}"));
    let length = last["body_bytes"].as_u64().and_then(|length| usize::try_from(length).ok());
    (length.expect("a length"), last["body_sha256"].as_str().expect("a hash").to_owned())
}

/// Questions that an instance was asked.
fn asked(sim: &Sim) -> usize {
    sim.requests().iter().filter(|request| request["method"] == "POST").count()
}
