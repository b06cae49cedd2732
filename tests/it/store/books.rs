//! What was used, as the store adds it up.

use std::sync::atomic::{AtomicI64, Ordering};

use jiff::Timestamp;
use usher::auth::IdentityStore;
use usher::model::ModelName;
use usher::store::Store;
use usher::usage::ledger::{Amounts, Batch, HOUR, Slot, UsageStore};
use usher::usage::report::{By, Line, Period};

use super::place::{CLI, Place, key, user};

const EVER: Period = Period { from: i64::MIN, to: i64::MAX };

fn slot(hour: i64, user: i64, key: i64, model: &str) -> Slot {
    let model = ModelName::parse(model).unwrap().key().clone();
    Slot { hour: hour * HOUR, user, key, model }
}

fn amounts(requests: u64) -> Amounts {
    Amounts {
        requests,
        prompt_tokens: 10 * requests,
        completion_tokens: 5 * requests,
        gpu_ms: 250 * requests,
        errors: requests / 2,
    }
}

fn batch(writer: &str, number: i64, sums: &[(Slot, Amounts)]) -> Batch {
    Batch { writer: writer.into(), number, sums: sums.to_vec() }
}

/// Adds these as somebody who has added nothing before.
async fn add(store: &Store, sums: &[(Slot, Amounts)]) {
    static WRITERS: AtomicI64 = AtomicI64::new(0);
    let writer = format!("writer {}", WRITERS.fetch_add(1, Ordering::Relaxed));
    store.add_usage(&batch(&writer, 1, sums)).await.unwrap();
}

fn figures(line: &Line) -> (i64, i64, i64, f64, i64) {
    let Line { requests, prompt_tokens, completion_tokens, gpu_seconds, errors, .. } = line;
    (*requests, *prompt_tokens, *completion_tokens, *gpu_seconds, *errors)
}

pub async fn usage_adds_up_and_is_summed_in_four_ways(place: Place) {
    let store = place.open().await;
    let bob = store.create_user(CLI, &user("bob", "free")).await.unwrap();
    let laptop = key(&store, "bob", "laptop").await;
    let (other, revision) = (bob.id + 1, store.revision().await.unwrap());
    let sums = [
        (slot(1, bob.id, laptop.id, "a"), amounts(2)),
        (slot(1, bob.id, laptop.id, "b"), amounts(1)),
        (slot(2, bob.id, 0, "a"), amounts(4)),
        (slot(2, other, 77, "a"), amounts(1)),
    ];
    add(&store, &sums).await;
    add(&store, &sums[..1]).await;
    assert_eq!(store.revision().await.unwrap(), revision, "nobody has to look again");

    let models = store.usage(By::Model, EVER).await.unwrap();
    let names: Vec<_> = models.iter().map(|line| line.model.as_deref().unwrap()).collect();
    assert_eq!(names, ["a:latest", "b:latest"]);
    assert_eq!(figures(&models[0]), (9, 90, 45, 2.25, 4));
    let users = store.usage(By::User, EVER).await.unwrap();
    let names: Vec<_> = users.iter().map(|line| (line.user_id, line.user.as_deref())).collect();
    assert_eq!(names, [(Some(bob.id), Some("bob")), (Some(other), None)]);
    let keys = store.usage(By::Key, EVER).await.unwrap();
    let names: Vec<_> = keys.iter().map(|line| (line.key_id, line.name.as_deref())).collect();
    assert_eq!(names, [(Some(laptop.id), Some("laptop")), (Some(0), None), (Some(77), None)]);
    assert_eq!(keys[0].prefix.as_deref(), Some("usk_laptop"));
    let second = Period { from: 2 * HOUR, to: 3 * HOUR };
    let hours = store.usage(By::Hour, second).await.unwrap();
    assert_eq!(hours.len(), 1);
    assert_eq!(hours[0].hour, Some(Timestamp::from_millisecond(2 * HOUR).unwrap()));
    assert_eq!(figures(&hours[0]), (5, 50, 25, 1.25, 2));
}

