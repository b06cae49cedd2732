//! What a gateway knows of revocations, how soon, and for how long it goes on without.

use std::time::{Duration, Instant};

use super::*;
use crate::support::postgres::own;
use crate::support::proxy::{Fault, Proxy};
use crate::support::redis::redis;

#[test]
fn cut_off_from_database_and_redis_known_keys_are_served_for_max_stale_and_then_503() {
    const STALE: Duration = Duration::from_secs(4);
    let (server, redis, sim) = (own::server(), redis(&[]), quick());
    let (to_database, to_redis) = (Proxy::before(server.address()), Proxy::before(redis.address()));
    let url = server.url_at(to_database.address());
    let cut_off = impatient_member(&sim, &url, &to_redis.url(), "100ms")
        .config("auth: { max_stale: 4s }")
        .user("ann", "free")
        .start();
    let whole = member(&sim, &server.url(), &redis.url()).joins(&cut_off).start();
    until_shared(&cut_off);
    until_shared(&whole);
    let key = whole.key("ann");
    assert_eq!(tags(&cut_off, key).status, 200);

    // while the other gateway tells what it reads, revisions are known though the database is not
    to_database.turn(Fault::Hold);
    let since = Instant::now();
    while since.elapsed() < STALE + Duration::from_secs(1) {
        assert_eq!(tags(&cut_off, key).status, 200, "after {:?}", since.elapsed());
        std::thread::sleep(Duration::from_millis(20));
    }
    to_redis.turn(Fault::Hold);
    let since = Instant::now();
    let served = loop {
        let answer = tags(&cut_off, key);
        match answer.status {
            200 => std::thread::sleep(Duration::from_millis(20)),
            503 => break since.elapsed(),
            other => panic!("{other} after {:?}: {}", since.elapsed(), answer.text()),
        }
        assert!(since.elapsed() < STALE * 4, "it is served without end");
    };
    eprintln!("served for {} ms without database and Redis", served.as_millis());
    assert!(served > STALE / 2, "{served:?}");
    let refused = tags(&cut_off, key);
    assert_eq!(refused.status, 503, "never 401: {}", refused.text());
    assert!(refused.header("retry-after").is_some());
    assert_eq!(tags(&whole, key).status, 200, "nobody else notices");
    to_database.turn(Fault::None);
    to_redis.turn(Fault::None);
    eventually("it is served again", || tags(&cut_off, key).status == 200);
}

#[test]
fn a_key_revoked_at_one_gateway_is_refused_at_the_other_within_a_second() {
    let (mut redis, database, sim) = (redis(&[]), database(), quick());
    let first = member(&sim, &database, &redis.url()).user("ann", "free").start();
    let second = member(&sim, &database, &redis.url()).joins(&first).start();
    until_shared(&first);
    until_shared(&second);
    for with_redis in [true, false] {
        if !with_redis {
            redis.kill();
            until_alone(&first);
            until_alone(&second);
        }
        let mut times = Vec::new();
        for round in 0..5 {
            let (key, id) = new_key(&first, "ann", &format!("{with_redis} {round}"));
            eventually("the key is known to both", || {
                [&first, &second].iter().all(|gateway| tags(gateway, &key).status == 200)
            });
            let path = format!("/admin/keys/{id}");
            let revoked = first.request("DELETE", &path).key(first.key("admin")).send();
            assert_eq!(revoked.status, 204, "{}", revoked.text());
            assert_eq!(tags(&first, &key).status, 401, "refused from the next request on");
            let since = Instant::now();
            while tags(&second, &key).status == 200 {
                assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
            }
            times.push(since.elapsed().as_millis());
            assert_eq!(tags(&second, &key).status, 401);
        }
        let how = if with_redis { "with Redis" } else { "without Redis" };
        eprintln!("refused at the other gateway {how} after {times:?} ms");
    }
}

#[test]
fn usage_that_cannot_be_written_down_is_told_and_counted_when_it_can() {
    let (server, sim) = (own::server(), quick());
    let proxy = Proxy::before(server.address());
    let gateway = gateway()
        .upstream_with("gpu0", &sim.url(), "slots: 8")
        .database(&server.url_at(proxy.address()))
        .env("JWT_SECRET", SECRET)
        .config("metrics: { address: 127.0.0.1:0 }")
        .user("ann", "free")
        .start();
    let ask = || {
        let body = crate::support::crowd::whole(2);
        assert_eq!(gateway.post("/api/chat", &body).key(gateway.key("ann")).send().status, 200);
    };
    let metric = |name: &str| value(&gateway, name);
    ask();
    assert!((metric(r#"usher_degraded{part="ledger"}"#) - 0.0).abs() < f64::EPSILON);
    server.forbid_writing(true);
    ask();
    eventually("it is told that the ledger waits", || {
        metric(r#"usher_degraded{part="ledger"}"#) > 0.0 && metric("usher_usage_waiting") >= 1.0
    });
    assert!(degraded(&gateway).contains(&"ledger".to_owned()));
    ask();
    server.forbid_writing(false);
    eventually("all of it is written down", || {
        let path = "/admin/usage?by=user";
        let usage = gateway.get(path).key(gateway.key("admin")).send().json();
        let lines = usage["data"].as_array().cloned().unwrap_or_default();
        lines.iter().any(|line| line["user"] == "ann" && line["requests"] == 3)
    });
    eventually("nothing is missing any more", || degraded(&gateway).is_empty());
    assert!(metric("usher_usage_waiting") < 1.0);
}
