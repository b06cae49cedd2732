//! Sharing with other gateways what users and keys may hold: who is asked, told and heard, and when.
//!
//! One task does all of it, so that what is told of somebody is told in order, and no request that
//! leaves takes an answer with it. A request for which there is a permit left never comes here.

use std::collections::{HashMap, HashSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::stream::{self, FuturesUnordered, StreamExt};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};

use super::Scheduler;
use super::permits::{Call, Has, Holder, RENEW, Told};

/// Who was refused asks again after this time, unless a word comes first.
const AGAIN: Duration = Duration::from_millis(250);
/// Whoever gave something back because others want it lets them have it first.
const AFTER_YOU: Duration = Duration::from_millis(20);
/// Users who are told of at once; a crowd of them would take the time that each answer has.
const AT_ONCE: usize = 32;
/// Between two looks for what the others should be told.
const LOOK: Duration = Duration::from_millis(500);

/// The other gateways, as far as a memory that all share reaches. None of its acts fails: what it
/// does not say in time, this gateway decides by itself.
#[async_trait]
pub trait Partners: Send + Sync + 'static {
    /// Tells what this gateway has of a holder's seats, and asks for what it wants; `None` is no
    /// answer.
    async fn tell(&self, holder: Holder, has: Has) -> Option<Granted>;

    /// Says a word to the others.
    async fn say(&self, word: Word);

    /// Waits for a word of another.
    async fn hear(&self) -> Word;

    /// Whether what was told may have been forgotten since this was asked last.
    fn has_forgotten(&self) -> bool;
}

/// What the others say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// Seats of the holder that may be given besides those that were told.
    pub more: u32,
    /// Those that the others have.
    pub others: u32,
}

/// What gateways say to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// Somebody waits for one of these seats.
    Wanted(Holder),
    /// One of them may be had.
    Freed(Holder),
    /// All gateways together hold more of them than they may.
    Exceeded(Holder),
}

/// The sharing of one gateway.
pub struct Sharing {
    scheduler: Arc<Scheduler>,
    partners: Arc<dyn Partners>,
    calls: mpsc::UnboundedReceiver<Call>,
}

/// What goes on at the moment.
#[derive(Default)]
struct Business {
    telling: FuturesUnordered<Pin<Box<dyn Future<Output = Answer> + Send>>>,
    /// Users who are being told of, or will be in their turn, and whether they have to be again.
    busy: HashMap<Holder, bool>,
    line: VecDeque<Holder>,
    /// Users who are to be asked for again, and when.
    again: HashMap<Holder, Instant>,
    /// Users of whom something was given back that others want.
    returned: HashSet<Holder>,
    /// Users of whom all gateways hold too much; the others were told so.
    exceeding: HashSet<Holder>,
}

struct Answer {
    holder: Holder,
    has: Has,
    granted: Option<Granted>,
}

impl Sharing {
    /// From now on this scheduler gives nobody a seat without a permit.
    pub fn new(scheduler: Arc<Scheduler>, partners: Arc<dyn Partners>) -> Self {
        let calls = scheduler.share();
        Self { scheduler, partners, calls }
    }

