//! ACCOUNT: who used how much of what, by key, user, model and hour.
//!
//! A request that is over adds its figures to a sum in memory, and twice a second the sums go to
//! the store, all that came together in a few transactions. So a process that is killed loses what
//! was used in its last second, and nothing else; one that stops writes everything down first.
//! While the store is away the sums wait for it, up to a number of them. What was written and got no
//! answer is written again as the same batch, by which the store knows that it has it already.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use ahash::HashMap;
use async_trait::async_trait;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::model::ModelKey;

/// Between two writings.
const FLUSH: Duration = Duration::from_millis(500);
/// Sums that wait at most, about 20 MB of them; beyond, what has no sum yet is not counted.
const MOST_WAITING: usize = 100_000;
/// Sums in one transaction, so that none is long.
const BATCH: usize = 500;
/// How exactly the last use of a key is known, in milliseconds: not every request of a busy one is
/// worth a write.
const SEEN_EVERY: i64 = 10_000;
/// Parts that are locked one by one.
const PARTS: usize = 16;
/// Milliseconds of an hour.
pub const HOUR: i64 = 3_600_000;

/// Whose use, of what, when.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot {
    /// The moment that the hour began, in milliseconds since 1970.
    pub hour: i64,
    /// Account.
    pub user: i64,
    /// Key; 0 is none.
    pub key: i64,
    /// Model.
    pub model: ModelKey,
}

/// How much was used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Requests that an instance was given.
    pub requests: u64,
    /// Tokens of their prompts.
    pub prompt_tokens: u64,
    /// Tokens of their answers.
    pub completion_tokens: u64,
    /// Milliseconds of work on them, loading excluded.
    pub gpu_ms: u64,
    /// Those that failed.
    pub errors: u64,
}

impl Amounts {
    fn add(&mut self, more: &Self) {
        let sums = [
            (&mut self.requests, more.requests),
            (&mut self.prompt_tokens, more.prompt_tokens),
            (&mut self.completion_tokens, more.completion_tokens),
            (&mut self.gpu_ms, more.gpu_ms),
            (&mut self.errors, more.errors),
        ];
        for (sum, more) in sums {
            *sum = sum.saturating_add(more);
        }
    }
}

/// When a key was used last, in milliseconds since 1970.
pub type Seen = (i64, i64);

/// What is written at once.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Whose it is: no two ledgers have one name.
    pub writer: Arc<str>,
    /// The batches of a writer are counted from 1, and come one after the other.
    pub number: i64,
    /// In the order of their slots.
    pub sums: Vec<(Slot, Amounts)>,
}

/// Where usage is written down.
#[async_trait]
pub trait UsageStore: Send + Sync + 'static {
    /// Adds these to what is written: all of them, or none; once, however often it is tried. In the
    /// order of their slots, so that gateways that add at once do not wait for each other in
    /// circles.
    async fn add_usage(&self, batch: &Batch) -> Result<(), String>;

    /// Writes down when keys were used last; it is no change that others have to know of.
    async fn mark_used(&self, seen: &[Seen]) -> Result<(), String>;
}

/// Collects what was used, and writes it down.
pub struct Ledger {
    parts: Vec<Mutex<Part>>,
    store: Arc<dyn UsageStore>,
    name: Arc<str>,
    /// Sums in all parts and in the backlog.
    waiting: AtomicUsize,
    /// Requests that were not counted, and how many of them the log has told of.
    lost: AtomicU64,
    told: AtomicU64,
    /// Only whoever writes has it.
    backlog: tokio::sync::Mutex<Backlog>,
    silent: AtomicBool,
}

#[derive(Default)]
struct Part {
    sums: HashMap<Slot, Amounts>,
    seen: HashMap<i64, LastUse>,
}

/// When a key was used last, and up to when that is known or on its way to the store.
#[derive(Clone, Copy, Default)]
struct LastUse {
    at: i64,
    told: i64,
}

impl LastUse {
    /// Hands a use over that is not known yet and was not put off long enough; returns whether
    /// there is anything to remember.
    fn collect(&mut self, key: i64, backlog: &mut Backlog, now: i64, last: bool) -> bool {
        let due = last || now - self.told >= SEEN_EVERY;
        if due && self.at > self.told {
            backlog.seen.insert(key, self.at);
            self.told = self.at;
        }
        self.at > self.told || now - self.told < SEEN_EVERY
    }
}

