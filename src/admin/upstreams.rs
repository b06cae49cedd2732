//! The instances, as administrators see them: `/admin/upstreams`.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::{Extension, Json};
use serde::Serialize;
use utoipa::ToSchema;

use super::input::{MaybeBody, Nothing};
use super::{Admin, Caller, Fault};
use crate::config::UpstreamKind;
use crate::model::ModelKey;
use crate::scheduler::{Candidate, InstanceView, LineView, ModelView, Scheduler, WaiterView};
use crate::upstream::{Fleet, Instance};

/// Requests that are shown one by one.
const MOST_WAITERS: usize = 32;

/// The answer to `GET /admin/upstreams`.
#[derive(Serialize, ToSchema)]
pub(super) struct Upstreams {
    /// In the order of the configuration.
    data: Vec<Upstream>,
    queue: Queue,
}

/// The one queue before all instances.
#[derive(Serialize, ToSchema)]
struct Queue {
    /// Requests that wait.
    waiting: usize,
    /// Requests that may wait.
    capacity: usize,
    /// The kinds of requests that wait, and where the next of each could go.
    lines: Vec<Line>,
    /// The 32 requests that have waited for longest, in the order in which they came.
    requests: Vec<Waiter>,
}

/// A request that waits.
#[derive(Serialize, ToSchema)]
struct Waiter {
    /// Its place among those that wait for the same, if all of them cost alike; 1 is next.
    position: usize,
    /// Whose it is.
    user_id: i64,
    /// Null for a request that any model could answer.
    model: Option<String>,
    waited_seconds: f64,
    /// About how long until its first token.
    expected_seconds: f64,
    /// `no_slot`: every slot that could serve it is taken; `user_limit`, `key_limit`: its user, or
    /// its key, holds as many seats as they may; `better_soon`: a better seat than the free one
    /// will be free soon; `no_load_now`: its model has to be loaded, and another load or others'
    /// requests come first; `others_first`: it is not its turn; `no_instance`: none that has its
    /// model is up.
    reason: &'static str,
}

/// Requests of one kind that wait.
#[derive(Serialize, ToSchema)]
struct Line {
    /// Null for requests that any model could answer.
    model: Option<String>,
    waiting: usize,
    oldest_seconds: f64,
    /// Instances that could have the next of them, and what that would take.
    candidates: Vec<Place>,
}

/// What an instance would take, in seconds to the first token.
#[derive(Serialize, ToSchema)]
struct Place {
    upstream: String,
    seconds: f64,
    /// Of them, until a slot is free.
    wait: f64,
    /// Until the model is in memory.
    load: f64,
    /// Until the prompt is read.
    prefill: f64,
    /// Whether a slot is free now.
    free: bool,
}

/// What has been learnt of a model on an instance.
#[derive(Serialize, ToSchema)]
struct Learnt {
    model: String,
    in_flight: u32,
    breaker: &'static str,
    load_seconds: f64,
    /// Tokens that are read and written in a second.
    prefill_rate: f64,
    decode_rate: f64,
}

/// One instance.
#[derive(Serialize, ToSchema)]
pub(super) struct Upstream {
    name: String,
    /// `ollama` or `openai`.
    kind: &'static str,
    /// `up`; `down`: its probes fail; `draining`: nobody new, somebody is still served; `drained`.
    state: &'static str,
    /// `closed`; `trial`: one request shows whether it works again; `open`: it failed, and rests.
    breaker: &'static str,
    /// What it says of itself; null while it is unknown, and for other servers than Ollama.
    version: Option<String>,
    /// Requests that it may work on at once.
    slots: u32,
    /// Requests that it works on.
    in_flight: u32,
    /// Models that it has.
    models: Vec<String>,
    /// Models in its memory.
    residents: Vec<String>,
    /// The model that it is loading.
    loading: Option<String>,
    /// What has been learnt of those that were asked for.
    learnt: Vec<Learnt>,
}

/// Lists every instance, and the queue before them.
#[utoipa::path(get, path = "/admin/upstreams", tag = "upstreams",
    responses((status = 200, description = "The instances and the queue", body = Upstreams)))]
pub(super) async fn list(
    State(admin): State<Arc<Admin>>,
    MaybeBody(Nothing {}): MaybeBody<Nothing>,
) -> Json<Upstreams> {
    let views = admin.scheduler.instances();
    let generation = admin.live.load();
    let entry = |instance: &Arc<Instance>| {
        let view = views.iter().find(|view| view.id == instance.id)?;
        Some(Upstream::new(instance, view, &admin.scheduler))
    };
    let queue = Queue {
        waiting: admin.scheduler.waiting(),
        capacity: admin.scheduler.capacity(),
        lines: admin.scheduler.lines().iter().map(|it| Line::new(it, &generation.fleet)).collect(),
        requests: admin.scheduler.waiters(MOST_WAITERS).iter().map(Waiter::new).collect(),
    };
    let data = generation.fleet.instances().iter().filter_map(entry).collect();
    Json(Upstreams { data, queue })
}

