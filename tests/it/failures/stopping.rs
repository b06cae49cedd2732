//! SIGTERM, the drain, and a start without instances.

use std::time::Instant;

use serde_json::json;

use crate::support::crowd::{SOON, before, paced, question, whole};
use crate::support::eventually;
use crate::support::gateway::Gateway;
use crate::support::http::Exchange;

#[test]
fn a_stream_ends_well_before_the_gateway_does() {
    let sims = [paced(100, 1, &[])];
    let gateway = before(&sims, 1).start();
    let mut stream = begin(&gateway, 100);
    let idle = gateway.connect();
    gateway.signal("TERM");
    refuses_newcomers(&gateway);
    assert!(stream.chunk().is_some(), "the stream goes on");
    let answer = stream.rest();
    assert!(answer.cut.is_none(), "{:?}", answer.cut);
    assert_eq!(answer.lines().last().expect("lines")["done"], true);
    let ended = Instant::now();
    let (status, log) = gateway.wait();
    assert!(ended.elapsed() < 2 * SOON, "nothing was left to wait for: {:?}", ended.elapsed());
    assert_eq!(status.code(), Some(0));
    assert_last(&log, "stopped: in_flight=0 seats=0 waiting=0 body_bytes=0");
    drop(idle);
}

#[test]
fn who_waits_for_a_seat_when_it_is_told_to_stop_still_gets_one() {
    let sims = [paced(1000, 1, &[])];
    let gateway = before(&sims, 1).start();
    sims[0].turn(&json!({ "wedged": true }));
    let start = || gateway.post("/api/chat", &question(1)).key(gateway.key("ann")).start();
    let seated = start();
    sims[0].wait_for("slots_in_use", 1);
    let waiting = [start(), start()];
    // answered on a connection that came later: these are past the door
    assert_eq!(gateway.get("/api/tags").key(gateway.key("ann")).send().status, 200);
    gateway.signal("TERM");
    refuses_newcomers(&gateway);
    sims[0].turn(&json!({ "wedged": false }));
    for wire in std::iter::once(seated).chain(waiting) {
        assert_eq!(wire.exchange("POST").rest().status, 200);
    }
    let (status, log) = gateway.wait();
    assert_eq!(status.code(), Some(0));
    assert_last(&log, "stopped: in_flight=0 seats=0 waiting=0 body_bytes=0");
}

#[test]
fn a_second_signal_ends_it_at_once() {
    for second in ["TERM", "INT"] {
        let sims = [paced(100, 1, &[])];
        let gateway = before(&sims, 1).start();
        let stream = begin(&gateway, 100_000);
        gateway.signal("TERM");
        refuses_newcomers(&gateway);
        let asked = Instant::now();
        gateway.signal(second);
        let (status, log) = gateway.wait();
        assert!(asked.elapsed() < 2 * SOON, "{:?}", asked.elapsed());
        assert_eq!(status.code(), Some(0));
        assert!(log.iter().any(|line| line.contains("1 requests cut short")), "{}", log.join("\n"));
        assert!(stream.rest().cut.is_some(), "a stream that was cut has no clean end");
        let left = Instant::now();
        eventually("the instance is free", || sims[0].counter("slots_in_use") == 0);
        assert!(left.elapsed() < SOON);
    }
}

#[test]
fn what_outlives_the_drain_is_cut() {
    let sims = [paced(100, 1, &[])];
    let gateway = before(&sims, 1).config("timeouts: { drain: 200ms }").start();
    let stream = begin(&gateway, 100_000);
    let asked = Instant::now();
    gateway.signal("TERM");
    let (status, log) = gateway.wait();
    assert!(asked.elapsed() < 3 * SOON, "{:?}", asked.elapsed());
    assert_eq!(status.code(), Some(0));
    assert!(log.iter().any(|line| line.contains("1 requests cut short")), "{}", log.join("\n"));
    assert!(stream.rest().cut.is_some());
}

#[test]
fn without_an_instance_it_says_so_and_answers_503_until_one_appears() {
    let sims = [paced(1000, 1, &[])];
    sims[0].turn(&json!({ "refuse": true }));
    let gateway = before(&sims, 1).without_waiting().start();
    eventually("the log says it plainly", || {
        gateway.log().iter().any(|line| line.contains("upstream gpu0 does not answer yet: "))
    });
    let ask = || gateway.post("/api/chat", &whole(1)).key(gateway.key("ann")).send();
    let answer = ask();
    assert_eq!((answer.status, answer.detail().as_str()), (503, "No healthy upstream"));
    let wait: u64 = answer.header("retry-after").expect("when to come again").parse().expect("s");
    assert!((1..=60).contains(&wait));
    assert_eq!(gateway.get("/ready").send().status, 503);
    assert_eq!(gateway.get("/health").send().status, 200);
    let version = gateway.get("/api/version").key(gateway.key("ann")).send();
    assert_eq!(version.status, 503);
    sims[0].turn(&json!({ "refuse": false }));
    let back = Instant::now();
    eventually("it serves", || ask().status == 200);
    assert!(back.elapsed().as_secs() < 2, "{:?}", back.elapsed());
}

fn begin(gateway: &Gateway, tokens: u32) -> Exchange {
    let request = gateway.post("/api/chat", &question(tokens)).key(gateway.key("ann"));
    let mut stream = request.open();
    assert_eq!(stream.status, 200);
    stream.chunk().expect("a first chunk");
    stream
}

fn refuses_newcomers(gateway: &Gateway) {
    eventually("new connections are refused", || {
        std::net::TcpStream::connect(gateway.address()).is_err()
    });
}

fn assert_last(log: &[String], end: &str) {
    assert!(log.last().is_some_and(|line| line.ends_with(end)), "{}", log.join("\n"));
}
