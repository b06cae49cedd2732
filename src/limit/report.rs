//! How a caller stands, for the caller: what `GET /auth/me` tells of limits and usage.

use serde::Serialize;
use utoipa::ToSchema;

use super::{Bounds, Limits, What};
use crate::auth::Principal;
use crate::config::Config;

/// What a caller may have. Of several limits of one kind it is the one that has least left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Allowed {
    /// Requests for inference, as a rate; null is without limit.
    pub requests: Option<String>,
    /// Other requests, as a rate.
    pub reads: Option<String>,
    /// Tokens, as a rate.
    pub tokens: Option<String>,
    /// Seats at once.
    pub concurrency: u32,
}

/// What a caller has had of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Used {
    /// Requests for inference.
    pub requests: Option<Share>,
    /// Other requests.
    pub reads: Option<Share>,
    /// Tokens, those of answers under way by their estimates.
    pub tokens: Option<Share>,
}

/// How much of one limit is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Share {
    /// Used, within the window that ends now.
    pub used: u64,
    /// Left.
    pub remaining: u64,
    /// Seconds until nothing is used any more, if nothing more is.
    pub reset_seconds: u64,
}

impl Limits {
    /// The `limits` and the `usage` of a caller.
    pub fn report(&self, principal: &Principal, config: &Config) -> (Allowed, Used) {
        let stand = |what| self.standing(&Bounds::of(principal, &config.tiers, what));
        let (requests, reads, tokens) =
            (stand(What::Requests), stand(What::Reads), stand(What::Tokens));
        let rate = |standing: &Option<super::Standing>| standing.map(|it| it.rate.to_string());
        let share = |standing: Option<super::Standing>| {
            standing.map(|it| Share {
                used: it.rate.amount.get().saturating_sub(it.remaining),
                remaining: it.remaining,
                reset_seconds: it.reset.as_secs() + u64::from(it.reset.subsec_nanos() > 0),
            })
        };
        let allowed = Allowed {
            requests: rate(&requests),
            reads: rate(&reads),
            tokens: rate(&tokens),
            concurrency: concurrency(principal, config),
        };
        let used = Used { requests: share(requests), reads: share(reads), tokens: share(tokens) };
        (allowed, used)
    }
}

/// The smallest of the bounds on seats, as policy takes it.
fn concurrency(principal: &Principal, config: &Config) -> u32 {
    let key = principal.identity.key.as_ref();
    let tiers = std::iter::once(principal.tier()).chain(key.and_then(|key| key.tier.as_deref()));
    let seats = tiers.filter_map(|name| config.tiers.get(name)).map(|tier| tier.concurrency);
    seats.chain(key.and_then(|key| key.concurrency)).min().unwrap_or(0)
}
