//! Answering Prometheus: what others keep is read when it asks.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use parking_lot::Mutex;
use prometheus::process_collector::ProcessCollector;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, TextEncoder};
use tokio::sync::watch;

use super::{Makers, Metrics};
use crate::auth::Authenticator;
use crate::live::Live;
use crate::scheduler::Scheduler;
use crate::store::Redis;
use crate::usage::ledger::Ledger;

/// Those whose state is read when somebody asks.
pub struct Sources {
    /// Remembers identities, and knows whether the database answers.
    pub authenticator: Arc<Authenticator>,
    /// What gateways share, where they do.
    pub redis: Option<Arc<Redis>>,
    /// Knows what is not written down yet.
    pub ledger: Arc<Ledger>,
    /// Knows who waits.
    pub scheduler: Arc<Scheduler>,
    /// Knows who is up.
    pub live: Arc<Live>,
    /// Log lines that were dropped.
    pub log_dropped: Arc<AtomicU64>,
}

/// What is read when somebody asks.
pub(super) struct Gauges {
    cache_requests: IntCounterVec,
    queue_depth: IntGauge,
    upstream_up: IntGaugeVec,
    upstream_inflight: IntGaugeVec,
    upstream_slots: IntGaugeVec,
    degraded: IntGaugeVec,
    redis_failures: IntCounter,
    redis_ignored: IntCounter,
    usage_waiting: IntGauge,
    usage_lost: IntCounter,
    log_dropped: IntCounter,
    /// One reading at a time, or what was counted between two would be counted twice.
    turn: Mutex<()>,
}

impl Gauges {
    pub(super) fn new(new: &Makers<'_>) -> prometheus::Result<Self> {
        let build = new.gauges("build_info", "Always 1", &["version", "commit"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION"), env!("USHER_COMMIT")]).set(1);
        new.registry.register(Box::new(ProcessCollector::for_self()))?;
        Ok(Self {
            cache_requests: new.counters(
                "cache_requests_total",
                "Questions to a cache, and whether it knew",
                &["layer", "result"],
            )?,
            queue_depth: new.gauge("queue_depth", "Requests that wait for a seat")?,
            upstream_up: new.gauges("upstream_up", "Whether its probes succeed", &["upstream"])?,
            upstream_inflight: new.gauges(
                "upstream_inflight",
                "Requests that it works on",
                &["upstream"],
            )?,
            upstream_slots: new.gauges(
                "upstream_slots",
                "Requests that it may work on at once",
                &["upstream"],
            )?,
            degraded: new.gauges(
                "degraded",
                "Whether this part does not answer, and is done without",
                &["part"],
            )?,
            redis_failures: new.counter(
                "redis_failures_total",
                "Questions to Redis that got no good answer in time, and were done without",
            )?,
            redis_ignored: new.counter(
                "redis_ignored_total",
                "Entries in Redis that no gateway with our secret has written",
            )?,
            usage_waiting: new
                .gauge("usage_waiting", "Sums of usage that are not in the database yet")?,
            usage_lost: new.counter(
                "usage_lost_total",
                "Requests whose usage was not counted because too many sums waited",
            )?,
            log_dropped: new.counter(
                "log_dropped_total",
                "Log lines dropped because standard error took none",
            )?,
            turn: Mutex::new(()),
        })
    }

    fn read(&self, from: &Sources) {
        let _turn = self.turn.lock();
        let asked = from.authenticator.asked();
        let layers = [
            ("known", "hit", asked.known),
            ("known", "miss", asked.unknown + asked.store),
            ("unknown", "hit", asked.unknown),
            ("unknown", "miss", asked.store),
        ];
        for (layer, result, total) in layers {
            raise(&self.cache_requests.with_label_values(&[layer, result]), total);
        }
        if let Some(redis) = &from.redis {
            let recalled = redis.recalled();
            for (result, total) in [("hit", recalled.hits), ("miss", recalled.misses)] {
                raise(&self.cache_requests.with_label_values(&["redis", result]), total);
            }
            raise(&self.redis_failures, redis.failures());
            raise(&self.redis_ignored, recalled.ignored);
            self.degraded.with_label_values(&["redis"]).set(i64::from(redis.is_away()));
        }
        self.degraded.with_label_values(&["ledger"]).set(from.ledger.is_without_store().into());
        self.usage_waiting.set(i64::try_from(from.ledger.waiting()).unwrap_or(i64::MAX));
        raise(&self.usage_lost, from.ledger.lost());
        raise(&self.log_dropped, from.log_dropped.load(Ordering::Relaxed));
        self.degraded
            .with_label_values(&["database"])
            .set(i64::from(from.authenticator.is_without_store()));
        self.queue_depth.set(i64::try_from(from.scheduler.waiting()).unwrap_or(i64::MAX));
        // instances that are no longer there leave no trace
        for gauges in [&self.upstream_up, &self.upstream_inflight, &self.upstream_slots] {
            gauges.reset();
        }
        let generation = from.live.load();
        for view in from.scheduler.instances() {
            let Some(instance) = generation.fleet.configured(view.id) else { continue };
            let name = &[instance.config.name.as_str()];
            self.upstream_up.with_label_values(name).set(i64::from(view.up));
            self.upstream_inflight.with_label_values(name).set(i64::from(view.in_flight));
            self.upstream_slots.with_label_values(name).set(i64::from(view.slots));
        }
    }
}

/// Brings a counter up to a total that somebody else keeps.
fn raise(counter: &IntCounter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}

/// Answers `GET /metrics` on this listener until told to end.
///
/// # Errors
/// The listener's own.
pub async fn serve(
    listener: TcpListener,
    metrics: Arc<Metrics>,
    sources: Sources,
    mut ending: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let state = Arc::new((metrics, sources));
    let router = Router::new().route("/metrics", get(answer)).with_state(state);
    tokio::select! {
        served = async { axum::serve(listener, router).await } => served,
        _ = ending.wait_for(|ending| *ending) => Ok(()),
    }
}

async fn answer(State(state): State<Arc<(Arc<Metrics>, Sources)>>) -> Response {
    let (metrics, sources) = &*state;
    metrics.gauges.read(sources);
    match TextEncoder::new().encode_to_string(&metrics.registry.gather()) {
        Ok(text) => ([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
