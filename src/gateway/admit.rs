//! Everything that can say no, in order.
//!
//! What the head can decide is decided before a byte of the body is read: an unknown caller costs
//! a hash and a lookup. Each step adds what it found to [`Ctx`].

use std::time::Instant;

use bytes::Bytes;
use pingora::Error;
use pingora::http::RequestHeader;
use pingora::proxy::Session;

use super::Gateway;
use super::body::{self, Unread};
use super::cors;
use super::ctx::{Ctx, Target};
use super::everywhere::Round;
use super::host;
use super::lint;
use super::managed;
use super::patience;
use super::quota;
use super::refusal::Refusal;
use super::seating::{self, no_place};
use crate::auth::credential::{PathKey, TWICE};
use crate::auth::{Asking, AuthError, Principal, Signed, login};
use crate::config::{Config, RouteClass};
use crate::model::ModelName;
use crate::payload::{self, BadPayload, Payload, Ready};
use crate::policy::{self, Denied, RoutePermit};
use crate::route::{self, Action, BodyKind, Class, Inference, NoRoute};
use crate::scheduler::{Nowhere, Surface};
use crate::telemetry::security_log::SecurityEvent;
use crate::upstream::Fleet;

/// Bodies above this size are looked at on a thread of their own, so that a worker's other
/// streams do not wait for it.
const LARGE: usize = 256 * 1024;
/// Largest body of an administrator's request, bytes.
pub(super) const ADMIN_BODY: u64 = 64 * 1024;

/// Why a request goes no further.
pub(super) enum Stop {
    /// It is refused.
    Refused(Refusal),
    /// The client left.
    Gone(Box<Error>),
}

impl<R: Into<Refusal>> From<R> for Stop {
    fn from(refusal: R) -> Self {
        Self::Refused(refusal.into())
    }
}

impl From<Unread> for Stop {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::Gone(error) => Self::Gone(error),
            Unread::Refused(refusal) => Self::Refused(refusal),
        }
    }
}

/// What an admitted request is.
pub(super) enum Admitted {
    /// To be answered here.
    Local(Action),
    /// To be sent to [`Ctx::target`].
    Proxied,
    /// To be done on several instances.
    Everywhere(Round),
}

/// Takes a request from its head to its place.
pub(super) async fn admit(
    gateway: &Gateway,
    session: &mut Session,
    ctx: &mut Ctx,
) -> Result<Admitted, Stop> {
    check_fields(session, ctx)?;
    let route = find_route(session, ctx)?;
    if route.class == Class::Open {
        refuse_two_callers(session)?;
    }
    if route.action == Action::Login {
        read_login(gateway, session, ctx).await?;
    }
    let Class::Guarded(class) = route.class else { return Ok(Admitted::Local(route.action)) };
    if class == RouteClass::Admin {
        host::check(session.req_header(), ctx).inspect_err(|no| log_denial(ctx, &no.detail))?;
    }
    refuse_foreign_pages(session, ctx, route)?;
    authenticate(gateway, session, ctx).await?;
    let permit = authorise(ctx, route)?;
    quota::count(gateway, ctx, route).await?;
    refuse_encoded(session)?;
    match route.action {
        Action::Infer(inference) => {
            let ready = read_request(gateway, session, ctx, &permit, inference).await?;
            refuse_harm(ctx, &permit, &ready)?;
            let work = seating::Work::of(session, inference, &ready);
            let model = ready.payload.model.unwrap_or_default();
            let wanted = Destination { model, web_search: ready.payload.web_search };
            name_model(ctx, &permit, &wanted)?;
            quota::reserve(gateway, ctx, &work).await?;
            patience::begin(session, ctx, inference)
                .map_err(|error| Refusal::internal(error.to_string()))?;
            seating::take_seat(gateway, session, ctx, (&permit, work)).await?;
            Ok(Admitted::Proxied)
        }
        Action::Show => {
            let payload = read_payload(gateway, session, ctx).await?;
            let model = payload.model_or_name().unwrap_or_default().to_owned();
            name_model(ctx, &permit, &Destination { model, ..Default::default() })?;
            find_instance(gateway, ctx)?;
            Ok(Admitted::Proxied)
        }
        Action::CountTokens => {
            let payload = read_payload(gateway, session, ctx).await?;
            let model = payload.model.unwrap_or_default();
            name_model(ctx, &permit, &Destination { model, ..Default::default() })?;
            refuse_absent(gateway, ctx)?;
            let body = ctx.body.clone().unwrap_or_default();
            ctx.estimate = look_at(body, payload::estimate_tokens).await?;
            Ok(Admitted::Local(route.action))
        }
        Action::Manage(op) => managed::admit(gateway, session, ctx, (&permit, op)).await,
        Action::Account | Action::Admin => {
            keep_body(gateway, session, ctx, ADMIN_BODY).await?;
            Ok(Admitted::Local(route.action))
        }
        local => {
            ctx.permit = Some(permit);
            Ok(Admitted::Local(local))
        }
    }
}

