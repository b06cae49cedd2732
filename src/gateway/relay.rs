//! Between the gateway and an instance: choosing, retrying, reading, giving up.

use std::time::{Duration, Instant};

use bytes::Bytes;
use pingora::http::ResponseHeader;
use pingora::proxy::{FailToProxy, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorSource, ErrorType, Result, RetryType};

use super::Gateway;
use super::admit::Stop;
use super::body;
use super::ctx::{Ctx, Target};
use super::h2;
use super::headers;
use super::patience::{self, Belated};
use super::quota;
use super::refusal::{self, Refusal};
use super::seating;
use super::watchdog::Deadline;
use crate::limit::Limits;
use crate::route::{Action, StreamFormat};
use crate::scheduler::{Outcome, Refused, Surface, Wish};
use crate::telemetry::metrics::Metrics;
use crate::upstream::{Instance, peer};
use crate::usage::{Format, Meter};

/// Instances that a request tries after the first, while connections fail.
const MOST_RECONNECTS: u32 = 2;
/// Times that a request is sent again after its bytes may have reached an instance.
const MOST_RESENDS: u32 = 1;
/// A pooled connection that the instance had closed before answers our first bytes with a reset at
/// once. What breaks later broke while the instance worked on it, and is not repeated.
const STALE: Duration = Duration::from_millis(50);

/// An error that carries the refusal that is already in [`Ctx`].
const REFUSED: ErrorType = ErrorType::Custom("refused");

impl Ctx {
    /// The name of the instance where the request is, or was last.
    fn instance_name(&self) -> &str {
        self.upstream.as_ref().map_or("?", |instance| &instance.config.name)
    }
}

/// The peer for this attempt; a seat at another instance first, if the last attempt failed.
pub(super) async fn choose(
    gateway: &Gateway,
    session: &mut Session,
    ctx: &mut Ctx,
) -> Result<Box<HttpPeer>> {
    ctx.decided();
    if let Some(watchdog) = &ctx.watchdog {
        watchdog.rest();
    }
    let again = std::mem::take(&mut ctx.attempts.again);
    if again && let Err(stop) = move_on(gateway, session, ctx).await {
        return Err(match stop {
            Stop::Gone(error) => error,
            Stop::Refused(refusal) => {
                ctx.refusal = Some(refusal);
                Error::new(REFUSED)
            }
        });
    }
    let instance = ctx.upstream.as_deref().ok_or_else(no_target)?;
    headers::to_instance(session.req_header_mut(), instance, ctx)?;
    let peer = instance.peer();
    let watched = ctx.watchdog.is_some() && !is_managed(ctx);
    Ok(Box::new(if watched { peer::watched(peer) } else { peer }))
}

/// A request that was admitted has a target.
fn no_target() -> Box<Error> {
    Error::explain(ErrorType::InternalError, "no target")
}

/// Leaves the instance that failed for another one. If there is none, the failure stands.
async fn move_on(gateway: &Gateway, session: &mut Session, ctx: &mut Ctx) -> Result<(), Stop> {
    ctx.attempts.failed.extend(ctx.upstream.as_ref().map(|instance| instance.id));
    let failed = &ctx.attempts.failed;
    let found = match ctx.target.take() {
        Some(Target::Seat(seat)) => {
            let Some(wish) = ctx.wish.clone() else { return Err(nowhere_else(ctx)) };
            match seat.elsewhere(Wish { excluded: failed.clone(), ..wish }) {
                Ok(ticket) => {
                    let seat = seating::wait_for_seat(gateway, session, ctx, ticket).await?;
                    Ok(Target::Seat(Box::new(seat)))
                }
                Err(refused) => Err(refused),
            }
        }
        _ => {
            let model = ctx.model.as_ref().map(|model| model.key());
            let found = gateway.scheduler.find(model, Surface::Ollama, failed);
            found.map(Target::Instance).map_err(Refused::from)
        }
    };
    match found {
        Ok(target) => {
            ctx.take(target, &gateway.live);
            Ok(())
        }
        Err(Refused::Nowhere(_)) => Err(nowhere_else(ctx)),
        Err(full) => Err(seating::no_place(gateway, ctx, full).into()),
    }
}

fn nowhere_else(ctx: &mut Ctx) -> Stop {
    let last_word = ctx.attempts.last_word.take();
    let unreachable = || Refusal::bad_gateway(ctx.instance_name(), "cannot be reached");
    last_word.unwrap_or_else(unreachable).into()
}

