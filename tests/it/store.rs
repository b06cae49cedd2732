//! The store's contract, kept alike by SQLite and PostgreSQL.
#![allow(clippy::cognitive_complexity, reason = "each awaited assertion counts, in a row or not")]

/// Each test twice, on either database.
macro_rules! on_both {
    ($($name:ident)*) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(crate::store::place::Place::sqlite().await).await;
            })*
        }
        mod postgresql {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(crate::store::place::Place::postgres().await).await;
            })*
        }
    };
}

mod administration;
mod books;
mod place;
mod postgres_alone;
mod postgres_tls;
mod rotation;
mod sqlite_alone;
mod ssh_keys;

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::{Timestamp, ToSpan};
use usher::auth::{Holder, IdentityStore};
use usher::store::{
    Actor, Fingerprint, KeyFilter, KeyLimits, KeySpec, KeyState, NewUser, StoreError,
};

use books::{
    a_batch_is_added_once_however_often_it_is_tried, many_who_add_at_once_lose_nothing,
    the_last_use_of_a_key_never_goes_back, usage_adds_up_and_is_summed_in_four_ways,
    users_see_the_newest_fifty_of_their_own_hours,
};
use place::{CLI, HERE, Place, hash, holder, key, spec, user};

on_both! {
    a_fresh_database_is_empty
    a_second_opening_finds_what_the_first_left
    many_who_open_a_new_database_at_once_all_succeed
    users_are_made_shown_and_listed
    a_username_is_taken_once
    a_tier_change_or_a_disabling_ends_tokens_and_nothing_else_does
    an_act_that_changes_nothing_leaves_no_trace
    the_last_enabled_admin_stays
    of_two_admins_who_remove_each_other_one_stays
    a_key_identifies_its_user_until_it_is_revoked
    a_key_keeps_all_that_was_said_of_it
    the_same_key_is_known_once
    keys_are_listed_by_user_and_state
    unknown_names_are_not_found
    what_no_record_may_hold_is_refused
    the_first_admin_is_made_once_however_many_try
    every_change_leaves_one_audit_row_without_secrets
    many_writers_at_once_all_succeed_and_the_revision_counts_them
    readers_see_whole_changes_while_others_write
    usage_adds_up_and_is_summed_in_four_ways
    users_see_the_newest_fifty_of_their_own_hours
    many_who_add_at_once_lose_nothing
    a_batch_is_added_once_however_often_it_is_tried
    the_last_use_of_a_key_never_goes_back
}

async fn a_fresh_database_is_empty(place: Place) {
    let store = place.open().await;
    assert_eq!(store.revision().await.unwrap(), 0);
    assert!(store.list_users().await.unwrap().is_empty());
    assert!(store.list_keys(&KeyFilter::default()).await.unwrap().is_empty());
    assert!(store.identity(&holder("anything"), HERE).await.unwrap().is_none());
    let tables = ["users", "ssh_keys", "api_keys", "revoked_tokens", "usage", "audit"];
    let mut connection = place.connect().await;
    for table in tables {
        let count = sqlx::AssertSqlSafe(format!("SELECT COUNT(*) FROM {table}"));
        let rows: i64 = sqlx::query_scalar(count).fetch_one(&mut connection).await.unwrap();
        assert_eq!(rows, 0, "{table}");
    }
}

async fn a_second_opening_finds_what_the_first_left(place: Place) {
    let first = place.open().await;
    let bob = first.create_user(CLI, &user("bob", "free")).await.unwrap();
    let laptop = key(&first, "bob", "laptop").await;
    first.close().await;
    let second = place.open().await;
    assert_eq!(second.show_user("bob").await.unwrap(), bob);
    assert_eq!(second.show_key(laptop.id).await.unwrap(), laptop);
    assert_eq!(second.revision().await.unwrap(), 2);
}

