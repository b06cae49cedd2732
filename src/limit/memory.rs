//! Quotas in the memory of this process.

use ahash::HashMap;
use parking_lot::Mutex;

use super::quota::Meter;
use super::{Account, Bound, Moment, Owner, QuotaStore, Standing, Taken, Taking, What};

/// Parts that are locked one by one, each for as long as a look into a log takes.
const PARTS: usize = 64;

/// Quotas of this process alone: exact, and forgotten when it ends. An account that is in use
/// takes at most 32 KiB.
pub struct InProcess {
    parts: Vec<Mutex<HashMap<Account, Meter>>>,
}

impl Default for InProcess {
    fn default() -> Self {
        Self { parts: std::iter::repeat_with(Mutex::default).take(PARTS).collect() }
    }
}

impl InProcess {
    /// Looks at the meter of an account, which is made if it is new.
    fn with<T>(&self, account: Account, look: impl FnOnce(&mut Meter) -> T) -> Option<T> {
        let (Owner::Key(id) | Owner::KeyTier(id) | Owner::User(id)) = account.owner;
        let part = usize::try_from(id.unsigned_abs()).unwrap_or_default() % PARTS;
        let mut part = self.parts.get(part)?.lock();
        Some(look(part.entry(account).or_default()))
    }

    /// How many accounts are remembered.
    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| part.lock().len()).sum()
    }

    /// Whether nobody is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl QuotaStore for InProcess {
    fn take(&self, bound: &Bound, amount: u64, now: Moment) -> Taking {
        let Bound { account, rate } = *bound;
        let taken = self.with(account, |meter| {
            let taken = match account.what {
                What::Tokens => meter.hold(rate, amount, now)?,
                What::Requests | What::Reads => meter.take(rate, amount, now)?,
            };
            Ok((taken, meter.standing(rate, now)))
        });
        match taken {
            Some(Ok((taken, standing))) => Taking::Taken(taken, standing),
            Some(Err(exhausted)) => Taking::Refused(exhausted),
            None => Taking::Ask(Box::pin(std::future::ready(()))),
        }
    }

    fn settle(&self, bound: &Bound, taken: Taken, used: u64, now: Moment) {
        match bound.account.what {
            What::Tokens => {
                self.with(bound.account, |meter| meter.settle(taken, used, now));
            }
            What::Requests | What::Reads if used == 0 => {
                self.with(bound.account, |meter| meter.give_back(taken));
            }
            What::Requests | What::Reads => {}
        }
    }

    fn standing(&self, bound: &Bound, now: Moment) -> Standing {
        let standing = self.with(bound.account, |meter| meter.standing(bound.rate, now));
        standing.unwrap_or_else(|| Meter::default().standing(bound.rate, now))
    }

    fn sweep(&self, now: Moment) {
        for part in &self.parts {
            part.lock().retain(|_, meter| !meter.is_idle(now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(id: i64) -> Bound {
        let account = Account { owner: Owner::User(id), what: What::Requests };
        Bound { account, rate: "2/min".parse().unwrap() }
    }

    fn takes(store: &InProcess, id: i64, second: u64) -> bool {
        matches!(store.take(&bound(id), 1, Moment(second * 1_000_000)), Taking::Taken(..))
    }

    #[test]
    fn owners_do_not_share_and_are_forgotten_when_their_window_is_over() {
        let store = InProcess::default();
        assert!(takes(&store, 1, 0) && takes(&store, 1, 10) && !takes(&store, 1, 20));
        assert!(takes(&store, 2, 20) && takes(&store, -66, 20), "others have their own");
        store.sweep(Moment(65_000_000));
        assert_eq!(store.len(), 3, "something is remembered of each");
        store.sweep(Moment(75_000_000));
        assert_eq!(store.len(), 2);
        store.sweep(Moment(200_000_000));
        assert!(store.is_empty());
    }
}
