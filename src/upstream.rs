//! The instances: what they are, what they have, and how they fare.
//!
//! [`health`] probes them, [`models`] reads their lists and merges them, [`peer`] is how Pingora
//! reaches them, [`warm`] has a model loaded, [`chorus`] has the same done on several.

pub mod chorus;
pub mod health;
pub mod models;
pub mod peer;
pub mod warm;

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use http::HeaderValue;
use http::header::InvalidHeaderValue;
use tokio::sync::Notify;

use crate::config::{Config, Upstream, UpstreamKind};
use crate::model::ModelKey;
use crate::scheduler::Post;
use models::Lists;
use peer::{Peer, PeerError};

/// The instances of one configuration, in its order. Another configuration makes another fleet,
/// see [`Fleet::successor`].
pub struct Fleet {
    instances: Vec<Arc<Instance>>,
    /// No longer configured, but perhaps still at work for somebody.
    retired: Vec<Arc<Instance>>,
    next_id: usize,
}

impl Fleet {
    /// The instances of the configuration, none of them probed yet.
    ///
    /// # Errors
    /// An instance's host has no address. Resolving blocks.
    pub fn new(config: &Config) -> Result<Self, PeerError> {
        let nobody = Self { instances: Vec::new(), retired: Vec::new(), next_id: 0 };
        nobody.successor(config, |_| false)
    }

    /// The fleet of another configuration. An instance whose name and address stay keeps its
    /// number and what is known of it, whatever else changes. One that goes is remembered for as
    /// long as `is_at_work` says that it has requests, and until the next change at least.
    ///
    /// # Errors
    /// A new instance's host has no address; one that had an address keeps it. Resolving blocks.
    pub fn successor(
        &self,
        config: &Config,
        is_at_work: impl Fn(usize) -> bool,
    ) -> Result<Self, PeerError> {
        let mut instances = Vec::with_capacity(config.upstreams.len());
        let mut next_id = self.next_id;
        for upstream in &config.upstreams {
            let (id, before, state) = match self.same_as(upstream) {
                Some((old, state)) => (old.id, Some(old), state),
                None => (next_id, None, Arc::default()),
            };
            next_id = next_id.max(id + 1);
            let peer = peer::prototype(upstream, &config.timeouts, before.map(|old| &old.peer))?;
            let instance = Instance::new(id, upstream.clone(), peer, state)
                .map_err(|_| PeerError::Header(upstream.place.clone()))?;
            instances.push(Arc::new(instance));
        }
        let stays = |old: &Instance| instances.iter().any(|new: &Arc<Instance>| new.id == old.id);
        let left = self.instances.iter().filter(|old| !stays(old));
        let still = self.retired.iter().filter(|old| !stays(old) && is_at_work(old.id));
        let retired = left.chain(still).cloned().collect();
        Ok(Self { instances, retired, next_id })
    }

    /// The instance that this one continues, and what is known of it. What comes back from
    /// retirement gets a state of its own, since nobody has probed the old one meanwhile.
    fn same_as(&self, upstream: &Upstream) -> Option<(&Instance, Arc<State>)> {
        let same = |old: &&Arc<Instance>| old.config.is_same(upstream);
        let configured = self.instances.iter().find(same);
        let configured = configured.map(|old| (&**old, Arc::clone(&old.state)));
        configured.or_else(|| {
            let old = self.retired.iter().find(same)?;
            let status = ArcSwap::from(old.status());
            Some((old, Arc::new(State { status, ..State::default() })))
        })
    }

    /// All that are configured.
    pub fn instances(&self) -> &[Arc<Instance>] {
        &self.instances
    }

