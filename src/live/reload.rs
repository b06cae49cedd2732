//! Puts a changed configuration in force while requests go on.

use std::path::PathBuf;
use std::sync::Arc;

use reqwest::Client;
use tokio::sync::{Mutex, watch};

use super::{Generation, Live};
use crate::auth::Tokens;
use crate::auth::tokens::CannotLoad;
use crate::config::{Config, Problems};
use crate::scheduler::{Facts, Scheduler};
use crate::telemetry::Logging;
use crate::upstream::health::Prober;
use crate::upstream::peer::PeerError;
use crate::upstream::{Fleet, Instance};

/// Puts what was prepared in force.
pub type Switch = Box<dyn FnOnce() + Send>;

/// What listeners prove their names with.
pub trait Renewal: Send + Sync {
    /// Reads the certificates that are in other files by this configuration. Reading blocks.
    ///
    /// # Errors
    /// What is wrong with one of them, with the line that names it.
    fn prepare(&self, config: &Config) -> Result<Switch, String>;
}

/// Rereads the configuration on request.
pub struct Reloader {
    parts: Parts,
    /// One at a time, in the order of asking.
    turn: Mutex<()>,
}

/// What a file says, ready to be put in force.
struct Read {
    config: Config,
    need_restart: Vec<&'static str>,
    fleet: Arc<Fleet>,
    tokens: Arc<Tokens>,
    switch_certificates: Switch,
}

/// What a [`Reloader`] works on.
pub struct Parts {
    /// The configuration file.
    pub file: PathBuf,
    /// What is in force.
    pub live: Arc<Live>,
    /// Gives seats.
    pub scheduler: Arc<Scheduler>,
    /// What listeners prove their names with.
    pub certificates: Arc<dyn Renewal>,
    /// The level of the log.
    pub logging: Logging,
    /// For the probes of new instances.
    pub client: Client,
    /// When the probes end.
    pub ending: watch::Receiver<bool>,
}

/// A new configuration is in force.
#[derive(Debug)]
pub struct Applied {
    /// What deserves a word but is no mistake, each as `FILE:LINE: path.to.key: text`.
    pub warnings: Vec<String>,
    /// Keys that differ from what this process was started with, and need a restart: what is in
    /// force of them stays.
    pub need_restart: Vec<&'static str>,
}

