//! Claims on several limits at once: all or nothing, and nothing is ever lost.

use futures_util::FutureExt;
use proptest::prelude::*;

use super::*;
use crate::limit::bounds::tests::bounds;

/// What happens next.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// A request with this key takes so much.
    Take { key: usize, amount: u64 },
    /// One of those under way ends: it is refused.
    Drop(usize),
    /// It is answered.
    Keep(usize),
    /// It turns out to have used so much.
    Settle(usize, u64),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => (0..2usize, 1..4u64).prop_map(|(key, amount)| Act::Take { key, amount }),
        1 => (0..9usize).prop_map(Act::Drop),
        1 => (0..9usize).prop_map(Act::Keep),
        1 => (0..9usize, 0..9u64).prop_map(|(which, used)| Act::Settle(which, used)),
    ];
    prop::collection::vec(act, 1..120)
}

/// What a key or a user has used and holds, as it should be.
#[derive(Clone, Copy, Default)]
struct Sum {
    used: u64,
    held: u64,
}

/// Limits of two keys of one user, in a day: it does not end while a test runs.
const OF_KEY: u64 = 12;
const OF_USER: u64 = 20;

proptest! {
    #[test]
    fn no_order_of_claims_loses_a_permit_or_gives_one_too_many(
        acts in acts(),
        tokens: bool,
    ) {
        let what = if tokens { What::Tokens } else { What::Requests };
        let limits = Limits::new(Arc::new(InProcess::default()));
        let of = [1, 2].map(|key| bounds(what, &[
            (Owner::Key(key), OF_KEY),
            (Owner::User(7), OF_USER),
        ]));
        let take = |key: usize, amount| {
            limits.take(&of[key], amount).now_or_never().expect("this store decides at once")
        };
        let mut open: Vec<(Claim, usize, u64)> = Vec::new();
        let mut keys = [Sum::default(); 2];
        let sum = |of: &[Sum]| of.iter().map(|it| it.used + it.held).sum::<u64>();
        for act in acts {
            let which = match act {
                Act::Take { key, amount } => {
                    let fits = sum(&keys[key..=key]) + amount <= OF_KEY
                        && sum(&keys) + amount <= OF_USER;
                    match take(key, amount) {
                        Ok(claim) => {
                            prop_assert!(fits, "there was not so much left");
                            open.push((claim.expect("there are bounds"), key, amount));
                            keys[key].held += amount;
                        }
                        Err(limited) => {
                            prop_assert!(!fits, "there was enough left");
                            prop_assert!(limited.exhausted.wait > Duration::ZERO);
                        }
                    }
                    continue;
                }
                Act::Drop(which) | Act::Keep(which) | Act::Settle(which, _) => which,
            };
            if open.is_empty() {
                continue;
            }
            let (claim, key, amount) = open.swap_remove(which % open.len());
            keys[key].held -= amount;
            match act {
                Act::Keep(_) => {
                    claim.keep();
                    keys[key].used += amount;
                }
                // requests are used as they were taken, or not at all
                Act::Settle(_, used) if tokens => {
                    claim.settle(used);
                    keys[key].used += used;
                }
                _ => drop(claim),
            }
            for (key, bounds) in of.iter().enumerate() {
                let left = OF_KEY.saturating_sub(sum(&keys[key..=key]));
                let left = left.min(OF_USER.saturating_sub(sum(&keys)));
                prop_assert_eq!(limits.standing(bounds).map(|it| it.remaining), Some(left));
            }
        }
    }
}

/// A store that has to ask for patience, so many times.
struct Slow(InProcess, std::sync::atomic::AtomicU32);

impl QuotaStore for Slow {
    fn take(&self, bound: &Bound, amount: u64, now: Moment) -> Taking {
        use std::sync::atomic::Ordering::Relaxed;
        let left = self.1.load(Relaxed);
        if left == 0 {
            return self.0.take(bound, amount, now);
        }
        self.1.store(left - 1, Relaxed);
        Taking::Ask(Box::pin(std::future::ready(())))
    }

    fn settle(&self, bound: &Bound, taken: Taken, used: u64, now: Moment) {
        self.0.settle(bound, taken, used, now);
    }

    fn standing(&self, bound: &Bound, now: Moment) -> Standing {
        self.0.standing(bound, now)
    }

    fn sweep(&self, now: Moment) {
        self.0.sweep(now);
    }
}

#[test]
fn a_store_that_asks_for_patience_gets_it_but_not_for_ever() {
    for (asks, served) in [(0, true), (1, true), (MOST_ASKS - 1, true), (MOST_ASKS, false)] {
        let limits = Limits::new(Arc::new(Slow(InProcess::default(), asks.into())));
        let bounds = bounds(What::Requests, &[(Owner::User(1), 5)]);
        let taken = limits.take(&bounds, 1).now_or_never().expect("it is ready at once");
        assert_eq!(taken.is_ok(), served, "{asks}");
    }
}

#[test]
fn what_is_larger_than_a_limit_gets_all_of_it_and_who_has_no_limit_needs_no_claim() {
    let limits = Limits::new(Arc::new(InProcess::default()));
    let bounds = bounds(What::Tokens, &[(Owner::User(1), 5)]);
    let take = |bounds: &Bounds, amount| limits.take(bounds, amount).now_or_never().unwrap();
    let claim = take(&bounds, 1000).unwrap().unwrap();
    assert_eq!(claim.standing().map(|it| it.remaining), Some(0));
    assert!(take(&bounds, 1).is_err());
    assert_eq!(claim.give_back().map(|it| it.remaining), Some(5));
    assert!(take(&Bounds::default(), 1000).unwrap().is_none());
}
