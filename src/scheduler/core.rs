//! The decisions: pure, deterministic, without a clock of its own.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::breaker::{Breaker, Epoch, State};
use super::{Facts, Outcome, Post};
use crate::config::{Balance, Upstream, UpstreamKind};
use crate::model::{ModelKey, ModelName};

/// What a request needs of an instance.
#[derive(Clone, Debug)]
pub struct Wish {
    /// The model; `None` takes any instance.
    pub model: Option<ModelKey>,
    /// Which interface the request speaks.
    pub surface: Surface,
    /// Who is asking: the unit of fairness.
    pub user: i64,
    /// Seats that this user may hold at once.
    pub concurrency: u32,
    /// Instances that have failed it already.
    pub excluded: Vec<usize>,
    /// Its place in the queue from an earlier attempt.
    pub number: Option<u64>,
}

/// Which interface a request speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surface {
    /// Ollama's own `/api`.
    Ollama,
    /// The OpenAI-compatible `/v1`, which every kind of instance has.
    V1,
}

/// Why a request got no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is no room to wait.
    #[error(transparent)]
    Full(#[from] Full),
    /// There is nowhere to go.
    #[error(transparent)]
    Nowhere(#[from] Nowhere),
}

/// There is no room to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// The whole queue is full.
    #[error("the queue is full")]
    Box,
    /// This user has as many requests waiting as one user may.
    #[error("this user's queue is full")]
    User,
}

/// There is nowhere to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Nowhere {
    /// Instances are up, and none has the model.
    #[error("no instance has the model")]
    NoModel,
    /// Every instance that could serve it is down, or has failed it already.
    #[error("no healthy instance")]
    NoInstance,
}

/// A place in the queue, or a seat at once.
pub(super) enum Admitted {
    Seated(u64, Claim),
    Waiting(u64, oneshot::Receiver<Claim>),
}

/// What a seat holds, and has to give back.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    pub(super) instance: usize,
    pub(super) model: Option<ModelKey>,
    /// Whether the instance has to load the model first.
    pub(super) cold: bool,
    user: i64,
    since: Instant,
    epoch: Epoch,
}

/// The counters of an instance, for people and probes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceView {
    /// Its number, which it keeps for as long as its name and address stay.
    pub id: usize,
    /// Probes succeed.
    pub up: bool,
    /// Gets nobody new, because an operator says so.
    pub drained: bool,
    /// Where its breaker stands.
    pub breaker: State,
    /// Slots.
    pub slots: u32,
    /// Requests that it works on.
    pub in_flight: u32,
}

pub(super) struct Core {
    stations: BTreeMap<usize, Station>,
    queue: BTreeMap<u64, Waiting>,
    waiting_of: HashMap<i64, usize>,
    held_by: HashMap<i64, u32>,
    next_number: u64,
    seatings: u64,
    capacity: usize,
    capacity_per_user: usize,
    /// Mean time that a seat was held lately.
    service: Duration,
}

struct Waiting {
    wish: Wish,
    sender: oneshot::Sender<Claim>,
}

struct Station {
    kind: UpstreamKind,
    slots: u32,
    model_slots: HashMap<ModelKey, u32>,
    in_flight: u32,
    per_model: HashMap<ModelKey, u32>,
    facts: Facts,
    /// Models that have answered since the facts were learnt, and so are in memory.
    loaded: HashSet<ModelKey>,
    breaker: Breaker,
    /// It failed a request and has not answered a probe since: it may be dying, and whoever took
    /// the seat that was freed would die with it.
    doubted: bool,
    /// An operator's word: nobody new, whoever is there may stay.
    drained: bool,
    last_seated: u64,
    /// No longer configured: it gets nobody new, and is gone when the last seat is free.
    retired: bool,
}

impl Core {
    pub(super) fn new(balance: &Balance) -> Self {
        Self {
            stations: BTreeMap::new(),
            queue: BTreeMap::new(),
            waiting_of: HashMap::new(),
            held_by: HashMap::new(),
            next_number: 0,
            seatings: 0,
            capacity: balance.queue,
            capacity_per_user: balance.queue_per_user,
            service: Duration::from_secs(1),
        }
    }

