//! Answers of an instance that keeps no rule: the client gets a sound one, or learns that there is
//! none, and what belongs to one request never reaches another.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use serde_json::json;

use crate::support::gateway::{Gateway, gateway};
use crate::support::http::Answer;

/// A server that lists a model, and answers every POST with the same bytes, right or wrong.
struct Odd {
    address: SocketAddr,
    script: Arc<Mutex<Script>>,
    posts: Arc<AtomicUsize>,
    ending: Arc<AtomicBool>,
}

#[derive(Clone, Default)]
struct Script {
    bytes: Vec<u8>,
    closes: bool,
}

impl Odd {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let odd = Self {
            address: listener.local_addr().expect("it is bound"),
            script: Arc::default(),
            posts: Arc::default(),
            ending: Arc::default(),
        };
        let (script, posts) = (Arc::clone(&odd.script), Arc::clone(&odd.posts));
        let ending = Arc::clone(&odd.ending);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if ending.load(Ordering::Relaxed) {
                    break;
                }
                let (script, posts) = (Arc::clone(&script), Arc::clone(&posts));
                std::thread::spawn(move || converse(stream, &script, &posts));
            }
        });
        odd
    }

    fn answers(&self, bytes: impl Into<Vec<u8>>, closes: bool) {
        *self.script.lock() = Script { bytes: bytes.into(), closes };
    }
}

impl Drop for Odd {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        TcpStream::connect(self.address).ok();
    }
}

fn converse(mut stream: TcpStream, script: &Mutex<Script>, posts: &AtomicUsize) {
    while let Some(head) = read_request(&mut stream) {
        if head.starts_with("GET") {
            let models = json!({ "object": "list", "data": [{ "id": "m", "object": "model" }] });
            let models = models.to_string();
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length";
            let answer = format!("{head}: {}\r\n\r\n{models}", models.len());
            stream.write_all(answer.as_bytes()).ok();
            continue;
        }
        posts.fetch_add(1, Ordering::Relaxed);
        let script = script.lock().clone();
        stream.write_all(&script.bytes).ok();
        if script.closes {
            return;
        }
    }
}

/// Reads a request and its body; returns its head.
fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.extend(byte);
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
    let mut body = vec![0; length.and_then(|length| length.parse().ok()).unwrap_or(0)];
    stream.read_exact(&mut body).ok()?;
    Some(head.to_uppercase())
}

fn pair() -> (Odd, Gateway) {
    let odd = Odd::start();
    let gateway = gateway()
        .upstream_with("odd", &format!("http://{}", odd.address), "slots: 1, kind: openai")
        // its failures are what is looked at, so it is not taken out for them
        .config("health: { interval: 200ms, timeout: 1s, fall: 100, rise: 1 }")
        .start();
    (odd, gateway)
}

fn ask(gateway: &Gateway) -> Answer {
    let body = json!({ "model": "m", "messages": [{ "role": "user", "content": "Why?" }] });
    gateway.post("/v1/chat/completions", &body).key(gateway.key("admin")).send()
}

const JSON: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";

