mod bearers;
mod connection;
mod peers;
mod trouble;

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicI64, AtomicUsize};

use async_trait::async_trait;
use futures_util::future::join_all;
use tokio::sync::watch;

use super::*;
use crate::auth::tests::{believed, user};
use crate::auth::{Key, api_key};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const KEY_HEADER: http::HeaderName = http::HeaderName::from_static("x-api-key");
const NEVER: Duration = Duration::from_secs(3600);

/// A store that does as it is told.
struct Store {
    identities: Mutex<HashMap<Holder, Identity>>,
    revision: AtomicI64,
    mood: watch::Sender<Mood>,
    lookups: watch::Sender<usize>,
    polls: watch::Sender<usize>,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mood {
    Answers,
    Fails,
    /// Has read its answer, and keeps it back until the mood changes.
    Holds,
    Panics,
}

impl Store {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            identities: Mutex::default(),
            revision: AtomicI64::new(1),
            mood: watch::Sender::new(Mood::Answers),
            lookups: watch::Sender::new(0),
            polls: watch::Sender::new(0),
            at_once: AtomicUsize::new(0),
            most_at_once: AtomicUsize::new(0),
        })
    }

    fn add(&self, key: &str) {
        let key_row = Key {
            id: 7,
            public_id: None,
            tier: None,
            models: None,
            concurrency: None,
            requests: None,
            tokens: None,
            delegating: false,
            expires_at: None,
            revoked_at: None,
        };
        let identity = Identity { user: user("free"), key: Some(key_row) };
        self.identities.lock().insert(holder(key), identity);
    }

    fn change(&self, key: &str, change: impl FnOnce(&mut Identity)) {
        change(self.identities.lock().get_mut(&holder(key)).unwrap());
    }

    fn revoke(&self, key: &str) {
        self.change(key, |identity| identity.key.as_mut().unwrap().revoked_at = Some(at(0)));
    }

    fn turn(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    fn asked(&self) -> usize {
        *self.lookups.borrow()
    }

    /// Waits until it has been asked this often.
    async fn until_asked(&self, times: usize) {
        self.lookups.subscribe().wait_for(|asked| *asked >= times).await.unwrap();
    }

    /// Waits until every poll that began before is over, and one that began after.
    async fn until_polled(&self) {
        let mut polls = self.polls.subscribe();
        let before = *polls.borrow();
        polls.wait_for(|polls| *polls >= before + 3).await.unwrap();
    }

    async fn behave(&self) -> Result<(), Unavailable> {
        let mood = *self.mood.subscribe().wait_for(|mood| *mood != Mood::Holds).await.unwrap();
        assert!(mood != Mood::Panics, "as it was told");
        if mood == Mood::Fails { Err(Unavailable("down".to_owned())) } else { Ok(()) }
    }
}

#[async_trait]
impl IdentityStore for Store {
    async fn identity(&self, of: &Holder, _: IpAddr) -> Result<Option<Identity>, Unavailable> {
        let at_once = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_at_once.fetch_max(at_once, Ordering::SeqCst);
        let identity = self.identities.lock().get(of).cloned();
        self.lookups.send_modify(|asked| *asked += 1);
        let behaved = self.behave().await;
        self.at_once.fetch_sub(1, Ordering::SeqCst);
        behaved.map(|()| identity)
    }

    async fn revision(&self) -> Result<i64, Unavailable> {
        self.polls.send_modify(|polls| *polls += 1);
        self.behave().await?;
        Ok(self.revision.load(Ordering::SeqCst))
    }
}

