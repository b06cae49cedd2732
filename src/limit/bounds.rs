//! Which limits a caller has, by the configuration in force.

use std::collections::BTreeMap;

use super::claim::MOST;
use super::{Account, Bound, Owner, What};
use crate::auth::{Key, Principal};
use crate::config::{Rate, Tier};

/// What bounds a caller in one thing, the narrowest owner first: whoever has used up a key does
/// not touch what the user's other keys have left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds([Option<Bound>; MOST]);

impl Bounds {
    /// The bounds of this caller. A tier or key that says nothing bounds nothing.
    pub fn of(principal: &Principal, tiers: &BTreeMap<String, Tier>, what: What) -> Self {
        let key = principal.identity.key.as_ref();
        let own = |key: &Key| match what {
            What::Requests => key.requests,
            What::Tokens => key.tokens,
            What::Reads => None,
        };
        let by_tier = |name: &str| tiers.get(name).and_then(|tier| rate(tier, what));
        let bound = |owner, rate: Option<Rate>| {
            rate.map(|rate| Bound { account: Account { owner, what }, rate })
        };
        let of_key = |key: &Key| bound(Owner::Key(key.id), own(key));
        let of_its_tier =
            |key: &Key| bound(Owner::KeyTier(key.id), key.tier.as_deref().and_then(by_tier));
        Self([
            key.and_then(of_key),
            key.and_then(of_its_tier),
            bound(Owner::User(principal.user_id()), by_tier(principal.tier())),
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

#[cfg(test)]
pub(super) mod tests {
    use std::num::NonZeroU64;
    use std::sync::Arc;

    use super::*;
    use crate::auth::{Identity, Method, User};
    use crate::config::Config;
    use crate::config::units::Window;

    /// Bounds of so much a day.
    pub(in crate::limit) fn bounds(what: What, owners: &[(Owner, u64)]) -> Bounds {
        let mut bounds = Bounds::default();
        for (place, (owner, amount)) in bounds.0.iter_mut().zip(owners) {
            let rate = Rate { amount: NonZeroU64::new(*amount).unwrap(), per: Window::Day };
            *place = Some(Bound { account: Account { owner: *owner, what }, rate });
        }
        bounds
    }

    #[test]
    fn a_caller_is_bound_by_the_key_its_tier_and_the_users_tier() {
        let text = "upstreams: [ { name: a, url: 'http://a' } ]\ntiers:\n  free: { tokens: 9k/d }\n  lab: { requests: 7/min, reads: null }";
        let config = Config::parse(text, std::path::Path::new("f"), &|_| None).unwrap();
        let user = User {
            id: 3,
            username: "me".to_owned(),
            email: None,
            issuer: None,
            subject: None,
            tier: "free".to_owned(),
            tier_given: false,
            disabled: false,
            token_version: 0,
        };
        let key = Key {
            id: 5,
            public_id: None,
            tier: Some("lab".to_owned()),
            models: None,
            concurrency: None,
            requests: Some("2/s".parse().unwrap()),
            tokens: None,
            delegating: false,
            expires_at: None,
            revoked_at: None,
        };
        let identity = Arc::new(Identity { user, key: Some(key) });
        let principal = Principal { identity, method: Method::ApiKey, token: None };
        let of = |what| {
            let bounds = Bounds::of(&principal, &config.tiers, what);
            bounds.iter().map(|it| (it.account.owner, it.rate.to_string())).collect::<Vec<_>>()
        };
        let (key, tier, user) = (Owner::Key(5), Owner::KeyTier(5), Owner::User(3));
        let all = [(key, "2/second"), (tier, "7/minute"), (user, "100/hour")];
        assert_eq!(of(What::Requests), all.map(|(owner, rate)| (owner, rate.to_owned())));
        assert_eq!(of(What::Reads), [(user, "600/minute".to_owned())]);
        assert_eq!(of(What::Tokens), [(user, "9000/day".to_owned())], "no tier has one by default");
    }
}
