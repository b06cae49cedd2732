//! The decisions: pure, deterministic, without a clock of its own.
//!
//! Every change (somebody came, left, was answered, was done; an instance was looked at) gives
//! away at once all the seats that it frees; who got one is in [`Core::given`], what deserves a
//! word in [`Core::notices`].

mod changes;
mod dispatch;
mod sharing;
mod views;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use self::dispatch::Cursor;
use super::Outcome;
use super::breaker::Epoch;
use super::learn::Report;
use super::permits::{Holder, Permits};
use super::placement::Candidate;
use super::queue::{Queue, Waiting};
use super::station::Station;
use super::wish::{Full, Payer, Refused, Wish};
use crate::config::Balance;
use crate::model::ModelKey;
use crate::payload::Runner;

pub use views::{InstanceView, LineView, ModelView, Outlook, Reason, WaiterView};

/// A token that is written takes as long as some that are read; this many.
const OUTPUT_WEIGHT: f64 = 2.0;
/// Time lost inside an instance that is no rounding, in all and of the whole.
const HIDDEN: Duration = Duration::from_millis(250);
const HIDDEN_OF: u32 = 10;
/// Answers with such a loss before it is said.
const HIDDEN_TIMES: u32 = 3;

/// The queue of the whole box and what is known of every instance.
#[derive(Debug)]
pub struct Core {
    stations: BTreeMap<usize, Station>,
    queue: Queue,
    permits: Permits,
    seats: BTreeMap<u64, Held>,
    next_number: u64,
    seatings: u64,
    capacity: usize,
    capacity_per_user: usize,
    /// Mean time that a seat was held lately.
    service: Duration,
    /// When an answer last began, anywhere.
    progress: Option<Instant>,
    given: Vec<(u64, Claim)>,
    notices: Vec<Notice>,
    /// Memory for decisions; empty between them.
    cursors: Vec<Cursor>,
}

/// A place in the queue, or a seat at once.
#[derive(Debug)]
pub enum Admitted {
    /// A seat, and the number of its request.
    Seated(u64, Claim),
    /// The number in the queue.
    Waiting(u64),
}

/// What a seat holds, and has to give back.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Its own number.
    pub id: u64,
    /// The instance.
    pub instance: usize,
    /// The model.
    pub model: Option<ModelKey>,
    /// Whether the instance has to load the model first.
    pub cold: bool,
    /// Tokens of the prompt that are taken for cached.
    pub cached: u64,
    /// The instances among which this one was chosen.
    pub candidates: Vec<Candidate>,
    runner: Runner,
    unloads: bool,
    payer: Payer,
    prompt: u64,
    charged: f64,
    since: Instant,
    epochs: (Epoch, Epoch),
}

/// How a request came to its end.
#[derive(Clone, Copy, Debug)]
pub struct Ending {
    /// Whose fault, if any.
    pub outcome: Outcome,
    /// What the answer said of the work behind it.
    pub report: Report,
    /// Pieces of the answer that were seen: about as many tokens, if it did not say.
    pub pieces: u64,
}

/// Something that somebody should hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The instance queues requests itself: it works on fewer at once than it is given.
    SlotsTooHigh {
        /// The instance.
        instance: usize,
        /// How long its latest request waited there.
        lost: Duration,
    },
    /// A model does nothing on an instance while others make progress; it is left alone.
    Hung {
        /// The instance.
        instance: usize,
        /// The model.
        model: ModelKey,
        /// For how long nothing came.
        silent: Duration,
    },
    /// Nobody waits any more for the load that began with this claim.
    Abandoned(u64),
}

/// A seat that is taken.
#[derive(Debug)]
struct Held {
    instance: usize,
    model: Option<ModelKey>,
    since: Instant,
    answered: bool,
    /// It was silent for too long.
    hung: bool,
    /// Seconds after which silence is not slowness; without end if the answer comes as a whole.
    budget: f64,
}

impl Core {
    /// A core without instances.
    pub fn new(balance: &Balance) -> Self {
        Self {
            stations: BTreeMap::new(),
            queue: Queue::new(),
            permits: Permits::default(),
            seats: BTreeMap::new(),
            next_number: 0,
            seatings: 0,
            capacity: balance.queue,
            capacity_per_user: balance.queue_per_user,
            service: Duration::from_secs(1),
            progress: None,
            given: Vec::new(),
            notices: Vec::new(),
            cursors: Vec::new(),
        }
    }