/// Nothing was sent: another instance may have it.
pub(super) fn not_connected(ctx: &mut Ctx, mut error: Box<Error>) -> Box<Error> {
    blame(ctx);
    ctx.attempts.connects += 1;
    let again = ctx.attempts.connects <= MOST_RECONNECTS && !is_managed(ctx);
    ctx.attempts.again = again;
    error.set_retry(again);
    error
}

/// From here on the instance may have the request: its time for the first byte begins.
pub(super) fn connected(metrics: &Metrics, ctx: &mut Ctx) {
    if let Some(model) = ctx.seat().and_then(|seat| seat.loads().cloned()) {
        metrics.cold_load(ctx.instance_name(), &model);
        ctx.cold = true;
    }
    let now = Instant::now();
    ctx.attempts.sent_at = Some(now);
    if let Some(watchdog) = &ctx.watchdog
        && !is_managed(ctx)
    {
        let timeouts = &ctx.config.timeouts;
        watchdog.allow_from(now, timeouts.first_byte);
        let spent = now.saturating_duration_since(ctx.start);
        watchdog.allow_in_all(now, timeouts.total.saturating_sub(spent));
    }
}

/// The instance's head is here.
pub(super) fn answered(
    gateway: &Gateway,
    session: &Session,
    response: &ResponseHeader,
    ctx: &mut Ctx,
) -> Result<()> {
    let status = response.status.as_u16();
    // 101 is no interim answer: behind it nothing would be HTTP any more
    if response.status.is_informational() && status != 101 {
        return Ok(());
    }
    if status == 503 && ctx.upstream.as_deref().is_some_and(Instance::is_ollama) {
        return Err(busy(gateway, session, ctx));
    }
    if let Some(what) = unusable(status, ctx) {
        ctx.refusal = Some(Refusal::bad_gateway(ctx.instance_name(), what));
        return Err(Error::new(REFUSED).into_up());
    }
    if let Some(watchdog) = &ctx.watchdog {
        watchdog.comfort_no_more();
    }
    if ctx.is_comforted() {
        ctx.belated = Belated::of(response, ctx.instance_name()).map_err(|refusal| {
            ctx.refusal = Some(refusal);
            Error::new(REFUSED).into_up()
        })?;
    }
    let now = Instant::now();
    ctx.timings.first_byte = Some(now.saturating_duration_since(ctx.start));
    // a 500 is the model's trouble more often than the instance's: neither praise nor blame
    if status < 500
        && let Some(seat) = ctx.seat()
    {
        // a refusal may come while the model is on its way, and says nothing of it
        let refused = status >= 400;
        seat.report(if refused { Outcome::Refused } else { Outcome::Answered });
    }
    if let Some(watchdog) = &ctx.watchdog
        && !is_managed(ctx)
    {
        watchdog.allow_from(now, ctx.config.timeouts.idle);
    }
    begin_meter(response, ctx);
    Ok(())
}

/// Answers that are about us rather than about the client's request.
fn unusable(status: u16, ctx: &Ctx) -> Option<&'static str> {
    match status {
        // the client would throw away a good key for our bad one
        401 | 403 if !ctx.cloud => Some("refused the gateway"),
        300..=399 => Some("answered with a redirect"),
        101 => Some("answered with an upgrade"),
        _ => None,
    }
}

/// Ollama's own queue is full: once more elsewhere, while nothing was promised to the client.
fn busy(gateway: &Gateway, session: &Session, ctx: &mut Ctx) -> Box<Error> {
    blame(ctx);
    let again = ctx.attempts.resends < MOST_RESENDS && !has_begun(session, ctx) && !is_managed(ctx);
    ctx.attempts.resends += 1;
    ctx.attempts.again = again;
    let detail = format!("Upstream '{}' is overloaded", ctx.instance_name());
    let refusal = Refusal::unavailable("upstream_busy", detail, gateway.scheduler.retry_after());
    match again {
        true => ctx.attempts.last_word = Some(refusal),
        false => ctx.refusal = Some(refusal),
    }
    let mut error = Error::new(REFUSED).into_up();
    error.set_retry(again);
    error
}

/// Whether the client has seen something of an instance's answer; `100 Continue` is none, nor is a
/// head that came in advance.
fn has_begun(session: &Session, ctx: &Ctx) -> bool {
    let answered = !ctx.is_comforted() || ctx.timings.first_byte.is_some();
    answered && session.response_written().is_some_and(|head| !head.status.is_informational())
}

/// A refusal after a head that came in advance: it is for [`give_up`] to say so in the stream.
pub(super) fn refuse_in_stream(refusal: Refusal, ctx: &mut Ctx) -> Box<Error> {
    ctx.refusal = Some(refusal);
    Error::new(REFUSED)
}