async fn many_who_open_a_new_database_at_once_all_succeed(place: Place) {
    let place = Arc::new(place);
    let opening: Vec<_> = (0..8)
        .map(|n| {
            let place = Arc::clone(&place);
            tokio::spawn(async move {
                let store = place.open().await;
                store.create_user(CLI, &user(&format!("user{n}"), "free")).await.unwrap();
            })
        })
        .collect();
    for task in opening {
        task.await.unwrap();
    }
    assert_eq!(place.open().await.list_users().await.unwrap().len(), 8);
    let repeated = "SELECT COUNT(*) - MAX(n) FROM schema_steps";
    assert_eq!(place.number(repeated).await, 0, "each step was taken once");
    assert_eq!(place.number("SELECT COUNT(*) FROM revision").await, 1);
}

async fn users_are_made_shown_and_listed(place: Place) {
    let store = place.open().await;
    let before = Timestamp::now();
    let new = NewUser { email: Some("ann@example.org".to_owned()), ..user("ann", "premium") };
    let ann = store.create_user(CLI, &new).await.unwrap();
    assert_eq!((ann.username.as_str(), ann.tier.as_str(), ann.disabled), ("ann", "premium", false));
    assert_eq!(ann.email.as_deref(), Some("ann@example.org"));
    assert!(ann.created_at.duration_since(before).as_millis().abs() < 60_000);
    let bob = store.create_user(CLI, &user("bob", "free")).await.unwrap();
    assert!(bob.id > ann.id);
    assert_eq!(store.show_user("ann").await.unwrap(), ann);
    assert_eq!(store.list_users().await.unwrap(), [ann, bob]);
}

async fn a_username_is_taken_once(place: Place) {
    let store = place.open().await;
    store.create_user(CLI, &user("bob", "free")).await.unwrap();
    let error = store.create_user(CLI, &user("bob", "admin")).await.unwrap_err();
    assert!(matches!(&error, StoreError::Conflict(_)), "{error:?}");
    assert_eq!(error.to_string(), "there is a user 'bob' already");
    assert_eq!(store.show_user("bob").await.unwrap().tier, "free");
    assert_eq!(store.revision().await.unwrap(), 1);
}

async fn a_tier_change_or_a_disabling_ends_tokens_and_nothing_else_does(place: Place) {
    const VERSION: &str = "SELECT token_version FROM users WHERE username = 'bob'";
    let store = place.open().await;
    store.create_user(CLI, &user("bob", "free")).await.unwrap();
    key(&store, "bob", "laptop").await;
    assert_eq!(place.number(VERSION).await, 0);
    assert_eq!(store.set_tier(CLI, "bob", "premium").await.unwrap().tier, "premium");
    assert_eq!(place.number(VERSION).await, 1);
    assert!(store.set_disabled(CLI, "bob", true).await.unwrap().disabled);
    assert_eq!(place.number(VERSION).await, 2);
    assert!(!store.set_disabled(CLI, "bob", false).await.unwrap().disabled);
    assert_eq!(place.number(VERSION).await, 2);
    let bob = store.show_user("bob").await.unwrap();
    assert_eq!((bob.tier.as_str(), bob.disabled), ("premium", false));
}

async fn an_act_that_changes_nothing_leaves_no_trace(place: Place) {
    let store = place.open().await;
    store.create_user(CLI, &user("bob", "free")).await.unwrap();
    let laptop = key(&store, "bob", "laptop").await;
    let revoked = store.revoke_key(CLI, laptop.id).await.unwrap().record;
    let (revision, audit) = (store.revision().await.unwrap(), place.audit().await);
    store.set_tier(CLI, "bob", "free").await.unwrap();
    store.set_disabled(CLI, "bob", false).await.unwrap();
    let again = store.revoke_key(CLI, laptop.id).await.unwrap();
    assert_eq!((again.record, again.changed), (revoked, false), "since the first time");
    store.set_tier(CLI, "nobody", "free").await.unwrap_err();
    assert_eq!((store.revision().await.unwrap(), place.audit().await), (revision, audit));
}

async fn the_last_enabled_admin_stays(place: Place) {
    let store = place.open().await;
    store.create_user(CLI, &user("ann", "admin")).await.unwrap();
    store.create_user(CLI, &user("bob", "admin")).await.unwrap();
    store.set_disabled(CLI, "bob", true).await.unwrap();
    for refused in [
        store.set_disabled(CLI, "ann", true).await.unwrap_err(),
        store.set_tier(CLI, "ann", "premium").await.unwrap_err(),
    ] {
        assert!(matches!(&refused, StoreError::LastAdmin(name) if name == "ann"), "{refused:?}");
    }
    // one who is disabled does not count, so may be demoted
    store.set_tier(CLI, "bob", "free").await.unwrap();
    store.set_tier(CLI, "bob", "admin").await.unwrap();
    store.set_disabled(CLI, "bob", false).await.unwrap();
    store.set_disabled(CLI, "ann", true).await.unwrap();
    assert!(store.set_disabled(CLI, "bob", true).await.is_err());
}

