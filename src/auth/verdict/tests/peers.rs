//! Several gateways on one store.

use tokio::sync::mpsc;

use super::*;
use crate::auth::{Heard, Peers};

/// A memory that authenticators share, and what each is told.
struct Shared {
    entries: Mutex<HashMap<(Holder, i64), Identity>>,
    recalls: AtomicUsize,
    told: watch::Sender<Vec<i64>>,
    news: tokio::sync::Mutex<mpsc::UnboundedReceiver<Heard>>,
    speak: mpsc::UnboundedSender<Heard>,
}

impl Shared {
    fn new() -> Arc<Self> {
        let (speak, news) = mpsc::unbounded_channel();
        Arc::new(Self {
            entries: Mutex::default(),
            recalls: AtomicUsize::new(0),
            told: watch::Sender::new(Vec::new()),
            news: tokio::sync::Mutex::new(news),
            speak,
        })
    }

    fn say(&self, revision: i64) {
        self.speak.send(Heard { revision, age: Duration::ZERO }).unwrap();
    }

    /// Waits until there are so many entries.
    async fn until_remembered(&self, entries: usize) {
        while self.entries.lock().len() < entries {
            tokio::task::yield_now().await;
        }
    }
}

#[async_trait]
impl Peers for Shared {
    async fn recall(&self, holder: &Holder, revision: i64) -> Option<Identity> {
        self.recalls.fetch_add(1, Ordering::SeqCst);
        self.entries.lock().get(&(holder.clone(), revision)).cloned()
    }

    async fn remember(&self, holder: &Holder, revision: i64, identity: &Identity) {
        self.entries.lock().insert((holder.clone(), revision), identity.clone());
    }

    async fn tell(&self, revision: i64) {
        self.told.send_modify(|told| told.push(revision));
    }

    async fn hear(&self) -> Heard {
        self.news.lock().await.recv().await.expect("it is held here")
    }
}

/// A key, its store, and two who share what they know; they watch until the sender goes.
async fn two() -> (String, Arc<Store>, Arc<Shared>, [Arc<Authenticator>; 2], watch::Sender<bool>) {
    let (key, store, shared) = (fresh(), Store::new(), Shared::new());
    store.add(&key);
    let stop = watch::Sender::new(false);
    let one = || {
        let peers = Some(Arc::clone(&shared) as Arc<dyn Peers>);
        let authenticator = asking(&store, &Options { peers, ..measures() });
        tokio::spawn(Arc::clone(&authenticator).watch(stop.subscribe()));
        authenticator
    };
    let both = [one(), one()];
    store.until_polled().await;
    (key, store, shared, both, stop)
}

#[tokio::test]
async fn what_a_peer_has_looked_up_is_not_asked_of_the_store_again() {
    let (key, store, shared, [first, second], _stop) = two().await;
    present(&first, &key).await.unwrap();
    shared.until_remembered(1).await;
    assert_eq!(present(&second, &key).await.unwrap().identity.key.as_ref().unwrap().id, 7);
    assert_eq!(store.asked(), 1);
}

#[tokio::test]
async fn a_peers_answer_from_before_a_change_is_none() {
    let (key, store, shared, [first, second], _stop) = two().await;
    present(&first, &key).await.unwrap();
    shared.until_remembered(1).await;
    store.revoke(&key);
    store.revision.fetch_add(1, Ordering::SeqCst);
    store.until_polled().await;
    assert_eq!(fault(present(&second, &key).await), KeyFault::Revoked);
    assert_eq!(fault(present(&first, &key).await), KeyFault::Revoked);
}

#[tokio::test]
async fn after_a_change_made_here_peers_are_not_asked_until_its_revision_is_known() {
    let (key, store, shared, [first, _second], stop) = two().await;
    present(&first, &key).await.unwrap();
    shared.until_remembered(1).await;
    // nobody looks at the store any more, as if the next look were far away
    stop.send_replace(true);
    while Arc::strong_count(&first) > 1 {
        tokio::task::yield_now().await;
    }
    let asked_before = shared.recalls.load(Ordering::SeqCst);
    store.revoke(&key);
    first.invalidate();
    assert_eq!(fault(present(&first, &key).await), KeyFault::Revoked);
    assert_eq!(shared.recalls.load(Ordering::SeqCst), asked_before);
    // nor does a peer that knows nothing of the change make it known
    for revision in [1, 2] {
        first.note(Heard { revision, age: Duration::ZERO });
        let epoch = first.epoch.load(Ordering::Acquire);
        assert_eq!(first.shared_revision(epoch, Instant::now()), None, "{revision}");
    }
}

#[tokio::test]
async fn a_change_made_here_is_told_at_once_and_what_is_old_every_now_and_then() {
    let (_key, store, shared, [first, _second], _stop) = two().await;
    store.revision.store(5, Ordering::SeqCst);
    first.invalidate();
    let mut told = shared.told.subscribe();
    told.wait_for(|told| told.contains(&5)).await.unwrap();
    let so_far = shared.told.borrow().len();
    told.wait_for(|told| told.len() > so_far + 1).await.unwrap();
}

#[tokio::test]
async fn a_change_that_a_peer_tells_of_ends_what_is_known_though_the_store_is_silent() {
    let (key, store, shared, [first, second], _stop) = two().await;
    present(&first, &key).await.unwrap();
    present(&second, &key).await.unwrap();
    store.turn(Mood::Fails);
    shared.say(2);
    shared.say(2);
    loop {
        // one of them hears each message
        let outcomes = [present(&first, &key).await, present(&second, &key).await];
        if outcomes.iter().any(is_unavailable) {
            break;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_a_peer_has_read_confirms_what_is_known_and_an_old_revision_does_not() {
    let (_key, store, _shared, [first, _second], _stop) = two().await;
    store.turn(Mood::Fails);
    store.until_polled().await;
    let confirmed = || first.confirmed.load(Ordering::Acquire);
    let before = confirmed();
    first.note(Heard { revision: 0, age: Duration::ZERO });
    assert_eq!(confirmed(), before, "the store had come further");
    let now = first.age(Instant::now());
    first.note(Heard { revision: 1, age: Duration::ZERO });
    assert!(confirmed() >= now);
}

#[tokio::test]
async fn peers_are_believed_only_while_somebody_has_seen_the_store_lately() {
    let (_key, _store, _shared, [first, _second], _stop) = two().await;
    let (epoch, confirmed) = (first.epoch.load(Ordering::Acquire), first.confirmed());
    assert_eq!(first.shared_revision(epoch, confirmed + NEVER), Some(1));
    let late = confirmed + NEVER + Duration::from_secs(1);
    let is_confirmed_again = first.confirmed() > confirmed + Duration::from_secs(1);
    assert!(is_confirmed_again || first.shared_revision(epoch, late).is_none());
    assert_eq!(first.shared_revision(epoch + 1, confirmed), None, "another epoch");
}
