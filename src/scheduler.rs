//! SEAT: who goes next, and to which instance.
//!
//! A request waits here, bound to no instance, until a slot of an instance that can serve it is
//! free; so there is one queue for the whole box, and never more than `slots` requests are in
//! flight anywhere. Ollama's own queue in front of a loaded model is unbounded and first come,
//! first served per instance, which is why nothing is ever parked there.
//!
//! [`core`] decides, purely, and time is an argument: [`queue`] says who goes next, [`placement`]
//! where, by what [`learn`] has learnt and [`prefix`] remembers of each [`station`]. This shell owns
//! the mutex, the wakers and the log's lines. A [`Seat`] is a guard: dropping it, in any state and
//! on any path, frees the slot and wakes the next.

pub mod breaker;
pub mod core;
pub mod learn;
mod permits;
pub mod placement;
mod prefix;
mod queue;
mod room;
mod seat;
pub mod sharing;
mod station;
pub mod wish;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

pub use self::core::{InstanceView, LineView, ModelView, Outlook, Reason, WaiterView};
pub use self::learn::Report;
pub use self::permits::{Call, Has, Holder, Told};
pub use self::placement::Candidate;
pub use self::seat::{Load, Outcome, Seat, Ticket};
pub use self::wish::{Full, Nowhere, Payer, Refused, Surface, Wish};

use self::core::{Admitted, Claim, Core, Ending, Notice};
use crate::config::{Balance, Upstream};
use crate::model::ModelKey;

/// The queue of the whole box and the counters of every instance.
pub struct Scheduler<L: Lock = Mutex<Desk>> {
    desk: L,
}

/// What lets one thread at a time to the desk: a mutex; in tests, one whose every order of threads
/// can be tried.
pub trait Lock: Send + Sync + 'static {
    /// A lock before this desk.
    fn before(desk: Desk) -> Self;

    /// Acts while nobody else does.
    fn with<T>(&self, act: impl FnOnce(&mut Desk) -> T) -> T;
}

impl Lock for Mutex<Desk> {
    fn before(desk: Desk) -> Self {
        Self::new(desk)
    }

    fn with<T>(&self, act: impl FnOnce(&mut Desk) -> T) -> T {
        act(&mut self.lock())
    }
}

/// What is behind the mutex.
pub struct Desk {
    core: Core,
    /// Who waits, to be woken.
    waiting: HashMap<u64, oneshot::Sender<Claim>>,
    /// Loads that go on by themselves, to be told that nobody wants them any more.
    loads: HashMap<u64, oneshot::Sender<()>>,
    names: HashMap<usize, String>,
    /// Where goes what other gateways should hear of, if there are any.
    calls: Option<mpsc::UnboundedSender<Call>>,
}

impl Scheduler {
    /// A scheduler without instances: [`Self::reconfigure`] names them.
    pub fn new(balance: &Balance) -> Self {
        Self::with_lock(balance)
    }
}

impl<L: Lock> Scheduler<L> {
    fn with_lock(balance: &Balance) -> Self {
        Self {
            desk: L::before(Desk {
                core: Core::new(balance),
                waiting: HashMap::new(),
                loads: HashMap::new(),
                names: HashMap::new(),
                calls: None,
            }),
        }
    }

    /// Changes something, and hands out what seats that freed.
    fn change<T>(&self, act: impl FnOnce(&mut Desk, Instant) -> T) -> T {
        let now = Instant::now();
        let (result, words) = self.desk.with(|desk| {
            let result = act(desk, now);
            desk.hand_out(now);
            desk.call();
            (result, desk.words())
        });
        words.iter().for_each(|line| log::warn!("{line}"));
        result
    }

    /// Puts a new set of instances and bounds in force. An instance that is no longer named gets
    /// nobody new, keeps whom it has, and vanishes when its last seat is free; a new one counts as
    /// down unless its facts are given; who waits is seated by the new set.
    pub fn reconfigure(&self, posts: Vec<Post<'_>>, balance: &Balance) {
        self.change(|desk, now| {
            for post in &posts {
                desk.names.insert(post.id, post.upstream.name.clone());
            }
            desk.core.reconfigure(posts, balance, now);
            let Desk { core, names, .. } = desk;
            names.retain(|id, _| core.knows(*id));
        });
    }

