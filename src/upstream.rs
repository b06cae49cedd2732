//! The instances: what they are, what they have, and how they fare.
//!
//! [`health`] probes them, [`models`] reads their lists and merges them, [`peer`] is how Pingora
//! reaches them.

pub mod health;
pub mod models;
pub mod peer;

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use crate::config::{Config, Upstream, UpstreamKind};
use crate::model::ModelKey;
use models::Lists;

/// Every instance, in configuration order.
pub struct Fleet {
    instances: Vec<Arc<Instance>>,
}

impl Fleet {
    /// The instances of the configuration, none of them probed yet.
    pub fn new(config: &Config) -> Self {
        let instance = |upstream: &Upstream| Arc::new(Instance::new(upstream.clone()));
        Self { instances: config.upstreams.iter().map(instance).collect() }
    }

    /// All of them; the position of each is its number in the scheduler.
    pub fn instances(&self) -> &[Arc<Instance>] {
        &self.instances
    }

    /// The instance with this number.
    pub fn get(&self, index: usize) -> Option<&Arc<Instance>> {
        self.instances.get(index)
    }

    /// The number of the instance with this name.
    pub fn named(&self, name: &str) -> Option<usize> {
        self.instances.iter().position(|instance| instance.config.name == name)
    }

    /// What the healthy instances last said that they have.
    pub fn healthy(&self) -> impl Iterator<Item = Arc<Lists>> + '_ {
        self.instances.iter().filter_map(|instance| {
            let status = instance.status.load();
            status.up.then(|| Arc::clone(&status.lists))
        })
    }

    /// Whether an instance has this model.
    pub fn lists(&self, model: &ModelKey) -> bool {
        self.instances.iter().any(|instance| instance.status.load().lists.models.contains(model))
    }

    /// Whether an instance has this model only in name, and would ask another server for it.
    pub fn is_remote(&self, model: &ModelKey) -> bool {
        self.instances.iter().any(|instance| instance.status.load().lists.remote.contains(model))
    }

    /// Whether an instance has this model, or had it when it last said what it has.
    pub fn knows(&self, model: &ModelKey) -> bool {
        self.instances.iter().any(|instance| instance.status.load().lists.models.contains(model))
    }
}

/// One instance.
pub struct Instance {
    /// What the operator wrote.
    pub config: Upstream,
    /// `scheme://host:port`, for probes.
    pub base: String,
    /// `host:port`, for the `Host` header.
    pub authority: String,
    status: ArcSwap<Status>,
    probe_now: Notify,
}

/// What is known of an instance at a moment.
#[derive(Clone, Default)]
pub struct Status {
    /// Its probes succeed.
    pub up: bool,
    /// What it has; the last good answer, also while it is down.
    pub lists: Arc<Lists>,
}

impl Instance {
    fn new(config: Upstream) -> Self {
        let host = if config.host.contains(':') {
            format!("[{}]", config.host)
        } else {
            config.host.clone()
        };
        let authority = format!("{host}:{}", config.port);
        let scheme = if config.tls { "https" } else { "http" };
        Self {
            base: format!("{scheme}://{authority}"),
            authority,
            config,
            status: ArcSwap::default(),
            probe_now: Notify::new(),
        }
    }

    /// What is known now.
    pub fn status(&self) -> Arc<Status> {
        self.status.load_full()
    }

    /// Asks for a probe without delay, after a failure or a change that we caused.
    pub fn suspect(&self) {
        self.probe_now.notify_one();
    }

    /// Whether it is Ollama, with its own `/api`.
    pub fn is_ollama(&self) -> bool {
        self.config.kind == UpstreamKind::Ollama
    }
}