    /// What the scheduler is told of them.
    pub fn posts(&self) -> Vec<Post<'_>> {
        self.instances
            .iter()
            .map(|it| Post { id: it.id, upstream: &it.config, facts: None })
            .collect()
    }

    /// The instance with this number, if it is configured.
    pub fn configured(&self, id: usize) -> Option<&Arc<Instance>> {
        self.instances.iter().find(|instance| instance.id == id)
    }

    /// The instance with this number, even if it is no longer configured.
    pub fn get(&self, id: usize) -> Option<&Arc<Instance>> {
        self.configured(id).or_else(|| self.retired.iter().find(|instance| instance.id == id))
    }

    /// The instance with this name.
    pub fn named(&self, name: &str) -> Option<&Arc<Instance>> {
        self.instances.iter().find(|instance| instance.config.name == name)
    }

    /// What the healthy instances last said that they have.
    pub fn healthy(&self) -> impl Iterator<Item = Arc<Lists>> + '_ {
        self.instances.iter().filter_map(|instance| {
            let status = instance.state.status.load();
            status.up.then(|| Arc::clone(&status.lists))
        })
    }

    /// Whether an instance has this model, or had it when it last said what it has.
    pub fn lists(&self, model: &ModelKey) -> bool {
        self.instances
            .iter()
            .any(|instance| instance.state.status.load().lists.models.contains(model))
    }

    /// Whether an instance has this model only in name, and would ask another server for it.
    pub fn is_remote(&self, model: &ModelKey) -> bool {
        self.instances
            .iter()
            .any(|instance| instance.state.status.load().lists.remote.contains(model))
    }
}

/// One instance.
pub struct Instance {
    /// Its number, here and in the scheduler: the same for as long as its name and address stay.
    pub id: usize,
    /// What the operator wrote.
    pub config: Upstream,
    /// `scheme://host:port`, for probes.
    pub base: String,
    /// What headers say of it and to it.
    pub headers: Labels,
    peer: Peer,
    state: Arc<State>,
}

/// What headers say of an instance and to it, made once.
pub struct Labels {
    /// `host:port`, for `Host`.
    pub host: HeaderValue,
    /// Its name, for `X-Usher-Upstream`.
    pub name: HeaderValue,
    /// Its own key, for `Authorization`.
    pub authorization: Option<HeaderValue>,
}

/// What outlives a change of the configuration.
#[derive(Default)]
struct State {
    status: ArcSwap<Status>,
    /// Where the latest probe found it: of a name's several addresses the one that answers, which
    /// may also change.
    address: ArcSwapOption<SocketAddr>,
    probe_now: Notify,
    glance: Notify,
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
    fn new(
        id: usize,
        config: Upstream,
        peer: Peer,
        state: Arc<State>,
    ) -> Result<Self, InvalidHeaderValue> {
        let host = if config.host.contains(':') {
            format!("[{}]", config.host)
        } else {
            config.host.clone()
        };
        let authority = format!("{host}:{}", config.port);
        let scheme = if config.tls { "https" } else { "http" };
        let key = config.api_key.as_ref();
        let key = key.map(|key| HeaderValue::try_from(format!("Bearer {}", key.expose())));
        let mut authorization = key.transpose()?;
        if let Some(value) = &mut authorization {
            value.set_sensitive(true);
        }
        let base = format!("{scheme}://{authority}");
        let headers = Labels {
            host: HeaderValue::try_from(authority)?,
            name: HeaderValue::from_str(&config.name)?,
            authorization,
        };
        Ok(Self { id, base, headers, peer, config, state })
    }

    /// What is known now.
    pub fn status(&self) -> Arc<Status> {
        self.state.status.load_full()
    }

    /// How Pingora reaches it now.
    pub fn peer(&self) -> Peer {
        peer::at(&self.peer, self.state.address.load().as_deref())
    }

    /// Remembers the address that answered a probe.
    fn found_at(&self, address: Option<SocketAddr>) {
        if address.is_some() && self.state.address.load().as_deref() != address.as_ref() {
            self.state.address.store(address.map(Arc::new));
        }
    }

    /// Asks for a probe without delay, after a failure or a change that we caused.
    pub fn suspect(&self) {
        self.state.probe_now.notify_one();
    }

    /// Asks for a look at what is in its memory, soon: a request has left it, and may have changed
    /// that.
    pub fn glance(&self) {
        if self.is_ollama() {
            self.state.glance.notify_one();
        }
    }

    /// Whether both are the same instance, in the same service without a break.
    fn continues(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.state, &other.state)
    }

    /// Whether it is Ollama, with its own `/api`.
    pub fn is_ollama(&self) -> bool {
        self.config.kind == UpstreamKind::Ollama
    }
}