    /// Whether an instance with this number is configured, or still has somebody seated.
    pub fn knows(&self, instance: usize) -> bool {
        self.desk.with(|desk| desk.core.knows(instance))
    }

    /// From now on a seat needs a permit; what is to be heard of that goes where this says.
    pub fn share(&self) -> mpsc::UnboundedReceiver<Call> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.desk.with(|desk| {
            desk.core.share();
            desk.calls = Some(sender);
        });
        receiver
    }

    /// What this gateway has of somebody's seats, and how many more would be of use.
    pub fn has(&self, holder: Holder) -> Option<Has> {
        self.desk.with(|desk| desk.core.has(holder))
    }

    /// The other gateways were told of somebody. Returns whether some seats that were idle here are
    /// no longer ours.
    pub fn granted(&self, holder: Holder, told: Told) -> bool {
        self.change(|desk, now| desk.core.granted(holder, told, now))
    }

    /// Another gateway wants some of somebody's seats. Returns whether some were idle here, which
    /// then are no longer ours.
    pub fn recall(&self, holder: Holder) -> bool {
        self.change(|desk, now| desk.core.recall(holder, now))
    }

    /// Of whom the other gateways should be told.
    pub fn due(&self) -> Vec<Holder> {
        self.change(|desk, now| desk.core.due(now))
    }

    /// What the other gateways were told before this moment may have been forgotten. Returns of whom they should be
    /// told anew.
    pub fn doubt(&self, before: Instant) -> Vec<Holder> {
        self.change(|desk, now| desk.core.doubt(before, now))
    }

    /// Of whose seats this gateway has some.
    pub fn holders(&self) -> Vec<Holder> {
        self.desk.with(|desk| desk.core.holders())
    }

    /// Takes a place in the queue, which may be a seat at once.
    ///
    /// # Errors
    /// There is nowhere to go, no room to wait, or no time to.
    pub fn enter(self: &Arc<Self>, wish: Wish) -> Result<Ticket<L>, Refused> {
        let admitted = self.change(|desk, now| desk.arrive(wish, now))?;
        Ok(Ticket::new(Arc::clone(self), admitted))
    }

    /// An instance that is up and has the model, for a request that costs it nothing: no seat is
    /// taken, the one that works on least is named.
    ///
    /// # Errors
    /// None has the model, or none that has it is up.
    pub fn find(
        &self,
        model: Option<&ModelKey>,
        surface: Surface,
        excluded: &[usize],
    ) -> Result<usize, Nowhere> {
        self.desk.with(|desk| desk.core.find(model, surface, excluded))
    }

    /// What a probe found out about an instance. Seats that this frees are given away.
    pub fn learn(&self, instance: usize, facts: &Facts) {
        self.change(|desk, now| desk.core.learn(instance, facts, now));
    }

    /// Drains an instance, so that it gets nobody new and keeps whom it has, or resumes it.
    /// Returns whether that was a change.
    pub fn set_drained(&self, instance: usize, drained: bool) -> bool {
        self.change(|desk, now| desk.core.set_drained(instance, drained, now))
    }

    /// Whether at least one instance is up and not drained.
    pub fn is_ready(&self) -> bool {
        self.instances().iter().any(|view| view.up && !view.drained)
    }

    /// How many may wait.
    pub fn capacity(&self) -> usize {
        self.desk.with(|desk| desk.core.capacity())
    }

    /// The counters of every instance that is configured, by number.
    pub fn instances(&self) -> Vec<InstanceView> {
        self.desk.with(|desk| desk.core.views())
    }

    /// The counters of the instance with this number, if it is configured.
    pub fn instance(&self, id: usize) -> Option<InstanceView> {
        self.instances().into_iter().find(|view| view.id == id)
    }

    /// What has been learnt of the models of an instance.
    pub fn models(&self, instance: usize) -> Vec<ModelView> {
        self.desk.with(|desk| desk.core.models(instance))
    }

    /// The queue: a line for each kind of request, with where the next of them could go.
    pub fn lines(&self) -> Vec<LineView> {
        self.desk.with(|desk| desk.core.lines(Instant::now()))
    }

    /// The `most` who have waited for longest, and why they do.
    pub fn waiters(&self, most: usize) -> Vec<WaiterView> {
        self.desk.with(|desk| desk.core.waiters(most, Instant::now()))
    }

    /// Seats that are taken, those of instances that are no longer configured included.
    pub fn taken(&self) -> u32 {
        self.desk.with(|desk| desk.core.taken())
    }

    /// Whether an instance has not been taken out for its failures.
    pub fn is_trusted(&self, instance: usize) -> bool {
        self.desk.with(|desk| desk.core.is_trusted(instance))
    }

    /// Requests that wait.
    pub fn waiting(&self) -> usize {
        self.desk.with(|desk| desk.core.waiting())
    }

    /// Seconds after which a refused client may sensibly come again, 1 to 60.
    pub fn retry_after(&self) -> u64 {
        let wait: Duration = self.desk.with(|desk| desk.core.expected_wait());
        wait.as_secs_f64().ceil().clamp(1.0, 60.0) as u64
    }
}