/// The configuration was not taken; the one before stays in force.
#[derive(Debug, thiserror::Error)]
pub enum Rejected {
    /// An instance's host has no address.
    #[error(transparent)]
    Address(#[from] PeerError),
    /// A listener's certificate cannot serve.
    #[error("{0}")]
    Certificate(String),
    /// Nothing could make tokens, or believe them.
    #[error(transparent)]
    Tokens(#[from] CannotLoad),
    /// The file has mistakes.
    #[error(transparent)]
    File(#[from] Problems),
    /// The process is stopping.
    #[error("the gateway is stopping")]
    Stopping,
}

impl Reloader {
    /// A reloader of what was just put in force.
    pub fn new(parts: Parts) -> Self {
        Self { parts, turn: Mutex::new(()) }
    }

    /// Starts to probe every instance; with `first`, returns when each was probed once.
    pub async fn start_probes(&self, first: bool) {
        let generation = Arc::clone(&self.parts.live.load());
        let (config, instances) = (&generation.config, generation.fleet.instances());
        if first {
            for (prober, facts) in self.first_look(config, instances.iter()).await {
                self.parts.scheduler.learn(prober.id(), &facts);
                self.keep_probing(prober);
            }
        } else {
            instances.iter().for_each(|it| self.keep_probing(self.prober(config, it)));
        }
    }

    /// Rereads the file. If it is right it is in force when this returns; requests that are under
    /// way keep what they began with. What came of it is in the log, too.
    ///
    /// New instances are probed once before the switch, so that a change of address leaves no
    /// moment without a healthy instance.
    ///
    /// # Errors
    /// Every mistake in the file; then nothing has changed.
    pub async fn reload(&self) -> Result<Applied, Rejected> {
        let _turn = self.turn.lock().await;
        let outcome = self.apply().await;
        let file = self.parts.file.display();
        match &outcome {
            Ok(applied) => {
                applied.warnings.iter().for_each(|warning| log::warn!("{warning}"));
                for key in &applied.need_restart {
                    log::warn!("{file}: {key} has changed, which needs a restart to take effect");
                }
                log::info!("{file} is in force");
            }
            Err(rejected) => {
                log::error!("{file} was not taken, the configuration in force stays:");
                rejected.to_string().lines().for_each(|line| log::error!("{line}"));
            }
        }
        outcome
    }

    async fn apply(&self) -> Result<Applied, Rejected> {
        let Parts { live, scheduler, logging, .. } = &self.parts;
        let Read { config, need_restart, fleet, tokens, switch_certificates } = self.read().await?;
        let before = Arc::clone(&live.load().fleet);
        let is_new = |it: &&Arc<Instance>| before.configured(it.id).is_none();
        let new = fleet.instances().iter().filter(is_new);
        let probers = self.first_look(&config, new).await;
        let (balance, level) = (config.balance.clone(), config.log.level);
        let warnings = config.warnings.clone();
        // requests must find an instance before the scheduler seats anybody there
        tokens.keep_fresh();
        let generation = Generation { config: Arc::new(config), fleet: Arc::clone(&fleet), tokens };
        live.put(generation);
        switch_certificates();
        let mut posts = fleet.posts();
        for (prober, facts) in &probers {
            let post = posts.iter_mut().find(|post| post.id == prober.id());
            if let Some(post) = post {
                post.facts = Some(facts.clone());
            }
        }
        scheduler.reconfigure(posts, &balance);
        probers.into_iter().for_each(|(prober, _)| self.keep_probing(prober));
        for instance in fleet.instances() {
            let changed = |old: &Arc<Instance>| old.config != instance.config;
            if before.configured(instance.id).is_some_and(changed) {
                instance.suspect();
            }
        }
        logging.set_level(level);
        Ok(Applied { warnings, need_restart })
    }

    /// Reads the file, its secrets, and finds its instances, off the threads that serve.
    async fn read(&self) -> Result<Read, Rejected> {
        let file = self.parts.file.clone();
        let before = Arc::clone(&self.parts.live.load());
        let scheduler = Arc::clone(&self.parts.scheduler);
        let certificates = Arc::clone(&self.parts.certificates);
        let reading = tokio::task::spawn_blocking(move || {
            let mut config = Config::load(&file, &|name| std::env::var(name).ok())?;
            let need_restart = config.keep_what_needs_a_restart(&before.config);
            let tokens = Tokens::load(&config.auth, Some(&before.tokens))?;
            let switch_certificates =
                certificates.prepare(&config).map_err(Rejected::Certificate)?;
            let fleet = before.fleet.successor(&config, |id| scheduler.knows(id))?;
            let (fleet, tokens) = (Arc::new(fleet), Arc::new(tokens));
            Ok(Read { config, need_restart, fleet, tokens, switch_certificates })
        });
        reading.await.unwrap_or(Err(Rejected::Stopping))
    }

    /// A prober for each of these instances, and what its first probe found.
    async fn first_look<'i>(
        &self,
        config: &Config,
        instances: impl Iterator<Item = &'i Arc<Instance>>,
    ) -> Vec<(Prober, Facts)> {
        let looks = instances.map(async |instance| {
            let mut prober = self.prober(config, instance);
            let facts = prober.probe().await;
            (prober, facts)
        });
        futures_util::future::join_all(looks).await
    }

    fn prober(&self, config: &Config, instance: &Arc<Instance>) -> Prober {
        Prober::new(Arc::clone(instance), config.health.clone(), self.parts.client.clone())
    }

    fn keep_probing(&self, prober: Prober) {
        let Parts { live, scheduler, ending, .. } = &self.parts;
        tokio::spawn(prober.run(Arc::clone(live), Arc::clone(scheduler), ending.clone()));
    }
}
