//! A seat for a request: what it wishes, its wait, and the load that may have to come first.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pingora::protocols::http::ServerSession;
use pingora::proxy::Session;
use pingora::{Error, ErrorType};

use super::Gateway;
use super::admit::Stop;
use super::ctx::{Ctx, Target};
use super::refusal::Refusal;
use crate::payload::{Prompt, Ready, Runner};
use crate::policy::RoutePermit;
use crate::route::{Inference, StreamFormat};
use crate::scheduler::wish::END_USERS;
use crate::scheduler::{Payer, Refused, Seat, Surface, Ticket, Wish};
use crate::upstream::warm::{self, Warming};

/// The end user of a client that speaks for several (Open WebUI's header), and their conversation.
const END_USER: &str = "x-openwebui-user-id";
const CONVERSATION: &str = "x-openwebui-chat-id";
/// Longer ones are none that such clients send.
const LONGEST_ID: usize = 128;
/// How long the client waits for a first byte, in seconds, if it is one of OpenAI's SDKs.
const READ_TIMEOUT: &str = "x-stainless-read-timeout";
/// How long a request lets the load go first that will go on without it. Both take their place in
/// the instance's queue; the load must be before it.
const HEAD_START: Duration = Duration::from_millis(20);

/// The work that a request is.
pub(super) struct Work {
    prompt: Arc<Prompt>,
    runner: Runner,
    most_output: Option<u64>,
    streams: bool,
    unloads: bool,
    deadline: Option<Duration>,
    end_user: Option<u64>,
    warming: Warming,
}

impl Work {
    /// What the body and the head say of it.
    pub(super) fn of(session: &Session, inference: Inference, ready: &Ready) -> Self {
        let payload = &ready.payload;
        let embeds = inference.stream == StreamFormat::Never;
        let id = |name: &str| {
            let text = session.get_header(name)?.to_str().ok()?;
            let sane = (1..=LONGEST_ID).contains(&text.len());
            Some(text).filter(|text| sane && text.bytes().all(|byte| byte.is_ascii_graphic()))
        };
        let seconds = id(READ_TIMEOUT).and_then(|text| text.parse::<f64>().ok());
        let deadline = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        Self {
            prompt: Arc::new(payload.prompt(id(CONVERSATION))),
            runner: payload.runner(),
            most_output: if embeds || ready.frees { Some(0) } else { payload.most_output() },
            streams: ready.streams,
            unloads: ready.frees,
            deadline: deadline.filter(|deadline| !deadline.is_zero()),
            // 0 is nobody in particular
            end_user: id(END_USER).map(|id| 1 + Prompt::tie_of(id) % (END_USERS - 1)),
            warming: Warming::new(embeds, payload.runner_options(), payload.keeps_all()),
        }
    }

    /// About how many tokens its prompt has: one for every four bytes of text, and as many for
    /// each picture or file as it costs whatever its size.
    pub(super) fn prompt_tokens(&self) -> u64 {
        self.prompt.tokens
    }

    /// The most tokens that its answer may have, if the request says.
    pub(super) fn most_output(&self) -> Option<u64> {
        self.most_output
    }
}

/// Waits for a seat.
pub(super) async fn take_seat(
    gateway: &Gateway,
    session: &mut Session,
    ctx: &mut Ctx,
    (permit, work): (&RoutePermit, Work),
) -> Result<(), Stop> {
    let key = ctx.principal.as_ref().and_then(|principal| principal.identity.key.as_ref());
    let delegating = key.is_some_and(|key| key.delegating);
    let wish = Wish {
        model: ctx.model.as_ref().map(|model| model.key().clone()),
        surface: surface(ctx),
        runner: work.runner,
        payer: Payer {
            user: ctx.user_id(),
            key: key.map(|key| key.id),
            end_user: work.end_user.filter(|_| delegating).unwrap_or_default(),
            weight: permit.weight(),
        },
        concurrency: permit.concurrency(),
        key_concurrency: permit.key_concurrency(),
        prompt: work.prompt,
        most_output: work.most_output,
        streams: work.streams,
        unloads: work.unloads,
        deadline: work.deadline,
        excluded: Vec::new(),
        number: None,
    };
    ctx.max_wait = permit.max_queue_wait();
    ctx.warming = Some(work.warming);
    ctx.wish = Some(wish.clone());
    let ticket =
        gateway.scheduler.enter(wish).map_err(|refused| no_place(gateway, ctx, refused))?;
    let seat = wait_for_seat(gateway, session, ctx, ticket).await?;
    ctx.take(Target::Seat(Box::new(seat)), &gateway.live);
    Ok(())
}

