//! What people and other modules may see.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Core;
use super::dispatch::Holds;
use crate::model::ModelKey;
use crate::scheduler::breaker::State;
use crate::scheduler::permits::Holder;
use crate::scheduler::placement::{Candidate, Look, Verdict, candidate};
use crate::scheduler::queue::{Head, Waiting};
use crate::scheduler::station::Station;
use crate::scheduler::wish::{Class, Nowhere, Surface, Wish};

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
    /// The model that it is loading.
    pub loading: Option<ModelKey>,
}

/// What has been learnt of a model on an instance.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelView {
    /// The model.
    pub model: ModelKey,
    /// Requests for it that the instance works on.
    pub in_flight: u32,
    /// Whether anybody has asked for it.
    pub asked_for: bool,
    /// Whether it is in memory.
    pub resident: bool,
    /// Where its breaker stands.
    pub breaker: State,
    /// Seconds that loading it takes.
    pub load_seconds: f64,
    /// Tokens of a prompt that it reads in a second.
    pub prefill_rate: f64,
    /// Tokens that it writes in a second.
    pub decode_rate: f64,
}

/// Requests of one kind that wait.
#[derive(Clone, Debug, PartialEq)]
pub struct LineView {
    /// The model.
    pub model: Option<ModelKey>,
    /// How many.
    pub waiting: usize,
    /// For how long the oldest of them does.
    pub oldest: Duration,
    /// The instances that could serve the next of them, with their seconds.
    pub candidates: Vec<Candidate>,
}

/// A request that waits.
#[derive(Clone, Debug, PartialEq)]
pub struct WaiterView {
    /// Its number in the queue.
    pub number: u64,
    /// Whose it is.
    pub user: i64,
    /// The model.
    pub model: Option<ModelKey>,
    /// For how long it has waited.
    pub waited: Duration,
    /// About how many go before it.
    pub ahead: usize,
    /// About how many seconds until its first token.
    pub seconds: f64,
    /// Why it waits.
    pub reason: Reason,
}

/// Why a request waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Every slot that could serve it is taken.
    NoSlot,
    /// Its user holds as many seats as they may.
    UserHoldsAll,
    /// Its key does.
    KeyHoldsAll,
    /// There is a free slot, and a better one soon.
    BetterSoon,
    /// Its model would have to be loaded, and that must not be now: another load is under way, or
    /// would push out a model that others wait for.
    NoLoadNow,
    /// There is a seat for it once it is its turn.
    OthersFirst,
    /// No instance that has its model is up.
    NoInstance,
}

impl Reason {
    /// One word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::NoSlot => "no_slot",
            Self::UserHoldsAll => "user_limit",
            Self::KeyHoldsAll => "key_limit",
            Self::BetterSoon => "better_soon",
            Self::NoLoadNow => "no_load_now",
            Self::OthersFirst => "others_first",
            Self::NoInstance => "no_instance",
        }
    }
}

/// What a request in the queue may expect.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outlook {
    /// About how many go before it.
    pub ahead: usize,
    /// About how many seconds until its first token.
    pub seconds: f64,
}

impl Core {
    /// Whether an instance with this number is configured, or still has somebody seated.
    pub fn knows(&self, instance: usize) -> bool {
        self.stations.contains_key(&instance)
    }

    /// How many may wait.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The counters of every instance that is configured, by number.
    pub fn views(&self) -> Vec<InstanceView> {
        self.active().map(|(id, station)| station.view(id)).collect()
    }

    /// What has been learnt of the models of an instance, by name.
    pub fn models(&self, instance: usize) -> Vec<ModelView> {
        let Some(station) = self.stations.get(&instance) else { return Vec::new() };
        let mut views: Vec<_> =
            station.models.iter().map(|(key, model)| model.view(key, station)).collect();
        views.sort_unstable_by(|a, b| a.model.cmp(&b.model));
        views
    }

    /// Seats that are taken, those of retired instances included.
    pub fn taken(&self) -> u32 {
        self.stations.values().map(|station| station.in_flight).sum()
    }