/// From now on the instance gets nobody new; whoever is served there stays.
#[utoipa::path(post, path = "/admin/upstreams/{name}/drain", tag = "upstreams",
    params(("name" = String, Path, description = "The instance's name")),
    responses((status = 200, description = "The instance as it is now", body = Upstream)))]
pub(super) async fn drain(
    State(admin): State<Arc<Admin>>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    MaybeBody(Nothing {}): MaybeBody<Nothing>,
) -> Result<Json<Upstream>, Fault> {
    set_drained(&admin, &caller, &name, true).await
}

/// The instance takes part again.
#[utoipa::path(post, path = "/admin/upstreams/{name}/resume", tag = "upstreams",
    params(("name" = String, Path, description = "The instance's name")),
    responses((status = 200, description = "The instance as it is now", body = Upstream)))]
pub(super) async fn resume(
    State(admin): State<Arc<Admin>>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    MaybeBody(Nothing {}): MaybeBody<Nothing>,
) -> Result<Json<Upstream>, Fault> {
    set_drained(&admin, &caller, &name, false).await
}

async fn set_drained(
    admin: &Admin,
    caller: &Caller,
    name: &str,
    drained: bool,
) -> Result<Json<Upstream>, Fault> {
    let unknown = || Fault::not_found(format!("There is no upstream '{name}'"));
    let instance = admin.live.load().fleet.named(name).cloned().ok_or_else(unknown)?;
    let view = || admin.scheduler.instance(instance.id).ok_or_else(unknown);
    if view()?.drained != drained {
        // written down first: what cannot be written down is not done
        let action = if drained { "upstream.drain" } else { "upstream.resume" };
        admin.store.record_act(&caller.actor(), action, name).await?;
        admin.scheduler.set_drained(instance.id, drained);
        caller.did(&format!("{action} {name}"));
    }
    Ok(Json(Upstream::new(&instance, &view()?, &admin.scheduler)))
}

impl Upstream {
    fn new(instance: &Instance, view: &InstanceView, scheduler: &Scheduler) -> Self {
        let status = instance.status();
        Self {
            name: instance.config.name.clone(),
            kind: match instance.config.kind {
                UpstreamKind::Ollama => "ollama",
                UpstreamKind::OpenAi => "openai",
            },
            state: state(view),
            breaker: view.breaker.word(),
            version: status.lists.version.clone(),
            slots: view.slots,
            in_flight: view.in_flight,
            models: sorted(status.lists.models.iter()),
            residents: sorted(status.lists.residents.iter()),
            loading: view.loading.as_ref().map(|model| model.display().to_owned()),
            learnt: scheduler.models(instance.id).iter().filter_map(Learnt::new).collect(),
        }
    }
}

impl Learnt {
    /// Nothing of what was never asked for.
    fn new(view: &ModelView) -> Option<Self> {
        view.asked_for.then(|| Self {
            model: view.model.display().to_owned(),
            in_flight: view.in_flight,
            breaker: view.breaker.word(),
            load_seconds: rounded(view.load_seconds),
            prefill_rate: rounded(view.prefill_rate),
            decode_rate: rounded(view.decode_rate),
        })
    }
}

impl Waiter {
    fn new(view: &WaiterView) -> Self {
        Self {
            position: view.ahead + 1,
            user_id: view.user,
            model: view.model.as_ref().map(|model| model.display().to_owned()),
            waited_seconds: rounded(view.waited.as_secs_f64()),
            expected_seconds: rounded(view.seconds),
            reason: view.reason.word(),
        }
    }
}

impl Line {
    fn new(view: &LineView, fleet: &Fleet) -> Self {
        let place = |it: &Candidate| Place {
            upstream: fleet.get(it.instance).map_or("?", |known| &known.config.name).to_owned(),
            seconds: rounded(it.seconds()),
            wait: rounded(it.wait),
            load: rounded(it.load),
            prefill: rounded(it.prefill),
            free: it.free,
        };
        Self {
            model: view.model.as_ref().map(|model| model.display().to_owned()),
            waiting: view.waiting,
            oldest_seconds: rounded(view.oldest.as_secs_f64()),
            candidates: view.candidates.iter().map(place).collect(),
        }
    }
}

/// To the millisecond, or the thousandth of whatever it is.
fn rounded(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

fn state(view: &InstanceView) -> &'static str {
    match (view.drained, view.up, view.in_flight) {
        (true, _, 0) => "drained",
        (true, _, _) => "draining",
        (false, true, _) => "up",
        (false, false, _) => "down",
    }
}

fn sorted<'a>(models: impl Iterator<Item = &'a ModelKey>) -> Vec<String> {
    let mut names: Vec<String> = models.map(|model| model.display().to_owned()).collect();
    names.sort_unstable();
    names
}
