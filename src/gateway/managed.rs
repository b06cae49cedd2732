//! What changes the models of an instance is written down before it is done: who, from where, what,
//! on which instance.

use pingora::proxy::Session;

use super::Gateway;
use super::admit::{ADMIN_BODY, Stop, keep_body, look_at};
use super::body;
use super::ctx::Ctx;
use super::refusal::Refusal;
use crate::payload::{self, Payload};
use crate::route::ManageOp;
use crate::store::Actor;
use crate::telemetry::security_log::SecurityEvent;

/// Writes the act down. Asking whether a blob is there is none.
pub(super) async fn write_down(
    gateway: &Gateway,
    session: &mut Session,
    ctx: &mut Ctx,
    op: ManageOp,
) -> Result<(), Stop> {
    let payload = read_small(gateway, session, ctx, op).await?;
    if session.req_header().method == http::Method::HEAD {
        return Ok(());
    }
    let detail = match op {
        ManageOp::Blob => ctx.parameter.clone().unwrap_or_default(),
        ManageOp::Copy => payload.map(|it| copied(&it)).unwrap_or_default(),
        _ => payload.and_then(|it| it.model_or_name().map(str::to_owned)).unwrap_or_default(),
    };
    let target = ctx.upstream.as_ref().map(|it| it.config.name.clone()).unwrap_or_default();
    let Some(principal) = &ctx.principal else {
        return Err(Refusal::internal("an admin without a name".to_owned()).into());
    };
    let from = ctx.client.to_string();
    let by = Actor { name: &principal.identity.user.username, address: &from };
    let action = action(op);
    let written = gateway.store.write_down(&by, action, &target, &detail).await;
    written.map_err(|error| {
        let detail = "The database does not answer now, so nothing was changed";
        Refusal::unavailable("store_unavailable", detail, 2).because(error.to_string())
    })?;
    SecurityEvent {
        event: "admin",
        address: ctx.client.ip(),
        request_id: &ctx.request_id,
        route: ctx.route_path(),
        key: principal.public_id(),
        user_id: Some(principal.user_id()),
        reason: format!("{action} {detail} on {target}").trim(),
    }
    .write();
    Ok(())
}

/// What a body says that is short enough to be read before it is passed on: blobs are not, and of
/// the rest only what creates a model may be longer.
async fn read_small(
    gateway: &Gateway,
    session: &mut Session,
    ctx: &mut Ctx,
    op: ManageOp,
) -> Result<Option<Payload>, Stop> {
    let length = body::declared_length(session);
    if op == ManageOp::Blob || !length.is_some_and(|length| (1..=ADMIN_BODY).contains(&length)) {
        return Ok(None);
    }
    let body = keep_body(gateway, session, ctx, ADMIN_BODY).await?;
    Ok(Some(look_at(body, payload::inspect).await?))
}

fn copied(payload: &Payload) -> String {
    let name = |name: &Option<String>| name.clone().unwrap_or_default();
    format!("{} to {}", name(&payload.source), name(&payload.destination))
}

fn action(op: ManageOp) -> &'static str {
    match op {
        ManageOp::Blob => "model.upload",
        ManageOp::Copy => "model.copy",
        ManageOp::Create => "model.create",
        ManageOp::Delete => "model.delete",
        ManageOp::Pull => "model.pull",
        ManageOp::Push => "model.push",
    }
}
