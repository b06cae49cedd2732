//! Attempts to log in, counted by all gateways together.

use std::time::{Duration, Instant};

use super::*;
use crate::support::redis::{Redis, redis};

/// Two gateways with the usual limit: five in any minute.
struct Pair {
    redis: Redis,
    gateways: [Gateway; 2],
    _sim: Sim,
}

impl Pair {
    fn new() -> Self {
        let (redis, database, sim) = (redis(&[]), database(), quick());
        let first = member(&sim, &database, &redis.url()).start();
        let second = member(&sim, &database, &redis.url()).joins(&first).start();
        until_shared(&first);
        until_shared(&second);
        Self { redis, gateways: [first, second], _sim: sim }
    }

    /// Tries to log in; says whether that was within the limit.
    fn tries(&self, gateway: usize) -> bool {
        let body = serde_json::json!({ "username": "nobody", "password": "nothing at all" });
        let answer = self.gateways[gateway].post("/auth/login", &body).send();
        match answer.status {
            401 => true,
            429 => {
                let wait = answer.header("retry-after").and_then(|wait| wait.parse::<u64>().ok());
                assert!(wait.is_some_and(|wait| (1..=61).contains(&wait)), "{wait:?}");
                false
            }
            other => panic!("{other}: {}", answer.text()),
        }
    }
}

#[test]
fn five_in_a_minute_are_five_at_both_gateways_together() {
    let pair = Pair::new();
    let since = Instant::now();
    let outcomes: Vec<bool> = (0..12).map(|n| pair.tries(n % 2)).collect();
    assert!(since.elapsed() < Duration::from_secs(55), "the machine is too slow for this test");
    let expected: Vec<bool> = (0..12).map(|n| n < 5).collect();
    assert_eq!(outcomes, expected);
}

#[test]
fn many_at_once_get_five_and_not_one_more() {
    let pair = Pair::new();
    let allowed = std::sync::atomic::AtomicU32::new(0);
    std::thread::scope(|scope| {
        for n in 0..16 {
            let (pair, allowed) = (&pair, &allowed);
            scope.spawn(move || {
                if pair.tries(n % 2) {
                    allowed.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                }
            });
        }
    });
    assert_eq!(allowed.into_inner(), 5);
}

#[test]
fn what_redis_forgets_the_gateways_know() {
    let pair = Pair::new();
    assert_eq!([0, 0, 1].map(|gateway| pair.tries(gateway)), [true; 3]);
    pair.redis.ask(&["FLUSHALL"]);
    assert!(pair.tries(0), "the fourth");
    // the second gateway's one, the first's three that it tells again, and this
    assert!(pair.tries(1), "the fifth");
    assert_eq!([0, 1, 0, 1].map(|gateway| pair.tries(gateway)), [false; 4]);
}

#[test]
fn without_redis_each_gateway_counts_by_itself_and_is_never_open() {
    let mut pair = Pair::new();
    assert_eq!([0, 0, 0].map(|gateway| pair.tries(gateway)), [true; 3]);
    pair.redis.kill();
    pair.gateways.iter().for_each(until_alone);
    let allowed = |gateway| (0..10).filter(|_| pair.tries(gateway)).count();
    assert_eq!(allowed(0), 2, "what was tried with it counts");
    assert_eq!(allowed(1), 5);
    pair.redis.restart();
    pair.gateways.iter().for_each(until_shared);
    assert_eq!([0, 1].map(|gateway| pair.tries(gateway)), [false; 2]);
}

#[test]
fn whoever_deletes_or_spoils_counters_gets_no_more_than_each_gateway_gives_by_itself() {
    let pair = Pair::new();
    let mut allowed = [0, 0];
    for round in 0..30 {
        for name in pair.redis.names("usher:1:*:login:*") {
            match round % 3 {
                0 => pair.redis.ask(&["DEL", &name]),
                1 => pair.redis.ask(&["SET", &name, "of another kind"]),
                _ => pair.redis.ask(&["ZADD", &name, "inf", "from the future"]),
            };
        }
        allowed[round % 2] += usize::from(pair.tries(round % 2));
    }
    assert!(allowed.iter().all(|each| *each <= 5), "{allowed:?}");
}