    /// Seats that were given to requests that waited, since this was asked last.
    pub fn given(&mut self) -> Vec<(u64, Claim)> {
        std::mem::take(&mut self.given)
    }

    /// What deserves a word, since this was asked last.
    pub fn notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    /// A seat if one is free, else a place in the queue, else the reason why not.
    ///
    /// # Errors
    /// There is nowhere to go, no room to wait, or no time to.
    pub fn arrive(&mut self, wish: Wish, now: Instant) -> Result<Admitted, Refused> {
        self.find(wish.model.as_ref(), wish.surface, &wish.excluded)?;
        let number = wish.number.unwrap_or(self.next_number);
        self.next_number = self.next_number.max(number + 1);
        if self.queue.is_empty()
            && let Some(claim) = self.try_seat(&wish, now)
        {
            return Ok(Admitted::Seated(number, claim));
        }
        // a request that comes back from a failed instance keeps its place, and waits if it must
        let returns = wish.number.is_some();
        let (bounds, deadline) = (wish.bounds(), wish.deadline);
        let room = self.room_for(wish.payer.user);
        self.queue.push(number, Waiting { wish, since: now, declined: None }, now);
        self.dispatch(now);
        if let Some(at) = self.given.iter().position(|(other, _)| *other == number) {
            let (_, claim) = self.given.swap_remove(at);
            return Ok(Admitted::Seated(number, claim));
        }
        // what other gateways are asked for comes within a moment, or is refused by them
        let returns = returns || self.is_asked_for(&bounds);
        let late = || deadline.is_some_and(|deadline| self.is_late(number, deadline, now));
        let refused = match room {
            _ if returns => Ok(()),
            Err(full) => Err(full.into()),
            Ok(()) if late() => Err(Refused::TooLate),
            Ok(()) => Ok(()),
        };
        if let Err(refused) = refused {
            self.queue.remove(number);
            return Err(refused);
        }
        Ok(Admitted::Waiting(number))
    }

    fn is_late(&self, number: u64, deadline: Duration, now: Instant) -> bool {
        let deadline = deadline.as_secs_f64();
        // SDKs tell of minutes as a rule: then it need not be found out how many go before it
        let behind_all = self.outlook_behind(number, self.queue.len(), now);
        if behind_all.is_some_and(|seconds| seconds <= deadline) {
            return false;
        }
        self.outlook(number, now).is_some_and(|outlook| outlook.seconds > deadline)
    }

    fn room_for(&self, user: i64) -> Result<(), Full> {
        if self.queue.len() >= self.capacity {
            return Err(Full::Box);
        }
        let waiting = self.queue.waiting_of(Holder { user, key: None });
        if waiting >= self.capacity_per_user { Err(Full::User) } else { Ok(()) }
    }

    /// Leaves the queue; false if a seat was given already.
    pub fn leave(&mut self, number: u64, now: Instant) -> bool {
        let removed = self.queue.remove(number).is_some();
        if removed {
            self.abandon_loads();
            // a model may have been kept for this one
            self.dispatch(now);
        }
        removed
    }

    /// The instance began to answer: it has the model in memory, and passes a trial.
    pub fn answered(&mut self, claim: &Claim, now: Instant) {
        self.praise(claim, now);
        let Some(station) = self.stations.get_mut(&claim.instance) else { return };
        let loading = station.loading.as_ref().is_some_and(|it| {
            !claim.unloads
                && Some(&it.model) == claim.model.as_ref()
                && it.runner == claim.runner
                && it.since <= claim.since
        });
        if loading {
            station.end_load(true, now);
        }
        // a trial may be over, a card free for the next load
        self.dispatch(now);
    }

    /// The instance refused the request: it passes a trial, and its model may still be on its way.
    pub fn refused(&mut self, claim: &Claim, now: Instant) {
        self.praise(claim, now);
        self.dispatch(now);
    }

    fn praise(&mut self, claim: &Claim, now: Instant) {
        self.progress = Some(now);
        if let Some(held) = self.seats.get_mut(&claim.id) {
            held.answered = true;
        }
        let Some(station) = self.stations.get_mut(&claim.instance) else { return };
        station.breaker.answered(claim.epochs.0);
        if let Some(model) = claim.model.as_ref().and_then(|key| station.models.get_mut(key)) {
            model.breaker.answered(claim.epochs.1);
        }
    }