fn surface(ctx: &Ctx) -> Surface {
    if ctx.upstream_path.starts_with("/v1/") { Surface::V1 } else { Surface::Ollama }
}

/// Waits for the seat and watches the client meanwhile: nobody else does.
pub(super) async fn wait_for_seat(
    gateway: &Gateway,
    session: &mut Session,
    ctx: &mut Ctx,
    ticket: Ticket,
) -> Result<Seat, Stop> {
    let begun = Instant::now();
    let body_done = session.is_body_done();
    let patience = ctx.max_wait.saturating_sub(ctx.timings.queue.unwrap_or_default());
    if ticket.is_seated() {
        // whoever leaves in this very moment is noticed on the way to the instance
        ctx.timings.queue.get_or_insert_default();
        let seat = ticket.seat().await;
        begin_load(gateway, ctx, &seat).await;
        return Ok(seat);
    }
    let outcome = tokio::select! {
        // whoever has left must not be served, so that is looked at first
        biased;
        gone = client_gone(&mut session.downstream_session), if body_done => Err(Stop::Gone(gone)),
        seat = ticket.seat() => Ok(seat),
        () = tokio::time::sleep(patience) => {
            let retry_after = gateway.scheduler.retry_after();
            let detail = "No seat became free in time";
            Err(Stop::Refused(Refusal::unavailable("queue_timeout", detail, retry_after)))
        }
    };
    *ctx.timings.queue.get_or_insert_default() += begun.elapsed();
    if let Ok(seat) = &outcome {
        begin_load(gateway, ctx, seat).await;
    }
    outcome
}

/// Resolves when the client closes its connection, or breaks the protocol. The probe reads one
/// byte and is safe to cancel.
pub(super) async fn client_gone(session: &mut ServerSession) -> Box<Error> {
    match session.read_body_or_idle(true).await {
        Err(error) => error.into_down(),
        Ok(_) => Error::new_down(ErrorType::ConnectionClosed),
    }
}

/// If the model has to be loaded, has it loaded by a request of our own: Ollama gives a load up
/// when the client leaves for whom it began, whoever else waits for it.
async fn begin_load(gateway: &Gateway, ctx: &Ctx, seat: &Seat) {
    let (Some(model), Some(warming)) = (seat.loads(), &ctx.warming) else { return };
    let newer = gateway.live.load();
    let known = ctx.fleet.get(seat.instance()).or_else(|| newer.fleet.get(seat.instance()));
    let Some(instance) = known.cloned() else { return };
    let request = warming.request(&instance, &gateway.client, model);
    drop(newer);
    let Some(load) = seat.detach_load() else { return };
    let patience = ctx.config.timeouts.first_byte;
    let loading = tokio::spawn(warm::load(request, load, patience));
    // a model that is there at once needs no head start
    let _ = tokio::time::timeout(HEAD_START, loading).await;
}

/// The refusal of a place.
pub(super) fn no_place(gateway: &Gateway, ctx: &Ctx, refused: Refused) -> Refusal {
    let model = ctx.model.as_ref().map_or("", |model| model.as_written());
    Refusal::from_scheduler(refused, model, gateway.scheduler.retry_after())
}