pub async fn users_see_the_newest_fifty_of_their_own_hours(place: Place) {
    let store = place.open().await;
    let mut sums: Vec<_> = (0..60).map(|hour| (slot(2 * hour, 5, 1, "a"), amounts(1))).collect();
    sums.push((slot(118, 5, 2, "a"), amounts(3)));
    sums.push((slot(118, 5, 1, "b"), amounts(1)));
    sums.push((slot(119, 6, 1, "a"), amounts(9)));
    sums.sort_by(|(one, _), (other, _)| one.cmp(other));
    add(&store, &sums).await;
    let own = store.own_usage(5).await.unwrap();
    assert_eq!(own.len(), 51, "fifty hours, one of them with two models");
    let newest = Timestamp::from_millisecond(118 * HOUR).unwrap();
    assert_eq!((own[0].hour, own[0].requests), (Some(newest), 4), "over all keys");
    assert_eq!((own[1].hour, own[1].model.as_deref()), (Some(newest), Some("b:latest")));
    assert_eq!(own[50].hour, Some(Timestamp::from_millisecond(20 * HOUR).unwrap()));
    assert!(store.own_usage(7).await.unwrap().is_empty());
}

pub async fn many_who_add_at_once_lose_nothing(place: Place) {
    let stores = [place.open().await, place.open().await, place.open().await];
    let adding = stores.iter().flat_map(|store| {
        (0..10).map(async move |_| {
            let sums = [
                (slot(1, 1, 1, "a"), amounts(1)),
                (slot(1, 1, 2, "a"), amounts(1)),
                (slot(1, 2, 3, "a"), amounts(1)),
            ];
            add(store, &sums).await;
        })
    });
    futures_util::future::join_all(adding).await;
    let users = stores[0].usage(By::User, EVER).await.unwrap();
    let requests: Vec<_> = users.iter().map(|line| line.requests).collect();
    assert_eq!(requests, [60, 30]);
}

pub async fn a_batch_is_added_once_however_often_it_is_tried(place: Place) {
    let stores = [place.open().await, place.open().await, place.open().await];
    let sums = [(slot(1, 1, 1, "a"), amounts(1))];
    let requests = async || stores[0].usage(By::User, EVER).await.unwrap()[0].requests;
    let trying = (0..12).map(|n| {
        let (store, batch) = (&stores[n % 3], batch("one", 1, &sums));
        async move { store.add_usage(&batch).await.unwrap() }
    });
    futures_util::future::join_all(trying).await;
    assert_eq!(requests().await, 1);
    for (writer, number, all) in [("one", 2, 2), ("two", 1, 3), ("one", 2, 3), ("one", 1, 3)] {
        stores[1].add_usage(&batch(writer, number, &sums)).await.unwrap();
        assert_eq!(requests().await, all, "{writer} {number}");
    }
    let mut connection = place.connect().await;
    sqlx::raw_sql("UPDATE usage_writers SET at = 1").execute(&mut connection).await.unwrap();
    stores[2].add_usage(&batch("three", 1, &sums)).await.unwrap();
    let kept = "SELECT COUNT(*) FROM usage_writers";
    assert_eq!(place.number(kept).await, 1, "those who ended long ago are forgotten");
}

pub async fn the_last_use_of_a_key_never_goes_back(place: Place) {
    let store = place.open().await;
    store.create_user(CLI, &user("bob", "free")).await.unwrap();
    let id = key(&store, "bob", "laptop").await.id;
    let revision = store.revision().await.unwrap();
    for (at, known) in [(1_000, 1_000), (3_000, 3_000), (2_000, 3_000)] {
        store.mark_used(&[(id, at), (id + 100, at)]).await.unwrap();
        let used = store.show_key(id).await.unwrap().last_used_at;
        assert_eq!(used, Some(Timestamp::from_millisecond(known).unwrap()));
    }
    assert_eq!(store.revision().await.unwrap(), revision);
}