async fn of_two_admins_who_remove_each_other_one_stays(place: Place) {
    let (here, there) = (place.open().await, place.open().await);
    here.create_user(CLI, &user("ann", "admin")).await.unwrap();
    here.create_user(CLI, &user("bob", "admin")).await.unwrap();
    for _ in 0..10 {
        let (a, b) =
            tokio::join!(here.set_disabled(CLI, "ann", true), there.set_tier(CLI, "bob", "free"));
        let refused = [a, b].into_iter().filter_map(Result::err).collect::<Vec<_>>();
        assert!(matches!(refused[..], [StoreError::LastAdmin(_)]), "{refused:?}");
        here.set_disabled(CLI, "ann", false).await.unwrap();
        here.set_tier(CLI, "bob", "admin").await.unwrap();
    }
}

async fn a_key_identifies_its_user_until_it_is_revoked(place: Place) {
    let store = place.open().await;
    let bob = store.create_user(CLI, &user("bob", "premium")).await.unwrap();
    let laptop = key(&store, "bob", "laptop").await;
    let known = store.identity(&holder("laptop"), HERE).await.unwrap().unwrap();
    let its_key = known.key.unwrap();
    assert_eq!((known.user.id, its_key.id), (bob.id, laptop.id));
    assert_eq!((known.user.username.as_str(), known.user.tier.as_str()), ("bob", "premium"));
    assert_eq!((known.user.disabled, its_key.revoked_at), (false, None));

    let before = store.revision().await.unwrap();
    let revoked = store.revoke_key(CLI, laptop.id).await.unwrap().record;
    assert_eq!(revoked.state, KeyState::Revoked);
    store.set_disabled(CLI, "bob", true).await.unwrap();
    let known = store.identity(&holder("laptop"), HERE).await.unwrap().unwrap();
    let its_key = known.key.unwrap();
    assert_eq!(its_key.revoked_at, revoked.revoked_at);
    assert!(its_key.revoked_at.is_some() && known.user.disabled);
    assert_eq!(store.revision().await.unwrap(), before + 2);
}

async fn a_key_keeps_all_that_was_said_of_it(place: Place) {
    let store = place.open().await;
    store.create_user(CLI, &user("bob", "free")).await.unwrap();
    let end = Timestamp::from_millisecond(4_102_444_800_123).unwrap();
    let said = KeySpec {
        tier: Some("premium".to_owned()),
        models: Some(vec!["llama3*".to_owned(), "qwen3:8b".to_owned()]),
        limits: KeyLimits { concurrency: Some(2), ..KeyLimits::default() },
        delegating: true,
        expires_at: Some(end),
        ..spec("bob", "Bob's \"ノート\" key")
    };
    let print = Fingerprint { hash: hash("k"), public_id: Some("AbCdEf012345") };
    let kept = store.create_key(CLI, &said, &print).await.unwrap();
    assert_eq!(kept.prefix.as_deref(), Some("usk_AbCdEf012345"));
    assert_eq!((&kept.name, &kept.tier, &kept.models), (&said.name, &said.tier, &said.models));
    assert_eq!((&kept.limits, kept.delegating), (&said.limits, true));
    assert_eq!((kept.expires_at, kept.state), (Some(end), KeyState::Active));
    assert_eq!(store.show_key(kept.id).await.unwrap(), kept);

    let known = store.identity(&Holder::Key(print.hash), HERE).await.unwrap().unwrap().key.unwrap();
    assert_eq!(known.public_id.as_deref(), Some("AbCdEf012345"));
    assert_eq!((known.tier, known.models), (said.tier, said.models));
    assert_eq!((known.concurrency, known.delegating), (Some(2), true));
    assert_eq!((known.expires_at, known.revoked_at), (Some(end), None));
}

