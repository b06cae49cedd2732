//! Keys that are rotated, changed and revoked.

use std::time::Duration;

use jiff::{Timestamp, ToSpan};
use usher::auth::IdentityStore;
use usher::store::{
    Fingerprint, KeyLimits, KeyPatch, KeyRecord, KeySpec, KeyState, LimitsPatch, Rotated, Store,
    StoreError,
};

use super::place::{CLI, HERE, Place, hash, holder, key, spec, user};

on_both! {
    a_rotated_key_and_its_successor_both_work_until_the_grace_is_over
    a_successor_may_do_what_the_old_key_may_and_no_longer
    a_key_is_rotated_once_at_a_time
    what_does_not_work_any_more_is_not_rotated
    revoking_either_ends_the_grace_at_once
    a_patch_changes_what_it_names_and_nothing_else
    the_end_of_a_replaced_key_stays
    of_many_rotations_at_once_one_succeeds
}

const WEEK: Duration = Duration::from_secs(7 * 86_400);

async fn bob(place: &Place) -> Store {
    let store = place.open().await;
    store.create_user(CLI, &user("bob", "free")).await.unwrap();
    store
}

async fn rotate(store: &Store, id: i64, plain: &str) -> Result<Rotated, StoreError> {
    rotate_within(store, id, plain, WEEK).await
}

async fn rotate_within(
    store: &Store,
    id: i64,
    plain: &str,
    grace: Duration,
) -> Result<Rotated, StoreError> {
    let print = Fingerprint { hash: hash(plain), public_id: Some(plain) };
    store.rotate_key(CLI, id, grace, &print).await
}

async fn state(store: &Store, id: i64) -> KeyState {
    store.show_key(id).await.unwrap().state
}

fn conflict(outcome: Result<Rotated, StoreError>) -> String {
    match outcome {
        Err(StoreError::Conflict(text)) => text,
        other => panic!("expected a conflict, got {other:?}"),
    }
}

async fn a_rotated_key_and_its_successor_both_work_until_the_grace_is_over(place: Place) {
    let store = bob(&place).await;
    let old = key(&store, "bob", "old").await;
    let before = Timestamp::now();
    let Rotated { key: new, old_expires_at } = rotate(&store, old.id, "new").await.unwrap();
    let grace = old_expires_at.duration_since(before).as_secs();
    assert!((7 * 86_400 - 60..7 * 86_400 + 60).contains(&grace), "{grace}");
    assert_eq!((new.replaces, new.replaced_by), (Some(old.id), None));
    assert_eq!(store.show_key(new.id).await.unwrap(), new);
    let kept = store.show_key(old.id).await.unwrap();
    assert_eq!((kept.replaced_by, kept.expires_at), (Some(new.id), Some(old_expires_at)));
    assert_eq!((kept.state, new.state), (KeyState::Active, KeyState::Active));
    for (plain, id) in [("old", old.id), ("new", new.id)] {
        let known = store.identity(&holder(plain), HERE).await.unwrap().unwrap();
        assert_eq!(known.key.map(|key| key.id), Some(id), "{plain}");
    }
    let at_once = rotate_within(&store, key(&store, "bob", "a").await.id, "b", Duration::ZERO);
    let at_once = at_once.await.unwrap();
    assert_eq!(state(&store, at_once.key.replaces.unwrap()).await, KeyState::Expired);
    let audit = place.audit().await;
    let row = format!(
        "cli||key.rotate|{}|usk_old 'old' of bob by key {}, until {old_expires_at}",
        old.id, new.id
    );
    assert!(audit.contains(&row), "{row} in {audit:#?}");
}