    /// A seat is free again: what was charged is put right, and what there is to learn is learnt.
    pub fn release(&mut self, claim: &Claim, ending: &Ending, now: Instant) {
        let heard = self.seats.get(&claim.id).is_some_and(|held| held.answered);
        match ending.outcome {
            // its first word has counted already
            _ if heard => {}
            Outcome::Answered => self.answered(claim, now),
            Outcome::Refused => self.refused(claim, now),
            Outcome::Failed | Outcome::Neutral => {}
        }
        self.seats.remove(&claim.id);
        let held = now.saturating_duration_since(claim.since);
        self.study(claim, ending, held);
        let tokens = self.cost(claim, ending, held) - claim.charged;
        self.queue.settle(claim.payer, tokens, claim.since);
        self.count_permits(claim.payer, now);
        self.unseat(claim, ending.outcome, now);
        self.abandon_loads();
        self.dispatch(now);
    }

    /// What a request cost in the end, in tokens.
    fn cost(&self, claim: &Claim, ending: &Ending, held: Duration) -> f64 {
        let Report { prompt, completion, .. } = ending.report;
        if let (Some(prompt), None) = (prompt, completion) {
            return prompt as f64 + OUTPUT_WEIGHT * ending.pieces as f64;
        }
        match (completion, ending.outcome) {
            (Some(output), _) => {
                prompt.unwrap_or(claim.prompt) as f64 + OUTPUT_WEIGHT * output as f64
            }
            // nothing was said: what was seen, and of the prompt what can have been read
            (None, Outcome::Neutral) | (None, Outcome::Failed) if ending.pieces == 0 => {
                let station = self.stations.get(&claim.instance);
                let model = station.and_then(|it| it.model(claim.model.as_ref()));
                let rate = model.map_or(0.0, |model| model.rates.prefill_rate(model.size));
                let failed = ending.outcome == Outcome::Failed;
                if failed { 0.0 } else { (held.as_secs_f64() * rate).min(claim.prompt as f64) }
            }
            (None, _) if ending.pieces > 0 => {
                claim.prompt as f64 + OUTPUT_WEIGHT * ending.pieces as f64
            }
            (None, _) => claim.charged,
        }
    }

    fn study(&mut self, claim: &Claim, ending: &Ending, held: Duration) {
        let Some(station) = self.stations.get_mut(&claim.instance) else { return };
        if ending.outcome == Outcome::Answered {
            self.service = (self.service * 7 + held) / 8;
            if let Some(model) = claim.model.as_ref().and_then(|key| station.models.get_mut(key)) {
                model.rates.learn(&ending.report, claim.cached, model.size);
                if !claim.cold && !claim.unloads {
                    model.rates.held(held);
                }
            }
        }
        let lost = ending.report.hidden().unwrap_or_default();
        let told = ending.report.total.unwrap_or_default();
        // a load that another request began makes this one wait in no part of its own
        if !claim.cold && lost > HIDDEN && lost * HIDDEN_OF > told {
            station.hidden += 1;
            if station.hidden >= HIDDEN_TIMES && !station.hidden_told {
                station.hidden_told = true;
                self.notices.push(Notice::SlotsTooHigh { instance: claim.instance, lost });
            }
        }
    }

    fn unseat(&mut self, claim: &Claim, outcome: Outcome, now: Instant) {
        let failed = match outcome {
            Outcome::Answered | Outcome::Refused => Some(false),
            Outcome::Failed => Some(true),
            Outcome::Neutral => None,
        };
        let Some(station) = self.stations.get_mut(&claim.instance) else { return };
        station.in_flight = station.in_flight.saturating_sub(1);
        station.doubted |= failed == Some(true);
        station.breaker.leave(claim.epochs.0, failed, now);
        if let Some(model) = claim.model.as_ref().and_then(|key| station.models.get_mut(key)) {
            model.in_flight = model.in_flight.saturating_sub(1);
            model.used = Some(now);
            model.breaker.leave(claim.epochs.1, failed, now);
        }
        let began = station.loading.as_ref().filter(|it| it.claim == claim.id && !it.detached);
        if began.is_some() {
            station.end_load(false, now);
        }
        if station.is_gone() {
            self.stations.remove(&claim.instance);
        }
    }
}

#[cfg(test)]
mod tests;
