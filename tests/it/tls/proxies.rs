//! Behind balancers and proxies: whose address is it?

use std::net::SocketAddr;
use std::time::Duration;

use super::clients::{curl, idle, run_curl};
use super::h2::connect_behind;
use super::{House, Identity};
use crate::support::eventually;
use crate::support::gateway::{Gateway, gateway};
use crate::support::http::Wire;

/// A gateway with a listener for these balancers alone.
fn behind(balancers: &str, further: &str) -> Gateway {
    gateway()
        .upstream("one", "http://127.0.0.1:9")
        .listener(&format!("proxy_protocol: [{balancers}]"))
        .config(further)
        .without_waiting()
        .start()
}

/// Asks after health on a new connection, behind these bytes; the status and who it was for.
fn ask(gateway: &Gateway, address: SocketAddr, before: &[u8], id: &str) -> (u16, String) {
    let mut wire = Wire::connect(address);
    let request = format!("GET /health HTTP/1.1\r\nHost: a\r\nX-Request-Id: {id}\r\n\r\n");
    wire.send([before, request.as_bytes()].concat());
    let status = wire.answer("GET").status;
    (status, gateway.access_line(id)["client"].as_str().unwrap().to_owned())
}

/// Version 2's header for a client at 198.51.100.7, or a balancer's own check.
fn version_2(command: u8) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    bytes.extend([0x20 | command, 0x11, 0, 15]);
    bytes.extend([198, 51, 100, 7, 127, 0, 0, 1, 0x12, 0x67, 0x1f, 0x90]);
    // a remark without content
    bytes.extend([4, 0, 0]);
    bytes
}

#[test]
fn a_listed_balancer_is_believed_in_both_versions() {
    let gateway = behind("127.0.0.0/8", "");
    let address = gateway.listener(0);
    for (id, header, client) in [
        ("one", &b"PROXY TCP4 198.51.100.7 127.0.0.1 4711 80\r\n"[..], "198.51.100.7"),
        ("six", b"PROXY TCP6 2001:db8::7 ::1 4711 80\r\n", "2001:db8::7"),
        ("mapped", b"PROXY TCP6 ::ffff:198.51.100.7 ::1 4711 80\r\n", "198.51.100.7"),
        ("unknown", b"PROXY UNKNOWN\r\n", "127.0.0.1"),
        ("two", &version_2(1), "198.51.100.7"),
        ("check", &version_2(0), "127.0.0.1"),
    ] {
        assert_eq!(ask(&gateway, address, header, id), (200, client.to_owned()), "{id}");
    }
    // a listener without balancers takes nobody's word
    let mut wire = gateway.connect();
    wire.send(
        "PROXY TCP4 198.51.100.7 127.0.0.1 4711 80\r\nGET /health HTTP/1.1\r\nHost: a\r\n\r\n",
    );
    assert_eq!(wire.answer("GET").status, 400);
}

