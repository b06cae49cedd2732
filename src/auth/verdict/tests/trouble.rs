//! A store that is silent, slow, panics, or is asked too much; changes made elsewhere.

use super::*;

#[tokio::test]
async fn a_silent_store_is_no_reason_to_refuse_known_keys_nor_to_call_others_wrong() {
    let (key, store, authenticator) = usual();
    present(&authenticator, &key).await.unwrap();
    store.turn(Mood::Fails);
    assert!(present(&authenticator, &key).await.is_ok());
    let stranger = fresh();
    assert!(is_unavailable(&present(&authenticator, &stranger).await));
    store.turn(Mood::Answers);
    assert_eq!(
        fault(present(&authenticator, &stranger).await),
        KeyFault::Unknown,
        "not remembered"
    );
}

#[tokio::test]
async fn known_keys_are_unavailable_once_too_old() {
    let (key, store) = (fresh(), Store::new());
    store.add(&key);
    let authenticator = asking(&store, &Options { max_stale: Duration::ZERO, ..measures() });
    present(&authenticator, &key).await.unwrap();
    store.turn(Mood::Fails);
    assert!(is_unavailable(&present(&authenticator, &key).await));
    store.turn(Mood::Answers);
    assert!(present(&authenticator, &key).await.is_ok());
}

#[tokio::test]
async fn an_identity_is_as_fresh_as_its_answer_or_the_last_confirmation() {
    let (_, _, authenticator) = usual();
    let asked = authenticator.born + NEVER;
    let known = Remembered { what: (), epoch: 0, asked };
    let second = Duration::from_secs(1);
    assert!(authenticator.is_fresh(&known, asked + NEVER));
    assert!(!authenticator.is_fresh(&known, asked + NEVER + second));
    let confirmed = asked + NEVER;
    authenticator.confirmed.store(authenticator.age(confirmed), Ordering::Release);
    assert!(authenticator.is_fresh(&known, confirmed + NEVER));
    assert!(!authenticator.is_fresh(&known, confirmed + NEVER + second));
}

#[tokio::test]
async fn a_store_that_takes_too_long_is_unavailable() {
    let (key, store) = (fresh(), Store::new());
    store.add(&key);
    let brief = Options { lookup_timeout: Duration::from_millis(10), ..measures() };
    let authenticator = asking(&store, &brief);
    store.turn(Mood::Holds);
    assert!(is_unavailable(&present(&authenticator, &key).await));
    store.turn(Mood::Answers);
    assert!(present(&authenticator, &key).await.is_ok());
}

#[tokio::test]
async fn a_store_that_panics_is_unavailable_and_asked_again() {
    let (key, store, authenticator) = usual();
    store.turn(Mood::Panics);
    assert!(is_unavailable(&present(&authenticator, &key).await));
    store.turn(Mood::Answers);
    assert!(present(&authenticator, &key).await.is_ok());
}

#[tokio::test]
async fn a_flood_of_unknown_keys_is_let_through_to_the_store_in_measure() {
    let store = Store::new();
    let measure = Options { lookups: 3, pending: 20, ..measures() };
    let authenticator = asking(&store, &measure);
    store.turn(Mood::Holds);
    let flood: Vec<_> = (0..50).map(|_| start(&authenticator, &fresh())).collect();
    store.until_asked(3).await;
    store.turn(Mood::Answers);
    let outcomes: Vec<_> = join_all(flood).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(store.most_at_once.load(Ordering::SeqCst), 3);
    assert_eq!(store.asked(), 20);
    assert_eq!(outcomes.iter().filter(|outcome| is_unavailable(outcome)).count(), 30);
}

#[tokio::test]
async fn a_change_made_elsewhere_is_noticed_by_the_watch() {
    let (key, store, authenticator) = usual();
    let stop = watch::Sender::new(false);
    let watching = tokio::spawn(Arc::clone(&authenticator).watch(stop.subscribe()));
    store.until_polled().await;
    present(&authenticator, &key).await.unwrap();
    store.until_polled().await;
    assert!(present(&authenticator, &key).await.is_ok());
    assert_eq!(store.asked(), 1, "an unchanged revision ends no epoch");
    assert!(authenticator.confirmed.load(Ordering::Acquire) > 0);

    store.revoke(&key);
    store.revision.fetch_add(1, Ordering::SeqCst);
    store.until_polled().await;
    assert_eq!(fault(present(&authenticator, &key).await), KeyFault::Revoked);

    stop.send_replace(true);
    watching.await.unwrap();
}

#[tokio::test]
async fn a_failing_poll_neither_confirms_nor_forgets_and_the_watch_goes_on() {
    let (key, store, authenticator) = usual();
    let stop = watch::Sender::new(false);
    let watching = tokio::spawn(Arc::clone(&authenticator).watch(stop.subscribe()));
    store.until_polled().await;
    present(&authenticator, &key).await.unwrap();
    assert!(!authenticator.is_without_store());
    store.turn(Mood::Fails);
    store.until_polled().await;
    assert!(authenticator.is_without_store());
    let confirmed = authenticator.confirmed.load(Ordering::Acquire);
    store.until_polled().await;
    assert_eq!(authenticator.confirmed.load(Ordering::Acquire), confirmed);
    assert!(present(&authenticator, &key).await.is_ok());

    store.turn(Mood::Answers);
    store.until_polled().await;
    assert!(authenticator.confirmed.load(Ordering::Acquire) > confirmed);
    assert!(!authenticator.is_without_store());
    drop(stop);
    watching.await.unwrap();
}
