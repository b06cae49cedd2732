//! Quotas that several gateways share.
//!
//! Each gateway keeps the whole quota in its own memory too, and that holds whatever Redis does:
//! what Redis adds is that the gateways keep it together. Quota is leased in batches, so that an
//! account with something left asks nobody. While Redis answers, all gateways together never go
//! over a limit, but for what a gateway had leased, used and not yet told when it died (at most a
//! batch and what its clients were waiting for). Without Redis each keeps the limit by itself.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use parking_lot::Mutex;
use tokio::sync::{OwnedMutexGuard, watch};

use super::Redis;
use super::board::{Board, Limit};
use super::lease::{Answer, Lease};
use crate::limit::{
    Account, Bound, Exhausted, InProcess, Moment, Owner, QuotaStore, Standing, Taken, Taking, What,
};

/// A batch is this part of a limit, so that what lies idle in one gateway is little.
const BATCH: u64 = 20;
/// What a gateway had leased and does not speak of for so long is free again.
const DEAD: Duration = Duration::from_secs(60);
/// Parts that are locked one by one.
const PARTS: usize = 64;
/// Between two looks for what the board should be told.
const TICK: Duration = Duration::from_millis(500);
/// Reports that are under way at once.
const REPORTS: usize = 16;

/// Quotas in this process, kept together with other gateways'.
pub struct SharedQuotas(Arc<Inner>);

struct Inner {
    local: InProcess,
    redis: Arc<Redis>,
    board: Board,
    leases: Vec<Mutex<HashMap<Place, Entry>>>,
}

/// Where an account stands on the board: one for each length of window.
type Place = (Account, Duration);

#[derive(Default)]
struct Entry {
    lease: Lease,
    /// The limit as last seen, for reports that no request makes.
    limit: u64,
    /// One at a time asks the board; the others see what came of it.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl SharedQuotas {
    /// Quotas that are shared through this Redis.
    pub fn new(redis: Arc<Redis>) -> Self {
        let board = Board::new(redis.node().to_owned(), DEAD);
        let leases = std::iter::repeat_with(Mutex::default).take(PARTS).collect();
        Self(Arc::new(Inner { local: InProcess::default(), redis, board, leases }))
    }

    /// Tells the board what others should know, until told to end.
    pub fn tend(&self, mut ending: watch::Receiver<bool>) -> impl Future<Output = ()> + use<> {
        let inner = Arc::clone(&self.0);
        async move {
            tokio::select! {
                () = inner.keep_told() => {}
                _ = ending.wait_for(|ending| *ending) => {}
            }
        }
    }
}

impl QuotaStore for SharedQuotas {
    fn take(&self, bound: &Bound, amount: u64, now: Moment) -> Taking {
        let inner = &self.0;
        let (taken, standing) = match inner.local.take(bound, amount, now) {
            Taking::Taken(taken, standing) => (taken, standing),
            // the floor that holds whatever others say
            no => return no,
        };
        let (answer, standing) = inner.take_shared(bound, amount, standing);
        if answer == Answer::Granted {
            return Taking::Taken(taken, standing);
        }
        inner.local.settle(bound, taken, 0, now);
        match answer {
            Answer::Refused(wait) => {
                let standing = Standing { remaining: 0, ..standing };
                Taking::Refused(Exhausted { standing, wait: Duration::from_micros(wait) })
            }
            _ => Taking::Ask(Box::pin(Arc::clone(inner).fetch(*bound, amount))),
        }
    }

    fn settle(&self, bound: &Bound, taken: Taken, used: u64, now: Moment) {
        let inner = &self.0;
        inner.local.settle(bound, taken, used, now);
        let stretch = inner.board.stretch(bound.rate.per.duration());
        inner.with(bound, |entry| match bound.account.what {
            What::Tokens => entry.lease.settle(taken.amount(), used, stretch),
            What::Requests | What::Reads if used == 0 => entry.lease.unspend(taken.amount()),
            What::Requests | What::Reads => {}
        });
    }

    fn standing(&self, bound: &Bound, now: Moment) -> Standing {
        let standing = self.0.local.standing(bound, now);
        let with_others = |entry: &mut Entry| self.0.with_others(entry, standing);
        self.0.with(bound, with_others).unwrap_or(standing)
    }

    fn sweep(&self, now: Moment) {
        self.0.local.sweep(now);
        for part in &self.0.leases {
            part.lock()
                .retain(|(_, window), entry| !entry.lease.is_idle(self.0.board.stretch(*window)));
        }
    }
}

impl Inner {
    /// Looks at an account's entry, which is made if it is new.
    fn with<T>(&self, bound: &Bound, look: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        let place = (bound.account, bound.rate.per.duration());
        let mut part = self.part(&place.0)?.lock();
        let entry = part.entry(place).or_default();
        entry.limit = bound.rate.amount.get();
        Some(look(entry))
    }

    fn part(&self, account: &Account) -> Option<&Mutex<HashMap<Place, Entry>>> {
        let (Owner::Key(id) | Owner::KeyTier(id) | Owner::User(id)) = account.owner;
        self.leases.get(usize::try_from(id.unsigned_abs()).unwrap_or_default() % PARTS)
    }

