//! Everything that requests share.

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::cli::Args;
use crate::clock::Clock;
use crate::counters::Counters;
use crate::engine::Engine;
use crate::faults::Faults;
use crate::knobs::Panel;
use crate::log::Log;
use crate::model::{DEFAULT_MODELS, Model, Registry};
use crate::name::{Asked, Name};
use crate::refusal::Refusal;
use crate::sched::Scheduler;

/// The state of the process.
pub(crate) struct World {
    pub(crate) args: Arc<Args>,
    /// Where clients reach it; loopback brings the Host check.
    pub(crate) address: SocketAddr,
    pub(crate) clock: Clock,
    pub(crate) counters: Arc<Counters>,
    pub(crate) panel: Arc<Panel>,
    pub(crate) faults: Faults,
    pub(crate) log: Arc<Log>,
    pub(crate) models: Registry,
    /// Digests of uploaded blobs.
    pub(crate) blobs: Mutex<Vec<String>>,
    pub(crate) scheduler: Arc<Scheduler>,
    pub(crate) engine: Arc<Engine>,
    /// Grows when all open connections are to be cut.
    pub(crate) cut: watch::Sender<u64>,
}

/// What a model name led to.
pub(crate) enum Found {
    Local(Arc<Model>),
    /// A real Ollama would ask ollama.com, with the owner's signature.
    Cloud(Name),
}

impl World {
    pub(crate) fn new(args: Args, address: SocketAddr) -> Result<Arc<Self>, String> {
        let models = Registry::load(args.models.as_deref().unwrap_or(DEFAULT_MODELS))?;
        let args = Arc::new(args);
        let clock = Clock::new(args.speed, args.deterministic);
        let (counters, panel) = (Arc::<Counters>::default(), Arc::new(Panel::new()));
        let scheduler =
            Scheduler::new(Arc::clone(&args), clock, Arc::clone(&counters), Arc::clone(&panel));
        let scheduler = Arc::new(scheduler.map_err(|refusal| refusal.message)?);
        let engine = Arc::new(Engine {
            args: Arc::clone(&args),
            clock,
            counters: Arc::clone(&counters),
            panel: Arc::clone(&panel),
            scheduler: Arc::clone(&scheduler),
        });
        Ok(Arc::new(Self {
            args,
            address,
            clock,
            counters,
            panel,
            faults: Faults::default(),
            log: Arc::default(),
            models,
            blobs: Mutex::default(),
            scheduler,
            engine,
            cut: watch::Sender::new(0),
        }))
    }

    /// The model of a request. An unusable name is 404, as an unknown one.
    pub(crate) fn find(&self, text: &str) -> Result<Found, Refusal> {
        let asked = Asked::parse(text).map_err(|refusal| match refusal.message.as_str() {
            "invalid model name" => Refusal::no_model(text),
            _ => refusal,
        })?;
        if asked.cloud && !self.args.openai_only {
            if self.args.no_cloud {
                return Err(Refusal::new(403, "ollama cloud is disabled"));
            }
            return Ok(Found::Cloud(asked.name));
        }
        self.models.find(&asked.name).map(Found::Local).ok_or_else(|| Refusal::no_model(text))
    }
}