/// What was taken out of the parts and is not written yet.
#[derive(Default)]
struct Backlog {
    sums: BTreeMap<Slot, Amounts>,
    seen: BTreeMap<i64, i64>,
    /// Was given to the store, which may have it or not.
    doubtful: Option<Batch>,
    batches: i64,
}

impl Backlog {
    /// What is to be written next: first of all what may have been written already.
    fn next(&mut self, writer: &Arc<str>) -> Option<Batch> {
        if self.doubtful.is_none() && !self.sums.is_empty() {
            self.batches += 1;
            let sums = std::iter::from_fn(|| self.sums.pop_first()).take(BATCH).collect();
            self.doubtful = Some(Batch { writer: Arc::clone(writer), number: self.batches, sums });
        }
        self.doubtful.clone()
    }

    fn len(&self) -> usize {
        self.sums.len() + self.doubtful.as_ref().map_or(0, |batch| batch.sums.len())
    }
}

impl Ledger {
    /// A ledger that is written down in this store, once somebody [keeps](Self::keep) it. No other
    /// may have the name.
    pub fn new(store: Arc<dyn UsageStore>, name: &str) -> Arc<Self> {
        Arc::new(Self {
            parts: std::iter::repeat_with(Mutex::default).take(PARTS).collect(),
            store,
            name: name.into(),
            waiting: AtomicUsize::new(0),
            lost: AtomicU64::new(0),
            told: AtomicU64::new(0),
            backlog: tokio::sync::Mutex::default(),
            silent: AtomicBool::new(false),
        })
    }

    /// Whether the store did not take what was last written.
    pub fn is_without_store(&self) -> bool {
        self.silent.load(Ordering::Relaxed)
    }

