//! What changes the models of an instance, or of all: chosen, allowed, and written down before it
//! is done: who, from where, what, on which instance.

use std::sync::Arc;

use http::Method;
use pingora::proxy::Session;

use super::Gateway;
use super::admit::{ADMIN_BODY, Admitted, Stop, authorise_act, keep_body, look_at};
use super::body;
use super::ctx::{Ctx, Target};
use super::everywhere::Round;
use super::refusal::Refusal;
use crate::config::EVERY_INSTANCE;
use crate::model::ModelName;
use crate::payload::{self, Payload};
use crate::policy::RoutePermit;
use crate::route::ManageOp;
use crate::store::Actor;
use crate::telemetry::security_log::SecurityEvent;
use crate::upstream::{Fleet, Instance};

/// Largest body of what creates a model, bytes: a template, licences, the names of many blobs.
const CREATION: u64 = 16 << 20;

/// Where something is to be done.
enum Place {
    One(Arc<Instance>),
    Everywhere(Vec<Arc<Instance>>),
}

/// Finds out where it is to be done and whether it may be, and writes it down.
pub(super) async fn admit(
    gateway: &Gateway,
    session: &mut Session,
    ctx: &mut Ctx,
    (permit, op): (&RoutePermit, ManageOp),
) -> Result<Admitted, Stop> {
    let chosen = choose(session, ctx)?;
    if let Place::One(instance) = &chosen {
        ctx.take(Target::Instance(instance.id), &gateway.live);
    }
    let payload = read(gateway, session, ctx, op).await?;
    if let Some(payload) = &payload {
        authorise(ctx, permit, op, payload)?;
    }
    let chosen = match chosen {
        // the same layers from each of them would only be sent several times
        Place::Everywhere(all) if op == ManageOp::Push => match pushes(&all, payload.as_ref()) {
            Some(instance) => {
                ctx.take(Target::Instance(instance.id), &gateway.live);
                Place::One(instance)
            }
            None => Place::Everywhere(all),
        },
        other => other,
    };
    if session.req_header().method != Method::HEAD {
        write_down(gateway, ctx, op, (payload.as_ref(), &chosen)).await?;
    }
    match chosen {
        Place::One(_) => {
            if ctx.body.is_none() {
                // the instance never hears of the expectation, so nobody else would answer it
                body::send_continue(session).await?;
            }
            Ok(Admitted::Proxied)
        }
        Place::Everywhere(instances) => {
            let tells = matches!(op, ManageOp::Pull | ManageOp::Create | ManageOp::Push);
            let streams = tells && payload.is_some_and(|payload| payload.stream != Some(false));
            Ok(Admitted::Everywhere(Round { op, instances, streams }))
        }
    }
}

/// The instance that the client names, else the configured one, else the only one; or all.
fn choose(session: &Session, ctx: &Ctx) -> Result<Place, Refusal> {
    let named = session.get_header("x-usher-upstream").map(|value| value.to_str().unwrap_or(""));
    let named = named.or(ctx.config.manage_default.as_deref());
    let mut ollamas = ollamas(&ctx.fleet);
    let chosen = match named {
        Some(EVERY_INSTANCE) if ollamas.len() > 1 => return Ok(Place::Everywhere(ollamas)),
        Some(EVERY_INSTANCE) => ollamas.pop(),
        Some(name) => ollamas.iter().find(|instance| instance.config.name == name).cloned(),
        None if ollamas.len() == 1 => ollamas.pop(),
        None => None,
    };
    chosen.map(Place::One).ok_or_else(|| {
        let names: Vec<_> = ollamas.iter().map(|instance| &*instance.config.name).collect();
        let names = names.join(", ");
        Refusal::bad_request(format!(
            "Name the instance in X-Usher-Upstream, one of: {names}; or {EVERY_INSTANCE}"
        ))
    })
}

fn ollamas(fleet: &Fleet) -> Vec<Arc<Instance>> {
    fleet.instances().iter().filter(|instance| instance.is_ollama()).cloned().collect()
}

/// The instance that uploads a model: the first that has it, else one that will say so.
fn pushes(all: &[Arc<Instance>], payload: Option<&Payload>) -> Option<Arc<Instance>> {
    let name = payload.and_then(Payload::model_or_name).and_then(|it| ModelName::parse(it).ok());
    let has = |instance: &&Arc<Instance>| {
        let status = instance.status();
        let has = name.as_ref().is_some_and(|name| status.lists.models.contains(name.key()));
        status.up && has
    };
    let found = all.iter().find(has).or_else(|| all.iter().find(|it| it.status().up));
    found.or_else(|| all.first()).cloned()
}

async fn write_down(
    gateway: &Gateway,
    ctx: &Ctx,
    op: ManageOp,
    (payload, place): (Option<&Payload>, &Place),
) -> Result<(), Refusal> {
    let detail = match op {
        ManageOp::Blob => ctx.parameter.clone().unwrap_or_default(),
        ManageOp::Copy => payload.map(copied).unwrap_or_default(),
        _ => payload.and_then(Payload::model_or_name).unwrap_or_default().to_owned(),
    };
    let targets: Vec<&str> = match place {
        Place::One(instance) => vec![&instance.config.name],
        Place::Everywhere(all) => all.iter().map(|instance| &*instance.config.name).collect(),
    };
    let Some(principal) = &ctx.principal else {
        return Err(Refusal::internal("an admin without a name".to_owned()));
    };
    let from = ctx.client.to_string();
    let by = Actor { name: &principal.identity.user.username, address: &from };
    let action = action(op);
    let written = gateway.store.write_down(&by, action, &targets, &detail).await;
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
        reason: format!("{action} {detail} on {}", targets.join(", ")).trim(),
    }
    .write();
    Ok(())
}

/// Reads all bodies but blobs before they travel, however they are framed: an act without its name
/// could be neither judged nor written down.
async fn read(
    gateway: &Gateway,
    session: &mut Session,
    ctx: &mut Ctx,
    op: ManageOp,
) -> Result<Option<Payload>, Stop> {
    if op == ManageOp::Blob {
        return Ok(None);
    }
    let creates = op == ManageOp::Create;
    let limit = if creates { CREATION } else { ADMIN_BODY };
    let body = keep_body(gateway, session, ctx, limit).await?;
    let look = if creates { payload::inspect_creation } else { payload::inspect };
    Ok(Some(look_at(body, look).await?))
}

/// Each model that the act names has to be one that the caller may use: else a copy, or a model that
/// is made from another, would be a way around the lists.
fn authorise(
    ctx: &mut Ctx,
    permit: &RoutePermit,
    op: ManageOp,
    payload: &Payload,
) -> Result<(), Refusal> {
    let model = ("model", payload.model_or_name());
    let (source, destination) = (payload.source.as_deref(), payload.destination.as_deref());
    let names = match op {
        ManageOp::Blob => [None, None],
        ManageOp::Copy => [Some(("source", source)), Some(("destination", destination))],
        ManageOp::Create => [Some(model), payload.from.as_deref().map(|from| ("from", Some(from)))],
        ManageOp::Delete | ManageOp::Pull | ManageOp::Push => [Some(model), None],
    };
    names
        .into_iter()
        .flatten()
        .try_for_each(|(field, name)| authorise_act(ctx, permit, (field, name.unwrap_or_default())))
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
