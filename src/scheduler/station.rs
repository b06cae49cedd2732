//! One instance, as the scheduler knows it.

mod model;

use std::time::{Duration, Instant};

use ahash::{HashMap, HashMapExt};

use super::breaker::{Breaker, State};
use super::learn::Disk;
use super::room::Room;
use super::wish::{Surface, Wish};
use super::{Facts, InstanceView};
use crate::config::{Upstream, UpstreamKind};
use crate::model::{ModelKey, ModelName};
use crate::payload::Runner;

pub(super) use model::Model;

/// A model that was seen in memory is believed to be there for so long although a list does not
/// name it: the list may be older than the answer that showed it.
const GRACE: Duration = Duration::from_secs(1);
/// Ollama unloads what was idle for five minutes; what vanishes sooner was evicted.
const IDLE: Duration = Duration::from_mins(4);
/// For how long a model that was used is likely to be wanted again, seconds.
const WANTED: f64 = 60.0;
/// Of a load that has taken longer than expected, this much is expected still.
const OVERDUE: f64 = 0.2;

#[derive(Debug)]
pub(super) struct Station {
    pub(super) kind: UpstreamKind,
    pub(super) slots: u32,
    pub(super) gpu: Option<u32>,
    pub(super) in_flight: u32,
    pub(super) models: HashMap<ModelKey, Model>,
    pub(super) up: bool,
    pub(super) breaker: Breaker,
    /// It failed a request and has not answered a probe since: it may be dying, and whoever took
    /// the seat that was freed would die with it.
    pub(super) doubted: bool,
    /// An operator's word: nobody new, whoever is there may stay.
    pub(super) drained: bool,
    pub(super) last_seated: u64,
    /// No longer configured: it gets nobody new, and is gone when the last seat is free.
    pub(super) retired: bool,
    pub(super) loading: Option<Loading>,
    pub(super) disk: Disk,
    /// Answers in which time was lost inside the instance, and whether that was said.
    pub(super) hidden: u32,
    pub(super) hidden_told: bool,
    model_slots: HashMap<ModelKey, u32>,
    room: Room,
}

/// A load under way.
#[derive(Clone, Debug)]
pub(super) struct Loading {
    /// The seat for which it began.
    pub(super) claim: u64,
    pub(super) model: ModelKey,
    pub(super) runner: Runner,
    pub(super) since: Instant,
    /// Whether it goes on without the request for which it began.
    pub(super) detached: bool,
}

impl Default for Station {
    fn default() -> Self {
        Self {
            kind: UpstreamKind::Ollama,
            slots: 0,
            gpu: None,
            in_flight: 0,
            models: HashMap::new(),
            up: false,
            breaker: Breaker::default(),
            doubted: false,
            drained: false,
            last_seated: 0,
            retired: false,
            loading: None,
            disk: Disk::default(),
            hidden: 0,
            hidden_told: false,
            model_slots: HashMap::new(),
            room: Room::default(),
        }
    }
}

impl Station {
    pub(super) fn configure(&mut self, upstream: &Upstream) {
        let key = |name: &String| {
            ModelName::parse(name).unwrap_or_else(|_| ModelName::opaque(name)).key().clone()
        };
        // another number may be right now
        self.hidden_told &= self.slots == upstream.slots;
        self.kind = upstream.kind;
        self.slots = upstream.slots;
        self.gpu = upstream.gpu;
        self.model_slots = upstream.model_slots.iter().map(|(name, n)| (key(name), *n)).collect();
        self.retired = false;
        for (key, model) in &mut self.models {
            model.slots = self.model_slots.get(key).copied();
        }
    }

    /// Takes in what a probe found.
    pub(super) fn learn(&mut self, facts: &Facts, now: Instant) {
        if facts.up {
            self.breaker.probed(now);
            self.models.values_mut().for_each(|model| model.breaker.probed(now));
        }
        self.doubted &= !facts.answered;
        self.up = facts.up;
        for key in facts.models.iter() {
            if !self.models.contains_key(key) {
                let slots = self.model_slots.get(key).copied();
                self.models.insert(key.clone(), Model { slots, ..Model::default() });
            }
        }
        for (key, model) in &mut self.models {
            model.installed = facts.models.contains(key);
            model.remote = facts.remote.contains(key);
            model.size = facts.sizes.get(key).copied().or(model.size);
            if facts.residents.contains(key) {
                model.memory = facts.memory.get(key).copied().or(model.memory);
            }
        }
        self.reconcile(facts, now);
        self.models.retain(|_, model| model.installed || model.in_flight > 0);
    }

