use super::*;
use proptest::prelude::*;

fn fault(head: &str) -> Option<BadHead> {
    check(head.as_bytes()).err()
}

#[test]
fn ordinary_heads_pass() {
    let head = b"POST /api/chat?x=%zz HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n";
    assert_eq!(check(head), Ok(Some(3)), "the length of its body");
    let chunked = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(check(chunked), Ok(None));
    assert_eq!(check(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"), Ok(Some(0)));
    let longest = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 999999999999999999\r\n\r\n";
    assert_eq!(check(longest), Ok(Some(999_999_999_999_999_999)));
    assert_eq!(fault("GET / HTTP/1.0\r\n\r\n"), None, "HTTP/1.0 has no Host");
    assert_eq!(fault("GET / HTTP/1.1\r\nHost: a\r\nX-Name: caf\u{e9}\r\n\r\n"), None);
}

#[test]
fn each_way_to_smuggle_is_refused_by_name() {
    let post = |headers: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{headers}\r\n");
    for (head, expected) in [
        (post("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"), BadHead::ContentLength),
        (post("Content-Length: 1\r\nContent-Length: 1\r\n"), BadHead::ContentLength),
        (post("Content-Length: 1, 1\r\n"), BadHead::ContentLength),
        (post("Content-Length: +1\r\n"), BadHead::ContentLength),
        (post("Content-Length: \r\n"), BadHead::ContentLength),
        (post("Transfer-Encoding: gzip, chunked\r\n"), BadHead::TransferEncoding),
        (post("Transfer-Encoding: xchunked\r\n"), BadHead::TransferEncoding),
        (post("Content_Length: 1\r\n"), BadHead::HeaderName),
        (post("Content-Length : 1\r\n"), BadHead::HeaderName),
        (post(" folded: 1\r\n"), BadHead::HeaderName),
        (post("X: a\nY: b\r\n"), BadHead::LineEnd),
        (post("X: a\rY: b\r\n"), BadHead::LineEnd),
        (post("X:\r a\r\n"), BadHead::LineEnd),
        (post("X: a \r\r\n"), BadHead::LineEnd),
        (post("X: a\x0c\r\n"), BadHead::Syntax),
        (post("X: \0\r\n"), BadHead::Syntax),
        (post("X\r\n"), BadHead::Syntax),
        (post("Host: b\r\n"), BadHead::Host),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), BadHead::Host),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n".to_owned(), BadHead::Host),
        ("GET http://a/api/pull HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), BadHead::Target),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), BadHead::Target),
        ("CONNECT /api/pull HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), BadHead::Target),
        ("GET /api/tags#x HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), BadHead::Target),
        ("GET / HTTP/1.1\r\nHost: a@b\r\n\r\n".to_owned(), BadHead::HostName),
        ("GET / HTTP/1.1\r\nHost: a/#@b\r\n\r\n".to_owned(), BadHead::HostName),
        (post("Connection: close, Host\r\n"), BadHead::Connection),
        (post("Connection: \"x-forwarded-for\"\r\n"), BadHead::Connection),
        (post(&"Connection: a,b,c,d,e\r\n".repeat(2)), BadHead::Connection),
        ("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), BadHead::Syntax),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n".to_owned(), BadHead::Version),
        ("GET /\r\n\r\n".to_owned(), BadHead::Syntax),
        (
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
            BadHead::TransferEncoding,
        ),
    ] {
        assert_eq!(fault(&head), Some(expected), "{head:?}");
    }
}

#[test]
fn of_a_refused_head_a_glance_shows_what_can_be_read() {
    assert_eq!(glance(b"HEAD * HTTP/1.1\r\n\r\n"), Line { method: "HEAD", path: "" });
    assert_eq!(glance(b"GET /a?b HTTP/9.9\r\n"), Line { method: "GET", path: "/a" });
    assert_eq!(glance(b"\x16\x03\x01"), Line { method: "", path: "" });
}

#[test]
fn a_line_feed_alone_is_seen_before_the_end_of_the_head() {
    for (head, bare) in [
        (&b"GET / HTTP/1.1\r\nA: b\r"[..], false),
        (b"GET / HTTP/1.1\r\n", false),
        (b"GET / HTTP/1.1", false),
        (b"GET / HTTP/1.1\nHost: a\n\n", true),
        (b"GET / HTTP/1.1\r\nHost: a\n", true),
        (b"\n", true),
    ] {
        assert_eq!(has_bare_feed(head), bare, "{head:?}");
    }
}

#[test]
fn of_a_refused_head_the_id_is_known_if_there_is_one() {
    let of = |lines: &str| {
        let head = format!("GET / HTTP/1.1\r\n{lines}");
        request_id(head.as_bytes()).map(<[u8]>::to_vec)
    };
    for lines in ["X-Request-Id: a-1\r\n\r\n", "A: b\nx-request-id:a-1 \nC", "X-REQUEST-ID:\ta-1"] {
        assert_eq!(of(lines).as_deref(), Some(&b"a-1"[..]), "{lines:?}");
    }
    for lines in ["", "\r\nX-Request-Id: a\r\n", "X-Request-Id : a\r\n", "X-Request-Idx: a\r\n"] {
        assert_eq!(of(lines), None, "{lines:?}");
    }
    assert_eq!(of("X-Request-Id: a\r\nx-request-id: b\r\n"), None, "which of them?");
}

#[test]
fn a_head_that_asks_for_an_upgrade_is_known() {
    for (lines, asks) in [
        ("Upgrade: h2c\r\n", true),
        ("upgrade:x\r\n", true),
        ("Upgrade-Insecure-Requests: 1\r\n", false),
        ("X: upgrade: y\r\n", false),
    ] {
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
        assert_eq!(asks_for_upgrade(head.as_bytes()), asks, "{lines}");
    }
}

#[test]
fn a_head_of_a_thousand_headers_is_refused() {
    let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: 1\r\n".repeat(1000));
    assert_eq!(fault(&head), Some(BadHead::TooMany));
}

#[test]
fn fields_of_http_2_are_held_to_the_same_bounds() {
    let fields = |names: &[&'static str], value: &str| {
        let name = |name: &&'static str| http::HeaderName::from_static(name);
        let value = http::HeaderValue::from_str(value).unwrap();
        names.iter().map(|it| (name(it), value.clone())).collect::<HeaderMap>()
    };
    let check = |headers: &HeaderMap| check_fields(b"/health", headers, 100);
    assert_eq!(check(&fields(&["x-a", "content-type"], "b_c")), Ok(()));
    assert_eq!(check(&fields(&["x"], &"y".repeat(92))), Ok(()), "7 + 1 + 92");
    assert_eq!(check(&fields(&["x"], &"y".repeat(93))), Err(BadHead::TooLarge));
    for twin in ["x_forwarded_for", "content_length", "x.y", "x!"] {
        assert_eq!(check(&fields(&[twin], "1")), Err(BadHead::HeaderName), "{twin}");
    }
    let mut many = HeaderMap::new();
    for _ in 0..=MOST_HEADERS {
        many.append("x", http::HeaderValue::from_static(""));
    }
    assert_eq!(check_fields(b"/", &many, 1000), Err(BadHead::TooMany));
}

#[test]
fn no_byte_is_overlooked() {
    for byte in 0..=u8::MAX {
        let in_name = byte.is_ascii_alphanumeric() || byte == b'-';
        assert_eq!(is_name(&[b'a', byte]), in_name, "{byte}");
        let in_value = matches!(byte, b'\t' | 0x20..=0x7e | 0x80..);
        assert_eq!(is_value(&[&[b'a'; 40][..], &[byte]].concat()), in_value, "{byte}");
    }
}

#[test]
fn no_lone_line_end_passes_wherever_it_stands() {
    let head = b"POST /a?b=c HTTP/1.1\r\nHost: a:1\r\nX-Y: \tz \r\nContent-Length: 3\r\n\r\n";
    assert!(check(head).is_ok());
    for at in 0..head.len() {
        for byte in *b"\r\n" {
            let mut odd = head.to_vec();
            odd.insert(at, byte);
            assert_eq!(check(&odd), Err(BadHead::LineEnd), "{:?}", str::from_utf8(&odd));
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_judged_without_panic(head in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = check(&head);
        let _ = glance(&head);
        let _ = request_id(&head);
    }
}