    /// Sums that wait to be written down.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Requests that were not counted, because too many sums waited.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Adds what a request used.
    pub fn note(&self, slot: Slot, amounts: &Amounts) {
        let Some(part) = self.part(slot.user) else { return };
        let mut part = part.lock();
        if let Some(sum) = part.sums.get_mut(&slot) {
            sum.add(amounts);
        } else if self.waiting.load(Ordering::Relaxed) < MOST_WAITING {
            part.sums.insert(slot, *amounts);
            self.waiting.fetch_add(1, Ordering::Relaxed);
        } else {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Notes that a key was used at `at`, in milliseconds since 1970.
    pub fn saw(&self, key: i64, at: i64) {
        let Some(part) = self.part(key) else { return };
        let mut part = part.lock();
        let last = part.seen.entry(key).or_default();
        last.at = last.at.max(at);
    }

    fn part(&self, id: i64) -> Option<&Mutex<Part>> {
        self.parts.get(usize::try_from(id.unsigned_abs()).unwrap_or_default() % PARTS)
    }

    /// Writes down what was collected, twice a second, until told to end; then all that is left.
    pub async fn keep(self: Arc<Self>, mut ending: watch::Receiver<bool>) {
        loop {
            let ended = tokio::select! {
                () = tokio::time::sleep(FLUSH) => false,
                _ = ending.wait_for(|ending| *ending) => true,
            };
            self.flush(ended).await;
            if ended {
                return;
            }
        }
    }

    /// Writes down what was collected; `last`: nothing is put off.
    async fn flush(&self, last: bool) {
        let mut backlog = self.backlog.lock().await;
        self.collect(&mut backlog, Timestamp::now().as_millisecond(), last);
        match self.write(&mut backlog).await {
            Ok(()) => self.found(),
            Err(error) => self.missed(&error, last.then(|| backlog.len())),
        }
    }

    fn collect(&self, backlog: &mut Backlog, now: i64, last: bool) {
        for part in &self.parts {
            let sums = {
                let mut part = part.lock();
                part.seen.retain(|key, last_use| last_use.collect(*key, backlog, now, last));
                std::mem::take(&mut part.sums)
            };
            for (slot, amounts) in sums {
                match backlog.sums.get_mut(&slot) {
                    Some(sum) => {
                        sum.add(&amounts);
                        self.waiting.fetch_sub(1, Ordering::Relaxed);
                    }
                    None => drop(backlog.sums.insert(slot, amounts)),
                }
            }
        }
    }

    async fn write(&self, backlog: &mut Backlog) -> Result<(), String> {
        while let Some(batch) = backlog.next(&self.name) {
            self.store.add_usage(&batch).await?;
            backlog.doubtful = None;
            self.waiting.fetch_sub(batch.sums.len(), Ordering::Relaxed);
        }
        let seen: Vec<Seen> = backlog.seen.iter().map(|(key, at)| (*key, *at)).collect();
        for batch in seen.chunks(BATCH) {
            self.store.mark_used(batch).await?;
            for (key, _) in batch {
                backlog.seen.remove(key);
            }
        }
        Ok(())
    }

    fn found(&self) {
        if self.silent.swap(false, Ordering::Relaxed) {
            let lost = self.lost();
            let lost = lost - self.told.swap(lost, Ordering::Relaxed);
            log::info!("usage is written down again; {lost} requests were not counted");
        }
    }

    fn missed(&self, error: &str, ending_with: Option<usize>) {
        if ending_with == Some(0) {
            log::warn!("when keys were last used is not written down: {error}");
        } else if let Some(sums) = ending_with {
            log::error!("{sums} sums of usage are lost, the database did not take them: {error}");
        } else if !self.silent.swap(true, Ordering::Relaxed) {
            log::warn!("usage waits in memory until the database takes it: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;

    use super::*;
    use crate::model::ModelName;

    /// A store that remembers, and is away at times.
    #[derive(Default)]
    struct Book {
        away: AtomicBool,
        /// Does what it is told, and does not say so.
        mute: AtomicBool,
        last: AtomicUsize,
        sums: Mutex<HashMap<Slot, Amounts>>,
        seen: Mutex<Vec<Seen>>,
        largest: AtomicUsize,
    }

    #[async_trait]
    impl UsageStore for Book {
        async fn add_usage(&self, batch: &Batch) -> Result<(), String> {
            let sums = &batch.sums;
            if self.away.load(Ordering::Relaxed) {
                return Err("away".to_owned());
            }
            self.largest.fetch_max(sums.len(), Ordering::Relaxed);
            assert!(sums.is_sorted_by(|(one, _), (other, _)| one < other));
            let number = usize::try_from(batch.number).unwrap();
            let last = self.last.swap(number, Ordering::Relaxed);
            assert!(number == last || number == last + 1, "one after the other");
            if number > last {
                let mut book = self.sums.lock();
                for (slot, amounts) in sums {
                    book.entry(slot.clone()).or_default().add(amounts);
                }
            }
            let mute = self.mute.load(Ordering::Relaxed);
            if mute { Err("no answer".to_owned()) } else { Ok(()) }
        }

        async fn mark_used(&self, seen: &[Seen]) -> Result<(), String> {
            self.seen.lock().extend(seen);
            Ok(())
        }
    }

    fn slot(user: i64, model: &str) -> Slot {
        let model = ModelName::parse(model).unwrap().key().clone();
        Slot { hour: 7 * HOUR, user, key: user, model }
    }

    fn one() -> Amounts {
        Amounts { requests: 1, prompt_tokens: 10, completion_tokens: 5, gpu_ms: 20, errors: 0 }
    }

    #[tokio::test]
    async fn sums_arrive_and_wait_for_a_store_that_is_away() {
        let book = Arc::new(Book::default());
        let ledger = Ledger::new(Arc::clone(&book) as _, "one");
        for user in 0..3 {
            ledger.note(slot(user, "a"), &one());
            ledger.note(slot(user, "a"), &one());
        }
        book.away.store(true, Ordering::Relaxed);
        ledger.flush(false).await;
        ledger.note(slot(1, "a"), &one());
        ledger.flush(false).await;
        assert!(book.sums.lock().is_empty());
        book.away.store(false, Ordering::Relaxed);
        ledger.flush(false).await;
        ledger.flush(false).await;
        let sum = book.sums.lock().get(&slot(1, "a")).copied();
        let three = Amounts {
            requests: 3,
            prompt_tokens: 30,
            completion_tokens: 15,
            gpu_ms: 60,
            errors: 0,
        };
        assert_eq!(sum, Some(three), "each once, whatever happened between");
        assert_eq!(ledger.waiting.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn what_was_written_without_an_answer_is_not_written_twice() {
        let book = Arc::new(Book::default());
        let ledger = Ledger::new(Arc::clone(&book) as _, "one");
        let requests = |user| book.sums.lock().get(&slot(user, "a")).map(|sum| sum.requests);
        book.mute.store(true, Ordering::Relaxed);
        for _ in 0..3 {
            ledger.note(slot(1, "a"), &one());
            ledger.flush(false).await;
            assert!(ledger.is_without_store() && ledger.waiting() > 0);
        }
        assert_eq!(requests(1), Some(1), "the rest waits behind what is in doubt");
        book.mute.store(false, Ordering::Relaxed);
        ledger.note(slot(2, "a"), &one());
        ledger.flush(false).await;
        assert_eq!((requests(1), requests(2)), (Some(3), Some(1)), "each once");
        assert!(!ledger.is_without_store());
        assert_eq!(ledger.waiting(), 0);
    }

    #[tokio::test]
    async fn what_waits_is_bounded_and_what_has_a_sum_goes_on_counting() {
        let book = Arc::new(Book::default());
        book.away.store(true, Ordering::Relaxed);
        let ledger = Ledger::new(Arc::clone(&book) as _, "one");
        for user in 0..MOST_WAITING as i64 + 10 {
            ledger.note(slot(user, "a"), &one());
        }
        ledger.note(slot(3, "a"), &one());
        assert_eq!(ledger.lost.load(Ordering::Relaxed), 10);
        ledger.flush(false).await;
        book.away.store(false, Ordering::Relaxed);
        ledger.flush(false).await;
        assert_eq!(book.sums.lock().len(), MOST_WAITING);
        assert_eq!(book.sums.lock().get(&slot(3, "a")).map(|sum| sum.requests), Some(2));
        assert!(book.largest.load(Ordering::Relaxed) <= BATCH, "no transaction is long");
        ledger.note(slot(-5, "b"), &one());
        ledger.flush(false).await;
        assert!(book.sums.lock().contains_key(&slot(-5, "b")), "there is room again");
    }

    #[tokio::test]
    async fn the_last_use_of_a_key_is_told_at_once_and_then_now_and_then() {
        let book = Arc::new(Book::default());
        let ledger = Ledger::new(Arc::clone(&book) as _, "one");
        let told = || std::mem::take(&mut *book.seen.lock());
        let collect = async |now, last| {
            let mut backlog = ledger.backlog.lock().await;
            ledger.collect(&mut backlog, now, last);
            ledger.write(&mut backlog).await.unwrap();
        };
        ledger.saw(4, 100_000);
        collect(100_100, false).await;
        assert_eq!(told(), [(4, 100_000)]);
        ledger.saw(4, 100_500);
        ledger.saw(4, 100_400);
        collect(101_000, false).await;
        assert_eq!(told(), [], "a moment ago is known well enough");
        collect(110_000, false).await;
        assert_eq!(told(), [(4, 100_500)]);
        ledger.saw(4, 110_100);
        collect(110_200, true).await;
        assert_eq!(told(), [(4, 110_100)], "at the end everything is told");
        collect(130_000, false).await;
        assert!(ledger.parts.iter().all(|part| part.lock().seen.is_empty()), "and forgotten");
    }

    #[tokio::test]
    async fn whoever_keeps_it_writes_everything_down_when_told_to_end() {
        let book = Arc::new(Book::default());
        let ledger = Ledger::new(Arc::clone(&book) as _, "one");
        let (end, ending) = watch::channel(false);
        let keeping = tokio::spawn(Arc::clone(&ledger).keep(ending));
        ledger.note(slot(1, "a"), &one());
        end.send(true).unwrap();
        keeping.await.unwrap();
        assert_eq!(book.sums.lock().len(), 1);
        let held: Weak<Ledger> = Arc::downgrade(&ledger);
        drop(ledger);
        assert!(held.upgrade().is_none());
    }
}