    /// Whether an instance has been taken out neither for all nor for a model.
    pub fn is_trusted(&self, instance: usize) -> bool {
        self.stations.get(&instance).is_some_and(Station::is_trusted)
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// How long somebody who came now would wait, from the seats and the time that they are held.
    pub fn expected_wait(&self) -> Duration {
        let slots: u32 = self.active().filter(|(_, s)| s.serves()).map(|(_, s)| s.slots).sum();
        let ahead = u32::try_from(self.queue.len()).unwrap_or(u32::MAX).saturating_add(1);
        self.service.saturating_mul(ahead) / slots.max(1)
    }

    /// What a request that waits may expect; none if it does not wait.
    pub fn outlook(&self, number: u64, now: Instant) -> Option<Outlook> {
        let ahead = self.queue.ahead_of(number)?;
        Some(Outlook { ahead, seconds: self.outlook_behind(number, ahead, now)? })
    }

    /// Seconds until its first token if so many go before it.
    pub(super) fn outlook_behind(&self, number: u64, ahead: usize, now: Instant) -> Option<f64> {
        let waiting = self.queue.get(number)?;
        let seconds = self.places(&waiting.wish, ahead, now).map(|it| it.seconds());
        // nobody is warm and nobody is free: as long as it takes on the whole
        let on_the_whole = || self.expected_wait().as_secs_f64();
        Some(seconds.min_by(f64::total_cmp).unwrap_or_else(on_the_whole))
    }

    /// The instances that could serve this, now or later.
    fn places<'c>(
        &'c self,
        wish: &'c Wish,
        ahead: usize,
        now: Instant,
    ) -> impl Iterator<Item = Candidate> + 'c {
        let look = Look { ahead, patient: true, declined: None, now };
        self.able(wish).filter_map(move |it| candidate(it, wish, look, |_| true))
    }

    /// The instances that are up and have what this needs, whether or not there is a slot.
    pub(super) fn able<'c>(
        &'c self,
        wish: &'c Wish,
    ) -> impl Iterator<Item = (usize, &'c Station)> + Clone {
        self.active().filter(|(id, it)| it.suits(wish) && !wish.excluded.contains(id))
    }

    /// The queue, line by line.
    pub fn lines(&self, now: Instant) -> Vec<LineView> {
        let line = |(class, head): (&Arc<Class>, Head)| {
            let (_, waiting) = self.queue.at(class, head)?;
            let oldest = self.queue.line(class).map(|(_, it)| it.since).min()?;
            Some(LineView {
                model: class.model.clone(),
                waiting: self.queue.len_of(class),
                oldest: now.saturating_duration_since(oldest),
                candidates: self.places(&waiting.wish, 0, now).collect(),
            })
        };
        self.queue.lines().filter_map(line).collect()
    }

    /// The `most` who have waited for longest, and why they do, the first who came first.
    pub fn waiters(&self, most: usize, now: Instant) -> Vec<WaiterView> {
        let mut all: Vec<_> =
            self.queue.everybody().map(|(number, it)| (it.since, number, it)).collect();
        all.sort_unstable_by_key(|(since, number, _)| (*since, *number));
        let view = |(since, number, waiting): (Instant, u64, &Waiting)| {
            let Outlook { ahead, seconds } = self.outlook(number, now)?;
            Some(WaiterView {
                number,
                user: waiting.wish.payer.user,
                model: waiting.wish.model.clone(),
                waited: now.saturating_duration_since(since),
                ahead,
                seconds,
                reason: self.reason(waiting, ahead, now),
            })
        };
        all.into_iter().take(most).filter_map(view).collect()
    }

    fn reason(&self, waiting: &Waiting, ahead: usize, now: Instant) -> Reason {
        let wish = &waiting.wish;
        match self.may_hold_more(wish) {
            Err(Holds::All | Holds::NoPermit(Holder { key: None, .. })) => {
                return Reason::UserHoldsAll;
            }
            Err(Holds::AllOf(_) | Holds::NoPermit(_)) => return Reason::KeyHoldsAll,
            Ok(()) => {}
        }
        if self.able(wish).next().is_none() {
            return Reason::NoInstance;
        }
        if !self.able(wish).any(|(_, station)| station.has_room_for(wish)) {
            return Reason::NoSlot;
        }
        match self.judge(wish, Look { ahead, patient: true, declined: waiting.declined, now }) {
            Verdict::Wait { .. } => Reason::BetterSoon,
            Verdict::Seat { .. } => Reason::OthersFirst,
            Verdict::Nowhere => Reason::NoLoadNow,
        }
    }

    /// The least busy instance that is up and has the model, whether or not it has a free slot.
    ///
    /// # Errors
    /// None has the model, or none that has it is up.
    pub fn find(
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
}
