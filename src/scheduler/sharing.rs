//! Sharing with other gateways what a user may hold: who is asked, told and heard, and when.
//!
//! One task does all of it, so that what is told of a user is told in order, and no request that
//! leaves takes an answer with it. A request whose user has a permit left never comes here.

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
use super::permits::{Call, Has, RENEW, Told};

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
    /// Tells what this gateway has of a user's seats, and asks for what it wants; `None` is no
    /// answer.
    async fn tell(&self, user: i64, has: Has) -> Option<Granted>;

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
    /// Seats of the user that may be given besides those that were told.
    pub more: u32,
    /// Those that the others have.
    pub others: u32,
}

/// What gateways say to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// Somebody waits for one of this user's seats.
    Wanted(i64),
    /// One of them may be had.
    Freed(i64),
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
    busy: HashMap<i64, bool>,
    line: VecDeque<i64>,
    /// Users who are to be asked for again, and when.
    again: HashMap<i64, Instant>,
    /// Users of whom something was given back that others want.
    returned: HashSet<i64>,
}

struct Answer {
    user: i64,
    has: Has,
    granted: Option<Granted>,
}

impl Sharing {
    /// From now on this scheduler gives no user a seat without a permit.
    pub fn new(scheduler: Arc<Scheduler>, partners: Arc<dyn Partners>) -> Self {
        let calls = scheduler.share();
        Self { scheduler, partners, calls }
    }

    /// Shares until told to end, and then gives back what it has.
    pub async fn go_on(mut self, mut ending: watch::Receiver<bool>) {
        let mut business = Business::default();
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
                    let due: Vec<i64> =
                        business.again.iter().filter(|(_, at)| **at <= now).map(|it| *it.0).collect();
                    due.into_iter().for_each(|user| self.tell(user, &mut business));
                }
                _ = ticks.tick() => {
                    let all = self.partners.has_forgotten();
                    let due = if all { self.scheduler.holders() } else { self.scheduler.due() };
                    due.into_iter().for_each(|user| self.tell(user, &mut business));
                }
                _ = ending.wait_for(|ending| *ending) => break,
            }
        }
        while business.telling.next().await.is_some() {}
        self.give_back().await;
    }

    fn answer(&self, call: Call, business: &mut Business) {
        match call {
            Call::Lacks(user) => self.tell(user, business),
            Call::Returned(user) => {
                business.returned.insert(user);
                self.tell(user, business);
            }
        }
    }

    fn act_on(&self, word: Word, business: &mut Business) {
        match word {
            Word::Wanted(user) => {
                if self.scheduler.recall(user) {
                    self.answer(Call::Returned(user), business);
                }
            }
            Word::Freed(user) if business.again.contains_key(&user) => self.tell(user, business),
            Word::Freed(_) => {}
        }
    }

    /// Tells of a user, and asks for what they lack; one at a time for each user.
    fn tell(&self, user: i64, business: &mut Business) {
        business.again.remove(&user);
        if let Some(again) = business.busy.get_mut(&user) {
            *again = true;
            return;
        }
        business.busy.insert(user, false);
        business.line.push_back(user);
        self.go_through_line(business);
    }

    fn go_through_line(&self, business: &mut Business) {
        while business.telling.len() < AT_ONCE
            && let Some(user) = business.line.pop_front()
        {
            self.begin(user, business);
        }
    }

    fn begin(&self, user: i64, business: &mut Business) {
        let Some(mut has) = self.scheduler.has(user) else {
            business.busy.remove(&user);
            return;
        };
        if business.returned.contains(&user) {
            has.wanted = 0;
        }
        let partners = Arc::clone(&self.partners);
        business.telling.push(Box::pin(async move {
            let granted = partners.tell(user, has).await;
            if granted.is_some_and(|granted| granted.more == 0) && has.wanted > 0 {
                partners.say(Word::Wanted(user)).await;
            }
            Answer { user, has, granted }
        }));
    }

    fn note(&self, answer: &Answer, business: &mut Business) {
        let Answer { user, has, granted } = *answer;
        // without an answer this gateway goes on by itself
        let Granted { more, others } = granted.unwrap_or(Granted { more: has.wanted, others: 0 });
        let all = has.permits.saturating_add(more).saturating_add(others);
        let told = Told { permits: has.permits, more, in_excess: all > has.limit };
        if self.scheduler.granted(user, told) {
            business.busy.insert(user, true);
        }
        let again = business.busy.remove(&user).unwrap_or_default();
        if business.returned.remove(&user) {
            let partners = Arc::clone(&self.partners);
            tokio::spawn(async move { partners.say(Word::Freed(user)).await });
            business.again.insert(user, Instant::now() + AFTER_YOU);
        } else if again {
            self.tell(user, business);
        } else if self.scheduler.has(user).is_some_and(|has| has.wanted > 0) {
            let pause = if more > 0 { Duration::ZERO } else { AGAIN };
            business.again.insert(user, Instant::now() + pause);
        }
        self.go_through_line(business);
    }

    async fn give_back(&self) {
        let holders = stream::iter(self.scheduler.holders());
        let nothing = Has { permits: 0, wanted: 0, limit: 1 };
        let tell = async |user| {
            let _ = self.partners.tell(user, nothing).await;
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
