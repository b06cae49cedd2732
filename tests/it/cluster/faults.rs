//! Redis fails in every way it can: nobody with a good key notices, nobody with a bad one gets in.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::*;
use crate::support::proxy::{Fault, Proxy};
use crate::support::redis::{Redis, redis};

/// A key that looks like one of ours and is nobody's.
const NOBODY: &str = "some-key-of-another-system";

/// Asks with good and bad keys, known and new ones, while `harm` is done; all get what they should.
fn nobody_notices(gateway: &Gateway, harm: impl FnOnce()) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    assert_eq!(tags(gateway, gateway.key("ann")).status, 200);
                    assert_eq!(tags(gateway, NOBODY).status, 401);
                    std::thread::sleep(Duration::from_millis(5));
                }
            });
        }
        // every change ends what is remembered, so that keys are looked up again
        scope.spawn(|| {
            for round in 0.. {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                let (key, _) = new_key(gateway, "ann", &format!("during {round}"));
                eventually("a new key is known", || match tags(gateway, &key).status {
                    200 => true,
                    // whoever asked a moment too early is remembered as nobody for a moment
                    status => {
                        assert_eq!(status, 401);
                        false
                    }
                });
            }
        });
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(harm));
        over.store(true, Ordering::Relaxed);
        done.expect("the harm was done");
    });
}

fn alone_and_back(gateway: &Gateway, harm: impl FnOnce(), repair: impl FnOnce()) {
    until_shared(gateway);
    let before = comings_and_goings(gateway);
    nobody_notices(gateway, || {
        harm();
        until_alone(gateway);
        repair();
        until_shared(gateway);
    });
    said(gateway, (before.0 + 1, before.1 + 1));
}

/// The log comes a moment after what it tells of.
fn said(gateway: &Gateway, times: (usize, usize)) {
    eventually("each is said once", || comings_and_goings(gateway) == times);
}

fn with(redis: &Redis, timeout: &str) -> (Sim, Gateway) {
    before(&redis.url(), timeout)
}

fn before(url: &str, timeout: &str) -> (Sim, Gateway) {
    let sim = quick();
    let gateway = impatient_member(&sim, &database(), url, timeout).user("ann", "free").start();
    (sim, gateway)
}

#[test]
fn redis_that_dies_and_comes_back_empty_is_done_without() {
    let mut redis = redis(&[]);
    let (_sim, gateway) = with(&redis, "5s");
    until_shared(&gateway);
    nobody_notices(&gateway, || {
        redis.kill();
        until_alone(&gateway);
        redis.restart();
        until_shared(&gateway);
    });
    said(&gateway, (1, 2));
}

#[test]
fn redis_that_is_not_there_at_the_start_is_joined_when_it_comes() {
    let mut redis = redis(&[]);
    redis.kill();
    let (_sim, gateway) = with(&redis, "5s");
    until_alone(&gateway);
    assert_eq!(tags(&gateway, gateway.key("ann")).status, 200);
    assert_eq!(tags(&gateway, NOBODY).status, 401);
    redis.restart();
    until_shared(&gateway);
    said(&gateway, (1, 1));
}

#[test]
fn redis_that_stops_in_its_tracks_is_done_without() {
    let redis = redis(&[]);
    let (_sim, gateway) = with(&redis, "100ms");
    until_shared(&gateway);
    nobody_notices(&gateway, || {
        redis.freeze();
        until_alone(&gateway);
        redis.thaw();
        until_shared(&gateway);
    });
}

#[test]
fn redis_that_sleeps_is_done_without() {
    let redis = redis(&[]);
    let (_sim, gateway) = with(&redis, "100ms");
    until_shared(&gateway);
    nobody_notices(&gateway, || {
        redis.ask(&["DEBUG", "SLEEP", "3"]);
        until_shared(&gateway);
    });
    assert!(value(&gateway, "usher_redis_failures_total") >= 1.0, "it was noticed");
}

#[test]
fn redis_that_is_wiped_again_and_again_is_asked_again() {
    let redis = redis(&[]);
    let (_sim, gateway) = with(&redis, "5s");
    until_shared(&gateway);
    nobody_notices(&gateway, || {
        for _ in 0..100 {
            redis.ask(&["FLUSHALL"]);
        }
    });
    assert_eq!(comings_and_goings(&gateway).0, 0, "that is no reason to go alone");
}

#[test]
fn redis_that_is_full_is_done_without() {
    let redis = redis(&["--maxmemory-policy", "noeviction"]);
    let (_sim, gateway) = with(&redis, "5s");
    alone_and_back(
        &gateway,
        || drop(redis.ask(&["CONFIG", "SET", "maxmemory", "1"])),
        || drop(redis.ask(&["CONFIG", "SET", "maxmemory", "0"])),
    );
}

#[test]
fn redis_that_only_repeats_another_is_done_without() {
    let redis = redis(&[]);
    let (_sim, gateway) = with(&redis, "5s");
    alone_and_back(
        &gateway,
        || drop(redis.ask(&["REPLICAOF", "127.0.0.1", "1"])),
        || drop(redis.ask(&["REPLICAOF", "NO", "ONE"])),
    );
}

#[test]
fn redis_that_evicts_what_it_holds_is_asked_again() {
    let redis = redis(&["--maxmemory", "2mb", "--maxmemory-policy", "allkeys-random"]);
    let (_sim, gateway) = with(&redis, "5s");
    until_shared(&gateway);
    nobody_notices(&gateway, || {
        let filler = vec![b'x'; 10_000];
        for number in 0..500 {
            redis.ask_bytes(&[b"SET", format!("filler {number}").as_bytes(), &filler]);
        }
    });
}

#[test]
fn a_wrong_password_is_said_without_the_password() {
    let redis = redis(&["--requirepass", "hunter2"]);
    let url = |password: &str| redis.url().replace("//", &format!("//:{password}@"));
    let (_sim, gateway) = before(&url("hunter3-wrong"), "5s");
    until_alone(&gateway);
    assert_eq!(tags(&gateway, gateway.key("ann")).status, 200);
    assert_eq!(tags(&gateway, NOBODY).status, 401);
    let log = gateway.stop();
    assert!(log.iter().any(|line| line.contains("authentication failed")), "{log:#?}");
    assert!(!log.iter().any(|line| line.contains("hunter3")), "{log:#?}");
    let (_sim, gateway) = before(&url("hunter2"), "5s");
    until_shared(&gateway);
}

#[test]
fn a_line_to_redis_that_delays_cuts_and_flips_bits_harms_nobody() {
    let redis = redis(&[]);
    let proxy = Proxy::before(redis.address());
    let (_sim, gateway) = before(&proxy.url(), "100ms");
    until_shared(&gateway);
    for fault in [
        Fault::Delay(Duration::from_millis(300)),
        Fault::Truncate(3),
        Fault::Flip(1),
        Fault::Flip(7),
        Fault::Flip(101),
    ] {
        nobody_notices(&gateway, || {
            let failures = || value(&gateway, "usher_redis_failures_total");
            let before = failures();
            proxy.turn(fault);
            eventually(&format!("{fault:?} is noticed"), || failures() > before);
            proxy.turn(Fault::None);
            proxy.cut();
            until_shared(&gateway);
        });
    }
}
