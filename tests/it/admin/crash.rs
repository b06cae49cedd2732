//! A power cut at any moment: whatever was answered with success is there afterwards.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use super::as_admin;
use crate::support::gateway::{Gateway, gateway};
use crate::support::http::Request;

/// How often the gateway is killed, unless the environment says otherwise.
const KILLS: usize = 10;
const HOW_OFTEN: &str = "USHER_TEST_KILLS";
/// Administrators who work at the same time.
const AT_ONCE: usize = 2;
/// The latest moment of a kill, counted from when they begin.
const LATEST: u64 = 150;

/// An act that was answered with success.
#[derive(Clone, Debug)]
enum Act {
    Created { id: i64, key: String },
    Rotated { old: i64, until: String, id: i64, key: String },
    Revoked { id: i64, key: String },
}

#[test]
fn what_was_answered_with_success_outlives_a_kill_at_any_moment() {
    let kills = std::env::var(HOW_OFTEN).ok().and_then(|kills| kills.parse().ok()).unwrap_or(KILLS);
    let mut gateway = gateway().upstream("gpu0", "http://127.0.0.1:1").without_waiting().start();
    let mut acts: Vec<Act> = Vec::new();
    for round in 0..kills {
        let done = work_until_killed(&gateway);
        gateway.start_again();
        let before = acts.len();
        acts.extend(done);
        hold(&gateway, &acts, before, round);
    }
    let count = |is: fn(&Act) -> bool| acts.iter().filter(|act| is(act)).count();
    let created = count(|act| matches!(act, Act::Created { .. }));
    let rotated = count(|act| matches!(act, Act::Rotated { .. }));
    let revoked = count(|act| matches!(act, Act::Revoked { .. }));
    eprintln!("{kills} kills: {created} created, {rotated} rotated, {revoked} revoked, all there");
    assert!(kills < KILLS || acts.len() > kills, "hardly anything was done: {}", acts.len());
}

/// Lets administrators work, and kills the gateway at some moment.
fn work_until_killed(gateway: &Gateway) -> Vec<Act> {
    let (address, admin) = (gateway.address(), gateway.key("admin"));
    let moment = RandomState::new().hash_one(address) % (LATEST * 1000);
    std::thread::scope(|scope| {
        let working: Vec<_> =
            (0..AT_ONCE).map(|_| scope.spawn(move || work(address, admin))).collect();
        std::thread::sleep(Duration::from_micros(moment));
        gateway.signal("KILL");
        working.into_iter().flat_map(|worker| worker.join().expect("it just stops")).collect()
    })
}

/// Creates, rotates and revokes until nobody answers any more.
fn work(address: SocketAddr, admin: &str) -> Vec<Act> {
    let mut acts = Vec::new();
    let ask = |method: &str, path: &str, body: &Value| {
        let answer = Request::new(address, method, path).key(admin).json(body).attempt()?;
        assert!((200..300).contains(&answer.status), "{method} {path}: {}", answer.text());
        Some(if answer.status == 204 { Value::Null } else { answer.json() })
    };
    let key = |made: &Value| (made["id"].as_i64().expect("an id"), super::text(made, "key"));
    let mut one_more = || {
        let made = ask("POST", "/admin/keys", &json!({ "user": "admin", "name": "kept" }))?;
        let (old, old_key) = key(&made);
        acts.push(Act::Created { id: old, key: old_key.clone() });
        let made = ask("POST", &format!("/admin/keys/{old}/rotate"), &json!({ "grace": "1d" }))?;
        let (id, new_key) = key(&made);
        let until = super::text(&made, "old_expires_at");
        acts.push(Act::Rotated { old, until, id, key: new_key });
        ask("DELETE", &format!("/admin/keys/{old}"), &json!({}))?;
        acts.push(Act::Revoked { id: old, key: old_key });
        Some(())
    };
    while one_more().is_some() {}
    acts
}

/// Fails unless every act is there, and written down; the newest are tried at the door, too.
fn hold(gateway: &Gateway, acts: &[Act], newest: usize, round: usize) {
    let keys = all(gateway, "/admin/keys").into_iter();
    let left = Left {
        keys: keys.map(|key| (key["id"].as_i64().expect("an id"), key)).collect(),
        trail: all(gateway, "/admin/audit"),
    };
    for (index, act) in acts.iter().enumerate() {
        let what = format!("{act:?} in round {round}");
        let (id, key) = left.holds(act, &what);
        if index >= newest {
            let status = gateway.get("/api/tags").key(key).send().status;
            assert_eq!(status, if left.is_revoked(id) { 401 } else { 200 }, "{what}");
        }
    }
    left.holds_nothing_else(round);
}

/// What is there after a kill.
struct Left {
    keys: BTreeMap<i64, Value>,
    trail: Vec<Value>,
}

impl Left {
    /// Fails unless the act is there; returns the key that it made or ended.
    fn holds<'a>(&self, act: &'a Act, what: &str) -> (i64, &'a str) {
        match act {
            Act::Created { id, key } => {
                assert_eq!(self.told("key.create", *id), 1, "{what}");
                assert!(self.keys.contains_key(id), "{what}");
                (*id, key)
            }
            Act::Rotated { old, until, id, key } => {
                assert_eq!(self.told("key.rotate", *old), 1, "{what}");
                let (before, after) = (&self.keys[old], &self.keys[id]);
                assert_eq!(after["replaces"], *old, "{what}");
                assert_eq!(
                    (&before["replaced_by"], &before["expires_at"]),
                    (&json!(id), &json!(until))
                );
                (*id, key)
            }
            Act::Revoked { id, key } => {
                assert_eq!(self.told("key.revoke", *id), 1, "{what}");
                assert!(self.is_revoked(*id), "{what}: {}", self.keys[id]);
                (*id, key)
            }
        }
    }

    /// Fails if something is there that is not written down.
    fn holds_nothing_else(&self, round: usize) {
        for (id, key) in &self.keys {
            let what = format!("{key} in round {round}");
            let old = key["replaces"].as_i64();
            let followed = old.map_or(0, |old| self.told("key.rotate", old));
            assert_eq!(self.told("key.create", *id) + followed, 1, "{what}");
            assert_eq!(self.told("key.revoke", *id), usize::from(self.is_revoked(*id)), "{what}");
            let replaced = usize::from(!key["replaced_by"].is_null());
            assert_eq!(self.told("key.rotate", *id), replaced, "{what}");
        }
    }

    fn is_revoked(&self, id: i64) -> bool {
        self.keys[&id]["state"] == "revoked"
    }

    /// How often the trail tells of this.
    fn told(&self, action: &str, id: i64) -> usize {
        let id = id.to_string();
        let is = |act: &&Value| act["action"] == action && act["target"] == id.as_str();
        self.trail.iter().filter(is).count()
    }
}

/// A whole list, part by part.
fn all(gateway: &Gateway, path: &str) -> Vec<Value> {
    let (mut entries, mut after) = (Vec::new(), String::new());
    loop {
        let answer = as_admin(gateway, "GET", &format!("{path}?limit=1000{after}"));
        assert_eq!(answer.status, 200, "{}", answer.text());
        let page = answer.json();
        entries.extend(page["data"].as_array().expect("a list").iter().cloned());
        match &page["next"] {
            Value::Null => return entries,
            next => after = format!("&after={next}"),
        }
    }
}