/// Nobody has to say who they are here, but what is malformed elsewhere is malformed here, too.
fn refuse_two_callers(session: &Session) -> Result<(), Refusal> {
    let lines = session.req_header().headers.get_all(http::header::AUTHORIZATION);
    match lines.iter().nth(1) {
        Some(_) => Err(AuthError::Malformed(TWICE).into()),
        None => Ok(()),
    }
}

/// An attempt to log in counts before anything of it is read.
async fn read_login(gateway: &Gateway, session: &mut Session, ctx: &mut Ctx) -> Result<(), Stop> {
    quota::count_login(gateway, ctx).await?;
    refuse_encoded(session)?;
    keep_body(gateway, session, ctx, login::LARGEST).await.map(drop)
}

/// Of HTTP/1, [`super::front`] has seen each byte of the head already.
fn check_fields(session: &Session, ctx: &mut Ctx) -> Result<(), Refusal> {
    let head = session.req_header();
    if head.version != http::Version::HTTP_2 {
        return Ok(());
    }
    let checked = lint::check_fields(head.raw_path(), &head.headers, ctx.config.limits.headers);
    checked.map_err(|bad| {
        let path = head.raw_path().split(|byte| *byte == b'?').next().unwrap_or_default();
        ctx.dialect = route::dialect_of(str::from_utf8(path).unwrap_or_default());
        bad.into()
    })
}

fn find_route(session: &Session, ctx: &mut Ctx) -> Result<&'static route::Route, Refusal> {
    let head = session.req_header();
    let (key, path) = path_of(head, &ctx.config);
    ctx.path_key = key;
    let found = route::find_at(ctx.door, &head.method, path).inspect_err(|no_route| {
        ctx.dialect = match no_route {
            NoRoute::NotFound(dialect) | NoRoute::MethodNotAllowed { dialect, .. } => *dialect,
        };
    })?;
    ctx.route = Some(found.route);
    ctx.dialect = found.route.dialect;
    ctx.upstream_path = found.upstream_path();
    ctx.parameter = found.parameter.map(|parameter| parameter.into_owned());
    Ok(found.route)
}

/// The path without its query, and without the key before it, if one may stand there.
pub(super) fn path_of<'h>(head: &'h RequestHeader, config: &Config) -> (Option<PathKey>, &'h [u8]) {
    let path = head.raw_path().split(|byte| *byte == b'?').next().unwrap_or_default();
    let stripped = config.auth.key_in_path.then(|| PathKey::strip(path)).flatten();
    stripped.map_or((None, path), |(key, path)| (Some(key), path))
}

async fn authenticate(gateway: &Gateway, session: &Session, ctx: &mut Ctx) -> Result<(), Refusal> {
    let begun = Instant::now();
    let head = session.req_header();
    let asking = Asking {
        headers: &head.headers,
        path_key: ctx.path_key.as_ref(),
        signed: Signed {
            method: head.method.as_str(),
            // a route has one exact spelling: this is what was sent, without a key before it
            path: &ctx.upstream_path,
            query: head.uri.query().unwrap_or_default(),
            private: ctx.private,
        },
        config: &ctx.config.auth,
        tokens: &ctx.tokens,
        now: jiff::Timestamp::now(),
        from: ctx.client.ip(),
        last: ctx.last.as_deref(),
    };
    let found = gateway.authenticator.authenticate(asking).await;
    ctx.timings.auth = Some(begun.elapsed());
    match found {
        Ok(principal) => {
            ctx.principal = Some(principal);
            Ok(())
        }
        Err(error) => {
            gateway.metrics.auth_failure(error.word());
            log_failure(ctx, &error);
            Err(error.into())
        }
    }
}

