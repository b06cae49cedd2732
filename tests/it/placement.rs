//! Which instance works for whom, who waits, and what happens when instances fail.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::gateway::{Builder, Gateway, gateway};
use crate::support::http::{Answer, Request};
use crate::support::sim::{Sim, sim};
use crate::support::{chat, eventually};

#[test]
fn no_instance_ever_works_on_more_than_its_slots() {
    let (gateway, sims) = open::<3>("slots: 2", |it| it);
    let answers = all_at_once(40, |_| ask(&gateway, "admin"));
    assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
    let busiest: Vec<_> = sims.iter().map(|sim| sim.counter("max_concurrent")).collect();
    assert_eq!(busiest, [2, 2, 2], "all slots were used, and no more");
    assert_eq!(sims.iter().map(asked).sum::<usize>(), 40, "every request ran once");
}

#[test]
fn a_user_holds_only_as_many_seats_as_the_tier_says() {
    let (gateway, [sim]) = open::<1>("slots: 8", |it| it);
    let answers = all_at_once(12, |_| ask(&gateway, "ann"));
    assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
    assert_eq!(sim.counter("max_concurrent"), 2, "`free` has two seats");
}

#[test]
fn an_instance_that_has_the_model_in_memory_is_preferred() {
    let (gateway, sims) = open::<3>("slots: 2", |it| it);
    assert_eq!(sims[1].post("/api/chat", &chat("llama3.2")).send().status, 200);
    eventually("the gateway knows what is loaded", || {
        let ps = gateway.get("/api/ps").key(gateway.key("ann")).send().json();
        ps["models"].as_array().is_some_and(|models| models.len() == 1)
    });
    for _ in 0..5 {
        assert_eq!(upstream(&ask(&gateway, "ann").send()), "sim1");
    }
    assert_eq!(sims[0].counter("loads") + sims[2].counter("loads"), 0);
}

#[test]
fn requests_spread_by_what_is_in_flight_for_each_slot() {
    let sims = [start(), start()];
    let described = gateway().upstream_with("large", &sims[0].url(), "slots: 4").upstream_with(
        "small",
        &sims[1].url(),
        "slots: 2",
    );
    sims.iter()
        .for_each(|sim| assert_eq!(sim.post("/api/chat", &chat("llama3.2")).send().status, 200));
    let gateway = described.start();
    sims.iter().for_each(|sim| sim.turn(&json!({ "wedged": true })));
    let before = sims.each_ref().map(asked);
    let held: Vec<_> = (1..=6)
        .map(|count| {
            let wire = ask(&gateway, "admin").start();
            eventually("it is in flight", || {
                sims.iter().map(asked).sum::<usize>() == before.iter().sum::<usize>() + count
            });
            wire
        })
        .collect();
    let placed = [asked(&sims[0]) - before[0], asked(&sims[1]) - before[1]];
    assert_eq!(placed, [4, 2], "each has its share of {}", held.len());
}

#[test]
fn who_came_first_is_served_first() {
    let (gateway, [sim]) = open::<1>("slots: 1", |it| it);
    assert_eq!(ask(&gateway, "admin").send().status, 200);
    sim.reset();
    sim.turn(&json!({ "wedged": true }));
    let numbered = |number: usize| {
        let mut body = chat("llama3.2");
        body["messages"][0]["content"] = json!(format!("number {number}"));
        gateway.post("/api/chat", &body).key(gateway.key("admin")).start()
    };
    let mut waiting = Vec::new();
    for number in 0..8 {
        let wire = numbered(number);
        eventually("it was read", || wire.is_read());
        if number == 0 {
            eventually("the first has the seat", || asked(&sim) == 1);
        }
        waiting.push(wire);
    }
    sim.turn(&json!({ "wedged": false }));
    for mut wire in waiting {
        assert_eq!(wire.answer("POST").status, 200);
    }
    let bodies: Vec<_> =
        posts(&sim).into_iter().map(|post| post["body_head"].to_string()).collect();
    let order = (0..8).all(|number| bodies[number].contains(&format!("number {number}")));
    assert!(order, "{bodies:#?}");
}

#[test]
fn a_full_queue_refuses_at_once() {
    let (gateway, [sim]) = open::<1>("slots: 1", |it| it.config("balance: { queue: 2 }"));
    let (refused, served) = overcrowd(&gateway, &sim, "admin", 10, 7);
    for answer in refused {
        assert_eq!((answer.status, answer.detail().as_str()), (503, "The queue is full"));
        expect_retry_after(&answer);
    }
    assert!(served.iter().all(|answer| answer.status == 200), "{served:?}");
    assert_eq!(asked(&sim), 3, "none that was refused ever ran");
}