async fn a_successor_may_do_what_the_old_key_may_and_no_longer(place: Place) {
    let store = bob(&place).await;
    let end = Timestamp::from_millisecond((Timestamp::now() + 1.hour()).as_millisecond()).unwrap();
    let said = KeySpec {
        tier: Some("free".to_owned()),
        models: Some(vec!["llama3*".to_owned()]),
        limits: KeyLimits { concurrency: Some(3), ..KeyLimits::default() },
        delegating: true,
        expires_at: Some(end),
        ..spec("bob", "laptop")
    };
    let print = Fingerprint { hash: hash("old"), public_id: None };
    let old = store.create_key(CLI, &said, &print).await.unwrap();
    let Rotated { key: new, old_expires_at } = rotate(&store, old.id, "new").await.unwrap();
    assert_eq!(old_expires_at, end, "a grace is no longer life");
    let alike = KeyRecord {
        id: old.id,
        prefix: None,
        created_at: old.created_at,
        replaces: None,
        ..new.clone()
    };
    assert_eq!(alike, old);
    assert_eq!(new.prefix.as_deref(), Some("usk_new"));
}

async fn a_key_is_rotated_once_at_a_time(place: Place) {
    let store = bob(&place).await;
    let first = key(&store, "bob", "first").await.id;
    let second = rotate(&store, first, "second").await.unwrap();
    let end = second.old_expires_at;
    let second = second.key.id;
    assert_eq!(
        conflict(rotate(&store, first, "x").await),
        format!("key {first} was replaced by key {second} already")
    );
    assert_eq!(
        conflict(rotate(&store, second, "x").await),
        format!(
            "key {second} replaces key {first}, which works until {end}: revoke that one first"
        )
    );
    store.revoke_key(CLI, first).await.unwrap();
    let third = rotate_within(&store, second, "third", Duration::ZERO).await.unwrap().key.id;
    rotate(&store, third, "fourth").await.unwrap();
    let text = conflict(rotate(&store, second, "x").await);
    assert_eq!(text, format!("key {second} was replaced by key {third} already"));
}

async fn what_does_not_work_any_more_is_not_rotated(place: Place) {
    let store = bob(&place).await;
    let revoked = key(&store, "bob", "revoked").await.id;
    store.revoke_key(CLI, revoked).await.unwrap();
    let past = KeySpec { expires_at: Some(Timestamp::now() - 1.hour()), ..spec("bob", "past") };
    let print = Fingerprint { hash: hash("past"), public_id: None };
    let expired = store.create_key(CLI, &past, &print).await.unwrap().id;
    let before = store.revision().await.unwrap();
    for (id, why) in [(revoked, "revoked"), (expired, "expired")] {
        let text = conflict(rotate(&store, id, "x").await);
        assert_eq!(text, format!("key {id} is {why}: create a new one"));
    }
    let unknown = rotate(&store, 99, "x").await.unwrap_err();
    assert_eq!(unknown.to_string(), "there is no key 99");
    assert_eq!(store.revision().await.unwrap(), before, "nothing of this was done");
}

async fn revoking_either_ends_the_grace_at_once(place: Place) {
    let store = bob(&place).await;
    let old = key(&store, "bob", "a-old").await.id;
    let new = rotate(&store, old, "a-new").await.unwrap().key.id;
    store.revoke_key(CLI, old).await.unwrap();
    assert_eq!(state(&store, old).await, KeyState::Revoked);
    assert_eq!(state(&store, new).await, KeyState::Active, "who moved on stays");

    let old = key(&store, "bob", "b-old").await.id;
    let new = rotate(&store, old, "b-new").await.unwrap().key.id;
    store.revoke_key(CLI, new).await.unwrap();
    assert_eq!(state(&store, new).await, KeyState::Revoked);
    assert_eq!(state(&store, old).await, KeyState::Revoked, "there is nothing left to move to");
    let audit = place.audit().await;
    for id in [old, new] {
        let told = format!("cli||key.revoke|{id}|");
        assert_eq!(audit.iter().filter(|row| row.starts_with(&told)).count(), 1, "{audit:#?}");
    }
    let since = store.show_key(old).await.unwrap().revoked_at;
    store.revoke_key(CLI, old).await.unwrap();
    assert_eq!(store.show_key(old).await.unwrap().revoked_at, since, "and since then");
}

