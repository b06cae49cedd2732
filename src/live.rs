//! What is in force: a configuration and the instances that it names, as one.
//!
//! A request loads a [`Generation`] once and is judged by it from beginning to end; [`reload`] puts
//! another in its place.

pub mod reload;
pub mod watch;

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use crate::auth::Tokens;
use crate::config::Config;
use crate::scheduler::Scheduler;
use crate::upstream::Fleet;
use crate::upstream::peer::PeerError;

/// The generation in force.
pub struct Live(ArcSwap<Generation>);

/// A configuration and its instances.
pub struct Generation {
    /// What the operator wrote.
    pub config: Arc<Config>,
    /// The instances that it names.
    pub fleet: Arc<Fleet>,
    /// The tokens that are believed by it.
    pub tokens: Arc<Tokens>,
}

impl Live {
    /// Puts the first configuration in force, in the scheduler too; none of its instances is
    /// probed yet.
    ///
    /// # Errors
    /// An instance's host has no address.
    pub fn new(config: Config, tokens: Tokens, scheduler: &Scheduler) -> Result<Self, PeerError> {
        let tokens = Arc::new(tokens);
        let fleet = Arc::new(Fleet::new(&config)?);
        scheduler.reconfigure(fleet.posts(), &config.balance);
        Ok(Self(ArcSwap::from_pointee(Generation { config: Arc::new(config), fleet, tokens })))
    }

    /// The generation in force.
    pub fn load(&self) -> Guard<Arc<Generation>> {
        self.0.load()
    }

    fn put(&self, generation: Generation) {
        self.0.store(Arc::new(generation));
    }
}