    /// Shares until told to end, and then gives back what it has.
    pub async fn go_on(mut self, mut ending: watch::Receiver<bool>) {
        let (mut business, mut looked) = (Business::default(), Instant::now());
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let next = business.again.values().min().copied();
            let partners = Arc::clone(&self.partners);
            tokio::select! {
                Some(call) = self.calls.recv() => self.answer(call, &mut business),
                Some(answer) = business.telling.next() => self.note(&answer, &mut business),
                word = partners.hear() => self.act_on(word, &mut business),
                () = until(next) => {
                    let now = Instant::now();
                    let due: Vec<Holder> =
                        business.again.iter().filter(|(_, at)| **at <= now).map(|it| *it.0).collect();
                    due.into_iter().for_each(|holder| self.tell(holder, &mut business));
                }
                _ = ticks.tick() => {
                    let before = std::mem::replace(&mut looked, Instant::now());
                    let due = match self.partners.has_forgotten() {
                        true => self.scheduler.doubt(before),
                        false => self.scheduler.due(),
                    };
                    due.into_iter().for_each(|holder| self.tell(holder, &mut business));
                }
                _ = ending.wait_for(|ending| *ending) => break,
            }
        }
        while business.telling.next().await.is_some() {}
        self.give_back().await;
    }

    fn answer(&self, call: Call, business: &mut Business) {
        match call {
            Call::Lacks(holder) => self.tell(holder, business),
            Call::Returned(holder) => {
                business.returned.insert(holder);
                self.tell(holder, business);
            }
        }
    }

    fn act_on(&self, word: Word, business: &mut Business) {
        match word {
            Word::Wanted(holder) => {
                if self.scheduler.recall(holder) {
                    self.answer(Call::Returned(holder), business);
                }
            }
            Word::Freed(holder) if business.again.contains_key(&holder) => {
                self.tell(holder, business)
            }
            Word::Freed(_) => {}
            // whoever was there first learns only now that it is too much
            Word::Exceeded(holder) => self.tell(holder, business),
        }
    }

    /// Tells of a holder, and asks for what they lack; one at a time for each holder.
    fn tell(&self, holder: Holder, business: &mut Business) {
        business.again.remove(&holder);
        if let Some(again) = business.busy.get_mut(&holder) {
            *again = true;
            return;
        }
        business.busy.insert(holder, false);
        business.line.push_back(holder);
        self.go_through_line(business);
    }

    fn go_through_line(&self, business: &mut Business) {
        while business.telling.len() < AT_ONCE
            && let Some(holder) = business.line.pop_front()
        {
            self.begin(holder, business);
        }
    }

    fn begin(&self, holder: Holder, business: &mut Business) {
        let Some(mut has) = self.scheduler.has(holder) else {
            business.busy.remove(&holder);
            business.exceeding.remove(&holder);
            return;
        };
        if business.returned.contains(&holder) {
            has.wanted = 0;
        }
        let partners = Arc::clone(&self.partners);
        business.telling.push(Box::pin(async move {
            let granted = partners.tell(holder, has).await;
            if granted.is_some_and(|granted| granted.more == 0) && has.wanted > 0 {
                partners.say(Word::Wanted(holder)).await;
            }
            Answer { holder, has, granted }
        }));
    }

    fn note(&self, answer: &Answer, business: &mut Business) {
        let Answer { holder, has, granted } = *answer;
        // without an answer this gateway goes on by itself
        let Granted { more, others } = granted.unwrap_or(Granted { more: has.wanted, others: 0 });
        let all = has.permits.saturating_add(more).saturating_add(others);
        let (answered, in_excess) = (granted.is_some(), all > has.limit);
        let told = Told { permits: has.permits, more, in_excess, answered };
        if self.scheduler.granted(holder, told) {
            business.busy.insert(holder, true);
        }
        if !told.in_excess {
            business.exceeding.remove(&holder);
        } else if business.exceeding.insert(holder) {
            self.say(Word::Exceeded(holder));
        }
        let again = business.busy.remove(&holder).unwrap_or_default();
        if business.returned.remove(&holder) {
            self.say(Word::Freed(holder));
            business.again.insert(holder, Instant::now() + AFTER_YOU);
        } else if again {
            self.tell(holder, business);
        } else if self.scheduler.has(holder).is_some_and(|has| has.wanted > 0) {
            let pause = if more > 0 { Duration::ZERO } else { AGAIN };
            business.again.insert(holder, Instant::now() + pause);
        }
        self.go_through_line(business);
    }

    fn say(&self, word: Word) {
        let partners = Arc::clone(&self.partners);
        tokio::spawn(async move { partners.say(word).await });
    }

    async fn give_back(&self) {
        let holders = stream::iter(self.scheduler.holders());
        let nothing = Has { permits: 0, wanted: 0, limit: 1 };
        let tell = async |holder| {
            let _ = self.partners.tell(holder, nothing).await;
        };
        holders.for_each_concurrent(AT_ONCE, tell).await;
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

/// How long a gateway may be silent before what it has counts as nobody's.
pub const DEAD: Duration = Duration::from_secs(10);
const _: () = assert!(DEAD.as_secs() >= 3 * RENEW.as_secs(), "a word or two may be lost");
