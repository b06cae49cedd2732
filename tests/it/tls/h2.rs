//! HTTP/2: everything that holds for HTTP/1.1 holds for each of its streams.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

use super::clients::{Answer, Running, curl, start_curl};
use super::{House, Identity, MODEL};
use crate::support::sim::sim;
use crate::support::{chat, eventually};

fn key(house: &House) -> String {
    format!("X-API-Key: {}", house.gateway.key("ada"))
}

/// A question with a body of that many bytes, in a file.
fn large_question(bytes: usize) -> tempfile::NamedTempFile {
    let mut question = chat(MODEL);
    question["padding"] = json!("x".repeat(bytes));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), question.to_string()).unwrap();
    file
}

fn post_file(house: &House, path: &str, file: &tempfile::NamedTempFile, more: &[&str]) -> Answer {
    let data = format!("@{}", file.path().display());
    curl(house, path, &[&["--http2", "--data-binary", &data][..], more].concat())
}

#[test]
fn a_large_body_arrives_as_it_was_sent() {
    let house = House::open();
    let file = large_question(3 << 20);
    let answer = post_file(&house, "/api/chat", &file, &["-H", &key(&house)]);
    assert_eq!((answer.status, &*answer.version), (200, "2"), "{answer:?}");
    let sum = Command::new("sha256sum").arg(file.path()).output().unwrap();
    let sum = String::from_utf8(sum.stdout).unwrap();
    let requests = house.instance.requests();
    let sent = requests.iter().find(|request| request["target"] == "/api/chat");
    let sent = sent.unwrap_or_else(|| panic!("{requests:?}")).to_string();
    assert!(sent.contains(sum.split(' ').next().unwrap()), "{sent}");
}

#[test]
fn refusals_come_in_the_dialect_of_the_route_however_much_is_still_sent() {
    let house = House::with(|gateway| gateway.config("limits: { body: 1MiB }"));
    let file = large_question(8 << 20);
    let own_key = key(&house);
    for (path, header, status, pointer, text) in [
        ("/v1/chat/completions", "X-API-Key: usk_no", 401, "/error/message", "Invalid API key"),
        ("/v1/messages", "Accept: */*", 401, "/error/message", "Not authenticated"),
        ("/api/chat", &own_key, 413, "/error", "Request body is larger than 1048576 bytes"),
        ("/nowhere", &own_key, 404, "/detail", "Not Found"),
    ] {
        let answer = post_file(&house, path, &file, &["-H", header]);
        assert_eq!((answer.status, answer.exit), (status, 0), "{path} {answer:?}");
        let json = answer.json();
        assert_eq!(json.pointer(pointer), Some(&json!(text)), "{path} {json}");
    }
}

#[test]
fn a_head_is_held_to_the_bounds_of_http_1_and_refused_as_anything_else() {
    let house = House::open();
    let padded = format!("X-Padding: {}", "x".repeat(40_000));
    let many: Vec<_> = (0..140).map(|number| format!("X-{number}: y")).collect();
    let many: Vec<_> = many.iter().flat_map(|line| ["-H", line]).collect();
    let large = "Request headers are too large";
    for (more, status, text, outcome) in [
        (vec!["-H", &padded], 431, large, "head_too_large"),
        (many, 431, "Too many headers", "head_too_large"),
        (vec!["-H", "X_Forwarded_For: 10.0.0.1"], 400, "Malformed header name", "bad_request"),
    ] {
        for (path, pointer) in [("/health", "/detail"), ("/v1/messages", "/error/message")] {
            let id = format!("{outcome}-{}-{}", more.len(), path.len()).replace('_', "-");
            let own = format!("X-Request-Id: {id}");
            let asked = [&["--http2", "-H", &own][..], &more].concat();
            let answer = curl(&house, path, &asked);
            assert_eq!((answer.status, &*answer.version), (status, "2"), "{text} {answer:?}");
            assert_eq!(answer.json().pointer(pointer), Some(&json!(text)), "{answer:?}");
            assert_eq!(answer.header("x-request-id"), Some(&*id));
            let line = house.gateway.access_line(&id);
            assert_eq!((&line["status"], &line["outcome"]), (&json!(status), &json!(outcome)));
        }
    }
    let fits = format!("X-Padding: {}", "x".repeat(30_000));
    assert_eq!(curl(&house, "/health", &["--http2", "-H", &fits]).status, 200);
}

