//! What a request leaves in the books: how much it used, and when its key was used last.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::Gateway;
use super::ctx::Ctx;
use super::quota::{self, Spent};
use crate::route::Action;
use crate::usage::Counts;
use crate::usage::ledger::{Amounts, HOUR, Slot};

/// What stands in the books where there is no key.
const NO_KEY: i64 = 0;

/// Writes a request that is over into the ledger. What no instance was given costs nobody
/// anything, and is not in it.
pub(super) fn note(gateway: &Gateway, ctx: &Ctx, status: u16) {
    let Some(principal) = &ctx.principal else { return };
    let now = Timestamp::now().as_millisecond();
    let key = principal.key_id();
    if let Some(key) = key {
        gateway.ledger.saw(key, now);
    }
    let Some(Action::Infer(_)) = ctx.route.map(|route| route.action) else { return };
    let (Some(model), Some(_)) = (&ctx.model, &ctx.upstream) else { return };
    let Spent { prompt, output } = quota::spent(ctx);
    let counts = ctx.meter.as_ref().map(|meter| *meter.counts()).unwrap_or_default();
    let failed = ctx.refusal.is_some() || status >= 500 || counts.errored;
    let slot = Slot {
        hour: now.div_euclid(HOUR) * HOUR,
        user: principal.user_id(),
        key: key.unwrap_or(NO_KEY),
        model: model.key().clone(),
    };
    let amounts = Amounts {
        requests: 1,
        prompt_tokens: prompt,
        completion_tokens: output,
        gpu_ms: millis(gpu_time(ctx, &counts)),
        errors: u64::from(failed),
    };
    gateway.ledger.note(slot, &amounts);
}

/// How long an instance worked on a request, loading excluded: in its own words, else as long as
/// its slot was taken.
fn gpu_time(ctx: &Ctx, counts: &Counts) -> Duration {
    if counts.prompt_eval_ns.is_some() || counts.eval_ns.is_some() {
        let parts = [counts.prompt_eval_ns, counts.eval_ns].into_iter().flatten();
        return Duration::from_nanos(parts.fold(0, u64::saturating_add));
    }
    if let Some(total) = counts.total_ns {
        return Duration::from_nanos(total.saturating_sub(counts.load_ns.unwrap_or_default()));
    }
    let at = |age: Option<Duration>| age.map(|age| ctx.start + age);
    // a model that was loaded first was at work when its answer began, and before nobody knows
    let begun = if ctx.cold { at(ctx.timings.first_byte) } else { ctx.attempts.sent_at };
    let ended = at(ctx.timings.last_byte).unwrap_or_else(Instant::now);
    begun.map(|begun| ended.saturating_duration_since(begun)).unwrap_or_default()
}

/// Whole milliseconds, to the nearest.
fn millis(time: Duration) -> u64 {
    u64::try_from((time.as_micros() + 500) / 1000).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rounded_to_the_nearest_millisecond() {
        for (micros, rounded) in [(0, 0), (499, 0), (500, 1), (1499, 1), (1500, 2)] {
            assert_eq!(millis(Duration::from_micros(micros)), rounded);
        }
    }
}
