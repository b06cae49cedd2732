//! SEAT: who goes next, and to which instance.
//!
//! A request waits here, bound to no instance, until a slot of an instance that can serve it is
//! free; so there is one queue for the whole box, and never more than `slots` requests are in
//! flight anywhere. Ollama's own queue in front of a loaded model is unbounded and first come,
//! first served per instance, which is why nothing is ever parked there.
//!
//! [`core`] decides, purely: time is an argument. This shell owns the mutex and the wakers. A
//! [`Seat`] is a guard: dropping it, in any state and on any path, frees the slot and wakes the
//! next.

pub mod breaker;
pub mod core;
mod seat;

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

pub use self::core::{Full, InstanceView, Nowhere, Refused, Surface, Wish};
pub use self::seat::{Outcome, Seat, Ticket};

use self::core::Core;
use crate::config::{Balance, Upstream};
use crate::model::ModelKey;

/// The queue of the whole box and the counters of every instance.
pub struct Scheduler {
    core: Mutex<Core>,
}

impl Scheduler {
    /// A scheduler without instances: [`Self::reconfigure`] names them.
    pub fn new(balance: &Balance) -> Self {
        Self { core: Mutex::new(Core::new(balance)) }
    }

    /// Puts a new set of instances and bounds in force. An instance that is no longer named gets
    /// nobody new, keeps whom it has, and vanishes when its last seat is free; a new one counts as
    /// down unless its facts are given; who waits is seated by the new set.
    pub fn reconfigure(&self, posts: Vec<Post<'_>>, balance: &Balance) {
        self.core.lock().reconfigure(posts, balance, Instant::now());
    }

    /// Whether an instance with this number is configured, or still has somebody seated.
    pub fn knows(&self, instance: usize) -> bool {
        self.core.lock().knows(instance)
    }

    /// Takes a place in the queue, which may be a seat at once.
    pub fn enter(self: &Arc<Self>, wish: Wish) -> Result<Ticket, Refused> {
        let mut core = self.core.lock();
        let admitted = core.arrive(wish, Instant::now())?;
        drop(core);
        Ok(Ticket::new(Arc::clone(self), admitted))
    }

    /// An instance that is up and has the model, for a request that costs it nothing: no seat is
    /// taken, the one that works on least is named.
    pub fn find(
        &self,
        model: Option<&ModelKey>,
        surface: Surface,
        excluded: &[usize],
    ) -> Result<usize, Nowhere> {
        self.core.lock().find(model, surface, excluded)
    }

    /// What a probe found out about an instance. Seats that this frees are given away.
    pub fn learn(&self, instance: usize, facts: Facts) {
        self.core.lock().learn(instance, facts, Instant::now());
    }

    /// Drains an instance, so that it gets nobody new and keeps whom it has, or resumes it.
    /// Returns whether that was a change.
    pub fn set_drained(&self, instance: usize, drained: bool) -> bool {
        self.core.lock().set_drained(instance, drained, Instant::now())
    }

    /// Whether at least one instance is up and not drained.
    pub fn is_ready(&self) -> bool {
        self.instances().iter().any(|view| view.up && !view.drained)
    }

    /// How many may wait.
    pub fn capacity(&self) -> usize {
        self.core.lock().capacity()
    }

    /// The counters of every instance that is configured, by number.
    pub fn instances(&self) -> Vec<InstanceView> {
        self.core.lock().views()
    }

    /// The counters of the instance with this number, if it is configured.
    pub fn instance(&self, id: usize) -> Option<InstanceView> {
        self.instances().into_iter().find(|view| view.id == id)
    }

    /// Seats that are taken, those of instances that are no longer configured included.
    pub fn taken(&self) -> u32 {
        self.core.lock().taken()
    }

    /// Whether an instance has not been taken out for its failures.
    pub fn is_trusted(&self, instance: usize) -> bool {
        self.core.lock().is_trusted(instance)
    }

    /// Requests that wait.
    pub fn waiting(&self) -> usize {
        self.core.lock().waiting()
    }

    /// Seconds after which a refused client may sensibly come again, 1 to 60.
    pub fn retry_after(&self) -> u64 {
        let wait: Duration = self.core.lock().expected_wait();
        wait.as_secs_f64().ceil().clamp(1.0, 60.0) as u64
    }
}

/// An instance as the configuration has it now.
#[derive(Clone, Debug)]
pub struct Post<'c> {
    /// Its number; the same number is the same instance as before.
    pub id: usize,
    /// What the operator wrote.
    pub upstream: &'c Upstream,
    /// What a first probe found; `None` leaves what is known, and a new instance down.
    pub facts: Option<Facts>,
}

/// What a probe found out about an instance.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Its probes succeed.
    pub up: bool,
    /// The latest of them did.
    pub answered: bool,
    /// Models that it has.
    pub models: Arc<std::collections::HashSet<ModelKey>>,
    /// Models in its memory.
    pub residents: Arc<std::collections::HashSet<ModelKey>>,
}