#[test]
fn an_answer_that_is_none_becomes_a_502() {
    let (odd, gateway) = pair();
    let cases: [(Vec<u8>, bool); 9] = [
        (b"".to_vec(), true),
        (b"HTP/9.9 whatever\r\n\r\n".to_vec(), true),
        (b"\x16\x03\x01\x00\x00".to_vec(), true),
        (b"HTTP/1.1 200 OK\r\nContent-Le".to_vec(), true),
        (format!("{JSON}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{{}}x").into(), true),
        (format!("{JSON}Content-Length: x\r\n\r\n{{}}").into(), true),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n".to_vec(), false),
        (b"HTTP/1.1 307 Temporary Redirect\r\nLocation: http://evil.example/\r\nContent-Length: 0\r\n\r\n".to_vec(), false),
        (format!("{JSON}X: {}\r\nContent-Length: 2\r\n\r\n{{}}", "x".repeat(2 << 20)).into(), true),
    ];
    for (bytes, closes) in cases {
        let what = String::from_utf8_lossy(&bytes).chars().take(60).collect::<String>();
        odd.answers(bytes, closes);
        let answer = ask(&gateway);
        assert_eq!(answer.status, 502, "{what:?}: {}", answer.text());
        assert!(answer.detail().starts_with("Upstream 'odd' "), "{what:?}: {}", answer.detail());
        assert_eq!(answer.header("location"), None);
        odd.answers(format!("{JSON}Content-Length: 2\r\n\r\n{{}}"), false);
        assert_eq!(ask(&gateway).text(), "{}", "the next request, after {what:?}");
    }
    // it may be a piece of somebody's answer
    let log = gateway.stop();
    let quoted = log.iter().find(|line| line.contains("HTP/9.9") || line.contains("whatever"));
    assert_eq!(quoted, None, "what could not be read is in the log");
}

#[test]
fn what_comes_behind_an_answer_is_nobodys() {
    let (odd, gateway) = pair();
    let smuggled = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nWRONG";
    for framing in
        ["Content-Length: 2\r\n\r\n{}", "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"]
    {
        odd.answers(format!("{JSON}{framing}{smuggled}"), false);
        for _ in 0..3 {
            let answer = ask(&gateway);
            assert_eq!((answer.status, answer.text().as_str()), (200, "{}"), "{framing}");
        }
    }
    assert_eq!(odd.posts.load(Ordering::Relaxed), 6);
}

#[test]
fn odd_framing_is_made_sound_or_refused() {
    let (odd, gateway) = pair();
    for (bytes, closes) in [
        (
            format!(
                "{JSON}Content-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n"
            ),
            true,
        ),
        (format!("{JSON}\r\n{{}}"), true),
        ("HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{}".to_owned(), true),
        (
            format!(
                "{}{JSON}Content-Length: 2\r\n\r\n{{}}",
                "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n".repeat(20)
            ),
            false,
        ),
    ] {
        odd.answers(bytes.clone(), closes);
        let answer = ask(&gateway);
        match answer.status {
            200 => assert_eq!((answer.text().as_str(), &answer.cut), ("{}", &None), "{bytes}"),
            status => assert_eq!(status, 502, "{bytes}: {}", answer.text()),
        }
    }
}

#[test]
fn half_an_answer_does_not_look_whole() {
    let (odd, gateway) = pair();
    for framing in [
        "Content-Length: 100\r\n\r\n{}",
        "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
        "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n5",
        "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\nzz\r\n",
    ] {
        odd.answers(format!("{JSON}{framing}"), true);
        let answer = ask(&gateway);
        assert_eq!(answer.status, 200, "{framing}");
        assert!(answer.cut.is_some(), "{framing}: {}", answer.text());
    }
}

#[test]
fn an_instance_may_say_no_without_a_body() {
    let (odd, gateway) = pair();
    for (status, line) in [(204, "204 No Content"), (400, "400 Bad Request"), (500, "500 Oh")] {
        odd.answers(format!("HTTP/1.1 {line}\r\nContent-Length: 0\r\n\r\n"), false);
        let answer = ask(&gateway);
        assert_eq!((answer.status, answer.text().as_str()), (status, ""));
        assert_eq!(answer.cut, None);
    }
}

#[test]
fn a_busy_instance_sends_nobody_away_for_long() {
    let (odd, gateway) = pair();
    let busy = "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nRetry-After";
    for (told, heard) in [
        ("9999", "60"),
        ("0", "1"),
        ("30", "30"),
        ("Wed, 21 Oct 2065 07:28:00 GMT", "60"),
        ("soon", "60"),
    ] {
        odd.answers(format!("{busy}: {told}\r\n\r\n"), false);
        let answer = ask(&gateway);
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some(heard)), "{told}");
    }
}
