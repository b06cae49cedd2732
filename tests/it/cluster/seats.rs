//! What a user may hold at once, at all gateways together.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::*;
use crate::support::crowd::{question, whole};
use crate::support::http::Exchange;
use crate::support::redis::{Redis, redis};

/// Two gateways before one instance, which counts what it works on at once.
struct Pair {
    redis: Redis,
    sim: Sim,
    gateways: Vec<Gateway>,
}

impl Pair {
    fn new(concurrency: u32) -> Self {
        let (redis, database) = (redis(&[]), database());
        let sim = sim().args(&["--decode-rate", "200", "--decode-sharing", "0"]);
        let sim = sim.args(&["--slots", "64", "--prefill-rate", "1000000"]).holding("llama3.2");
        let sim = sim.start();
        let tier = format!("tiers: {{ lab: {{ concurrency: {concurrency}, requests: null }} }}");
        let with = || member(&sim, &database, &redis.url()).config(&tier);
        let first = with().user("ann", "lab").start();
        let second = with().joins(&first).start();
        until_shared(&first);
        until_shared(&second);
        sim.reset();
        Self { redis, sim, gateways: vec![first, second] }
    }

    fn key(&self) -> &str {
        self.gateways.iter().find_map(|gateway| gateway.try_key("ann")).expect("a key")
    }

    /// Asks one gateway for a short answer, which has to come.
    fn ask(&self, gateway: usize) -> Duration {
        self.ask_with(self.key(), gateway)
    }

    fn ask_with(&self, key: &str, gateway: usize) -> Duration {
        let since = Instant::now();
        let gateway = &self.gateways[gateway];
        let answer = gateway.post("/api/chat", &whole(2)).key(key).send();
        assert_eq!(answer.status, 200, "{}", answer.text());
        since.elapsed()
    }

    /// Asks one gateway for an answer that takes longer than the test.
    fn hold(&self, gateway: usize) -> Exchange {
        self.gateways[gateway].post("/api/chat", &question(100_000)).key(self.key()).open()
    }

    fn until_at_work(&self, requests: u64) {
        self.sim.wait_for("slots_in_use", requests);
    }
}

#[test]
fn a_user_never_holds_more_than_the_limit_at_two_gateways_together_and_all_are_served() {
    let pair = Pair::new(3);
    let served = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for client in 0..12 {
            let (pair, served) = (&pair, &served);
            scope.spawn(move || {
                for round in 0..8 {
                    pair.ask((client + round) % 2);
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(served.load(Ordering::Relaxed), 96, "the rest waited for their turn");
    assert_eq!(pair.sim.counter("max_concurrent"), 3, "never more, and no fewer");
}

#[test]
fn a_key_with_a_limit_of_its_own_keeps_it_at_two_gateways_together() {
    let pair = Pair::new(8);
    let arguments = ["--user", "ann", "--name", "narrow", "--concurrency", "2"];
    let made = pair.gateways[0].home().usher_json(&[&["keys", "create"], &arguments[..]].concat());
    let narrow = made["key"].as_str().expect("a key");
    std::thread::scope(|scope| {
        for client in 0..8 {
            let pair = &pair;
            scope.spawn(move || {
                for round in 0..6 {
                    pair.ask_with(narrow, (client + round) % 2);
                }
            });
        }
    });
    assert_eq!(pair.sim.counter("max_concurrent"), 2, "never more, and no fewer");
    let body = question(100_000);
    let hold = |at: usize| pair.gateways[at].post("/api/chat", &body).key(narrow).open();
    let held = [0, 1].map(hold);
    pair.until_at_work(2);
    pair.ask(0);
    assert_eq!(pair.sim.counter("max_concurrent"), 3, "its user may hold more through others");
    drop(held);
}

#[test]
fn what_one_gateway_has_and_does_not_use_the_other_gets_within_a_moment() {
    let pair = Pair::new(1);
    pair.ask(0);
    let mut slowest = Duration::ZERO;
    for round in 1..40 {
        slowest = slowest.max(pair.ask(round % 2));
    }
    eprintln!("the slowest of 39 handovers with its answer: {} ms", slowest.as_millis());
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    assert_eq!(pair.sim.counter("max_concurrent"), 1);
}

#[test]
fn who_has_room_left_asks_redis_for_nothing() {
    let pair = Pair::new(4);
    pair.ask(0);
    let calls = || {
        let stats = pair.redis.ask(&["INFO", "commandstats"]);
        let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
        let count = line.and_then(|line| line.split(',').next()?.parse::<u64>().ok());
        count.unwrap_or(0)
    };
    let (before, begun) = (calls(), Instant::now());
    for _ in 0..60 {
        pair.ask(0);
    }
    // what is held is told again every third second, by either; reads are a quota of their own
    let bound = 6 + 4 * begun.elapsed().as_secs();
    assert!(calls() - before <= bound, "{} of {bound}", calls() - before);
}

#[test]
fn what_a_dead_gateway_held_is_free_again_after_a_while() {
    let mut pair = Pair::new(2);
    let key = pair.key().to_owned();
    let held = [pair.hold(0), pair.hold(0)];
    pair.until_at_work(2);
    let dead = pair.gateways.remove(0);
    dead.signal("KILL");
    let since = Instant::now();
    drop((held, dead));
    pair.until_at_work(0);
    let other = &pair.gateways[0];
    let answer = other.post("/api/chat", &whole(2)).key(&key).send();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let took = since.elapsed();
    eprintln!("free after a death: {} ms", took.as_millis());
    assert!(took < Duration::from_secs(20), "{took:?}");
}

#[test]
fn a_gateway_that_stops_leaves_what_it_held_to_others_at_once() {
    let mut pair = Pair::new(1);
    let key = pair.key().to_owned();
    pair.ask(0);
    pair.gateways.remove(0).stop();
    let since = Instant::now();
    let answer = pair.gateways[0].post("/api/chat", &whole(2)).key(&key).send();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
}

#[test]
fn without_redis_each_gateway_gives_what_a_user_may_hold_and_with_it_again_both_together() {
    let mut pair = Pair::new(1);
    let first = pair.hold(0);
    pair.until_at_work(1);
    pair.redis.kill();
    pair.gateways.iter().for_each(until_alone);
    let second = pair.hold(1);
    pair.until_at_work(2);
    pair.redis.restart();
    pair.gateways.iter().for_each(until_shared);
    let told = |holders: &str| {
        let names = pair.redis.names("usher:1:*:seats:user:*");
        names.first().is_some_and(|name| pair.redis.ask(&["HLEN", name]) == holders)
    };
    eventually("each has told what it holds", || told("2"));
    first.leave();
    pair.until_at_work(1);
    let body = question(100_000);
    let third = pair.gateways[0].post("/api/chat", &body).key(pair.key()).start();
    let waits = || pair.gateways[0].get("/admin/upstreams").key(pair.gateways[0].key("admin"));
    eventually("it waits, though its own gateway serves nobody", || {
        waits().send().text().contains(r#""waiting":1"#)
    });
    assert_eq!(pair.sim.counter("slots_in_use"), 1);
    second.leave();
    pair.until_at_work(1);
    eventually("now it is served", || waits().send().text().contains(r#""waiting":0"#));
    drop(third);
}