#[test]
fn a_preflight_is_answered_on_http_2_as_well() {
    let house = House::with(|gateway| gateway.config("cors: { origins: ['https://a.example'] }"));
    let arguments = [
        "--http2",
        "-X",
        "OPTIONS",
        "-H",
        "Origin: https://a.example",
        "-H",
        "Access-Control-Request-Method: POST",
    ];
    let answer = curl(&house, "/v1/messages", &arguments);
    assert_eq!((answer.status, &*answer.version, &*answer.body), (204, "2", ""));
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://a.example"));
    assert_eq!(answer.header("access-control-allow-methods"), Some("POST"));
}

#[test]
fn nghttp_and_h2load_are_served_many_streams_at_once() {
    let house = House::open();
    let url = |path: &str| format!("https://localhost:{}{path}", house.port());
    let many = Command::new("nghttp").args(["-ns", "-m20", &url("/health")]).output().unwrap();
    let report = String::from_utf8_lossy(&many.stdout).into_owned();
    assert_eq!(report.matches(" 200 ").count(), 20, "{report}");
    let file = large_question(1000);
    let load = Command::new("h2load")
        .args(["-n60", "-c3", "-m10", "-H", &key(&house), "-d"])
        .arg(file.path())
        .arg(url("/api/chat"))
        .output()
        .unwrap();
    let report = String::from_utf8_lossy(&load.stdout).into_owned();
    assert!(report.contains("60 succeeded, 0 failed, 0 errored, 0 timeout"), "{report}");
    assert!(report.contains("status codes: 60 2xx"), "{report}");
}

#[test]
fn no_first_byte_in_time_is_504() {
    let house = House::with(|gateway| gateway.config("timeouts: { first_byte: 700ms }"));
    house.instance.misbehave(&json!({ "path": "/v1/chat/completions", "kind": "hang" }));
    let asked = ["--http2", "-H", &key(&house), "-d", &chat(MODEL).to_string()];
    let answer = curl(&house, "/v1/chat/completions", &asked);
    assert_eq!((answer.status, answer.exit), (504, 0), "{answer:?}");
    let text = "Upstream 'one' did not answer in time";
    assert_eq!(answer.json()["error"]["message"], text, "{answer:?}");
    house.instance.wait_for("inflight", 0);
}

#[test]
fn a_stream_that_falls_silent_or_takes_too_long_ends_visibly() {
    for (timeouts, fault) in [
        ("timeouts: { idle: 700ms }", json!({ "kind": "hang_after", "after": 2 })),
        ("timeouts: { total: 1500ms }", json!({ "kind": "trickle", "every_ms": 20 })),
    ] {
        let house = House::with(|gateway| gateway.config(timeouts));
        let mut rule = fault;
        rule["path"] = json!("/api/chat");
        house.instance.misbehave(&rule);
        let mut question = chat(MODEL);
        question["stream"] = json!(true);
        let asked = ["--http2", "-H", &key(&house), "-d", &question.to_string()];
        let answer = curl(&house, "/api/chat", &asked);
        // 92: the stream was not ended, it was reset
        assert_eq!((answer.status, answer.exit), (200, 92), "{timeouts} {answer:?}");
        let last = answer.body.lines().rfind(|line| !line.is_empty()).unwrap();
        assert!(last.contains("did not answer in time"), "{timeouts} {answer:?}");
        house.instance.wait_for("inflight", 0);
    }
}

async fn connect(house: &House) -> SendRequest<Bytes> {
    connect_behind(&[], house.gateway.listener(0), &house.identity).await
}