    /// What is in memory, by the instance's own word, and what that tells of its room.
    fn reconcile(&mut self, facts: &Facts, now: Instant) {
        if self.kind == UpstreamKind::OpenAi {
            return;
        }
        if !facts.answered {
            return;
        }
        let before = self.in_memory();
        let mut evicted = false;
        let loading = self.loading.as_ref().map(|loading| &loading.model);
        let mut newcomers = loading.and_then(|key| self.models.get(key)).map(Model::bytes);
        for (key, model) in &mut self.models {
            let seen = facts.residents.contains(key);
            if seen && model.resident.is_none() && !model.leaving {
                model.appears(None, now);
            }
            let Some(resident) = &mut model.resident else { continue };
            if std::mem::take(&mut resident.among_others) {
                newcomers.get_or_insert(0);
            }
            let young = now.saturating_duration_since(resident.since) < GRACE && !resident.seen;
            resident.seen |= seen;
            if seen || young || model.in_flight > 0 || loading == Some(key) {
                continue;
            }
            let idle = model.used.is_none_or(|used| now.saturating_duration_since(used) > IDLE);
            evicted |= !idle;
            model.vanishes();
        }
        match newcomers {
            // something came, and something that was wanted had to go
            Some(bytes) if evicted => self.room.refuses(before + bytes),
            _ if self.loading.is_none() => self.room.holds(self.in_memory()),
            _ => {}
        }
    }

    fn in_memory(&self) -> u64 {
        self.models.values().filter(|model| model.resident.is_some()).map(Model::bytes).sum()
    }

    pub(super) fn is_gone(&self) -> bool {
        self.retired && self.in_flight == 0
    }

    pub(super) fn speaks(&self, surface: Surface) -> bool {
        self.kind == UpstreamKind::Ollama || surface == Surface::V1
    }

    pub(super) fn has(&self, model: Option<&ModelKey>) -> bool {
        model.is_none_or(|key| self.models.get(key).is_some_and(|model| model.installed))
    }

    pub(super) fn model(&self, key: Option<&ModelKey>) -> Option<&Model> {
        self.models.get(key?)
    }

    pub(super) fn serves(&self) -> bool {
        self.up && !self.drained && !self.retired
    }

    /// Whether anybody at all can be seated.
    pub(super) fn has_room(&self) -> bool {
        self.serves()
            && self.in_flight < self.slots
            && !self.doubted
            && self.breaker.admits(self.in_flight)
    }

    /// Whether it serves requests of this kind, now or when a slot is free.
    pub(super) fn suits(&self, wish: &Wish) -> bool {
        self.serves() && self.speaks(wish.surface) && self.has(wish.model.as_ref())
    }

    /// Whether there is a slot for requests of this kind.
    pub(super) fn has_room_for(&self, wish: &Wish) -> bool {
        self.has_room() && self.model(wish.model.as_ref()).is_none_or(Model::has_room)
    }

    /// Whether there will be a slot for them as soon as somebody leaves.
    pub(super) fn will_have_room_for(&self, wish: &Wish) -> bool {
        let closed = |breaker: &Breaker| breaker.state() == State::Closed;
        let model = self.model(wish.model.as_ref());
        self.in_flight > 0
            && !self.doubted
            && closed(&self.breaker)
            && model.is_none_or(|model| closed(&model.breaker))
    }

    /// Whether nothing has to be loaded for the model, ever.
    pub(super) fn is_always_warm(&self, model: &Model) -> bool {
        self.kind == UpstreamKind::OpenAi || model.remote
    }

    /// Whether the model is in memory as it is wanted, or on its way there.
    pub(super) fn is_warm(&self, key: &ModelKey, runner: Runner) -> bool {
        let ready = |model: &Model| self.is_always_warm(model) || model.is_resident(runner);
        let resident = self.models.get(key).is_some_and(ready);
        let loading = self.loading.as_ref();
        resident || loading.is_some_and(|it| it.model == *key && it.runner == runner)
    }

    /// Whether the model is in memory, or on its way there, with whatever options.
    pub(super) fn holds(&self, key: &ModelKey) -> bool {
        let resident = self.models.get(key).is_some_and(|model| model.resident.is_some());
        resident || self.loading.as_ref().is_some_and(|it| it.model == *key)
    }

