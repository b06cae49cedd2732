//! Which limits a caller has, by the configuration in force.

use std::collections::BTreeMap;

use super::claim::MOST;
use super::{Account, Bound, Owner, What};
use crate::auth::Principal;
use crate::config::{Rate, Tier};

/// What bounds a caller in one thing, the narrowest owner first: whoever has used up a key does
/// not touch what the user's other keys have left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds([Option<Bound>; MOST]);

impl Bounds {
    /// The bounds of this caller. A tier or key that says nothing bounds nothing.
    pub fn of(principal: &Principal, tiers: &BTreeMap<String, Tier>, what: What) -> Self {
        let (user, key) = (&principal.identity.user, &principal.identity.key);
        let own = match what {
            What::Requests => key.requests,
            What::Tokens => key.tokens,
            What::Reads => None,
        };
        let by_tier = |name: &str| tiers.get(name).and_then(|tier| rate(tier, what));
        let bound = |owner, rate: Option<Rate>| {
            rate.map(|rate| Bound { account: Account { owner, what }, rate })
        };
        Self([
            bound(Owner::Key(key.id), own),
            bound(Owner::KeyTier(key.id), key.tier.as_deref().and_then(by_tier)),
            bound(Owner::User(user.id), by_tier(&user.tier)),
        ])
    }

    /// One by one.
    pub fn iter(&self) -> impl Iterator<Item = &Bound> {
        self.0.iter().flatten()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }
}

fn rate(tier: &Tier, what: What) -> Option<Rate> {
    match what {
        What::Requests => tier.requests,
        What::Reads => tier.reads,
        What::Tokens => tier.tokens,
    }
}