    fn take_shared(&self, bound: &Bound, amount: u64, standing: Standing) -> (Answer, Standing) {
        let (now, away) = (self.board.now(), self.redis.is_away());
        let stretch = self.board.stretch(bound.rate.per.duration());
        let taken = self.with(bound, |entry| {
            let lease = &mut entry.lease;
            let answer = if away || lease.is_alone(now) {
                lease.take_alone(amount, now);
                Answer::Granted
            } else {
                lease.take(amount, now)
            };
            if answer == Answer::Granted {
                match bound.account.what {
                    What::Tokens => lease.hold(amount),
                    What::Requests | What::Reads => lease.spend(amount, stretch),
                }
            }
            (answer, self.with_others(entry, standing))
        });
        taken.unwrap_or((Answer::Granted, standing))
    }

    /// How an account stands when what others use of it counts.
    fn with_others(&self, entry: &Entry, own: Standing) -> Standing {
        let (others, rest) = entry.lease.others(self.board.now());
        Standing {
            remaining: own.remaining.saturating_sub(others),
            reset: own.reset.max(Duration::from_micros(rest)),
            ..own
        }
    }

    /// Asks the board for `amount`, with all others who wait for the same.
    async fn fetch(self: Arc<Self>, bound: Bound, amount: u64) {
        let place = (bound.account, bound.rate.per.duration());
        self.with(&bound, |entry| entry.lease.want(amount));
        let wanting = Wanting { inner: &self, bound, amount };
        let turn = self.turn(&place).await;
        let now = self.board.now();
        let settled = self.with(&bound, |entry| {
            entry.lease.is_alone(now) || entry.lease.can_take(amount, now) != Answer::Ask
        });
        if settled == Some(false) {
            let asking = Arc::clone(&self);
            // a task of its own: whoever asks may leave, and what was granted is still ours then
            let exchange = tokio::spawn(async move {
                asking.exchange(place, amount).await;
                drop(turn);
            });
            let _ = exchange.await;
        }
        drop(wanting);
    }

    /// Tells the board of an account that nobody wants anything of.
    async fn tell(&self, place: Place) {
        let _turn = self.turn(&place).await;
        self.exchange(place, 0).await;
    }

    /// The turn to ask the board about an account. What is told comes in the order of telling.
    async fn turn(&self, place: &Place) -> Option<OwnedMutexGuard<()>> {
        let turn = Arc::clone(&self.part(&place.0)?.lock().get(place)?.turn);
        Some(turn.lock_owned().await)
    }

    /// Tells the board of an account, asks it for `amount` of it, and notes the answer.
    async fn exchange(&self, place: Place, amount: u64) {
        let Some(part) = self.part(&place.0) else { return };
        let (report, limit) = {
            let mut part = part.lock();
            let Some(entry) = part.get_mut(&place) else { return };
            let report = entry.lease.report(amount, self.board.stretch(place.1));
            let batch = (entry.limit / BATCH).max(1);
            (report, Limit { amount: entry.limit, window: place.1, batch })
        };
        let name = self.redis.keys.name(&name(&place));
        let reply = self.board.post(&self.redis.link, &name, &limit, &report).await;
        let now = self.board.now();
        if let Some(entry) = part.lock().get_mut(&place) {
            match reply {
                Ok(reply) => entry.lease.hear(&report, &reply, now),
                Err(_) => {
                    entry.lease.unheard();
                    entry.lease.go_alone(now);
                }
            }
        }
    }

    async fn keep_told(&self) {
        let mut known = self.redis.link.generation();
        loop {
            tokio::time::sleep(TICK).await;
            if self.redis.is_away() {
                continue;
            }
            let generation = self.redis.link.generation();
            let is_blank = std::mem::replace(&mut known, generation) != generation;
            let due = self.due(is_blank);
            stream::iter(due).for_each_concurrent(REPORTS, |place| self.tell(place)).await;
        }
    }

    /// The accounts that the board should be told of; all, if it is blank.
    fn due(&self, is_blank: bool) -> Vec<Place> {
        let now = self.board.now();
        let mut due = Vec::new();
        for part in &self.leases {
            for (place, entry) in part.lock().iter_mut() {
                if is_blank {
                    entry.lease.forget_told();
                }
                entry.lease.give_back_idle(now);
                if entry.lease.is_due(now) {
                    due.push(*place);
                }
            }
        }
        due
    }
}

/// Somebody who waits for a grant, however the waiting ends.
struct Wanting<'a> {
    inner: &'a Inner,
    bound: Bound,
    amount: u64,
}

impl Drop for Wanting<'_> {
    fn drop(&mut self) {
        self.inner.with(&self.bound, |entry| entry.lease.want_no_more(self.amount));
    }
}

/// What an account is called on the board.
fn name((account, window): &Place) -> String {
    let (owner, id) = match account.owner {
        Owner::Key(id) => ("key", id),
        Owner::KeyTier(id) => ("key-tier", id),
        Owner::User(id) => ("user", id),
    };
    format!("quota:{}:{owner}:{id}:{}", account.what.word(), window.as_secs())
}
