//! What Prometheus sees: counters and times of everything that happens here.
//!
//! Every label has few values by construction: routes are the table's, tiers the configuration's,
//! models those that instances have or had. What a request touches is found by number, or in a
//! small table that is read without a lock; names are looked up only where something went wrong.
//! Gauges are read from their owners when somebody asks.

mod cells;
mod scrape;

use std::sync::Arc;
use std::time::Duration;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

pub use scrape::{Sources, serve};

use crate::config::Config;
use crate::model::ModelKey;
use cells::{Labels, Model, Routes, Tier};

/// A label's value for what is none of those that have one of their own.
pub const OTHER: &str = "other";
/// A label's value for what does not apply.
const NONE: &str = "-";
/// Models that have a label of their own; those that come later are [`OTHER`].
const MOST_MODELS: usize = 256;
/// Tiers that have a label of their own, over all reloads.
const MOST_TIERS: usize = 64;

/// Bounds of the histograms, in seconds: our own work is a matter of microseconds,
const OVERHEAD: &[f64] =
    &[5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 0.1, 0.5, 2.0];
/// waiting for a seat or for the first token one of seconds, or of a model's loading time,
const WAIT: &[f64] =
    &[1e-3, 5e-3, 2.5e-2, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];
/// and a whole request may be a health check or an hour of generation.
const WHOLE: &[f64] =
    &[1e-3, 5e-3, 2.5e-2, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0];

/// Every metric.
pub struct Metrics {
    registry: Registry,
    routes: Routes,
    tiers: Labels<Tier>,
    models: Labels<Model>,
    overhead: Histogram,
    auth_failures: IntCounterVec,
    limited: IntCounterVec,
    cold_loads: IntCounterVec,
    client_gone: IntCounterVec,
    affinity: [IntCounter; 3],
    config_ok: IntGauge,
    gauges: scrape::Gauges,
}

/// The end of a request, as far as it is counted.
pub struct Finished<'a> {
    /// The configuration that it was judged by.
    pub config: &'a Config,
    /// Number of its route in the table.
    pub route: Option<usize>,
    /// The user's tier.
    pub tier: Option<&'a str>,
    /// Status sent; 0 if none was.
    pub status: u16,
    /// From its head to its end.
    pub total: Duration,
    /// The part of it that was our own work.
    pub overhead: Option<Duration>,
    /// The part of it that it waited for a seat.
    pub queue: Option<Duration>,
}

/// What a model did for a request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Work {
    /// From the request's head to the first piece of a streamed answer.
    pub first_token: Option<Duration>,
    /// Tokens of the prompt.
    pub prompt: u64,
    /// Tokens generated.
    pub completion: u64,
}

/// Whether a request was seated where most of its prompt is cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Affinity {
    /// It was.
    Hit,
    /// Another instance has more of it.
    Miss,
    /// None has any of it.
    None,
}

impl Affinity {
    const ALL: [Self; 3] = [Self::Hit, Self::Miss, Self::None];

    fn word(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::None => "none",
        }
    }
}

impl Metrics {
    /// Every metric at nought.
    ///
    /// # Errors
    /// Only if two metrics had one name.
    pub fn new() -> prometheus::Result<Arc<Self>> {
        let registry = Registry::new();
        let new = Makers { registry: &registry };
        let help = "Waits for a seat, those of no length included";
        let waits = new.histograms("queue_wait_seconds", help, &["tier"], WAIT)?;
        let help = "From a request's head to the first piece of a streamed answer";
        let first = new.histograms("time_to_first_token_seconds", help, &["model"], WAIT)?;
        let tokens = new.counters("tokens_total", "Tokens", &["model", "kind"])?;
        let affinity = new.counters(
            "affinity_total",
            "Seats: where most of the prompt is cached (hit), elsewhere (miss), cached nowhere (none)",
            &["result"],
        )?;
        let metrics = Self {
            routes: Routes::new(
                new.counters("requests_total", "Requests", &["route", "tier", "code"])?,
                &new.histograms("request_seconds", "Whole requests", &["route"], WHOLE)?,
            ),
            tiers: Labels::new(MOST_TIERS, move |label| Tier::new(label, &waits)),
            models: Labels::new(MOST_MODELS, move |label| Model::new(label, &first, &tokens)),
            overhead: new.histogram(
                "overhead_seconds",
                "Our own work on a request: neither queue, nor client, nor instance",
                OVERHEAD,
            )?,
            auth_failures: new.counters(
                "auth_failures_total",
                "Requests whose sender could not be told",
                &["reason"],
            )?,
            limited: new.counters("limited_total", "Refusals by a limit", &["limit"])?,
            cold_loads: new.counters(
                "cold_loads_total",
                "Requests given to an instance that had to load the model first",
                &["upstream", "model"],
            )?,
            client_gone: new.counters(
                "client_gone_total",
                "Clients that left: while sending, queued, waiting for an instance, streaming",
                &["state"],
            )?,
            affinity: Affinity::ALL.map(|it| affinity.with_label_values(&[it.word()])),
            config_ok: new.gauge("config_ok", "Whether the configuration file is in force")?,
            gauges: scrape::Gauges::new(&new)?,
            registry,
        };
        metrics.config_ok.set(1);
        Ok(Arc::new(metrics))
    }

