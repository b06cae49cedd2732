//! The end of every request: its seat freed, its one access line written.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use jiff::Timestamp;
use pingora::Error;
use pingora::proxy::Session;

use super::Gateway;
use super::account;
use super::admit;
use super::ctx::Ctx;
use super::quota;
use super::refusal::Refusal;
use crate::auth::Principal;
use crate::route::{Action, Route};
use crate::telemetry::access_log::AccessLine;
use crate::telemetry::metrics::{Affinity, Finished, Metrics, Work};

/// Counts the requests that are being worked on.
#[derive(Clone, Debug, Default)]
pub(super) struct Counter(Arc<AtomicUsize>);

impl Counter {
    /// Counts one more, for as long as the guard lives.
    pub(super) fn enter(&self) -> InFlight {
        self.0.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(&self.0))
    }

    /// How many there are.
    pub(super) fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// One request in flight. A guard, because Pingora's last hook does not run after a panic.
#[derive(Debug)]
pub(super) struct InFlight(Arc<AtomicUsize>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Settles a request: once, whatever happened.
pub(super) fn finish(gateway: &Gateway, session: &Session, error: Option<&Error>, ctx: &mut Ctx) {
    let comforted = ctx.is_comforted();
    if let Some(watchdog) = &ctx.watchdog {
        watchdog.forget();
    }
    note_change(session, ctx);
    note_limit(ctx);
    ctx.free_seat();
    ctx.reservation = None;
    ctx.body = None;
    let status = session
        .response_written()
        .filter(|response| !response.status.is_informational())
        .map_or(if comforted { 200 } else { 0 }, |response| response.status.as_u16());
    quota::finish(&gateway.limits, ctx, error.is_none() && status != 0);
    account::note(gateway, ctx, status);
    write_line(session, error, ctx, status);
    count(&gateway.metrics, error, ctx, status);
}

fn count(metrics: &Metrics, error: Option<&Error>, ctx: &Ctx, status: u16) {
    metrics.finished(&Finished {
        config: &ctx.config,
        route: ctx.route.and_then(Route::number),
        tier: ctx.principal.as_ref().map(Principal::tier),
        status,
        total: ctx.start.elapsed(),
        overhead: ctx.timings.overhead,
        queue: ctx.timings.queue,
    });
    if let Some(limit) = ctx.refusal.as_ref().and_then(Refusal::limit) {
        metrics.limited(limit);
    }
    if ctx.refusal.as_ref().is_some_and(|refusal| refusal.reason == "login_failure") {
        metrics.auth_failure("password");
    }
    if ctx.refusal.is_none() && error.is_some() {
        metrics.client_gone(state(ctx));
    }
    if let Some(found) = affinity(ctx) {
        metrics.affinity(found);
    }
    if let (Some(model), Some(meter)) = (&ctx.model, &ctx.meter) {
        let counts = meter.counts();
        let work = Work {
            first_token: ctx.timings.first_piece.filter(|_| ctx.streams && status == 200),
            prompt: counts.prompt.unwrap_or_default(),
            completion: counts.completion.unwrap_or_default(),
        };
        metrics.worked(model.key(), work, || ctx.fleet.lists(model.key()));
    }
}

/// How its seat stands beside the others that there were, by what of its prompt is cached there;
/// none if it got no seat.
fn affinity(ctx: &Ctx) -> Option<Affinity> {
    let most = ctx.candidates.iter().map(|it| it.cached).max()?;
    let own = ctx.upstream.as_ref()?.id;
    let cached = ctx.candidates.iter().find(|it| it.instance == own).map_or(0, |it| it.cached);
    Some(match most {
        0 => Affinity::None,
        _ if cached == most => Affinity::Hit,
        _ => Affinity::Miss,
    })
}

/// What a request was waiting for when its client left.
fn state(ctx: &Ctx) -> &'static str {
    match () {
        () if ctx.timings.first_byte.is_some() => "streaming",
        () if ctx.upstream.is_some() => "waiting",
        () if ctx.wish.is_some() => "queued",
        () => "sending",
    }
}

/// A model that was pulled, copied or deleted is looked for at once, not at the next probe.
fn note_change(session: &Session, ctx: &Ctx) {
    let managed = matches!(ctx.route.map(|route| route.action), Some(Action::Manage(_)));
    let changed = session.response_written().is_some_and(|head| head.status.is_success());
    if managed
        && changed
        && let Some(instance) = &ctx.upstream
    {
        instance.suspect();
    }
}

/// Tells the security log of whom a limit turned away, where it was not told on the spot.
fn note_limit(ctx: &Ctx) {
    let Some(refusal) = ctx.refusal.as_ref().filter(|refusal| refusal.status == 429) else {
        return;
    };
    if matches!(refusal.reason, "body_memory" | "user_queue_full") {
        admit::log_event(ctx, "limited", &refusal.detail);
    }
}

fn write_line(session: &Session, error: Option<&Error>, ctx: &Ctx, status: u16) {
    let counts = ctx.meter.as_ref().map(|meter| *meter.counts()).unwrap_or_default();
    let principal = ctx.principal.as_ref();
    let upstream = ctx.upstream.as_deref();
    let cause = ctx.refusal.as_ref().and_then(|refusal| refusal.cause.clone());
    let cause = cause.or_else(|| error.filter(|_| status >= 500).map(ToString::to_string));
    let seats = seats(ctx);
    AccessLine {
        time: Timestamp::now(),
        request_id: &ctx.request_id,
        client: ctx.client.ip(),
        user_id: principal.map(Principal::user_id),
        key_id: principal.and_then(Principal::key_id),
        tier: principal.map(Principal::tier),
        method: session.req_header().method.as_str(),
        route: ctx.route_path(),
        model: ctx.model.as_ref().map(|model| model.as_written()),
        upstream: upstream.map(|instance| instance.config.name.as_str()),
        status,
        bytes: session.body_bytes_sent(),
        tokens_in: counts.prompt,
        tokens_out: counts.completion,
        auth: ctx.timings.auth,
        queue: ctx.timings.queue,
        seats: seats.as_deref(),
        first_byte: ctx.timings.first_byte,
        total: ctx.start.elapsed(),
        outcome: outcome(ctx, error),
        cause: cause.as_deref(),
    }
    .write(ctx.config.log.access);
}

/// Why it sat where it sat: each instance that there was, with the seconds to the first token that
/// were expected of it, and what they were made of.
fn seats(ctx: &Ctx) -> Option<String> {
    let mut text = String::with_capacity(32 * ctx.candidates.len());
    let mut digits = itoa::Buffer::new();
    for it in &ctx.candidates {
        let name = ctx.fleet.get(it.instance).map_or("?", |instance| &instance.config.name);
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(name);
        text.push('=');
        let millis = (it.seconds() * 1000.0).round() as u64;
        text.push_str(digits.format(millis / 1000));
        text.push('.');
        // a thousand more makes three digits, zeros in front included
        text.push_str(digits.format(millis % 1000 + 1000).get(1..).unwrap_or_default());
        for (what, part) in [("+load", it.load), ("+wait", it.wait)] {
            if part > 0.0 {
                text.push_str(what);
            }
        }
    }
    (!text.is_empty()).then_some(text)
}

fn outcome(ctx: &Ctx, error: Option<&Error>) -> &'static str {
    match (&ctx.refusal, error) {
        (Some(refusal), _) => refusal.reason,
        (None, Some(_)) => "client_gone",
        (None, None) if ctx.ended_early() => "broken",
        (None, None) => "ok",
    }
}