async fn a_patch_changes_what_it_names_and_nothing_else(place: Place) {
    let store = bob(&place).await;
    let made = key(&store, "bob", "laptop").await;
    let end = Timestamp::from_millisecond((Timestamp::now() + 1.hour()).as_millisecond()).unwrap();
    let patch = KeyPatch {
        name: Some("phone".to_owned()),
        models: Some(Some(vec!["qwen3*".to_owned()])),
        limits: LimitsPatch {
            requests: Some(Some("5/min".to_owned())),
            concurrency: Some(Some(1)),
            ..LimitsPatch::default()
        },
        expires_at: Some(Some(end)),
    };
    let changed = store.patch_key(CLI, made.id, &patch).await.unwrap().record;
    assert_eq!(store.show_key(made.id).await.unwrap(), changed);
    assert_eq!((changed.name.as_str(), changed.expires_at), ("phone", Some(end)));
    assert_eq!(changed.limits.requests.as_deref(), Some("5/min"));
    assert_eq!((changed.limits.concurrency, changed.limits.tokens.clone()), (Some(1), None));
    let before = store.revision().await.unwrap();
    for nothing in [&patch, &KeyPatch::default()] {
        assert!(!store.patch_key(CLI, made.id, nothing).await.unwrap().changed);
    }
    assert_eq!(store.revision().await.unwrap(), before, "nothing new, nothing written");
    let limits = LimitsPatch { concurrency: Some(None), ..LimitsPatch::default() };
    let back = KeyPatch { models: Some(None), limits, ..KeyPatch::default() };
    let back = store.patch_key(CLI, made.id, &back).await.unwrap().record;
    assert_eq!((back.models.clone(), back.limits.concurrency), (None, None));
    assert_eq!(back.limits.requests.as_deref(), Some("5/min"), "the other limit stays");
    assert_eq!((back.name.as_str(), back.expires_at), ("phone", Some(end)));
    let nameless = KeyPatch { name: Some(String::new()), ..KeyPatch::default() };
    let error = store.patch_key(CLI, made.id, &nameless).await.unwrap_err();
    assert!(matches!(error, StoreError::Invalid(_)), "{error:?}");
    let told = format!("cli||key.update|{}|usk_laptop 'phone' of bob: ", made.id);
    let audit = place.audit().await;
    assert!(audit.contains(&format!("{told}name, models, limits, expiry")), "{audit:#?}");
    assert!(audit.contains(&format!("{told}models, limits")), "{audit:#?}");
}

async fn the_end_of_a_replaced_key_stays(place: Place) {
    let store = bob(&place).await;
    let old = key(&store, "bob", "old").await.id;
    let new = rotate(&store, old, "new").await.unwrap().key.id;
    for end in [None, Some(Timestamp::now() + 1000.hours()), Some(Timestamp::now())] {
        let patch = KeyPatch { expires_at: Some(end), ..KeyPatch::default() };
        let error = store.patch_key(CLI, old, &patch).await.unwrap_err();
        let text = format!("key {old} was replaced by key {new}, so its end stays");
        assert_eq!(error.to_string(), text);
    }
    let renamed = KeyPatch { name: Some("going".to_owned()), ..KeyPatch::default() };
    assert_eq!(store.patch_key(CLI, old, &renamed).await.unwrap().record.name, "going");
}

async fn of_many_rotations_at_once_one_succeeds(place: Place) {
    let store = std::sync::Arc::new(bob(&place).await);
    let old = key(&store, "bob", "old").await.id;
    let rotating: Vec<_> = (0..8)
        .map(|n| {
            let store = std::sync::Arc::clone(&store);
            tokio::spawn(async move { rotate(&store, old, &format!("new{n}")).await })
        })
        .collect();
    let mut won = Vec::new();
    for task in rotating {
        match task.await.unwrap() {
            Ok(rotated) => won.push(rotated.key.id),
            lost => drop(conflict(lost)),
        }
    }
    assert_eq!(won.len(), 1);
    assert_eq!(store.show_key(old).await.unwrap().replaced_by, Some(won[0]));
    assert_eq!(place.number("SELECT COUNT(*) FROM api_keys").await, 2);
}
