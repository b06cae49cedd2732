//! Redis in the hands of somebody who wants to be somebody else.

use super::*;
use crate::support::redis::{Redis, redis};

const IGNORED: &str = "usher_redis_ignored_total";

/// The entries about keys.
fn entries(redis: &Redis) -> Vec<String> {
    redis.names("usher:1:*:key:*")
}

/// Lets a gateway look a key up, and returns the entry that this makes.
fn entry_of(redis: &Redis, gateway: &Gateway, key: &str) -> String {
    let before = entries(redis);
    let mut new = None;
    assert_eq!(tags(gateway, key).status, 200);
    eventually("its entry is there", || {
        new = entries(redis).into_iter().find(|name| !before.contains(name));
        new.is_some()
    });
    new.expect("found a moment ago")
}

#[test]
fn an_entry_moved_to_another_key_makes_nobody_an_admin() {
    let (redis, database) = (redis(&[]), database());
    let (one, two) = (quick(), quick());
    let first = member(&one, &database, &redis.url()).user("mallory", "free").start();
    let second = member(&two, &database, &redis.url()).joins(&first).start();
    until_shared(&first);
    until_shared(&second);
    let (admin, mallory) = (first.key("admin"), first.key("mallory"));
    let (admins, mallorys) = (entry_of(&redis, &first, admin), entry_of(&redis, &first, mallory));
    redis.ask(&["COPY", &admins, &mallorys, "REPLACE"]);
    let asked = second.get("/admin/upstreams").key(mallory).send();
    assert_eq!(asked.status, 403, "{}", asked.text());
    assert!(value(&second, IGNORED) >= 1.0, "the entry was seen and not believed");
    assert_eq!(second.get("/admin/upstreams").key(admin).send().status, 200);
    let log = second.stop();
    let told = log.iter().filter(|line| line.contains("no gateway with our secret")).count();
    assert_eq!(told, 1, "{log:#?}");
}

#[test]
fn an_entry_with_any_byte_changed_is_as_good_as_none() {
    let (redis, database) = (redis(&[]), database());
    let (one, two) = (quick(), quick());
    let first = member(&one, &database, &redis.url()).user("ann", "free").start();
    until_shared(&first);
    let name = entry_of(&redis, &first, first.key("ann"));
    let good = redis.ask_bytes(&[b"GET", name.as_bytes()]);
    let text = String::from_utf8_lossy(&good);
    assert!(text.contains(r#""tier":"free""#), "{text}");
    // what a forger would write, and what chance would
    let mut forged = good.clone();
    let at = good.windows(4).position(|part| part == b"free").expect("it names the tier");
    forged.splice(at..at + 4, *b"admin");
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    let cut = good[..good.len() - 1].to_vec();
    for bad in [forged, flipped, cut, Vec::new(), b"{}".to_vec(), vec![0; 5_000_000]] {
        redis.ask_bytes(&[b"SET", name.as_bytes(), &bad]);
        let fresh = member(&two, &database, &redis.url()).joins(&first).start();
        until_shared(&fresh);
        assert_eq!(tags(&fresh, first.key("ann")).status, 200);
        let asked = fresh.get("/admin/upstreams").key(first.key("ann")).send();
        assert_eq!(asked.status, 403, "{}", asked.text());
    }
}

#[test]
fn an_old_entry_put_back_does_not_bring_a_revoked_key_back() {
    let (redis, database) = (redis(&[]), database());
    let (one, two) = (quick(), quick());
    let first = member(&one, &database, &redis.url()).user("ann", "free").start();
    let second = member(&two, &database, &redis.url()).joins(&first).start();
    until_shared(&first);
    until_shared(&second);
    let (key, id) = new_key(&first, "ann", "to be revoked");
    let name = entry_of(&redis, &first, &key);
    let good = redis.ask_bytes(&[b"GET", name.as_bytes()]);
    first.home().usher_json(&["keys", "revoke", &id.to_string()]);
    eventually("it is refused", || tags(&first, &key).status == 401);
    for _ in 0..50 {
        redis.ask_bytes(&[b"SET", name.as_bytes(), &good, b"PX", b"60000"]);
        assert_eq!(tags(&first, &key).status, 401);
        // the one that has not looked it up yet may believe it until it has seen the revocation,
        // which the first has told it of
        eventually("the other refuses it too", || tags(&second, &key).status == 401);
    }
}
