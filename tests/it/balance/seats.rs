//! How many at a time, in which order, and what those hear for whom there is no place.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{ask, ask_as, joined, retry_after};
use crate::support::crowd::{
    MODEL, all_up, before, ids_at, paced, question, stops_clean, whole, with,
};
use crate::support::eventually;
use crate::support::gateway::{Gateway, gateway};
use crate::support::http::Wire;
use crate::support::sim::Sim;

#[test]
fn never_more_than_slots_requests_are_in_flight_on_an_instance() {
    // the stand-ins would take more: it is the gateway that holds back
    let sims = [paced(500, 16, &[]), paced(500, 16, &[])];
    let gateway = before(&sims[..1], 2).upstream_with("gpu1", &sims[1].url(), "slots: 3").start();
    all_up(&gateway, 2);
    std::thread::scope(|scope| {
        let clients = (0..40).map(|_| scope.spawn(|| ask(&gateway, &question(10)))).collect();
        for answer in joined(clients) {
            assert_eq!((answer.status, answer.cut), (200, None));
        }
    });
    assert_eq!(sims[0].counter("max_concurrent"), 2);
    assert_eq!(sims[1].counter("max_concurrent"), 3);
    stops_clean(gateway);
}

#[test]
fn a_model_can_have_fewer_slots_than_its_instance() {
    let sims = [paced(500, 16, &[])];
    let gateway = gateway()
        .config("tiers: { wide: { concurrency: 1000, requests: null, reads: null } }")
        .user("ann", "wide")
        .upstream_with("gpu0", &sims[0].url(), "slots: 4, model_slots: { 'LLAMA3.2:latest': 1 }")
        .start();
    std::thread::scope(|scope| {
        let clients = (0..12).map(|_| scope.spawn(|| ask(&gateway, &question(10)))).collect();
        joined(clients).iter().for_each(|answer| assert_eq!(answer.status, 200));
    });
    assert_eq!(sims[0].counter("max_concurrent"), 1, "one at a time of this model");
    sims[0].turn(&json!({ "wedged": true }));
    let other = with(question(1), "model", json!("qwen3:8b"));
    let held: Vec<Wire> = [question(1), other.clone(), other.clone(), other]
        .iter()
        .map(|body| gateway.post("/api/chat", body).key(gateway.key("ann")).start())
        .collect();
    sims[0].wait_for("slots_in_use", 4);
    sims[0].turn(&json!({ "wedged": false }));
    held.into_iter().for_each(|wire| assert_eq!(wire.exchange("POST").rest().status, 200));
    stops_clean(gateway);
}

#[test]
fn the_queue_is_first_come_first_served() {
    const WAITING: usize = 8;
    let sims = [paced(1000, 1, &[])];
    let gateway = before(&sims, 1).start();
    let held = hold(&gateway, &sims[0]);
    let mut queue = Vec::new();
    for number in 0..WAITING {
        queue.push(waiting(&gateway, "ann", &format!("place-{number}")));
        settled(&gateway);
    }
    sims[0].turn(&json!({ "wedged": false }));
    for wire in std::iter::once(held).chain(queue) {
        assert_eq!(wire.exchange("POST").rest().status, 200);
    }
    let order: Vec<String> =
        ids_at(&sims[0]).into_iter().filter(|id| id.starts_with("place")).collect();
    let expected: Vec<String> = (0..WAITING).map(|number| format!("place-{number}")).collect();
    assert_eq!(order, expected);
    let queued = gateway.access_line("place-7")["queue_ms"].as_f64().expect("a number");
    assert!(queued > 0.0);
    stops_clean(gateway);
}

#[test]
fn when_the_queue_is_full_the_answer_is_503() {
    let sims = [paced(1000, 1, &[])];
    let gateway = before(&sims, 1).config("balance: { queue: 2 }").user("bob", "wide").start();
    let held = hold(&gateway, &sims[0]);
    let queue = full(&gateway, "The queue is full", 503);
    let refused = ask_as(&gateway, "bob", "one-too-many", &question(1));
    assert_eq!(refused.status, 503, "{}", refused.text());
    retry_after(&refused);
    assert_eq!(gateway.access_line("one-too-many")["outcome"], "queue_full");
    drop((held, queue));
    stops_clean(gateway);
}

#[test]
fn when_a_users_own_queue_is_full_the_answer_is_429_and_others_still_get_in() {
    let sims = [paced(1000, 1, &[])];
    let balance = "balance: { queue: 9, queue_per_user: 2 }";
    let gateway = before(&sims, 1).config(balance).user("bob", "wide").start();
    let held = hold(&gateway, &sims[0]);
    let queue = full(&gateway, "Too many requests waiting", 429);
    eventually("the security log tells it", || {
        let lines = gateway.security_lines();
        lines.iter().any(|line| line.contains("limited") && line.contains("requests waiting"))
    });
    let other = waiting(&gateway, "bob", "another");
    sims[0].turn(&json!({ "wedged": false }));
    assert_eq!(other.exchange("POST").rest().status, 200);
    drop((held, queue));
    stops_clean(gateway);
}

#[test]
fn who_has_waited_long_enough_hears_503() {
    let sims = [paced(1000, 1, &[])];
    let balance = "balance: { max_queue_wait: 300ms }";
    let gateway = before(&sims, 1).config(balance).user("bob", "hasty").start();
    let held = hold(&gateway, &sims[0]);
    for (user, at_least, below) in [("ann", 300, 5_000), ("bob", 20, 300)] {
        let begun = Instant::now();
        let refused = ask_as(&gateway, user, &format!("late-{user}"), &question(1));
        let waited = begun.elapsed();
        assert_eq!(refused.status, 503, "{}", refused.text());
        assert_eq!(refused.detail(), "No seat became free in time");
        retry_after(&refused);
        assert!(waited >= Duration::from_millis(at_least), "{user}: {waited:?}");
        let line = gateway.access_line(&format!("late-{user}"));
        assert_eq!(line["outcome"], "queue_timeout", "{line}");
        assert!(line["queue_ms"].as_f64() < Some(f64::from(below)), "{line}");
    }
    drop(held);
    stops_clean(gateway);
}