    /// Puts a new configuration in force. Who is seated stays seated; who waits sees the new set.
    pub(super) fn reconfigure(&mut self, posts: Vec<Post<'_>>, balance: &Balance, now: Instant) {
        self.capacity = balance.queue;
        self.capacity_per_user = balance.queue_per_user;
        self.stations.values_mut().for_each(|station| station.retired = true);
        for Post { id, upstream, facts } in posts {
            let station = self.stations.entry(id).or_default();
            station.configure(upstream);
            if let Some(facts) = facts {
                station.facts = facts;
            }
        }
        self.stations.retain(|_, station| !station.is_gone());
        self.dispatch(now);
    }

    /// Whether an instance with this number is configured, or still has somebody seated.
    pub(super) fn knows(&self, instance: usize) -> bool {
        self.stations.contains_key(&instance)
    }

    /// A seat if one is free, else a place in the queue, else the reason why not.
    ///
    /// Taking a free seat at once never overtakes: whoever waits could not use it, because every
    /// change gives away all that it frees.
    pub(super) fn arrive(&mut self, wish: Wish, now: Instant) -> Result<Admitted, Refused> {
        self.find(wish.model.as_ref(), wish.surface, &wish.excluded)?;
        let number = wish.number.unwrap_or(self.next_number);
        self.next_number = self.next_number.max(number + 1);
        if let Some(claim) = self.try_seat(&wish, now) {
            return Ok(Admitted::Seated(number, claim));
        }
        // a request that comes back from a failed instance keeps its place
        if wish.number.is_none() {
            self.room_for(wish.user)?;
        }
        *self.waiting_of.entry(wish.user).or_default() += 1;
        let (sender, receiver) = oneshot::channel();
        self.queue.insert(number, Waiting { wish, sender });
        Ok(Admitted::Waiting(number, receiver))
    }

    /// Leaves the queue; false if a seat was given already.
    pub(super) fn leave(&mut self, number: u64) -> bool {
        let Some(waiting) = self.queue.remove(&number) else { return false };
        self.forget_waiting(waiting.wish.user);
        true
    }

    pub(super) fn release(&mut self, claim: &Claim, outcome: Outcome, now: Instant) {
        let failed = match outcome {
            Outcome::Answered => Some(false),
            Outcome::Failed => Some(true),
            Outcome::Neutral => None,
        };
        if outcome == Outcome::Failed
            && let Some(station) = self.stations.get_mut(&claim.instance)
        {
            station.doubted = true;
        }
        self.unseat(claim, failed, now);
        if outcome == Outcome::Answered {
            if let Some(station) = self.stations.get_mut(&claim.instance) {
                station.loaded.extend(claim.model.clone());
            }
            let held = now.saturating_duration_since(claim.since);
            self.service = (self.service * 7 + held) / 8;
        }
        self.dispatch(now);
    }

    pub(super) fn answered(&mut self, claim: &Claim, now: Instant) {
        if let Some(station) = self.stations.get_mut(&claim.instance) {
            let trial = station.breaker.state() != State::Closed;
            station.breaker.answered(claim.epoch);
            if trial {
                self.dispatch(now);
            }
        }
    }

    pub(super) fn learn(&mut self, instance: usize, facts: Facts, now: Instant) {
        if let Some(station) = self.stations.get_mut(&instance) {
            if facts.up {
                station.breaker.probed(now);
            }
            station.doubted &= !facts.answered;
            station.facts = facts;
            station.loaded.clear();
        }
        self.dispatch(now);
    }