fn begin_meter(response: &ResponseHeader, ctx: &mut Ctx) {
    ctx.served = response.status.is_success();
    if !ctx.served {
        return;
    }
    let content_type = response.headers.get(http::header::CONTENT_TYPE);
    let is = |kind: &[u8]| content_type.is_some_and(|value| value.as_bytes().starts_with(kind));
    ctx.sse = is(b"text/event-stream");
    let Some(Action::Infer(inference)) = ctx.route.map(|route| route.action) else { return };
    let native = ctx.upstream_path.starts_with("/api/");
    let format = match (inference.stream, ctx.sse) {
        (StreamFormat::Chunks, true) => Format::SseOpenAi,
        (StreamFormat::Responses, true) => Format::SseResponses,
        (StreamFormat::Messages, true) => Format::SseAnthropic,
        (StreamFormat::Ndjson, _) if is(b"application/x-ndjson") => Format::Ndjson,
        (StreamFormat::Responses, false) => Format::ResponsesJson,
        (StreamFormat::Messages, false) => Format::AnthropicJson,
        _ if !is(b"application/json") => Format::None,
        _ if native => Format::OllamaJson,
        _ => Format::OpenAiJson,
    };
    let readable = format != Format::None;
    ctx.meter = readable.then(|| Meter::new(format, ctx.strip_usage && ctx.sse));
}

/// A chunk on its way to the client.
pub(super) fn passing(
    limits: &Limits,
    session: &Session,
    body: &mut Option<Bytes>,
    end_of_stream: bool,
    ctx: &mut Ctx,
) -> Result<()> {
    let now = Instant::now();
    let age = now.saturating_duration_since(ctx.start);
    if let Some(watchdog) = &ctx.watchdog
        && !is_managed(ctx)
    {
        watchdog.allow_from(now, ctx.config.timeouts.idle);
    }
    if body.as_ref().is_some_and(|piece| !piece.is_empty()) {
        ctx.timings.first_piece.get_or_insert(age);
    }
    if let Some(belated) = &mut ctx.belated {
        belated.hear(body.take());
        if end_of_stream {
            ctx.target = None;
            let refusal = ctx.belated.take().map(|belated| belated.refusal(ctx.instance_name()));
            ctx.refusal = refusal;
            return Err(Error::new(REFUSED).into_up());
        }
        return Ok(());
    }
    if let Some(meter) = &mut ctx.meter {
        if let Some(chunk) = body.take() {
            let passed = meter.push(chunk);
            *body = (!passed.is_empty()).then_some(passed);
        }
        if end_of_stream && let Some(held) = meter.finish() {
            *body = Some(match body.take() {
                Some(before) => Bytes::from([before, held].concat()),
                None => held,
            });
        }
    }
    if let Some(chunk) = body {
        ctx.outgoing.pass(chunk, session.body_bytes_sent());
    }
    if end_of_stream {
        ctx.complete = true;
        ctx.timings.last_byte = Some(age);
        ctx.free_seat();
        // before the client has the end: who asks again at once finds it settled
        quota::settle(limits, ctx);
        if ctx.ended_early() {
            ctx.refusal = Some(Refusal::broken(ctx.instance_name()));
            return Err(Error::new(REFUSED).into_up());
        }
    }
    Ok(())
}

/// The exchange broke off. Whose fault was it, and may it be repeated?
pub(super) fn broken(
    session: &Session,
    mut error: Box<Error>,
    ctx: &mut Ctx,
    reused: bool,
) -> Box<Error> {
    if *error.etype() == REFUSED {
        return error;
    }
    let again = was_stale(&error, ctx, reused)
        && !has_begun(session, ctx)
        && ctx.attempts.resends < MOST_RESENDS
        && !is_managed(ctx);
    // never leave the decision open: Pingora panics on an undecided one
    error.set_retry(again);
    if again {
        // the same instance, another connection: it was the connection that was stale
        ctx.attempts.resends += 1;
        return error;
    }
    let late = ctx.watchdog.as_ref().and_then(|watchdog| watchdog.expired());
    if *error.esource() != ErrorSource::Downstream || late == Some(Deadline::Phase) {
        blame(ctx);
    }
    error
}

/// Whether a pooled connection had been closed before it was used: writing failed, or it ended
/// before an answer, and did so at once.
fn was_stale(error: &Error, ctx: &Ctx, reused: bool) -> bool {
    let at_once = ctx.attempts.sent_at.is_some_and(|at| at.elapsed() < STALE);
    let ended = matches!(error.retry, RetryType::ReusedOnly)
        || (*error.etype() == ErrorType::WriteError && *error.esource() == ErrorSource::Upstream);
    reused && at_once && ended
}

