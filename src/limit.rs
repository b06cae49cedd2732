//! LIMIT: how much of it may this caller have?
//!
//! A tier bounds requests, reads and tokens by rates that hold for a user over all of their keys;
//! a key's own rates, and those of its own tier, bind that key besides. What a request takes is a
//! [`Claim`], a guard: whatever is neither kept nor settled goes back, so that a refused request
//! costs nothing.
//!
//! Attempts to log in are counted apart, by address in [`login`] and by account in [`ladder`].
//!
//! Where quotas are kept is a [`QuotaStore`]. [`InProcess`] decides at once; a store that shares
//! quotas among gateways may have to be waited for, and says so.

mod bounds;
mod claim;
mod guess;
pub mod ladder;
pub mod login;
mod memory;
pub mod quota;
mod recent;
pub mod report;
mod tallies;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use bounds::Bounds;
pub use claim::Claim;
pub use memory::InProcess;
pub use quota::{Exhausted, Moment, Standing, Taken};

use crate::config::Rate;
use crate::model::ModelKey;
use guess::Guesses;

/// How often a store may ask for patience on behalf of one request.
const MOST_ASKS: u32 = 3;
/// Between two times that what nobody uses any more is forgotten.
const SWEEP: Duration = Duration::from_secs(60);

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum What {
    /// Requests for inference.
    Requests,
    /// All other requests of somebody who is known.
    Reads,
    /// Tokens, of prompts and of answers.
    Tokens,
}

impl What {
    /// As the configuration and metrics name it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Reads => "reads",
            Self::Tokens => "tokens",
        }
    }
}

/// Whose use is counted. The numbers are the database's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// A key, by its own limits.
    Key(i64),
    /// A key, by the limits of its own tier.
    KeyTier(i64),
    /// A user, over all keys and tokens.
    User(i64),
}

/// One thing that is counted for one owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Account {
    /// Whose.
    pub owner: Owner,
    /// What.
    pub what: What,
}

/// An account and the rate that it has to keep, by the configuration of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// What is counted, and whose.
    pub account: Account,
    /// How much of it.
    pub rate: Rate,
}

/// Where quotas are kept. Nobody waits inside of it for another request.
pub trait QuotaStore: Send + Sync + 'static {
    /// Takes `amount`, or nothing. Requests and reads count from now on for a window; tokens are
    /// set aside until [`settle`](Self::settle), however long that takes.
    fn take(&self, bound: &Bound, amount: u64, now: Moment) -> Taking;

    /// Ends what [`take`](Self::take) began: `used` counts instead of what was taken. For requests
    /// and reads that is all of it or nothing, and nothing means that they go back.
    fn settle(&self, bound: &Bound, taken: Taken, used: u64, now: Moment);

    /// How an account stands.
    fn standing(&self, bound: &Bound, now: Moment) -> Standing;

    /// Forgets accounts that nothing is remembered of.
    fn sweep(&self, now: Moment);
}

/// What a store says.
pub enum Taking {
    /// Yes.
    Taken(Taken, Standing),
    /// No.
    Refused(Exhausted),
    /// It cannot tell yet: when this is over, ask again. Only a store that others share says so,
    /// and only when nothing that it holds for the account is left.
    Ask(Pin<Box<dyn Future<Output = ()> + Send>>),
}

/// A no, and what it was that was limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limited {
    /// What.
    pub what: What,
    /// How far it is over.
    pub exhausted: Exhausted,
}

/// The quotas of everybody.
pub struct Limits {
    store: Arc<dyn QuotaStore>,
    guesses: Guesses,
    /// The clock of quotas is monotonic: setting the time neither opens nor closes them.
    born: Instant,
}

impl Limits {
    /// Quotas that are kept in this store.
    pub fn new(store: Arc<dyn QuotaStore>) -> Arc<Self> {
        Arc::new(Self { store, guesses: Guesses::default(), born: Instant::now() })
    }

    /// Takes `amount` of every bound, or of none.
    ///
    /// # Errors
    /// The first bound that does not have it; a request that wants more than a whole limit gets
    /// the whole limit, and has to wait until that is there.
    pub async fn take(
        self: &Arc<Self>,
        bounds: &Bounds,
        amount: u64,
    ) -> Result<Option<Claim>, Limited> {
        let mut claim = None;
        for bound in bounds.iter() {
            let amount = amount.min(bound.rate.amount.get());
            let (taken, standing) = self.take_one(bound, amount).await?;
            let claim = claim.get_or_insert_with(|| Claim::new(Arc::clone(self)));
            claim.add(*bound, taken, standing);
        }
        Ok(claim)
    }

    async fn take_one(&self, bound: &Bound, amount: u64) -> Result<(Taken, Standing), Limited> {
        for _ in 0..MOST_ASKS {
            match self.store.take(bound, amount, self.now()) {
                Taking::Taken(taken, standing) => return Ok((taken, standing)),
                Taking::Refused(exhausted) => {
                    return Err(Limited { what: bound.account.what, exhausted });
                }
                Taking::Ask(patience) => patience.await,
            }
        }
        let standing = self.store.standing(bound, self.now());
        let exhausted = Exhausted { standing, wait: Duration::from_secs(1) };
        Err(Limited { what: bound.account.what, exhausted })
    }

    /// How the tightest of these bounds stands.
    pub fn standing(&self, bounds: &Bounds) -> Option<Standing> {
        self.tightest(bounds.iter())
    }

    fn tightest<'b>(&self, bounds: impl Iterator<Item = &'b Bound>) -> Option<Standing> {
        let now = self.now();
        let all = bounds.map(|bound| self.store.standing(bound, now));
        all.min_by_key(|standing| standing.remaining)
    }

    /// Tokens that a request will cost: its prompt has about so many, and its answer at most so
    /// many, if the client says so.
    pub fn expect(&self, model: &ModelKey, prompt: u64, most: Option<u64>) -> u64 {
        self.guesses.expect(model, prompt, most)
    }

    /// Learns from an answer that came to its end what prompts and answers of a model are like.
    pub fn learn(&self, model: &ModelKey, estimated: u64, prompt: u64, output: u64) {
        self.guesses.learn(model, estimated, prompt, output);
    }

    /// Forgets, every now and then, whom nothing is remembered of. For ever.
    pub async fn keep_small(self: Arc<Self>) {
        loop {
            tokio::time::sleep(SWEEP).await;
            self.store.sweep(self.now());
        }
    }

    fn now(&self) -> Moment {
        Moment::at(self.born.elapsed())
    }
}

#[cfg(test)]
mod tests;
