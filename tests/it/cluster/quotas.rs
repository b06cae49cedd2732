//! Limits that hold for all gateways together.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::*;
use crate::support::crowd::whole;
use crate::support::redis::{Redis, redis};

/// Two gateways with a tier of this many requests, and a user of it.
struct Pair {
    redis: Redis,
    gateways: [Gateway; 2],
    _sims: [Sim; 2],
}

impl Pair {
    fn new(limits: &str) -> Self {
        let (redis, database) = (redis(&[]), database());
        let sims = [quick(), quick()];
        let tier = format!("tiers: {{ lab: {{ {limits}, concurrency: 100 }} }}");
        let with = |sim| member(sim, &database, &redis.url()).config(&tier);
        let first = with(&sims[0]).user("ann", "lab").start();
        let second = with(&sims[1]).joins(&first).start();
        let pair = Self { redis, gateways: [first, second], _sims: sims };
        pair.until_shared();
        pair
    }

    fn until_shared(&self) {
        self.gateways.iter().for_each(until_shared);
    }

    /// Asks for inference; says whether it was within the limits.
    fn asks(&self, gateway: usize) -> bool {
        let gateway = &self.gateways[gateway];
        let answer = gateway.post("/api/chat", &whole(1)).key(self.gateways[0].key("ann")).send();
        assert!(matches!(answer.status, 200 | 429), "{}", answer.text());
        answer.status == 200
    }

    /// How many of so many requests are within the limits.
    fn accepted(&self, gateway: usize, requests: usize) -> usize {
        (0..requests).filter(|_| self.asks(gateway)).count()
    }

    /// Waits until what is on the board adds up to this.
    fn until_told(&self, used: u64) {
        eventually(&format!("the board says {used}"), || {
            let names = self.redis.names("usher:1:*:quota:requests:user:*");
            let fields = names.first().map(|name| self.redis.ask(&["HGETALL", name]));
            let fields = fields.unwrap_or_default();
            let lines: Vec<&str> = fields.lines().collect();
            let used_by = |pair: &[&str]| match pair {
                [field, value] if !field.starts_with("o|") => value.parse().unwrap_or(0),
                _ => 0,
            };
            lines.chunks(2).map(used_by).sum::<u64>() == used
        });
    }
}

#[test]
fn a_hundred_an_hour_is_a_hundred_in_sum_under_twenty_clients() {
    let pair = Pair::new("requests: 100/h");
    let accepted = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for client in 0..20 {
            let (pair, accepted) = (&pair, &accepted);
            scope.spawn(move || {
                eventually("a hundred were accepted", || {
                    if pair.asks(client % 2) {
                        accepted.fetch_add(1, Ordering::SeqCst);
                    } else {
                        // what the other gateway leased and does not use comes back
                        std::thread::sleep(Duration::from_millis(50));
                    }
                    accepted.load(Ordering::SeqCst) >= 100
                });
            });
        }
    });
    assert_eq!(accepted.load(Ordering::SeqCst), 100, "not one more");
    assert_eq!((pair.accepted(0, 10), pair.accepted(1, 10)), (0, 0));
}

#[test]
fn an_account_with_quota_left_asks_redis_for_hardly_anything() {
    const REQUESTS: usize = 200;
    let pair = Pair::new("requests: 100k/h");
    let calls = || {
        let stats = pair.redis.ask(&["INFO", "commandstats"]);
        let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
        let count = line.and_then(|line| line.split(',').next()?.parse::<u64>().ok());
        count.unwrap_or(0)
    };
    let (before, begun) = (calls(), std::time::Instant::now());
    assert_eq!(pair.accepted(0, REQUESTS), REQUESTS);
    // a lease or two, and a report each second, for requests and for reads
    let bound = 10 + 4 * begun.elapsed().as_secs();
    assert!(calls() - before <= bound, "{} of {bound}", calls() - before);
}

#[test]
fn what_was_used_is_not_forgotten_when_redis_is_wiped() {
    let pair = Pair::new("requests: 10/h");
    assert_eq!(pair.accepted(0, 6), 6);
    pair.until_told(6);
    pair.redis.ask(&["FLUSHALL"]);
    pair.until_told(6);
    eventually("the other gateway has had the rest", || {
        pair.asks(1);
        !pair.asks(1)
    });
    pair.until_told(10);
    assert_eq!((pair.accepted(0, 5), pair.accepted(1, 5)), (0, 0));
}

#[test]
fn what_was_used_without_redis_counts_when_it_is_back() {
    let mut pair = Pair::new("requests: 10/h");
    pair.redis.kill();
    pair.gateways.iter().for_each(until_alone);
    assert_eq!(pair.accepted(0, 6), 6, "each goes on at the same rate");
    pair.redis.restart();
    pair.until_shared();
    pair.until_told(6);
    let mut accepted = 0;
    eventually("the other gateway has had the rest", || {
        let before = accepted;
        accepted += pair.accepted(1, 2);
        accepted == before
    });
    assert_eq!(accepted, 4);
}

#[test]
fn without_redis_each_gateway_keeps_the_limit() {
    let mut pair = Pair::new("requests: 10/h");
    assert_eq!(pair.accepted(0, 3), 3);
    pair.redis.kill();
    pair.gateways.iter().for_each(until_alone);
    assert_eq!(pair.accepted(0, 20), 7, "what was used with it counts");
    assert_eq!(pair.accepted(1, 20), 10, "and each is on its own");
}

#[test]
fn whoever_deletes_counters_gets_no_more_than_each_gateway_gives_by_itself() {
    let pair = Pair::new("requests: 10/h");
    let mut accepted = [0, 0];
    for round in 0..60 {
        for name in pair.redis.names("usher:1:*:quota:*") {
            pair.redis.ask(&["DEL", &name]);
        }
        accepted[round % 2] += usize::from(pair.asks(round % 2));
    }
    assert!(accepted.iter().all(|each| *each <= 10), "{accepted:?}");
}

#[test]
fn whoever_writes_counters_can_lock_out_and_no_more_than_that() {
    let pair = Pair::new("requests: 10/h");
    assert!(pair.asks(0));
    pair.until_told(1);
    let name = pair.redis.names("usher:1:*:quota:requests:user:*").remove(0);
    for (field, value) in
        [("o|x", "nonsense"), ("nonsense", "-5"), ("1e400|x", "-1e400"), ("|", "")]
    {
        pair.redis.ask(&["HSET", &name, field, value]);
    }
    let accepted = pair.accepted(0, 20) + pair.accepted(1, 20);
    assert!(accepted <= 19, "{accepted}");
    pair.redis.ask(&["SET", &name, "of another kind"]);
    let accepted = accepted + pair.accepted(0, 20) + pair.accepted(1, 20);
    assert!(accepted <= 19, "{accepted}");
}

#[test]
fn tokens_are_shared_too() {
    let pair = Pair::new("tokens: 1k/h");
    let left = |gateway: usize| {
        let gateway = &pair.gateways[gateway];
        let answer = gateway.post("/api/chat", &whole(20)).key(pair.gateways[0].key("ann")).send();
        let left = answer.header("x-ratelimit-remaining-tokens").expect("a header").to_owned();
        (answer.status, left.parse::<u64>().expect("a number"))
    };
    let mut used = 0;
    eventually("the first gateway has used it up", || {
        used += 1;
        left(0).0 == 429
    });
    assert!(used > 1);
    eventually("and the second has nothing left", || left(1).0 == 429);
}