/// The last word on a request that failed.
pub(super) async fn give_up(session: &mut Session, error: &Error, ctx: &mut Ctx) -> FailToProxy {
    // what the instance held is free, however long the client takes to read why
    ctx.free_seat();
    // Pingora closes the connection behind this answer: the client should know
    session.set_keepalive(None);
    let expired = ctx.watchdog.as_ref().is_some_and(|watchdog| watchdog.expired().is_some());
    let from_client = *error.esource() == ErrorSource::Downstream;
    if body::is_malformed(error) {
        // an upload that passes through is read only here
        ctx.refusal.get_or_insert_with(|| Refusal::malformed_chunks(error));
    }
    if from_client && !expired && ctx.refusal.is_none() {
        return FailToProxy { error_code: 0, can_reuse_downstream: false };
    }
    let refusal = ctx.refusal.take().unwrap_or_else(|| explain(error, ctx, expired));
    // a client that is already gone cannot be told, and that is no further error
    if !has_begun(session, ctx) {
        ctx.quota.give_back();
    }
    let _ = match has_begun(session, ctx) || ctx.is_comforted() {
        true => end_visibly(session, &refusal, ctx).await,
        false => refusal::write(session, &refusal, ctx).await,
    };
    let error_code = refusal.status;
    ctx.refusal = Some(refusal);
    FailToProxy { error_code, can_reuse_downstream: false }
}

fn explain(error: &Error, ctx: &Ctx, expired: bool) -> Refusal {
    let name = ctx.instance_name();
    let timed_out = matches!(error.etype(), ErrorType::ReadTimedout | ErrorType::WriteTimedout);
    let late = ctx.watchdog.as_ref().and_then(|watchdog| watchdog.expired());
    let cut = late == Some(Deadline::Cut);
    let refusal = match error.esource() {
        _ if cut => Refusal::unavailable("stopping", "The server is stopping", 5),
        _ if expired || timed_out => Refusal::gateway_timeout(name),
        ErrorSource::Upstream if ctx.attempts.sent_at.is_none() => {
            Refusal::bad_gateway(name, "cannot be reached")
        }
        ErrorSource::Upstream => {
            Refusal::bad_gateway(name, "failed while it worked on the request")
        }
        _ => Refusal::internal(String::new()),
    };
    refusal.because(cause(error))
}

/// Pingora quotes a head that it could not parse, and that may be a piece of somebody's answer.
fn cause(error: &Error) -> String {
    match error.etype() {
        ErrorType::InvalidHTTPHeader => "malformed response head".to_owned(),
        _ => error.to_string(),
    }
}

/// An error line in the stream's own dialect; then the connection is cut without the end that a
/// complete answer has, so that nobody takes the part for the whole.
async fn end_visibly(session: &mut Session, refusal: &Refusal, ctx: &Ctx) -> Result<()> {
    let sse = ctx.sse || ctx.is_comforted();
    patience::make_known(session, ctx).await?;
    if sse || ctx.streams {
        let before = ctx.outgoing.unwritten(session.body_bytes_sent());
        // the instance's own error is visible as it is
        let end = match ctx.meter.as_ref().is_some_and(|meter| meter.counts().errored) {
            true => before.to_vec(),
            false => {
                let line = refusal.stream_end(ctx.dialect, sse, next_number(ctx));
                [&before, ctx.outgoing.separator(sse), &line].concat()
            }
        };
        // nothing, written, would be the end of a complete answer
        if !end.is_empty() {
            session.downstream_session.write_response_body(end.into(), false).await?;
        }
    }
    if session.as_downstream().is_custom() {
        tokio::time::sleep(h2::LAST_WORDS).await;
    }
    Ok(())
}

/// What the next event would be numbered with, where events are.
fn next_number(ctx: &Ctx) -> Option<u64> {
    let Some(Action::Infer(inference)) = ctx.route.map(|route| route.action) else { return None };
    let numbered = inference.stream == StreamFormat::Responses;
    numbered.then(|| ctx.meter.as_ref().map(Meter::pieces).unwrap_or_default())
}

/// The instance failed: its breaker hears of it, and so do its probes.
fn blame(ctx: &mut Ctx) {
    if let Some(seat) = ctx.seat() {
        seat.report(Outcome::Failed);
    }
    if let Some(instance) = &ctx.upstream {
        instance.suspect();
    }
}

fn is_managed(ctx: &Ctx) -> bool {
    matches!(ctx.route.map(|route| route.action), Some(Action::Manage(_)))
}