    /// Counts a request that is over.
    pub fn finished(&self, request: &Finished<'_>) {
        let known = |tier| request.config.tiers.contains_key(tier);
        let tier = request.tier.map(|tier| self.tiers.find(tier, tier, || known(tier)));
        let tier = tier.as_deref();
        self.routes.count(request.route, tier, request.status, request.total);
        if let Some(overhead) = request.overhead {
            self.overhead.observe(overhead.as_secs_f64());
        }
        if let (Some(tier), Some(queue)) = (tier, request.queue) {
            tier.queue_wait.observe(queue.as_secs_f64());
        }
    }

    /// Counts a head that never became a request.
    pub fn unfit(&self, status: u16, total: Duration) {
        self.routes.count(None, None, status, total);
    }

    /// Counts what a model did; `known` tells whether an instance has it.
    pub fn worked(&self, model: &ModelKey, work: Work, known: impl FnOnce() -> bool) {
        let cells = self.model(model, known);
        if let Some(time) = work.first_token {
            cells.first_token.observe(time.as_secs_f64());
        }
        cells.prompt.inc_by(work.prompt);
        cells.completion.inc_by(work.completion);
    }

    /// Counts a model that is loaded for a request.
    pub fn cold_load(&self, upstream: &str, model: &ModelKey) {
        let label = &self.model(model, || true).label;
        self.cold_loads.with_label_values(&[upstream, label]).inc();
    }

    /// Counts a request whose sender could not be told.
    pub fn auth_failure(&self, reason: &'static str) {
        self.auth_failures.with_label_values(&[reason]).inc();
    }

    /// Counts a refusal by a limit.
    pub fn limited(&self, limit: &'static str) {
        self.limited.with_label_values(&[limit]).inc();
    }

    /// Counts a client that left.
    pub fn client_gone(&self, state: &'static str) {
        self.client_gone.with_label_values(&[state]).inc();
    }

    /// Counts a seat by what of its prompt is taken for cached there.
    pub fn affinity(&self, found: Affinity) {
        let [hit, miss, none] = &self.affinity;
        let counter = match found {
            Affinity::Hit => hit,
            Affinity::Miss => miss,
            Affinity::None => none,
        };
        counter.inc();
    }

    /// Says whether the configuration file as it is now is the one in force.
    pub fn set_config_ok(&self, ok: bool) {
        self.config_ok.set(i64::from(ok));
    }

    fn model(&self, model: &ModelKey, known: impl FnOnce() -> bool) -> Arc<Model> {
        self.models.find(model.as_str(), model.display(), known)
    }
}

/// Makes metrics with their prefix and registers them.
struct Makers<'r> {
    registry: &'r Registry,
}

impl Makers<'_> {
    fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> prometheus::Result<IntCounterVec> {
        let made = IntCounterVec::new(opts(name, help), labels)?;
        self.registry.register(Box::new(made.clone()))?;
        Ok(made)
    }

    fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        let made = IntCounter::with_opts(opts(name, help))?;
        self.registry.register(Box::new(made.clone()))?;
        Ok(made)
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        let made = IntGaugeVec::new(opts(name, help), labels)?;
        self.registry.register(Box::new(made.clone()))?;
        Ok(made)
    }

    fn gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        let made = IntGauge::with_opts(opts(name, help))?;
        self.registry.register(Box::new(made.clone()))?;
        Ok(made)
    }

    fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: &[f64],
    ) -> prometheus::Result<HistogramVec> {
        let options = HistogramOpts::from(opts(name, help)).buckets(buckets.to_vec());
        let made = HistogramVec::new(options, labels)?;
        self.registry.register(Box::new(made.clone()))?;
        Ok(made)
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> prometheus::Result<Histogram> {
        let options = HistogramOpts::from(opts(name, help)).buckets(buckets.to_vec());
        let made = Histogram::with_opts(options)?;
        self.registry.register(Box::new(made.clone()))?;
        Ok(made)
    }
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(format!("usher_{name}"), help)
}