    /// Seconds until the model is in memory, if somebody has it loaded now.
    pub(super) fn load_left(&self, key: &ModelKey, now: Instant) -> f64 {
        let Some(loading) = self.loading.as_ref().filter(|it| it.model == *key) else { return 0.0 };
        let Some(model) = self.models.get(key) else { return 0.0 };
        let expected = model.rates.load_seconds(model.size, &self.disk);
        let elapsed = now.saturating_duration_since(loading.since).as_secs_f64();
        (expected - elapsed).max(expected.max(elapsed) * OVERDUE)
    }

    /// The models that would have to leave for this one, if it is not in memory as it is wanted.
    pub(super) fn evicted_by(&self, key: &ModelKey) -> Vec<&ModelKey> {
        let Some(wanted) = self.models.get(key) else { return Vec::new() };
        let mut left: Vec<_> = self
            .models
            .iter()
            .filter(|(other, model)| *other != key && model.resident.is_some())
            .collect();
        // the one that was not used for longest goes first
        left.sort_unstable_by_key(|(key, model)| (model.in_flight > 0, model.used, *key));
        let mut bytes = left.iter().map(|(_, model)| model.bytes()).sum::<u64>() + wanted.bytes();
        let mut evicted = Vec::new();
        if wanted.resident.is_some() {
            // with other options: it makes room for itself
            evicted.extend(self.models.get_key_value(key).map(|(key, _)| key));
        }
        for (other, model) in left {
            if self.room.fits(bytes) {
                break;
            }
            bytes -= model.bytes();
            evicted.push(other);
        }
        evicted
    }

    /// Seconds that loading this model costs, here and for those whose models it evicts.
    pub(super) fn load_seconds(&self, key: &ModelKey, evicted: &[&ModelKey], now: Instant) -> f64 {
        let Some(model) = self.models.get(key) else { return 0.0 };
        let own = model.rates.load_seconds(model.size, &self.disk);
        let others = evicted.iter().filter(|other| **other != key).filter_map(|other| {
            let other = self.models.get(*other)?;
            let idle = now.saturating_duration_since(other.used?).as_secs_f64();
            let wanted = if other.in_flight > 0 { 1.0 } else { (-idle / WANTED).exp2() };
            Some(other.rates.load_seconds(other.size, &self.disk) * wanted)
        });
        own + others.sum::<f64>()
    }

    /// Seconds until a slot is free for the one behind `ahead` others.
    pub(super) fn wait_seconds(&self, key: Option<&ModelKey>, ahead: usize) -> f64 {
        let (held, slots) = match self.model(key) {
            Some(model) => {
                let slots = model.slots.unwrap_or(self.slots).min(self.slots);
                (model.rates.held_seconds(model.size), slots)
            }
            None => (1.0, self.slots),
        };
        held * (ahead + 1) as f64 / f64::from(slots.max(1))
    }

    /// A load begins: what it evicts is as good as gone.
    pub(super) fn begin_load(&mut self, loading: Loading) {
        let evicted: Vec<ModelKey> = self.evicted_by(&loading.model).into_iter().cloned().collect();
        for key in evicted {
            if let Some(model) = self.models.get_mut(&key) {
                model.vanishes();
                model.leaving = true;
            }
        }
        self.loading = Some(loading);
    }

    /// The load is over; `worked` if the model is in memory now.
    pub(super) fn end_load(&mut self, worked: bool, now: Instant) {
        let Some(loading) = self.loading.take() else { return };
        self.models.values_mut().for_each(|model| model.leaving = false);
        let others = self.models.values().any(|model| model.resident.is_some());
        let Some(model) = self.models.get_mut(&loading.model) else { return };
        if worked {
            model.appears(Some(loading.runner), now);
            if let Some(resident) = &mut model.resident {
                resident.among_others = others;
            }
            model.rates.loaded(
                now.saturating_duration_since(loading.since),
                model.size,
                &mut self.disk,
            );
        }
    }

    pub(super) fn view(&self, id: usize) -> InstanceView {
        InstanceView {
            id,
            up: self.up,
            drained: self.drained,
            breaker: self.breaker.state(),
            slots: self.slots,
            in_flight: self.in_flight,
            loading: self.loading.as_ref().map(|loading| loading.model.clone()),
        }
    }

    /// Whether it has not been taken out, for all or for a model.
    pub(super) fn is_trusted(&self) -> bool {
        let closed = |breaker: &Breaker| breaker.state() == State::Closed;
        closed(&self.breaker) && self.models.values().all(|model| closed(&model.breaker))
    }
}
