//! What gateways know of each other's keys.

use super::*;
use crate::support::redis::redis;

#[test]
fn what_one_gateway_has_looked_up_the_other_need_not() {
    let (redis, database) = (redis(&[]), database());
    let (one, two) = (quick(), quick());
    let users = ["ann", "bob", "cat", "dan", "eve"];
    let first = member(&one, &database, &redis.url());
    let first = users.iter().fold(first, |builder, user| builder.user(user, "free")).start();
    let second = member(&two, &database, &redis.url()).joins(&first).start();
    until_shared(&first);
    until_shared(&second);
    for user in users {
        assert_eq!(tags(&first, first.key(user)).status, 200);
    }
    eventually("the entries are there", || redis.names("usher:1:*:key:*").len() == users.len());
    for user in users {
        assert_eq!(tags(&second, first.key(user)).status, 200);
    }
    let hits = r#"usher_cache_requests_total{layer="redis",result="hit"}"#;
    assert!(value(&second, hits) >= 1.0, "the second gateway asked Redis and was told");
    for name in redis.names("usher:1:*:key:*") {
        let entry = redis.ask_bytes(&[b"GET", name.as_bytes()]);
        for user in users {
            let key = first.key(user).as_bytes();
            assert!(!entry.windows(key.len()).any(|part| part == key), "no key is in Redis");
        }
        let life: i64 = redis.ask(&["PTTL", &name]).parse().expect("milliseconds");
        assert!((1..=30_000).contains(&life), "{life}");
    }
}

#[test]
fn a_key_revoked_on_one_gateway_is_refused_on_the_other_with_redis_and_without() {
    let (mut redis, database) = (redis(&[]), database());
    let (one, two) = (quick(), quick());
    let first = member(&one, &database, &redis.url()).user("ann", "free").start();
    let second = member(&two, &database, &redis.url()).joins(&first).start();
    for round in 0..4 {
        if round == 2 {
            redis.kill();
            until_alone(&first);
            until_alone(&second);
        }
        let (key, id) = new_key(&first, "ann", &format!("round {round}"));
        eventually("the key is known to both", || {
            [&first, &second].iter().all(|gateway| tags(gateway, &key).status == 200)
        });
        first.home().usher_json(&["keys", "revoke", &id.to_string()]);
        for gateway in [&first, &second] {
            eventually("the revoked key is refused", || tags(gateway, &key).status == 401);
        }
        for _ in 0..20 {
            assert_eq!(tags(&second, &key).status, 401, "and stays so");
        }
    }
}

#[test]
fn a_gateway_without_redis_settings_says_nothing_of_redis() {
    let sim = quick();
    let gateway = gateway()
        .upstream("gpu0", &sim.url())
        .config("metrics: { address: 127.0.0.1:0 }")
        .user("ann", "free")
        .start();
    assert_eq!(gateway.get("/ready").send().json(), serde_json::json!({ "status": "ready" }));
    let log = gateway.stop();
    assert!(!log.iter().any(|line| line.contains("Redis")), "{log:#?}");
}