/// A connection whose streams a test holds in its own hands; `before` comes before TLS.
pub async fn connect_behind(
    before: &[u8],
    address: SocketAddr,
    identity: &Identity,
) -> SendRequest<Bytes> {
    let mut roots = RootCertStore::empty();
    let own = CertificateDer::from_pem_file(identity.path("cert.pem")).unwrap();
    roots.add(own).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    socket.write_all(before).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, socket).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    client
}

fn request(house: &House, length: Option<usize>) -> Request<()> {
    let mut request = Request::post("https://localhost/api/chat");
    request = request.header("x-api-key", house.gateway.key("ada"));
    if let Some(length) = length {
        request = request.header("content-length", length);
    }
    request.body(()).unwrap()
}

fn stream_of(tokens: u32) -> Bytes {
    let question = json!({ "model": MODEL, "messages": [{ "role": "user", "content": "hi" }],
        "options": { "num_predict": tokens } });
    Bytes::from(question.to_string())
}

async fn text(mut body: RecvStream) -> String {
    let mut all = Vec::new();
    while let Some(Ok(piece)) = body.data().await {
        body.flow_control().release_capacity(piece.len()).unwrap();
        all.extend_from_slice(&piece);
    }
    String::from_utf8(all).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_without_a_length_arrives_if_it_is_not_too_large_and_trailers_change_nothing() {
    let house = House::with(|gateway| gateway.config("limits: { body: 1MiB }"));
    let mut client = connect(&house).await.ready().await.unwrap();
    let question = stream_of(3);
    let padded = |size: usize| {
        let space = " ".repeat(size.saturating_sub(question.len()));
        Bytes::from([space.as_bytes(), &question].concat())
    };
    for size in [0, 65_536, 65_537, 1 << 20] {
        let sent = padded(size);
        let (answer, mut body) = client.send_request(request(&house, None), false).unwrap();
        body.send_data(sent.clone(), true).unwrap();
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), 200, "{size}");
        assert!(text(answer.into_body()).await.contains("\"done\":true"), "{size}");
        let requests = house.instance.requests();
        let last = requests.iter().rfind(|it| it["target"] == "/api/chat").unwrap();
        assert_eq!(last["body_bytes"], sent.len(), "{size}");
        client = client.ready().await.unwrap();
    }
    let (answer, mut body) = client.send_request(request(&house, None), false).unwrap();
    body.send_data(padded((1 << 20) + 1), true).unwrap();
    let answer = answer.await.unwrap();
    assert_eq!(answer.status(), 411);
    let refusal: Value = serde_json::from_str(&text(answer.into_body()).await).unwrap();
    let detail = "Request body is larger than 1048576 bytes and has no Content-Length";
    assert_eq!(refusal["error"], detail);

    let with_length = request(&house, Some(question.len()));
    let (answer, mut body) = client.send_request(with_length, false).unwrap();
    body.send_data(question, false).unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("x-usher-upstream", "two".parse().unwrap());
    body.send_trailers(trailers).unwrap();
    let answer = answer.await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(text(answer.into_body()).await.contains("\"done\":true"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_its_client_resets_frees_its_seat_and_its_place_in_the_queue() {
    let instance = sim().args(&["--decode-rate", "20"]).start();
    let house =
        House::before(instance, |gateway| gateway.config("tiers: { premium: { concurrency: 1 } }"));
    let mut client = connect(&house).await.ready().await.unwrap();
    let mut other = client.clone();
    let question = stream_of(100_000);
    let mut ask = |body: &Bytes| {
        let head = request(&house, Some(body.len()));
        let (answer, mut stream) = client.send_request(head, false).unwrap();
        stream.send_data(body.clone(), true).unwrap();
        (answer, stream)
    };
    let (answer, mut first) = ask(&question);
    let mut body = answer.await.unwrap().into_body();
    assert!(!body.data().await.unwrap().unwrap().is_empty());

    let (_queued, mut second) = ask(&question);
    // what comes behind it on the connection is served, so it is in the house
    let health = Request::get("https://localhost/health").body(()).unwrap();
    let (answer, _) = other.send_request(health, true).unwrap();
    assert_eq!(answer.await.unwrap().status(), 200);
    second.send_reset(Reason::CANCEL);
    let gone = || {
        let lines = house.gateway.access_lines();
        lines.iter().filter(|line| line["outcome"] == "client_gone").count()
    };
    eventually("the queued one is gone", || gone() == 1);
    let counters = house.instance.counters();
    assert_eq!((&counters["slots_in_use"], &counters["waiting_slot"]), (&1.into(), &0.into()));

    first.send_reset(Reason::CANCEL);
    house.instance.wait_for("inflight", 0);
    eventually("the streaming one is gone", || gone() == 2);
    let (answer, _stream) = ask(&stream_of(3));
    assert!(text(answer.await.unwrap().into_body()).await.contains("\"done\":true"));
}

/// A question in OpenAI's dialect, on a connection of its own: its answer, and the stream that it
/// was sent on.
async fn ask_for_events(house: &House) -> http::Response<RecvStream> {
    let client = connect(house).await;
    let mut client = client.ready().await.unwrap();
    let mut question = chat(MODEL);
    question["stream"] = json!(true);
    let question = Bytes::from(question.to_string());
    let head = Request::post("https://localhost/v1/chat/completions")
        .header("x-api-key", house.gateway.key("ada"))
        .header("content-length", question.len())
        .body(())
        .unwrap();
    let (answer, mut stream) = client.send_request(head, false).unwrap();
    stream.send_data(question, true).unwrap();
    answer.await.unwrap()
}

/// A house in which nothing loads until it may, and in which curl and another client wait for it
/// and were told so; what curl sees, and what the other one does.
async fn who_wait(further: &str) -> (House, Running, http::Response<RecvStream>) {
    let house = House::with(|gateway| gateway.config(further));
    house.instance.turn(&json!({ "load_stall": true }));
    let mut question = chat(MODEL);
    question["stream"] = json!(true);
    let asked = ["--http2", "-H", &key(&house), "-d", &question.to_string()];
    let running = start_curl(&house, "/v1/chat/completions", &asked);
    house.instance.wait_for("loading", 1);
    let mut answer = ask_for_events(&house).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    // curl came before, so its first comment is out when this one's second is
    for _ in 0..2 {
        let piece = answer.body_mut().data().await.unwrap().unwrap();
        assert_eq!(piece, ": waiting\n\n");
        answer.body_mut().flow_control().release_capacity(piece.len()).unwrap();
    }
    (house, running, answer)
}

const OFTEN: &str = "balance: { keep_alive_comments: 200ms }";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_events_hears_so_and_gets_them_on_http_2_as_well() {
    let (house, running, answer) = who_wait(OFTEN).await;
    house.instance.turn(&json!({ "load_stall": false }));
    let events = text(answer.into_body()).await;
    assert!(events.ends_with("data: [DONE]\n\n"), "{events}");
    let answer = running.answer();
    assert_eq!((answer.status, &*answer.version, answer.exit), (200, "2", 0), "{answer:?}");
    assert!(answer.body.starts_with(": waiting\n\n"), "{answer:?}");
    assert!(answer.body.trim_end().ends_with("data: [DONE]"), "{answer:?}");
    assert_eq!(answer.body.matches("\"finish_reason\":\"").count(), 1, "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_wrong_behind_the_comments_is_an_event_and_a_reset_on_http_2() {
    let (house, running, answer) = who_wait(OFTEN).await;
    house.instance.turn(&json!({ "load_error": "no room", "load_stall": false }));
    let events = text(answer.into_body()).await;
    let answer = running.answer();
    assert_eq!((answer.status, answer.exit), (200, 92), "{answer:?}");
    for events in [events, answer.body] {
        let last = events.lines().rfind(|line| !line.is_empty()).unwrap();
        let event: Value = serde_json::from_str(last.strip_prefix("data: ").unwrap()).unwrap();
        let message = event["error"]["message"].as_str().unwrap();
        assert!(message.contains("no room"), "{events}");
    }
    house.instance.wait_for("inflight", 0);
}