    /// Drains an instance or resumes it; false if it was so already, or is none.
    pub(super) fn set_drained(&mut self, instance: usize, drained: bool, now: Instant) -> bool {
        let Some(station) = self.stations.get_mut(&instance) else { return false };
        let changed = std::mem::replace(&mut station.drained, drained) != drained;
        self.dispatch(now);
        changed
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    pub(super) fn views(&self) -> Vec<InstanceView> {
        self.active().map(|(id, station)| station.view(id)).collect()
    }

    /// Seats that are taken, those of retired instances included.
    pub(super) fn taken(&self) -> u32 {
        self.stations.values().map(|station| station.in_flight).sum()
    }

    /// The stations that are configured.
    fn active(&self) -> impl Iterator<Item = (usize, &Station)> + Clone {
        self.stations.iter().filter(|(_, station)| !station.retired).map(|(id, s)| (*id, s))
    }

    pub(super) fn is_trusted(&self, instance: usize) -> bool {
        self.stations.get(&instance).is_some_and(|s| s.breaker.state() == State::Closed)
    }

    pub(super) fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// How long somebody who came now would wait, from the seats and the time that they are held.
    pub(super) fn expected_wait(&self) -> Duration {
        let slots: u32 = self.active().filter(|(_, s)| s.serves()).map(|(_, s)| s.slots).sum();
        let ahead = u32::try_from(self.queue.len()).unwrap_or(u32::MAX).saturating_add(1);
        self.service.saturating_mul(ahead) / slots.max(1)
    }

    /// Gives every seat that is free to the first who can use it.
    fn dispatch(&mut self, now: Instant) {
        if self.queue.is_empty() {
            return;
        }
        let mut after = None;
        while self.stations.values().any(Station::has_room) {
            let next = self.queue.iter().find(|(number, waiting)| {
                after.is_none_or(|after| **number > after)
                    && self.may_hold_more(&waiting.wish)
                    && self.place(&waiting.wish).is_some()
            });
            let Some((&number, _)) = next else { return };
            after = Some(number);
            self.seat_waiting(number, now);
        }
    }

    fn seat_waiting(&mut self, number: u64, now: Instant) {
        let Some(waiting) = self.queue.remove(&number) else { return };
        self.forget_waiting(waiting.wish.user);
        if let Some(claim) = self.try_seat(&waiting.wish, now)
            && let Err(claim) = waiting.sender.send(claim)
        {
            // unreachable while tickets leave under the lock, and harmless if that ever changes
            self.unseat(&claim, None, now);
        }
    }

    fn try_seat(&mut self, wish: &Wish, now: Instant) -> Option<Claim> {
        if !self.may_hold_more(wish) {
            return None;
        }
        let instance = self.place(wish)?;
        self.seatings += 1;
        let station = self.stations.get_mut(&instance)?;
        let cold = station.must_load(wish.model.as_ref());
        station.in_flight += 1;
        station.last_seated = self.seatings;
        let epoch = station.breaker.enter();
        if let Some(model) = &wish.model {
            *station.per_model.entry(model.clone()).or_default() += 1;
        }
        *self.held_by.entry(wish.user).or_default() += 1;
        let model = wish.model.clone();
        Some(Claim { instance, model, cold, user: wish.user, since: now, epoch })
    }

    fn unseat(&mut self, claim: &Claim, failed: Option<bool>, now: Instant) {
        decrement(&mut self.held_by, &claim.user);
        let Some(station) = self.stations.get_mut(&claim.instance) else { return };
        station.in_flight = station.in_flight.saturating_sub(1);
        if let Some(model) = &claim.model {
            decrement(&mut station.per_model, model);
        }
        station.breaker.leave(claim.epoch, failed, now);
        if station.is_gone() {
            self.stations.remove(&claim.instance);
        }
    }

    /// The instance to go to: one that has the model in memory before one that would load it,
    /// then the one with the fewest requests in flight per slot, then the one that has rested
    /// longest. A cold load costs seconds to minutes; nothing else that is known here costs more.
    fn place(&self, wish: &Wish) -> Option<usize> {
        self.active()
            .filter(|(index, station)| station.can_take(wish) && !wish.excluded.contains(index))
            .min_by(|(_, a), (_, b)| {
                let cold = |station: &Station| !station.is_resident(wish.model.as_ref());
                // a/b < c/d without fractions
                let load = (u64::from(a.in_flight) * u64::from(b.slots))
                    .cmp(&(u64::from(b.in_flight) * u64::from(a.slots)));
                cold(a).cmp(&cold(b)).then(load).then(a.last_seated.cmp(&b.last_seated))
            })
            .map(|(index, _)| index)
    }

    /// The least busy instance that is up and has the model, whether or not it has a free slot.
    pub(super) fn find(
        &self,
        model: Option<&ModelKey>,
        surface: Surface,
        excluded: &[usize],
    ) -> Result<usize, Nowhere> {
        let speaking = || self.active().filter(|(_, s)| s.speaks(surface));
        let able = || speaking().filter(|(_, station)| station.has(model));
        let found = able()
            .filter(|(index, station)| station.serves() && !excluded.contains(index))
            .min_by_key(|(_, station)| (station.breaker.state(), station.in_flight));
        if let Some((index, _)) = found {
            return Ok(index);
        }
        // an instance that is down keeps its list of models: it may be the one that has it
        let known = able().next().is_some();
        let somebody_is_up = speaking().any(|(_, station)| station.serves());
        Err(if known || !somebody_is_up { Nowhere::NoInstance } else { Nowhere::NoModel })
    }

    fn room_for(&self, user: i64) -> Result<(), Full> {
        if self.queue.len() >= self.capacity {
            return Err(Full::Box);
        }
        let waiting = self.waiting_of.get(&user).copied().unwrap_or_default();
        if waiting >= self.capacity_per_user { Err(Full::User) } else { Ok(()) }
    }

    fn may_hold_more(&self, wish: &Wish) -> bool {
        self.held_by.get(&wish.user).is_none_or(|held| *held < wish.concurrency)
    }

    fn forget_waiting(&mut self, user: i64) {
        if let Some(count) = self.waiting_of.get_mut(&user) {
            *count -= 1;
            if *count == 0 {
                self.waiting_of.remove(&user);
            }
        }
    }
}

impl Default for Station {
    fn default() -> Self {
        Self {
            kind: UpstreamKind::Ollama,
            slots: 0,
            model_slots: HashMap::new(),
            in_flight: 0,
            per_model: HashMap::new(),
            facts: Facts::default(),
            loaded: HashSet::new(),
            breaker: Breaker::default(),
            doubted: false,
            drained: false,
            last_seated: 0,
            retired: false,
        }
    }
}

impl Station {
    fn configure(&mut self, upstream: &Upstream) {
        let key = |name: &String| {
            ModelName::parse(name).unwrap_or_else(|_| ModelName::opaque(name)).key().clone()
        };
        self.kind = upstream.kind;
        self.slots = upstream.slots;
        self.model_slots = upstream.model_slots.iter().map(|(name, n)| (key(name), *n)).collect();
        self.retired = false;
    }