#[test]
fn a_header_that_comes_in_pieces_is_waited_for_but_not_for_long() {
    let gateway = behind("127.0.0.1", "");
    let mut wire = Wire::connect(gateway.listener(0));
    let bytes = [&version_2(1)[..], b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
    for piece in bytes.chunks(5) {
        wire.send(piece);
    }
    assert_eq!(wire.answer("GET").status, 200);
    // 5 s, whatever dribbles in
    let mut slow = Wire::connect(gateway.listener(0));
    slow.send("PROXY TCP4 198.51.100.7");
    assert!(slow.closes_within(Duration::from_secs(15)));
}

#[test]
fn whoever_is_no_listed_balancer_is_turned_away() {
    let gateway = behind("10.0.0.0/8", "");
    for bytes in [&version_2(1)[..], b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"] {
        let mut wire = Wire::connect(gateway.listener(0));
        wire.try_send(bytes).ok();
        assert_eq!(wire.drain(Duration::from_secs(10)), b"");
    }
    let refused = |line: &String| {
        line.contains("connection_refused address=127.0.0.1 ")
            && line.contains("not a listed balancer")
    };
    eventually("it is told to the security log", || gateway.security_lines().iter().any(refused));
}

#[test]
fn a_balancer_that_brings_no_header_is_turned_away() {
    let gateway = behind("127.0.0.1", "");
    let junk = [&b"PROXY TCP4 "[..], &[b'9'; 200]].concat();
    for bytes in [&b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"[..], b"PROXY TCP5 a b 1 2\r\n", &junk]
    {
        let mut wire = Wire::connect(gateway.listener(0));
        wire.try_send(bytes).ok();
        assert_eq!(wire.drain(Duration::from_secs(10)), b"");
    }
}

#[test]
fn connections_are_counted_by_the_client_and_not_by_the_balancer() {
    let gateway = behind("127.0.0.1", "limits: { connections_per_ip: 1 }");
    let address = gateway.listener(0);
    let header = |last: u8| format!("PROXY TCP4 198.51.100.{last} 127.0.0.1 4711 80\r\n");
    let mut held = Wire::connect(address);
    held.send(header(7) + "GET /health HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(held.answer("GET").status, 200);
    assert_eq!(ask(&gateway, address, header(8).as_bytes(), "other").0, 200);
    let mut again = Wire::connect(address);
    again.send(header(7) + "GET /health HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(again.answer("GET").status, 429);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_balancer_may_stand_before_tls_and_http_2() {
    let identity = Identity::new();
    let house = House::with(|gateway| {
        gateway.listener(&format!("{}, proxy_protocol: [127.0.0.1]", identity.setting()))
    });
    let balanced = house.gateway.listener(1);
    for (id, header) in
        [("line", &b"PROXY TCP4 198.51.100.7 127.0.0.1 4711 443\r\n"[..]), ("bytes", &version_2(1))]
    {
        let mut client = connect_behind(header, balanced, &identity).await.ready().await.unwrap();
        let request = http::Request::get("https://localhost/health").header("x-request-id", id);
        let (answer, _) = client.send_request(request.body(()).unwrap(), true).unwrap();
        assert_eq!(answer.await.unwrap().status(), 200);
        assert_eq!(house.gateway.access_line(id)["client"], "198.51.100.7");
    }
    let url = format!("https://localhost:{}/health", balanced.port());
    let cert = identity.path("cert.pem").display().to_string();
    for version in ["--http1.1", "--http2"] {
        let answer = run_curl(&url, &[version, "--cacert", &cert, "--haproxy-protocol"]);
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_ne!(run_curl(&url, &[version, "--cacert", &cert]).status, 200);
    }
    // and nobody forgets the listener beside it
    assert_eq!(curl(&house, "/health", &["--http2"]).status, 200);
}

#[test]
fn x_forwarded_for_is_believed_of_trusted_proxies_alone() {
    let trusting = House::with(|gateway| {
        gateway.config("auth: { trusted_proxies: [127.0.0.0/8, 10.0.0.0/8] }\nlimits: { connections_per_ip: 1 }")
    });
    let wary = House::open();
    for (index, (lines, client)) in [
        (&["X-Forwarded-For: 198.51.100.7"][..], "198.51.100.7"),
        (&["X-Forwarded-For: 203.0.113.9, 198.51.100.7, 10.1.1.1"], "198.51.100.7"),
        (&["X-Forwarded-For: 198.51.100.7", "X-Forwarded-For: 10.1.1.1"], "198.51.100.7"),
        (&["X-Forwarded-For: 2001:db8::7"], "2001:db8::7"),
        (&["X-Forwarded-For: ::ffff:198.51.100.7"], "198.51.100.7"),
        (&["X-Forwarded-For: nonsense"], "127.0.0.1"),
        (&["Accept: */*"], "127.0.0.1"),
    ]
    .into_iter()
    .enumerate()
    {
        for (house, client) in [(&trusting, client), (&wary, "127.0.0.1")] {
            let id = format!("X-Request-Id: forwarded-{index}");
            let headers = lines.iter().flat_map(|line| ["-H", line]);
            let arguments: Vec<_> = ["--http2", "-H", &id].into_iter().chain(headers).collect();
            assert_eq!(curl(house, "/health", &arguments).status, 200);
            let line = house.gateway.access_line(&format!("forwarded-{index}"));
            assert_eq!(line["client"], client, "{lines:?}");
        }
    }
    // one proxy brings many clients
    let held = [(); 3].map(|()| idle(trusting.port(), "http/1.1"));
    assert_eq!(curl(&trusting, "/health", &[]).status, 200);
    drop(held);
}
