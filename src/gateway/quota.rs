//! What a request takes of its sender's limits on its way, and how its answer tells of them.
//!
//! A request counts from its head on, tokens are set aside once its body was read. What is refused
//! goes back before the refusal is written, so that who comes again at once finds it there; tokens
//! are settled by what the instance says, or by what was seen to pass where it cannot say it.

use std::time::{Duration, Instant};

use http::{HeaderName, HeaderValue};
use pingora::Result;
use pingora::http::ResponseHeader;

use super::Gateway;
use super::admit;
use super::ctx::Ctx;
use super::refusal::Refusal;
use super::seating::Work;
use crate::auth::Principal;
use crate::limit::{Bounds, Claim, Limited, Limits, Standing, What};
use crate::route::{Action, Route};
use crate::telemetry::security_log::SecurityEvent;

/// A wait that is longer is not worth waiting for: SDKs are told to give up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Counts an attempt to log in before anything of it is read, right or wrong.
pub(super) async fn count_login(gateway: &Gateway, ctx: &Ctx) -> Result<(), Refusal> {
    let limit = ctx.config.auth.login_attempts;
    let counted = gateway.logins.attempt(ctx.client.bucket(), limit, Instant::now()).await;
    counted.map_err(|wait| {
        admit::log_event(ctx, "login_limited", &format!("more than {limit}"));
        Refusal::too_many_logins(limit, wait)
    })
}

/// What a request holds of its sender's limits.
#[derive(Default)]
pub(super) struct Quota {
    requests: Option<Claim>,
    tokens: Option<Claim>,
    /// Tokens that its prompt was estimated to have.
    estimate: u64,
    /// How the limits stand, for the headers of its answer.
    requests_stand: Option<Standing>,
    tokens_stand: Option<Standing>,
}

impl Quota {
    /// Gives back what was not used: the request was refused.
    pub(super) fn give_back(&mut self) {
        if let Some(claim) = self.requests.take() {
            self.requests_stand = claim.give_back();
        }
        if let Some(claim) = self.tokens.take() {
            self.tokens_stand = claim.give_back();
        }
    }
}

/// Counts a request of somebody who may make it.
pub(super) async fn count(gateway: &Gateway, ctx: &mut Ctx, route: &Route) -> Result<(), Refusal> {
    let what = match route.action {
        Action::Infer(_) => What::Requests,
        _ => What::Reads,
    };
    match gateway.limits.take(&bounds(ctx, what), 1).await {
        Ok(claim) => {
            ctx.quota.requests_stand = claim.as_ref().and_then(Claim::standing);
            ctx.quota.requests = claim;
            Ok(())
        }
        Err(limited) => {
            ctx.quota.requests_stand = Some(limited.exhausted.standing);
            Err(refuse(ctx, limited))
        }
    }
}

/// Sets tokens aside for a request whose body was read and whose model is known.
pub(super) async fn reserve(gateway: &Gateway, ctx: &mut Ctx, work: &Work) -> Result<(), Refusal> {
    let bounds = bounds(ctx, What::Tokens);
    if bounds.is_empty() {
        return Ok(());
    }
    let Some(model) = &ctx.model else { return Ok(()) };
    ctx.quota.estimate = work.prompt_tokens();
    let amount = gateway.limits.expect(model.key(), ctx.quota.estimate, work.most_output());
    match gateway.limits.take(&bounds, amount).await {
        Ok(claim) => {
            ctx.quota.tokens_stand = claim.as_ref().and_then(Claim::standing);
            ctx.quota.tokens = claim;
            Ok(())
        }
        Err(limited) => {
            ctx.quota.tokens_stand = Some(limited.exhausted.standing);
            Err(refuse(ctx, limited))
        }
    }
}

fn bounds(ctx: &Ctx, what: What) -> Bounds {
    let principal = ctx.principal.as_ref();
    principal
        .map_or_else(Bounds::default, |principal| Bounds::of(principal, &ctx.config.tiers, what))
}

fn refuse(ctx: &Ctx, limited: Limited) -> Refusal {
    let Limited { what, exhausted } = limited;
    let rate = exhausted.standing.rate;
    let principal = ctx.principal.as_ref();
    SecurityEvent {
        event: "limited",
        address: ctx.client.ip(),
        request_id: &ctx.request_id,
        route: ctx.route_path(),
        key: principal.and_then(Principal::public_id),
        user_id: principal.map(Principal::user_id),
        reason: &format!("{} beyond {rate}", what.word()),
    }
    .write();
    Refusal::limited(what, rate, exhausted.wait, exhausted.wait > PATIENCE)
}

/// What a request has cost in tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Spent {
    pub(super) prompt: u64,
    pub(super) output: u64,
}

