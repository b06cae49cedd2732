//! To the admin router and back: a Pingora session becomes an [`http::Request`], which is answered
//! in this process, and the answer becomes one of ours.

use axum::body::Body;
use axum::response::Response;
use http::Request;
use http::header::CONTENT_TYPE;
use pingora::Result;
use pingora::proxy::Session;
use tower::ServiceExt;

use super::Gateway;
use super::ctx::Ctx;
use super::local;
use super::refusal::Refusal;
use super::seating::client_gone;
use crate::admin::session::Visitor;
use crate::admin::{Caller, Fault};
use crate::auth::Principal;

/// Answers of the admin router are lists for people and programs, never streams: bytes.
const LARGEST_ANSWER: usize = 16 << 20;

/// Has the admin router answer a request whose body was read and whose sender may ask.
pub(super) async fn call(
    gateway: &Gateway,
    session: &mut Session,
    ctx: &mut Ctx,
) -> Result<Option<Refusal>> {
    let request = match request(session, ctx) {
        Ok(request) => request,
        Err(refusal) => return Ok(Some(refusal)),
    };
    // A task of its own: an act that has begun is finished and told, whoever waits for it.
    let answering = tokio::spawn(gateway.admin.clone().oneshot(request));
    // The answer is looked at first: once it is there, the next byte of the client is the
    // beginning of its next request, and the probe would swallow it.
    let answered = tokio::select! {
        biased;
        answered = answering => answered,
        gone = client_gone(&mut session.downstream_session), if session.is_body_done() => {
            return Err(gone);
        }
    };
    ctx.decided();
    match answered {
        Ok(Ok(response)) => pass(session, ctx, response).await,
        Err(_) => Ok(Some(Refusal::internal("a handler of the admin router panicked".to_owned()))),
    }
}

/// The path is the table's, never the client's bytes.
fn request(session: &Session, ctx: &mut Ctx) -> Result<Request<Body>, Refusal> {
    let head = session.req_header();
    let query = head.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut request = Request::builder()
        .method(head.method.clone())
        .uri(format!("{}{query}", ctx.upstream_path))
        .extension(visitor(ctx));
    if let Some(principal) = &ctx.principal {
        request = request.extension(caller(ctx, principal));
    }
    if let Some(kind) = head.headers.get(CONTENT_TYPE) {
        request = request.header(CONTENT_TYPE, kind);
    }
    let request = request.body(Body::from(ctx.body.take().unwrap_or_default()));
    request
        .map_err(|error| Refusal::bad_request("The query is malformed").because(error.to_string()))
}

fn visitor(ctx: &Ctx) -> Visitor {
    Visitor {
        address: ctx.client.ip(),
        counts_as: ctx.client.bucket(),
        request_id: ctx.request_id.to_string(),
        route: ctx.route_path(),
    }
}

fn caller(ctx: &Ctx, principal: &Principal) -> Caller {
    Caller {
        username: principal.identity.user.username.clone(),
        user_id: principal.user_id(),
        key: principal.public_id().map(str::to_owned),
        principal: principal.clone(),
        address: ctx.client.ip(),
        from: ctx.client.to_string(),
        request_id: ctx.request_id.to_string(),
        route: ctx.route_path(),
    }
}

async fn pass(session: &mut Session, ctx: &Ctx, mut response: Response) -> Result<Option<Refusal>> {
    if let Some(fault) = response.extensions_mut().remove::<Fault>() {
        return Ok(Some(fault.into()));
    }
    let (head, body) = response.into_parts();
    let body = match axum::body::to_bytes(body, LARGEST_ANSWER).await {
        Ok(body) => body,
        Err(error) => return Ok(Some(Refusal::internal(error.to_string()))),
    };
    if !head.status.is_success() {
        // axum's own no, such as that of a body that it cannot read
        let detail = String::from_utf8_lossy(&body).into_owned();
        return Ok(Some(Refusal::new(head.status.as_u16(), "bad_request", detail)));
    }
    let headers = head.headers.iter().map(|(name, value)| (name.clone(), value.clone()));
    let headers: Vec<_> =
        headers.filter(|(name, _)| name != http::header::CONTENT_LENGTH).collect();
    local::write(session, ctx, head.status, &headers, body).await?;
    Ok(None)
}
