//! Between the gateway and an instance: choosing, retrying, reading, giving up.

use std::time::{Duration, Instant};

use bytes::Bytes;
use pingora::http::ResponseHeader;
use pingora::proxy::{FailToProxy, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorSource, ErrorType, Result};

use super::Gateway;
use super::admit::{self, Stop};
use super::ctx::{Ctx, Target};
use super::refusal::{self, Refusal};
use crate::route::{Action, StreamFormat};
use crate::scheduler::{Outcome, Refused, Surface};
use crate::upstream::Instance;
use crate::usage::{Format, Meter};

/// Instances that a request tries after the first, while connections fail.
const MOST_RECONNECTS: u32 = 2;
/// Times that a request is sent again after its bytes may have reached an instance.
const MOST_RESENDS: u32 = 1;
/// A pooled connection that the instance had closed before answers our first bytes with a reset at
/// once. What breaks later broke while the instance worked on it, and is not repeated.
const STALE: Duration = Duration::from_millis(20);

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
    if ctx.attempts.again {
        ctx.attempts.again = false;
        if let Err(stop) = move_on(gateway, session, ctx).await {
            return Err(match stop {
                Stop::Gone(error) => error,
                Stop::Refused(refusal) => {
                    ctx.refusal = Some(refusal);
                    Error::new(REFUSED)
                }
            });
        }
    }
    if let Some(watchdog) = &ctx.watchdog {
        watchdog.rest();
    }
    let instance = ctx.upstream.as_ref().ok_or_else(no_target)?;
    Ok(Box::new(instance.peer.clone()))
}

/// A request that was admitted has a target.
pub(super) fn no_target() -> Box<Error> {
    Error::explain(ErrorType::InternalError, "no target")
}