#[test]
fn one_users_queue_is_bounded_by_itself() {
    let (gateway, [sim]) = open::<1>("slots: 1", |it| it.config("balance: { queue_per_user: 2 }"));
    let (refused, served) = overcrowd(&gateway, &sim, "admin", 6, 3);
    for answer in refused {
        assert_eq!(answer.status, 429, "{}", answer.text());
        expect_retry_after(&answer);
    }
    assert!(served.iter().all(|answer| answer.status == 200), "{served:?}");
}

#[test]
fn who_waits_too_long_is_told_when_to_come_again() {
    let config = "balance: { max_queue_wait: 400ms }";
    let (gateway, [sim]) = open::<1>("slots: 1", |it| it.config(config));
    sim.turn(&json!({ "wedged": true }));
    let _first = ask(&gateway, "admin").start();
    eventually("the seat is taken", || asked(&sim) == 1);
    let begun = Instant::now();
    let answer = ask(&gateway, "admin").send();
    let took = begun.elapsed();
    assert_eq!(answer.status, 503, "{}", answer.text());
    expect_retry_after(&answer);
    assert!(took >= Duration::from_millis(400) && took < Duration::from_secs(2), "{took:?}");
    assert_eq!(asked(&sim), 1, "it never ran");
}

#[test]
fn an_instance_that_cannot_be_reached_costs_nobody_an_answer() {
    // probes come too late to help here
    let (gateway, mut sims) =
        open::<3>("slots: 2", |it| it.config("health: { interval: 1h, timeout: 1s }"));
    sims[0].kill();
    for _ in 0..9 {
        let answer = ask(&gateway, "admin").send();
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_ne!(upstream(&answer), "sim0");
    }
}

#[test]
fn an_instance_that_comes_back_is_used_again() {
    let (gateway, sims) = open::<2>("slots: 1", |it| it);
    sims[0].turn(&json!({ "refuse": true }));
    sims[0].cut();
    eventually("it is known to be down", || {
        gateway.log().iter().any(|line| line.contains("upstream sim0 is down"))
    });
    let before = asked(&sims[0]);
    for _ in 0..4 {
        assert_eq!(upstream(&ask(&gateway, "admin").send()), "sim1");
    }
    assert_eq!(asked(&sims[0]), before);
    sims[0].turn(&json!({ "refuse": false }));
    eventually("it works again", || {
        let answers = all_at_once(4, |_| ask(&gateway, "admin"));
        assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
        answers.iter().any(|answer| upstream(answer) == "sim0")
    });
}

#[test]
fn without_any_instance_the_gateway_says_so_until_one_appears() {
    let sim = start();
    sim.turn(&json!({ "refuse": true }));
    let gateway =
        gateway().upstream("late", &sim.url()).user("ann", "free").without_waiting().start();
    assert_eq!(gateway.get("/health").send().status, 200);
    assert_eq!(gateway.get("/ready").send().status, 503);
    let answer = ask(&gateway, "ann").send();
    assert_eq!((answer.status, answer.detail().as_str()), (503, "No healthy upstream"));
    expect_retry_after(&answer);
    assert!(gateway.log().iter().any(|line| line.contains("upstream late does not answer yet")));
    sim.turn(&json!({ "refuse": false }));
    eventually("it appeared", || gateway.get("/ready").send().status == 200);
    assert_eq!(ask(&gateway, "ann").send().status, 200);
}

#[test]
fn ollamas_own_503_is_tried_elsewhere_once_and_then_told() {
    let (gateway, sims) = open::<3>("slots: 2", |it| it);
    let busy = json!({ "path": "/api/chat", "kind": "status", "status": 503, "body": "{}" });
    sims.iter().for_each(|sim| sim.misbehave(&busy));
    let answer = ask(&gateway, "admin").send();
    assert_eq!(answer.status, 503, "{}", answer.text());
    expect_retry_after(&answer);
    assert_eq!(sims.iter().map(asked).sum::<usize>(), 2, "asked twice, not three times");
}

#[test]
fn a_pooled_connection_that_was_closed_costs_nobody_an_answer() {
    let (gateway, [sim]) = open::<1>("slots: 2", |it| it);
    for round in 0..6 {
        let answer = ask(&gateway, "admin").send();
        assert_eq!(answer.status, 200, "{round}: {}", answer.text());
        sim.cut();
    }
}

#[test]
fn what_an_instance_died_of_is_not_tried_on_another() {
    let (gateway, sims) = open::<2>("slots: 2", |it| it);
    for kind in ["close", "garbage"] {
        sims.iter().for_each(Sim::reset);
        let rule = json!({ "path": "/api/chat", "kind": kind });
        sims.iter().for_each(|sim| sim.misbehave(&rule));
        let answer = ask(&gateway, "admin").send();
        assert_eq!(answer.status, 502, "{kind}: {}", answer.text());
        let named = ["sim0", "sim1"].iter().any(|name| answer.detail().contains(name));
        assert!(named && !answer.text().contains("127.0.0.1"), "{}", answer.text());
        assert_eq!(sims.iter().map(asked).sum::<usize>(), 1, "{kind} was sent twice");
        sims.iter().for_each(Sim::behave);
    }
}