    fn is_gone(&self) -> bool {
        self.retired && self.in_flight == 0
    }

    fn speaks(&self, surface: Surface) -> bool {
        self.kind == UpstreamKind::Ollama || surface == Surface::V1
    }

    fn has(&self, model: Option<&ModelKey>) -> bool {
        model.is_none_or(|model| self.facts.models.contains(model))
    }

    /// In memory already, or being loaded for somebody who was seated here.
    fn is_resident(&self, model: Option<&ModelKey>) -> bool {
        model.is_none_or(|model| {
            self.facts.residents.contains(model) || self.per_model.contains_key(model)
        })
    }

    /// Whether the model is neither in memory nor on its way there, as far as can be known.
    fn must_load(&self, model: Option<&ModelKey>) -> bool {
        !self.is_resident(model) && model.is_some_and(|model| !self.loaded.contains(model))
    }

    fn serves(&self) -> bool {
        self.facts.up && !self.drained && !self.retired
    }

    fn has_room(&self) -> bool {
        self.serves() && self.in_flight < self.slots && !self.doubted && self.breaker.admits()
    }

    fn can_take(&self, wish: &Wish) -> bool {
        let model = wish.model.as_ref();
        let model_full = model.is_some_and(|model| {
            self.model_slots.get(model).is_some_and(|slots| {
                self.per_model.get(model).copied().unwrap_or_default() >= *slots
            })
        });
        self.has_room() && !model_full && self.speaks(wish.surface) && self.has(model)
    }

    fn view(&self, id: usize) -> InstanceView {
        InstanceView {
            id,
            up: self.facts.up,
            drained: self.drained,
            breaker: self.breaker.state(),
            slots: self.slots,
            in_flight: self.in_flight,
        }
    }
}

fn decrement<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, u32>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests;