fn log_failure(ctx: &Ctx, error: &AuthError) {
    let (key, user_id) = match error {
        AuthError::InvalidKey { public_id, .. } => (public_id.as_deref(), None),
        AuthError::InvalidSignature { user_id, .. } => (None, *user_id),
        AuthError::InvalidToken { user_id, .. } => (None, *user_id),
        _ => (None, None),
    };
    let event = match error {
        // nobody's fault but ours: nothing that an address should be banned for
        AuthError::Unavailable(_) => "auth_unavailable",
        _ => "auth_failure",
    };
    SecurityEvent {
        event,
        address: ctx.client.ip(),
        request_id: &ctx.request_id,
        route: ctx.route_path(),
        key,
        user_id,
        reason: &error.to_string(),
    }
    .write();
}

fn log_denial(ctx: &Ctx, reason: &str) {
    log_event(ctx, "denied", reason);
}

pub(super) fn log_event(ctx: &Ctx, event: &'static str, reason: &str) {
    let principal = ctx.principal.as_ref();
    SecurityEvent {
        event,
        address: ctx.client.ip(),
        request_id: &ctx.request_id,
        route: ctx.route_path(),
        key: principal.and_then(Principal::public_id),
        user_id: principal.map(Principal::user_id),
        reason,
    }
    .write();
}

fn authorise(ctx: &Ctx, route: &'static route::Route) -> Result<RoutePermit, Refusal> {
    let Some(principal) = &ctx.principal else { return Err(AuthError::Missing.into()) };
    let rules = ctx.config.as_ref().into();
    policy::authorise_route(principal, route, &rules).map_err(|denied| deny(ctx, denied))
}

/// Pages of other sites administer nothing, with whatever credential a browser may add.
fn refuse_foreign_pages(
    session: &Session,
    ctx: &Ctx,
    route: &'static route::Route,
) -> Result<(), Refusal> {
    let administers = matches!(route.class, Class::Guarded(RouteClass::Admin | RouteClass::Manage));
    if !administers || !cors::is_foreign(session.req_header(), ctx) {
        return Ok(());
    }
    let detail = "Pages of this origin may not administer";
    log_denial(ctx, detail);
    Err(Refusal::new(403, "foreign_origin", detail))
}

/// A body that we cannot read is a body that we cannot judge, and Ollama unpacks zstd on `/v1`.
fn refuse_encoded(session: &Session) -> Result<(), Refusal> {
    let mut codings =
        session.req_header().headers.get_all(http::header::CONTENT_ENCODING).into_iter();
    if codings.all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Ok(());
    }
    Err(Refusal::new(
        415,
        "content_encoding",
        "Content-Encoding is not supported on requests: send the body as it is",
    ))
}

async fn read_payload(
    gateway: &Gateway,
    session: &mut Session,
    ctx: &mut Ctx,
) -> Result<Payload, Stop> {
    let body = keep_body(gateway, session, ctx, ctx.config.limits.body).await?;
    Ok(look_at(body, payload::inspect).await?)
}

/// Reads the body of a request for an answer, and makes of it what may travel.
async fn read_request(
    gateway: &Gateway,
    session: &mut Session,
    ctx: &mut Ctx,
    permit: &RoutePermit,
    inference: Inference,
) -> Result<Ready, Stop> {
    let body = keep_body(gateway, session, ctx, ctx.config.limits.body).await?;
    let mut ready = match inference.body {
        BodyKind::Json => {
            let (path, taming) = (ctx.route_path(), permit.taming());
            let prepare = move |body: &[u8]| payload::prepare(body, path, inference, &taming);
            look_at(body, prepare).await?
        }
        BodyKind::Multipart => {
            let content_type = header_text(session, "content-type");
            let look = move |body: &[u8]| payload::inspect_form(body, &content_type);
            Ready::untouched(look_at(body, look).await?, inference)
        }
    };
    ctx.streams = ready.streams;
    ctx.strip_usage = ready.asks_usage;
    if let Some(rewritten) = ready.rewritten.take() {
        if let Some(share) = &mut ctx.reservation {
            share.hold(rewritten.len() as u64)?;
        }
        ctx.body = Some(rewritten);
    }
    Ok(ready)
}

/// What would harm others, or show what is not the caller's, and cannot be made harmless.
fn refuse_harm(ctx: &Ctx, permit: &RoutePermit, ready: &Ready) -> Result<(), Refusal> {
    let denied = match () {
        () if ready.payload.debug_render => Err(Denied::Rendering),
        () if ready.unloads => permit.authorise_unloading(),
        () => Ok(()),
    };
    denied.map_err(|denied| deny(ctx, denied))
}