fn holder(key: &str) -> Holder {
    Holder::Key(KeyHash::of(key.as_bytes()))
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn measures() -> Options {
    Options::new(NEVER, Handle::current())
}

fn asking(store: &Arc<Store>, options: &Options) -> Arc<Authenticator> {
    Arc::new(Authenticator::new(Arc::clone(store) as Arc<dyn IdentityStore>, options))
}

/// A key that the store knows, and who asks it.
fn usual() -> (String, Arc<Store>, Arc<Authenticator>) {
    let key = fresh();
    let store = Store::new();
    store.add(&key);
    let authenticator = asking(&store, &measures());
    (key, store, authenticator)
}

fn fresh() -> String {
    api_key::generate().unwrap().plaintext.expose().to_owned()
}

async fn present(authenticator: &Authenticator, key: &str) -> Result<Principal, AuthError> {
    present_at(authenticator, key, at(1000)).await
}

async fn present_at(
    authenticator: &Authenticator,
    key: &str,
    now: Timestamp,
) -> Result<Principal, AuthError> {
    let headers = HeaderMap::from_iter([(KEY_HEADER, key.parse().unwrap())]);
    ask(authenticator, &headers, &believed(""), now).await
}

/// Asks with these headers, under this configuration.
async fn ask(
    authenticator: &Authenticator,
    headers: &HeaderMap,
    (config, tokens): &(Auth, Tokens),
    now: Timestamp,
) -> Result<Principal, AuthError> {
    let signed = Signed { method: "GET", path: "/api/tags", query: "ts=1700000000", private: true };
    let asking =
        Asking { headers, path_key: None, signed, config, tokens, now, from: HERE, last: None };
    authenticator.authenticate(asking).await
}

/// Presents a key in a task of its own, as another client would.
fn start(
    authenticator: &Arc<Authenticator>,
    key: &str,
) -> tokio::task::JoinHandle<Result<Principal, AuthError>> {
    let (authenticator, key) = (Arc::clone(authenticator), key.to_owned());
    tokio::spawn(async move { present(&authenticator, &key).await })
}

fn fault(outcome: Result<Principal, AuthError>) -> KeyFault {
    match outcome {
        Err(AuthError::InvalidKey { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

fn is_unavailable(outcome: &Result<Principal, AuthError>) -> bool {
    matches!(outcome, Err(AuthError::Unavailable(_)))
}

#[tokio::test]
async fn a_key_is_looked_up_once_and_then_remembered() {
    let (key, store, authenticator) = usual();
    for _ in 0..10 {
        let principal = present(&authenticator, &key).await.unwrap();
        assert_eq!(principal.key_id(), Some(7));
    }
    assert_eq!(store.asked(), 1);
}

#[tokio::test]
async fn expiry_is_judged_to_the_second_on_remembered_keys() {
    let (key, store, authenticator) = usual();
    store.change(&key, |identity| identity.key.as_mut().unwrap().expires_at = Some(at(2000)));
    assert!(present_at(&authenticator, &key, at(1999)).await.is_ok());
    assert_eq!(fault(present_at(&authenticator, &key, at(2000)).await), KeyFault::Expired);
    assert!(present_at(&authenticator, &key, at(1999)).await.is_ok());
    assert_eq!(store.asked(), 1);
}

#[tokio::test]
async fn revoked_keys_and_disabled_users_are_refused_whatever_the_clocks_say() {
    for (expected, change) in [
        (
            KeyFault::Revoked,
            (|i| i.key.as_mut().unwrap().revoked_at = Some(at(5000))) as fn(&mut Identity),
        ),
        (KeyFault::Revoked, |i| i.key.as_mut().unwrap().revoked_at = Some(at(1))),
        (KeyFault::UserDisabled, |i| i.user.disabled = true),
        (KeyFault::TierUnknown, |i| i.user.issuer = Some("https://id.example".to_owned())),
    ] {
        let (key, store, authenticator) = usual();
        store.change(&key, change);
        assert_eq!(fault(present(&authenticator, &key).await), expected);
    }
}

#[tokio::test]
async fn a_refusal_names_the_public_id_and_nothing_else_of_the_key() {
    let (_, _, authenticator) = usual();
    let stranger = fresh();
    let refused = present(&authenticator, &stranger).await.unwrap_err();
    let shown = format!("{refused:?}");
    let (public_id, secret) = stranger.strip_prefix("usk_").unwrap().split_once('_').unwrap();
    assert!(shown.contains(public_id) && !shown.contains(secret), "{shown}");
    let foreign = present(&authenticator, "an-imported-key-0123").await.unwrap_err();
    assert!(matches!(
        foreign,
        AuthError::InvalidKey { reason: KeyFault::Unknown, public_id: None }
    ));
}

#[tokio::test]
async fn imported_keys_are_found_by_their_hash() {
    let (_, store, authenticator) = usual();
    store.add("sk-from-the-system-before");
    assert!(present(&authenticator, "sk-from-the-system-before").await.is_ok());
}

#[tokio::test]
async fn what_is_no_key_never_reaches_the_store() {
    let (key, store, authenticator) = usual();
    for not_a_key in ["short", "usk_0123456789", &format!("{key}x"), &format!("{key},{key}")] {
        assert_eq!(fault(present(&authenticator, not_a_key).await), KeyFault::Malformed);
    }
    let none = ask(&authenticator, &HeaderMap::new(), &believed(""), at(0)).await;
    assert!(matches!(none, Err(AuthError::Missing)));
    assert_eq!(store.asked(), 0);
}

#[tokio::test]
async fn an_unknown_key_is_remembered_briefly_and_works_once_created() {
    let (_, store, authenticator) = usual();
    let key = fresh();
    for _ in 0..3 {
        assert_eq!(fault(present(&authenticator, &key).await), KeyFault::Unknown);
    }
    assert_eq!(store.asked(), 1);
    store.add(&key);
    let later = Instant::now() + UNKNOWN_FOR * 2;
    assert!(authenticator.recall(&holder(&key), 0, later).is_none(), "it is asked about again");
    authenticator.invalidate();
    assert!(present(&authenticator, &key).await.is_ok());
}

#[tokio::test]
async fn unknown_keys_do_not_push_known_ones_out() {
    let store = Store::new();
    let key = fresh();
    store.add(&key);
    let authenticator = asking(&store, &Options { known: 4, unknown: 4, ..measures() });
    present(&authenticator, &key).await.unwrap();
    for _ in 0..100 {
        assert_eq!(fault(present(&authenticator, &fresh()).await), KeyFault::Unknown);
    }
    store.turn(Mood::Fails);
    assert!(present(&authenticator, &key).await.is_ok());
    authenticator.unknown.run_pending_tasks();
    assert!(authenticator.unknown.entry_count() <= 4);
}

#[tokio::test]
async fn the_first_credential_that_resolves_wins() {
    let (good, store, authenticator) = usual();
    let (bad, worse) = (fresh(), "malformed");
    let present = |key: &str, bearer: &str| {
        let lines = [
            (KEY_HEADER, key.parse().unwrap()),
            (http::header::AUTHORIZATION, format!("Bearer {bearer}").parse().unwrap()),
        ];
        let authenticator = Arc::clone(&authenticator);
        async move {
            let headers = HeaderMap::from_iter(lines);
            ask(&authenticator, &headers, &believed(""), at(1000)).await
        }
    };
    assert!(present(&good, &bad).await.is_ok());
    assert!(present(&bad, &good).await.is_ok());
    assert_eq!(fault(present(&bad, worse).await), KeyFault::Unknown);
    assert_eq!(fault(present(worse, &bad).await), KeyFault::Malformed);
    store.turn(Mood::Fails);
    let stranger = fresh();
    assert!(present(&stranger, &good).await.is_ok(), "the other one is known");
    assert!(is_unavailable(&present(worse, &stranger).await), "it could be good");
    assert!(is_unavailable(&present(&stranger, worse).await), "it could be good");
}

#[tokio::test]
async fn many_who_ask_at_once_for_a_key_cause_one_lookup() {
    let (key, store, authenticator) = usual();
    store.turn(Mood::Holds);
    let crowd: Vec<_> = (0..50).map(|_| start(&authenticator, &key)).collect();
    store.until_asked(1).await;
    store.turn(Mood::Answers);
    for outcome in join_all(crowd).await {
        assert!(outcome.unwrap().is_ok());
    }
    assert_eq!(store.asked(), 1);
}

#[tokio::test]
async fn who_asked_first_may_leave_without_harm_to_the_others() {
    let (key, store, authenticator) = usual();
    store.turn(Mood::Holds);
    let first = start(&authenticator, &key);
    store.until_asked(1).await;
    let second = start(&authenticator, &key);
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    store.turn(Mood::Answers);
    assert!(second.await.unwrap().is_ok());
    assert_eq!(store.asked(), 1);
}

#[tokio::test]
async fn an_answer_from_before_a_change_serves_nobody_who_came_after() {
    let (key, store, authenticator) = usual();
    store.turn(Mood::Holds);
    let before = start(&authenticator, &key);
    store.until_asked(1).await;
    store.revoke(&key);
    authenticator.invalidate();
    let after = start(&authenticator, &key);
    store.until_asked(2).await;
    store.turn(Mood::Answers);
    assert_eq!(fault(after.await.unwrap()), KeyFault::Revoked);
    assert!(before.await.unwrap().is_ok(), "it came before the change");
    assert_eq!(fault(present(&authenticator, &key).await), KeyFault::Revoked);
}

#[tokio::test]
async fn an_answer_that_comes_after_a_change_is_not_remembered() {
    let (key, store, authenticator) = usual();
    let newcomer = fresh();
    store.turn(Mood::Holds);
    let (known, unknown) = (start(&authenticator, &key), start(&authenticator, &newcomer));
    store.until_asked(2).await;
    store.revoke(&key);
    store.add(&newcomer);
    authenticator.invalidate();
    store.turn(Mood::Answers);
    assert!(known.await.unwrap().is_ok(), "it came before the change");
    assert_eq!(fault(unknown.await.unwrap()), KeyFault::Unknown, "it came before the change");
    assert_eq!(fault(present(&authenticator, &key).await), KeyFault::Revoked);
    assert!(present(&authenticator, &newcomer).await.is_ok());
}

#[tokio::test]
async fn what_is_forgotten_is_not_kept_in_memory() {
    let (key, _, authenticator) = usual();
    let stranger = fresh();
    present(&authenticator, &key).await.unwrap();
    present(&authenticator, &stranger).await.unwrap_err();
    authenticator.invalidate();
    assert!(!authenticator.known.contains_key(&holder(&key)));
    assert!(!authenticator.unknown.contains_key(&holder(&stranger)));
}