/// Leaves the instance that failed for another one. If there is none, the failure stands.
async fn move_on(gateway: &Gateway, session: &mut Session, ctx: &mut Ctx) -> Result<(), Stop> {
    let failed = |ctx: &Ctx| Refusal::bad_gateway(ctx.instance_name(), "cannot be reached");
    match ctx.target.take() {
        Some(Target::Seat(seat)) => {
            let Some(wish) = &mut ctx.wish else { return Err(failed(ctx).into()) };
            wish.excluded.push(seat.instance());
            let ticket = match seat.elsewhere(wish.clone()) {
                Ok(ticket) => ticket,
                Err(Refused::Nowhere(_)) => return Err(failed(ctx).into()),
                Err(refused) => return Err(admit::no_place(gateway, ctx, refused).into()),
            };
            let seat = admit::wait_for_seat(gateway, session, ctx, ticket).await?;
            ctx.take(Target::Seat(seat), &gateway.live);
            Ok(())
        }
        Some(Target::Instance(index)) => {
            let model = ctx.model.as_ref().map(|model| model.key().clone());
            let found = gateway.scheduler.find(model.as_ref(), Surface::Ollama, &[index]);
            let Ok(other) = found else { return Err(failed(ctx).into()) };
            ctx.take(Target::Instance(other), &gateway.live);
            Ok(())
        }
        None => Err(Refusal::internal("no target to move on from".to_owned()).into()),
    }
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
pub(super) fn connected(ctx: &mut Ctx) {
    ctx.attempts.sent_at = Some(Instant::now());
    if let Some(watchdog) = &ctx.watchdog
        && !is_managed(ctx)
    {
        let timeouts = &ctx.config.timeouts;
        watchdog.allow(timeouts.first_byte);
        watchdog.allow_in_all(timeouts.total.saturating_sub(ctx.start.elapsed()));
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
    if response.status.is_informational() {
        return Ok(());
    }
    if status == 503 && ctx.upstream.as_deref().is_some_and(Instance::is_ollama) {
        return Err(busy(gateway, session, ctx));
    }
    if let Some(what) = unusable(status, ctx) {
        ctx.refusal = Some(Refusal::bad_gateway(ctx.instance_name(), what));
        return Err(Error::new(REFUSED).into_up());
    }
    ctx.timings.first_byte = Some(ctx.start.elapsed());
    // a 500 is the model's trouble more often than the instance's: neither praise nor blame
    if status < 500
        && let Some(seat) = ctx.seat()
    {
        seat.report(Outcome::Answered);
    }
    if let Some(watchdog) = &ctx.watchdog
        && !is_managed(ctx)
    {
        watchdog.allow(ctx.config.timeouts.idle);
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
    let again = ctx.attempts.resends < MOST_RESENDS
        && session.response_written().is_none()
        && !is_managed(ctx);
    ctx.attempts.resends += 1;
    ctx.attempts.again = again;
    if !again {
        let detail = format!("Upstream '{}' is overloaded", ctx.instance_name());
        let retry_after = gateway.scheduler.retry_after();
        ctx.refusal = Some(Refusal::unavailable("upstream_busy", detail, retry_after));
    }
    let mut error = Error::new(REFUSED).into_up();
    error.set_retry(again);
    error
}

fn begin_meter(response: &ResponseHeader, ctx: &mut Ctx) {
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
    ctx.meter = Some(Meter::new(format, ctx.strip_usage && ctx.sse));
}

/// A chunk on its way to the client.
pub(super) fn passing(body: &mut Option<Bytes>, end_of_stream: bool, ctx: &mut Ctx) {
    if let Some(watchdog) = &ctx.watchdog
        && !is_managed(ctx)
    {
        watchdog.allow(ctx.config.timeouts.idle);
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
    if end_of_stream {
        ctx.complete = true;
        ctx.target = None;
    }
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
    let from_client = *error.esource() == ErrorSource::Downstream;
    let expired = ctx.watchdog.as_ref().is_some_and(|watchdog| watchdog.expired());
    let begun = session.response_written().is_some_and(|r| !r.status.is_informational());
    let young = ctx.attempts.sent_at.is_some_and(|at| at.elapsed() < STALE);
    let again = reused
        && young
        && !from_client
        && !begun
        && ctx.attempts.resends < MOST_RESENDS
        && !is_managed(ctx)
        && *error.etype() != ErrorType::ReadTimedout;
    // never leave the decision open: Pingora panics on an undecided one
    error.set_retry(again);
    if again {
        ctx.attempts.resends += 1;
        // the same instance, a fresh connection: it was the connection that was stale
        return error;
    }
    let cut = ctx.watchdog.as_ref().is_some_and(|watchdog| watchdog.was_cut());
    if !from_client || (expired && !cut) {
        blame(ctx);
    }
    error
}

/// The last word on a request that failed.
pub(super) async fn give_up(session: &mut Session, error: &Error, ctx: &mut Ctx) -> FailToProxy {
    let expired = ctx.watchdog.as_ref().is_some_and(|watchdog| watchdog.expired());
    let from_client = *error.esource() == ErrorSource::Downstream;
    if from_client && !expired && ctx.refusal.is_none() {
        return FailToProxy { error_code: 0, can_reuse_downstream: false };
    }
    let refusal = ctx.refusal.take().unwrap_or_else(|| explain(error, ctx, expired));
    let begun = session.response_written().is_some_and(|r| !r.status.is_informational());
    // a client that is already gone cannot be told, and that is no further error
    let _ = match begun {
        true => end_visibly(session, &refusal, ctx).await,
        false => refusal::write(session, &refusal, ctx.dialect, &ctx.request_id).await,
    };
    let error_code = refusal.status;
    ctx.refusal = Some(refusal);
    FailToProxy { error_code, can_reuse_downstream: false }
}

fn explain(error: &Error, ctx: &Ctx, expired: bool) -> Refusal {
    let name = ctx.instance_name();
    let timed_out = matches!(error.etype(), ErrorType::ReadTimedout | ErrorType::WriteTimedout);
    let cut = ctx.watchdog.as_ref().is_some_and(|watchdog| watchdog.was_cut());
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
    refusal.because(error.to_string())
}

/// An error line in the stream's own dialect; then the connection is cut without the end that a
/// complete answer has, so that nobody takes the part for the whole.
async fn end_visibly(session: &mut Session, refusal: &Refusal, ctx: &Ctx) -> Result<()> {
    let streamed = ctx.sse || ctx.streams;
    if streamed {
        let line = refusal.stream_end(ctx.dialect, ctx.sse);
        session.downstream_session.write_response_body(line, false).await?;
    }
    Ok(())
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