/// What the instance says that it did; where it did not come to say it, what was seen of it.
pub(super) fn spent(ctx: &Ctx) -> Spent {
    let Some(meter) = &ctx.meter else {
        // the instance may be at work on the prompt of a client that left, or answered in a form
        // that has no counts
        let worked = ctx.served || (is_abandoned(ctx) && ctx.attempts.sent_at.is_some());
        return Spent { prompt: if worked { ctx.quota.estimate } else { 0 }, output: 0 };
    };
    let counts = meter.counts();
    let seen = if counts.finished { 0 } else { meter.pieces() };
    Spent {
        prompt: counts.prompt.unwrap_or(ctx.quota.estimate),
        output: counts.completion.unwrap_or(0).max(seen),
    }
}

/// Nobody said anything, and nobody was told no.
fn is_abandoned(ctx: &Ctx) -> bool {
    ctx.timings.first_byte.is_none() && ctx.refusal.is_none()
}

/// Settles tokens by what was spent. At the end of an answer, and again at the end of the request,
/// should its answer never have come to one.
pub(super) fn settle(limits: &Limits, ctx: &mut Ctx) {
    let Some(claim) = ctx.quota.tokens.take() else { return };
    let Spent { prompt, output } = spent(ctx);
    claim.settle(prompt.saturating_add(output));
    let counts = ctx.meter.as_ref().map(|meter| *meter.counts()).unwrap_or_default();
    if let (true, Some(model)) = (counts.finished, &ctx.model) {
        limits.learn(model.key(), ctx.quota.estimate, prompt, output);
    }
}

/// Ends what the request holds: it counts if it was answered, or if an instance was given it.
pub(super) fn finish(limits: &Limits, ctx: &mut Ctx, answered: bool) {
    settle(limits, ctx);
    let refused = ctx.refusal.is_some() && ctx.timings.first_byte.is_none();
    let counts = !refused && (answered || ctx.attempts.sent_at.is_some());
    match ctx.quota.requests.take() {
        Some(claim) if counts => claim.keep(),
        other => drop(other),
    }
}

const REQUESTS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-requests"),
    HeaderName::from_static("x-ratelimit-remaining-requests"),
    HeaderName::from_static("x-ratelimit-reset-requests"),
];
const TOKENS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-tokens"),
    HeaderName::from_static("x-ratelimit-remaining-tokens"),
    HeaderName::from_static("x-ratelimit-reset-tokens"),
];

impl Quota {
    /// Shows how the limits stand, as OpenAI tells it.
    pub(super) fn each_header(&self, mut show: impl FnMut(HeaderName, HeaderValue)) {
        let both = [(REQUESTS, self.requests_stand), (TOKENS, self.tokens_stand)];
        for ([limit, remaining, reset], standing) in both {
            let Some(standing) = standing else { continue };
            show(limit, standing.rate.amount.get().into());
            show(remaining, standing.remaining.into());
            let until = written(standing.reset).try_into();
            show(reset, until.unwrap_or(HeaderValue::from_static("")));
        }
    }
}

/// Tells in an answer that is made here how the limits stand.
pub(super) fn tell(head: &mut ResponseHeader, ctx: &Ctx) -> Result<()> {
    let mut told = Ok(());
    ctx.quota.each_header(|name, value| {
        if told.is_ok() {
            told = head.insert_header(name, value);
        }
    });
    told
}

/// A duration as OpenAI writes it, which is Go's way: `20ms`, `1s`, `6m0s`, `1h0m0s`; never less
/// than it is.
fn written(duration: Duration) -> String {
    let millis = duration.as_micros().div_ceil(1000);
    if millis == 0 {
        return "0s".to_owned();
    }
    let mut out = String::with_capacity(16);
    let mut digits = itoa::Buffer::new();
    let mut put = |number: u128, unit| {
        out.push_str(digits.format(number));
        out.push_str(unit);
    };
    if millis < 1000 {
        put(millis, "ms");
        return out;
    }
    let seconds = millis.div_ceil(1000);
    if seconds >= 3600 {
        put(seconds / 3600, "h");
    }
    if seconds >= 60 {
        put(seconds / 60 % 60, "m");
    }
    put(seconds % 60, "s");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_openai_does_and_never_too_short() {
        for (micros, text) in [
            (0, "0s"),
            (1, "1ms"),
            (20_000, "20ms"),
            (999_001, "1s"),
            (1_000_000, "1s"),
            (1_000_001, "2s"),
            (360_000_000, "6m0s"),
            (3_599_500_000, "1h0m0s"),
            (86_400_000_000, "24h0m0s"),
        ] {
            assert_eq!(written(Duration::from_micros(micros)), text);
        }
    }
}