fn deny(ctx: &Ctx, denied: Denied) -> Refusal {
    log_denial(ctx, &denied.to_string());
    denied.into()
}

/// Reads a body of at most `limit` bytes, and keeps it with its share of the memory.
pub(super) async fn keep_body(
    gateway: &Gateway,
    session: &mut Session,
    ctx: &mut Ctx,
    limit: u64,
) -> Result<Bytes, Stop> {
    let limits = &ctx.config.limits;
    let user = ctx.user_id();
    let mut share = gateway.bodies.share(user, limits.body_memory, limits.body_memory_per_user);
    let time = ctx.config.timeouts.body;
    let begun = Instant::now();
    let body = body::read(session, limit, time, &mut share).await;
    ctx.timings.body = Some(begun.elapsed());
    let body = body?;
    super::settle(session, &ctx.config.timeouts);
    ctx.reservation = Some(share);
    ctx.body = Some(body.clone());
    Ok(body)
}

/// Looks at a body; at a large one elsewhere than on a thread that serves others.
pub(super) async fn look_at<T: Send + 'static>(
    body: Bytes,
    look: impl FnOnce(&[u8]) -> Result<T, BadPayload> + Send + 'static,
) -> Result<T, Refusal> {
    if body.len() <= LARGE {
        return Ok(look(&body)?);
    }
    let looked = tokio::task::spawn_blocking(move || look(&body)).await;
    Ok(looked.map_err(|error| Refusal::internal(error.to_string()))??)
}

fn header_text(session: &Session, name: &str) -> String {
    let value = session.get_header(name).and_then(|value| value.to_str().ok());
    value.unwrap_or_default().to_owned()
}

/// What the body says about where it wants to go.
#[derive(Default)]
struct Destination {
    model: String,
    web_search: bool,
}

fn name_model(ctx: &mut Ctx, permit: &RoutePermit, wanted: &Destination) -> Result<(), Refusal> {
    let name = read_name(&ctx.fleet, ("model", &wanted.model))?;
    let searching = if wanted.web_search { permit.authorise_web_search() } else { Ok(()) };
    let allowed = searching.and_then(|()| permit.authorise_model(&name));
    ctx.cloud = name.is_cloud();
    ctx.model = Some(name);
    allowed.map_err(|denied| deny(ctx, denied))
}

/// Decides whether the caller may have something done to the model that stands in this field.
pub(super) fn authorise_act(
    ctx: &mut Ctx,
    permit: &RoutePermit,
    named: (&'static str, &str),
) -> Result<(), Refusal> {
    let name = read_name(&ctx.fleet, named)?;
    let allowed = permit.authorise_model(&name);
    // the first one is what the act is about
    ctx.model.get_or_insert(name);
    allowed.map_err(|denied| deny(ctx, denied))
}

fn read_name(fleet: &Fleet, (field, written): (&str, &str)) -> Result<ModelName, Refusal> {
    let name = match ModelName::parse(written) {
        Ok(name) if fleet.is_remote(name.key()) => Ok(name.marked_cloud()),
        Ok(name) => Ok(name),
        // other OpenAI-compatible servers name models as they like
        Err(bad) => {
            let name = ModelName::opaque(written);
            if fleet.lists(name.key()) { Ok(name) } else { Err(bad) }
        }
    };
    name.map_err(|bad| Refusal::bad_request(format!("field '{field}': {bad}")))
}

/// An estimate needs no instance, but a model that none has is a mistake that is better told now.
fn refuse_absent(gateway: &Gateway, ctx: &Ctx) -> Result<(), Refusal> {
    let model = ctx.model.as_ref().map(|model| model.key());
    match gateway.scheduler.find(model, Surface::V1, &[]) {
        Err(absent @ Nowhere::NoModel) => Err(no_place(gateway, ctx, absent.into())),
        Ok(_) | Err(Nowhere::NoInstance) => Ok(()),
    }
}

fn find_instance(gateway: &Gateway, ctx: &mut Ctx) -> Result<(), Refusal> {
    let model = ctx.model.as_ref().map(|model| model.key().clone());
    let found = gateway.scheduler.find(model.as_ref(), Surface::Ollama, &[]);
    let index = found.map_err(|nowhere| no_place(gateway, ctx, nowhere.into()))?;
    ctx.take(Target::Instance(index), &gateway.live);
    Ok(())
}