#[test]
fn an_instance_that_says_nothing_is_504_and_not_tried_again() {
    let config = "timeouts: { first_byte: 500ms }";
    let (gateway, sims) = open::<2>("slots: 2", |it| it.config(config));
    let hang = json!({ "path": "/api/chat", "kind": "hang" });
    sims.iter().for_each(|sim| sim.misbehave(&hang));
    let begun = Instant::now();
    let answer = ask(&gateway, "admin").send();
    let took = begun.elapsed();
    assert_eq!(answer.status, 504, "{}", answer.text());
    assert!(took >= Duration::from_millis(500) && took < Duration::from_secs(3), "{took:?}");
    assert_eq!(sims.iter().map(asked).sum::<usize>(), 1, "it was sent twice");
}

#[test]
fn a_crash_under_load_costs_only_the_requests_that_it_was_working_on() {
    let (gateway, mut sims) = open::<3>("slots: 2", |it| it);
    let (sender, receiver) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..16 {
            let (sender, gateway) = (sender.clone(), &gateway);
            scope.spawn(move || {
                for _ in 0..8 {
                    sender.send(streamed(gateway).send()).expect("somebody listens");
                }
            });
        }
        eventually("it is busy", || sims[1].counter("decoding") == 2);
        sims[1].kill();
    });
    drop(sender);
    let answers: Vec<_> = receiver.iter().collect();
    assert_eq!(answers.len(), 128);
    let lost: Vec<_> = answers
        .iter()
        .filter(|answer| answer.status != 200 || answer.cut.is_some())
        .map(|answer| {
            let last = answer.text().lines().last().unwrap_or_default().to_owned();
            format!("{} {:?} {last}", answer.status, answer.cut)
        })
        .collect();
    assert!(lost.len() <= 2, "two were in work, and more were lost: {lost:#?}");
    assert!(lost.iter().all(|told| told.contains("sim1")), "{lost:#?}");
}

fn open<const N: usize>(
    settings: &str,
    more: impl FnOnce(Builder) -> Builder,
) -> (Gateway, [Sim; N]) {
    let sims: [Sim; N] = std::array::from_fn(|_| start());
    let mut described = gateway().user("ann", "free");
    for (index, sim) in sims.iter().enumerate() {
        described = described.upstream_with(&format!("sim{index}"), &sim.url(), settings);
    }
    let gateway = more(described).start();
    eventually("every instance is up", || {
        let up = |line: &&String| line.contains("upstream sim") && line.contains(" is up");
        gateway.log().iter().filter(up).count() == N
    });
    (gateway, sims)
}

/// An instance that would work on more than any test here lets it, each answer some 25 ms long.
fn start() -> Sim {
    sim().args(&["--speed", "50", "--slots", "16", "--decode-sharing", "0"]).start()
}

fn ask(gateway: &Gateway, user: &str) -> Request {
    gateway.post("/api/chat", &chat("llama3.2")).key(gateway.key(user))
}

fn streamed(gateway: &Gateway) -> Request {
    let mut body = chat("llama3.2");
    body["stream"] = json!(true);
    gateway.post("/api/chat", &body).key(gateway.key("admin"))
}

fn all_at_once(count: usize, request: impl Fn(usize) -> Request) -> Vec<Answer> {
    thread::scope(|scope| {
        let running: Vec<_> = (0..count)
            .map(|number| {
                let request = request(number);
                scope.spawn(move || request.send())
            })
            .collect();
        running.into_iter().map(|thread| thread.join().expect("it has its answer")).collect()
    })
}

/// Sends `count` requests to an instance that stands still until `refusals` are answered.
fn overcrowd(
    gateway: &Gateway,
    sim: &Sim,
    user: &str,
    count: usize,
    refusals: usize,
) -> (Vec<Answer>, Vec<Answer>) {
    sim.turn(&json!({ "wedged": true }));
    let (sender, receiver) = mpsc::channel();
    for _ in 0..count {
        let (sender, request) = (sender.clone(), ask(gateway, user));
        thread::spawn(move || sender.send(request.send()));
    }
    drop(sender);
    let refused = receiver.iter().take(refusals).collect();
    sim.turn(&json!({ "wedged": false }));
    (refused, receiver.iter().collect())
}

fn upstream(answer: &Answer) -> &str {
    answer.header("x-usher-upstream").unwrap_or_else(|| panic!("{answer:?} names no instance"))
}

fn expect_retry_after(answer: &Answer) {
    let seconds = answer.header("retry-after").and_then(|value| value.parse::<u64>().ok());
    assert!(seconds.is_some_and(|seconds| (1..=60).contains(&seconds)), "{seconds:?}");
}

/// Questions that an instance was asked.
fn posts(sim: &Sim) -> Vec<Value> {
    sim.requests().into_iter().filter(|request| request["method"] == "POST").collect()
}

fn asked(sim: &Sim) -> usize {
    posts(sim).len()
}