#[test]
fn a_user_holds_no_more_seats_than_the_tier_allows_and_others_pass_by() {
    let sims = [paced(1000, 3, &[])];
    let gateway = before(&sims, 3)
        .user("bob", "narrow")
        .user("eve", "wide")
        .key("eve", &["--concurrency", "1"])
        .start();
    for user in ["bob", "eve"] {
        sims[0].reset();
        sims[0].turn(&json!({ "wedged": true }));
        let first = waiting(&gateway, user, &format!("{user}-1"));
        sims[0].wait_for("slots_in_use", 1);
        let second = waiting(&gateway, user, &format!("{user}-2"));
        settled(&gateway);
        let other = waiting(&gateway, "ann", &format!("passes-{user}"));
        sims[0].wait_for("slots_in_use", 2);
        let at_work = ids_at(&sims[0]);
        assert_eq!(at_work, [format!("{user}-1"), format!("passes-{user}")]);
        sims[0].turn(&json!({ "wedged": false }));
        for wire in [first, second, other] {
            assert_eq!(wire.exchange("POST").rest().status, 200);
        }
    }
    stops_clean(gateway);
}

#[test]
fn a_key_that_holds_all_it_may_holds_up_none_of_its_users_other_keys() {
    let sims = [paced(1000, 4, &[])];
    let gateway = before(&sims, 4).user("eve", "wide").key("eve", &["--concurrency", "1"]).start();
    let made = gateway.home().usher_json(&["keys", "create", "--user", "eve", "--name", "other"]);
    let other = made["key"].as_str().expect("a key").to_owned();
    let through = |key: &str, id: &str| {
        let request = gateway.post("/api/chat", &question(1)).key(key);
        request.header("X-Request-Id", id).start()
    };
    let narrow = gateway.key("eve").to_owned();
    for (first, second, held_up, beside) in [
        // what waits for its own key is passed by
        (&narrow, &other, Some(&narrow), "other"),
        // what other keys hold is nothing to it
        (&other, &narrow, None, "narrow"),
    ] {
        sims[0].reset();
        sims[0].turn(&json!({ "wedged": true }));
        let mut wires = vec![through(first, "first")];
        sims[0].wait_for("slots_in_use", 1);
        wires.extend(held_up.map(|key| through(key, "held-up")));
        settled(&gateway);
        wires.push(through(second, beside));
        sims[0].wait_for("slots_in_use", 2);
        assert_eq!(ids_at(&sims[0]), ["first", beside]);
        sims[0].turn(&json!({ "wedged": false }));
        for wire in wires {
            assert_eq!(wire.exchange("POST").rest().status, 200);
        }
    }
    stops_clean(gateway);
}

#[test]
fn reading_routes_need_no_seat() {
    let sims = [paced(1000, 1, &[])];
    let gateway = before(&sims, 1).start();
    let held = hold(&gateway, &sims[0]);
    for path in ["/api/tags", "/api/ps", "/api/version", "/v1/models"] {
        assert_eq!(gateway.get(path).key(gateway.key("ann")).send().status, 200, "{path}");
    }
    let show = gateway.post("/api/show", &json!({ "model": MODEL })).key(gateway.key("ann"));
    assert_eq!(show.send().status, 200);
    drop(held);
    stops_clean(gateway);
}

#[test]
fn one_slow_user_among_many_requests_delays_nobody_for_ever() {
    let sims = [paced(1000, 1, &[])];
    let gateway = before(&sims, 1).user("bob", "narrow").start();
    std::thread::scope(|scope| {
        let crowd = (0..20).map(|_| scope.spawn(|| ask(&gateway, &whole(5)))).collect();
        let one = ask_as(&gateway, "bob", "patient", &whole(5));
        assert_eq!(one.status, 200);
        joined(crowd).iter().for_each(|answer| assert_eq!(answer.status, 200));
    });
    stops_clean(gateway);
}

/// A request that keeps the only slot until the instance is no longer wedged.
fn hold(gateway: &Gateway, sim: &Sim) -> Wire {
    sim.turn(&json!({ "wedged": true }));
    let wire = waiting(gateway, "ann", "holder");
    sim.wait_for("slots_in_use", 1);
    wire
}

fn waiting(gateway: &Gateway, user: &str, id: &str) -> Wire {
    let request = gateway.post("/api/chat", &question(1)).key(gateway.key(user));
    request.header("X-Request-Id", id).start()
}

/// Returns when what was sent before is in the queue. Nothing tells from outside; but a whole
/// exchange that began later is over, and the requests of a test come one by one.
fn settled(gateway: &Gateway) {
    for _ in 0..3 {
        assert_eq!(gateway.get("/api/tags").key(gateway.key("ann")).send().status, 200);
    }
}

/// Requests that fill ann's queue, until the next of hers hears that it is full.
fn full(gateway: &Gateway, detail: &str, status: u16) -> Vec<Wire> {
    let mut queue = Vec::new();
    eventually("the queue is full", || {
        let mut wire = waiting(gateway, "ann", "filler");
        let refused = !wire.drain(Duration::from_millis(50)).is_empty();
        if !refused {
            queue.push(wire);
        }
        refused
    });
    let next = ask(gateway, &question(1));
    assert_eq!((next.status, next.detail().as_str()), (status, detail));
    retry_after(&next);
    assert_eq!(queue.len(), 2);
    queue
}