impl Desk {
    fn arrive(&mut self, wish: Wish, now: Instant) -> Result<seat::Admission, Refused> {
        Ok(match self.core.arrive(wish, now)? {
            Admitted::Seated(number, claim) => seat::Admission::Seated(number, claim),
            Admitted::Waiting(number) => {
                let (sender, receiver) = oneshot::channel();
                self.waiting.insert(number, sender);
                seat::Admission::Waiting(number, receiver)
            }
        })
    }

    /// Wakes those who were given a seat; who is gone gives it back, and that may wake others.
    fn hand_out(&mut self, now: Instant) {
        loop {
            let given = self.core.given();
            if given.is_empty() {
                return;
            }
            for (number, claim) in given {
                let sent = match self.waiting.remove(&number) {
                    Some(sender) => sender.send(claim),
                    None => Err(claim),
                };
                if let Err(claim) = sent {
                    // unreachable while tickets leave under the lock, and harmless if that changes
                    self.core.release(&claim, &Ending::nothing(), now);
                }
            }
        }
    }

    /// Passes on what other gateways should hear of.
    fn call(&mut self) {
        if let Some(calls) = &self.calls {
            // whoever listens outlives the last request
            self.core.calls().into_iter().for_each(|call| {
                let _ = calls.send(call);
            });
        }
    }

    /// Tells loads that they are abandoned, and puts the rest into words.
    fn words(&mut self) -> Vec<String> {
        let notices = self.core.notices();
        let name = |id: &usize| self.names.get(id).map_or("?", String::as_str);
        let said = |notice: &Notice| match notice {
            Notice::SlotsTooHigh { instance, lost } => {
                let (name, lost) = (name(instance), lost.as_secs_f64());
                Some(format!(
                    "upstream {name}: requests wait inside of it, the latest for {lost:.1} s: it \
                     works on fewer at once than its `slots`; compare its OLLAMA_NUM_PARALLEL"
                ))
            }
            Notice::Hung { instance, model, silent } => {
                let (name, silent) = (name(instance), silent.as_secs_f64());
                Some(format!(
                    "upstream {name}: {model} has said nothing for {silent:.0} s while others \
                     answered: it gets no requests until a trial succeeds"
                ))
            }
            Notice::Abandoned(_) => None,
        };
        let words = notices.iter().filter_map(said).collect();
        for notice in &notices {
            if let Notice::Abandoned(claim) = notice {
                self.loads.remove(claim);
            }
        }
        words
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
    pub models: Arc<HashSet<ModelKey>>,
    /// Those of them that another server would answer for: they are never in its memory, and need
    /// not be.
    pub remote: Arc<HashSet<ModelKey>>,
    /// Models in its memory.
    pub residents: Arc<HashSet<ModelKey>>,
    /// Bytes of its models on disk, as far as it tells.
    pub sizes: Arc<HashMap<ModelKey, u64>>,
    /// Bytes of its residents in memory, as far as it tells.
    pub memory: Arc<HashMap<ModelKey, u64>>,
}

#[cfg(test)]
mod tests;