async fn the_same_key_is_known_once(place: Place) {
    let store = place.open().await;
    store.create_user(CLI, &user("bob", "free")).await.unwrap();
    let print = Fingerprint { hash: hash("old"), public_id: None };
    let kept = store.create_key(CLI, &spec("bob", "old"), &print).await.unwrap();
    assert_eq!(kept.prefix, None);
    let error = store.create_key(CLI, &spec("bob", "again"), &print).await.unwrap_err();
    assert!(matches!(error, StoreError::Conflict(_)), "{error:?}");
    assert_eq!(store.list_keys(&KeyFilter::default()).await.unwrap().len(), 1);
}

async fn keys_are_listed_by_user_and_state(place: Place) {
    let store = place.open().await;
    store.create_user(CLI, &user("ann", "free")).await.unwrap();
    store.create_user(CLI, &user("bob", "free")).await.unwrap();
    key(&store, "ann", "ann-1").await;
    let revoked = key(&store, "bob", "bob-revoked").await;
    store.revoke_key(CLI, revoked.id).await.unwrap();
    let past = KeySpec { expires_at: Some(Timestamp::now() - 1.hour()), ..spec("bob", "bob-old") };
    let print = Fingerprint { hash: hash("bob-old"), public_id: None };
    store.create_key(CLI, &past, &print).await.unwrap();
    key(&store, "bob", "bob-1").await;

    let list = async |user: Option<&str>, state| {
        let filter = KeyFilter { user: user.map(str::to_owned), state, ..KeyFilter::default() };
        let keys = store.list_keys(&filter).await.unwrap();
        keys.into_iter().map(|key| key.name).collect::<Vec<_>>()
    };
    assert_eq!(list(None, None).await, ["ann-1", "bob-revoked", "bob-old", "bob-1"]);
    assert_eq!(list(Some("ann"), None).await, ["ann-1"]);
    assert_eq!(list(None, Some(KeyState::Active)).await, ["ann-1", "bob-1"]);
    assert_eq!(list(Some("bob"), Some(KeyState::Revoked)).await, ["bob-revoked"]);
    assert_eq!(list(Some("bob"), Some(KeyState::Expired)).await, ["bob-old"]);
}

async fn unknown_names_are_not_found(place: Place) {
    let store = place.open().await;
    let print = Fingerprint { hash: hash("k"), public_id: None };
    let nobodys = KeyFilter { user: Some("nobody".to_owned()), ..KeyFilter::default() };
    for error in [
        store.show_user("nobody").await.unwrap_err(),
        store.set_tier(CLI, "nobody", "free").await.unwrap_err(),
        store.set_disabled(CLI, "nobody", true).await.unwrap_err(),
        store.create_key(CLI, &spec("nobody", "k"), &print).await.unwrap_err(),
        store.list_keys(&nobodys).await.unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::NotFound(_)), "{error:?}");
        assert_eq!(error.to_string(), "there is no user 'nobody'");
    }
    for error in [store.show_key(7).await.unwrap_err(), store.revoke_key(CLI, 7).await.unwrap_err()]
    {
        assert_eq!(error.to_string(), "there is no key 7");
    }
}

async fn what_no_record_may_hold_is_refused(place: Place) {
    let store = place.open().await;
    store.create_user(CLI, &user("bob", "free")).await.unwrap();
    let print = Fingerprint { hash: hash("k"), public_id: None };
    let models =
        |pattern: &str| KeySpec { models: Some(vec![pattern.to_owned()]), ..spec("bob", "k") };
    for error in [
        store.create_user(CLI, &user("two words", "free")).await.unwrap_err(),
        store.create_key(CLI, &spec("bob", ""), &print).await.unwrap_err(),
        store.create_key(CLI, &spec("bob", "two\nlines"), &print).await.unwrap_err(),
        store.create_key(CLI, &models(""), &print).await.unwrap_err(),
        store.create_key(CLI, &models("a b"), &print).await.unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::Invalid(_)), "{error:?}");
        assert!(!error.to_string().contains('\n'), "{error}");
    }
    assert_eq!(store.revision().await.unwrap(), 1);
}

async fn the_first_admin_is_made_once_however_many_try(place: Place) {
    let place = Arc::new(place);
    let trying: Vec<_> = (0..6)
        .map(|n| {
            let place = Arc::clone(&place);
            tokio::spawn(async move {
                let store = place.open().await;
                let plain = format!("key{n}");
                let print = Fingerprint { hash: hash(&plain), public_id: Some(&plain) };
                store.create_first_admin(CLI, &spec("admin", "first"), &print).await.unwrap()
            })
        })
        .collect();
    let mut made = Vec::new();
    for task in trying {
        made.extend(task.await.unwrap());
    }
    let store = place.open().await;
    assert_eq!(store.list_keys(&KeyFilter::default()).await.unwrap(), made);
    assert_eq!(made.len(), 1);
    let users = store.list_users().await.unwrap();
    assert_eq!((users.len(), users[0].tier.as_str()), (1, "admin"));
    assert_eq!(store.revision().await.unwrap(), 1);
    assert_eq!(place.audit().await.len(), 2, "one for the user, one for the key");
}

async fn every_change_leaves_one_audit_row_without_secrets(place: Place) {
    let store = place.open().await;
    let ann = Actor { name: "ann", address: "10.0.0.7" };
    store.create_user(CLI, &user("bob", "free")).await.unwrap();
    store.set_tier(&ann, "bob", "premium").await.unwrap();
    store.set_disabled(&ann, "bob", true).await.unwrap();
    store.set_disabled(&ann, "bob", false).await.unwrap();
    let made = key(&store, "bob", "laptop").await;
    store.revoke_key(&ann, made.id).await.unwrap();
    let print = Fingerprint { hash: hash("old"), public_id: None };
    let old = store.create_key(CLI, &spec("bob", "from before"), &print).await.unwrap();
    let (made, old) = (made.id, old.id);
    assert_eq!(
        place.audit().await,
        [
            "cli||user.create|bob|tier free".to_owned(),
            "ann|10.0.0.7|user.set-tier|bob|free to premium".to_owned(),
            "ann|10.0.0.7|user.disable|bob|".to_owned(),
            "ann|10.0.0.7|user.enable|bob|".to_owned(),
            format!("cli||key.create|{made}|usk_laptop 'laptop' of bob"),
            format!("ann|10.0.0.7|key.revoke|{made}|usk_laptop 'laptop' of bob"),
            format!("cli||key.import|{old}|imported 'from before' of bob"),
        ]
    );
    assert_eq!(store.revision().await.unwrap(), 7);
}

async fn many_writers_at_once_all_succeed_and_the_revision_counts_them(place: Place) {
    const STORES: usize = 4;
    const EACH: usize = 25;
    place.open().await.create_user(CLI, &user("bob", "free")).await.unwrap();
    let mut writing = Vec::new();
    for s in 0..STORES {
        let store = Arc::new(place.open().await);
        for n in 0..EACH {
            let store = Arc::clone(&store);
            writing
                .push(tokio::spawn(async move { key(&store, "bob", &format!("{s}-{n}")).await }));
        }
    }
    let mut ids = BTreeSet::new();
    for task in writing {
        ids.insert(task.await.unwrap().id);
    }
    assert_eq!(ids.len(), STORES * EACH);
    let all = (STORES * EACH + 1) as i64;
    assert_eq!(place.open().await.revision().await.unwrap(), all);
    assert_eq!(place.number("SELECT COUNT(*) FROM audit").await, all);
}

async fn readers_see_whole_changes_while_others_write(place: Place) {
    let store = Arc::new(place.open().await);
    store.create_user(CLI, &user("bob", "free")).await.unwrap();
    let writer = {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for n in 0..40 {
                key(&store, "bob", &format!("key{n}")).await;
            }
        })
    };
    let mut last = 0;
    while !writer.is_finished() {
        // a key that can be seen was counted before: the revision read first is never ahead
        let revision = store.revision().await.unwrap();
        let keys = store.list_keys(&KeyFilter::default()).await.unwrap().len() as i64;
        assert!(keys + 1 >= revision && revision >= last, "{keys} keys at revision {revision}");
        last = revision;
    }
    writer.await.unwrap();
    assert_eq!(store.revision().await.unwrap(), 41);
}
