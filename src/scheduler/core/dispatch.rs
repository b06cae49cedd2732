//! Giving seats away: the first in fair order who can use one.

use std::sync::Arc;
use std::time::Instant;

use super::{Claim, Core, Held, OUTPUT_WEIGHT};
use crate::model::ModelKey;
use crate::scheduler::permits::Holder;
use crate::scheduler::placement::{self, Candidate, Look, Verdict};
use crate::scheduler::queue::Head;
use crate::scheduler::station::{Loading, Model, Station};
use crate::scheduler::wish::{Class, Wish};

/// How many in a line may wait for a better seat while there is one; if there are more, the first
/// has to take it, so that no slot is idle while many could use it. Requests are counted if that
/// costs nobody anything, and users if another model would have to make room.
pub(super) const PATIENT: usize = 8;
/// A model stays in memory for at least so many times as long as it takes to load the one that
/// would take its place, while there are requests for it; seconds at least and at most.
const RESIDENCY: f64 = 4.0;
const RESIDENCY_BOUNDS: (f64, f64) = (5.0, 60.0);
/// Silence is no slowness when it lasts this many times as long as was expected, and this many
/// seconds at least.
const SILENCE: f64 = 4.0;
const SILENCE_AT_LEAST: f64 = 30.0;

/// Where a decision stands in one line.
#[derive(Debug)]
pub(super) struct Cursor {
    class: Arc<Class>,
    head: Head,
    first: Head,
    passed: usize,
    /// How many have let a seat pass.
    waits: usize,
    patient: bool,
}

impl Cursor {
    fn new(class: Arc<Class>, head: Head) -> Self {
        Self { class, head, first: head, passed: 0, waits: 0, patient: true }
    }
}

/// A request that goes next, and where to.
struct Next {
    number: u64,
    instance: usize,
    cached: u64,
    candidates: Vec<Candidate>,
}

impl Core {
    /// Gives every seat that is free to the first who can use it.
    pub(super) fn dispatch(&mut self, now: Instant) {
        while !self.queue.is_empty() && self.stations.values().any(Station::has_room) {
            let Some(next) = self.next(now) else { return };
            let Some(waiting) = self.queue.remove(next.number) else { return };
            let Some(claim) = self.seat(&waiting.wish, next.instance, next.cached, now) else {
                return;
            };
            self.given.push((next.number, Claim { candidates: next.candidates, ..claim }));
        }
    }

    /// The first in fair order, over all lines, who can be seated.
    fn next(&mut self, now: Instant) -> Option<Next> {
        // kept from decision to decision: their memory is asked for once
        let mut cursors = std::mem::take(&mut self.cursors);
        let lines = self.queue.lines();
        cursors.extend(lines.map(|(class, head)| Cursor::new(Arc::clone(class), head)));
        let next = self.first_able(&mut cursors, now);
        cursors.clear();
        self.cursors = cursors;
        next
    }

    fn first_able(&mut self, cursors: &mut Vec<Cursor>, now: Instant) -> Option<Next> {
        loop {
            let least = cursors.iter().enumerate();
            let (at, _) = least.min_by_key(|(_, it)| (it.head.stamp, it.head.user))?;
            let cursor = cursors.get_mut(at)?;
            let stays = match self.consider(cursor, now) {
                Considered::Seat(next) => return Some(next),
                Considered::Passed => self.advance(cursor),
                Considered::Waits { evicts } => self.pass(cursor, evicts),
                Considered::Again => true,
                Considered::Nobody => false,
            };
            if !stays {
                cursors.swap_remove(at);
            }
        }
    }

    fn consider(&mut self, cursor: &Cursor, now: Instant) -> Considered {
        let (class, head) = (&*cursor.class, cursor.head);
        // none of whoever was parked since this cursor stood there before
        let Some((number, waiting)) = self.queue.at(class, head) else {
            return Considered::Passed;
        };
        let may = self.may_hold_more(&waiting.wish);
        match may {
            // whether it would be of use is seen first
            Ok(()) | Err(Holds::NoPermit(_)) => {}
            Err(Holds::All) => {
                self.queue.park(class, head);
                return Considered::Passed;
            }
            Err(Holds::AllOf(key)) => return self.park_key(class, head, key),
        }
        let look =
            Look { ahead: cursor.passed, patient: cursor.patient, declined: waiting.declined, now };
        match self.judge(&waiting.wish, look) {
            Verdict::Seat { instance, cached, candidates } => match may {
                Err(Holds::NoPermit(holder)) => {
                    let limit = waiting.wish.limit_of(holder);
                    self.permits.lack(holder, limit, now);
                    if let Some(key) = holder.key {
                        return self.park_key(class, head, key);
                    }
                    self.queue.park(class, head);
                    Considered::Passed
                }
                _ => Considered::Seat(Next { number, instance, cached, candidates }),
            },
            Verdict::Wait { evicts } => {
                self.queue.declined(number, now);
                Considered::Waits { evicts }
            }
            Verdict::Nowhere => Considered::Nobody,
        }
    }

    /// Takes a key's requests out of a line; its user may have others there.
    fn park_key(&mut self, class: &Class, head: Head, key: i64) -> Considered {
        let others = self.queue.park_key(class, head, key);
        if others { Considered::Again } else { Considered::Passed }
    }

    /// On to the next in the line; false at its end.
    fn advance(&self, cursor: &mut Cursor) -> bool {
        let Some(behind) = self.queue.behind(&cursor.class, cursor.head) else { return false };
        cursor.head = behind;
        cursor.passed += 1;
        true
    }

    /// Lets a seat pass; where too many do, the first of them has to take it.
    fn pass(&self, cursor: &mut Cursor, evicts: bool) -> bool {
        let requests = || self.queue.len_of_user(&cursor.class, cursor.head.user);
        cursor.waits += if evicts { 1 } else { requests() };
        if !cursor.patient || cursor.waits <= PATIENT {
            return self.advance(cursor);
        }
        (cursor.patient, cursor.head, cursor.passed) = (false, cursor.first, 0);
        true
    }

    /// What there is for this request, if it were its turn.
    pub(super) fn judge(&self, wish: &Wish, look: Look) -> Verdict {
        let able = || self.able(wish);
        if !able().any(|(_, station)| station.has_room_for(wish)) {
            return Verdict::Nowhere;
        }
        let candidates = able()
            .filter_map(|(id, station)| {
                placement::candidate((id, station), wish, look, |evicted| {
                    self.may_load(id, wish, evicted, look.now)
                })
            })
            .collect();
        placement::choose(candidates, |id| self.stations.get(&id), look)
    }

    /// Whether an instance may load the model of this wish now: never while its card is loading
    /// another, and not before those were served for whose model there would be no room.
    pub(super) fn may_load(
        &self,
        id: usize,
        wish: &Wish,
        evicted: &[&ModelKey],
        now: Instant,
    ) -> bool {
        let Some(station) = self.stations.get(&id) else { return false };
        let same_card = |other: &Station| station.gpu.is_some() && other.gpu == station.gpu;
        let loads = |other: &Station| other.loading.is_some();
        if loads(station) || self.stations.values().any(|it| same_card(it) && loads(it)) {
            return false;
        }
        let load = station
            .model(wish.model.as_ref())
            .map_or(0.0, |model| model.rates.load_seconds(model.size, &station.disk));
        let (least, most) = RESIDENCY_BOUNDS;
        let residency = (load * RESIDENCY).clamp(least, most);
        !evicted.iter().any(|key| {
            let resident = station.model(Some(key)).and_then(|model| model.resident.as_ref());
            let young = resident.is_some_and(|resident| {
                now.saturating_duration_since(resident.since).as_secs_f64() < residency
            });
            young && self.is_wanted_at(id, station, key)
        })
    }

    /// Whether somebody waits whom this instance could serve now with this model as it is.
    fn is_wanted_at(&self, id: usize, station: &Station, key: &ModelKey) -> bool {
        let resident = station.model(Some(key)).and_then(|model| model.resident.as_ref());
        // as it is: with these options, if it is known with which
        let lines = self.queue.lines_of(key, resident.and_then(|resident| resident.runner));
        lines.filter(|(class, _)| !class.unloads && !class.excluded.contains(&id)).any(
            |(class, head)| {
                station.is_warm(key, class.runner)
                    && self.queue.at(class, head).is_some_and(|(_, waiting)| {
                        station.has_room_for(&waiting.wish)
                            && self.may_hold_more(&waiting.wish).is_ok()
                    })
            },
        )
    }

    /// Whether its user, and its key, may hold one more seat.
    pub(super) fn may_hold_more(&self, wish: &Wish) -> Result<(), Holds> {
        let (of_user, through_key) = self.queue.held_by(wish.payer);
        let (limited, user) = (wish.limited_key(), wish.payer.user);
        let (everything, through) = (Holder { user, key: None }, Holder { user, key: limited });
        match limited {
            _ if of_user >= wish.concurrency => Err(Holds::All),
            Some(key) if through_key >= wish.key_concurrency => Err(Holds::AllOf(key)),
            // first: the user's own are not asked for where the key has none
            Some(_) if !self.permits.allow(through, through_key) => Err(Holds::NoPermit(through)),
            _ if !self.permits.allow(everything, of_user) => Err(Holds::NoPermit(everything)),
            _ => Ok(()),
        }
    }

    /// A seat for somebody who has just come, if nobody waits.
    pub(super) fn try_seat(&mut self, wish: &Wish, now: Instant) -> Option<Claim> {
        self.may_hold_more(wish).ok()?;
        let look = Look { ahead: 0, patient: true, declined: None, now };
        let Verdict::Seat { instance, cached, candidates } = self.judge(wish, look) else {
            return None;
        };
        let claim = self.seat(wish, instance, cached, now)?;
        Some(Claim { candidates, ..claim })
    }

    fn seat(&mut self, wish: &Wish, instance: usize, cached: u64, now: Instant) -> Option<Claim> {
        let station = self.stations.get_mut(&instance)?;
        self.seatings += 1;
        let id = self.seatings;
        station.in_flight += 1;
        station.last_seated = id;
        let mut epochs = (station.breaker.enter(), Default::default());
        let (mut cold, mut output, mut budget) = (false, 0.0, 0.0);
        if let Some(key) = &wish.model {
            cold = !wish.unloads && !station.is_warm(key, wish.runner);
            if cold {
                let (model, runner) = (key.clone(), wish.runner);
                let loading = Loading { claim: id, model, runner, since: now, detached: false };
                station.begin_load(loading);
            }
            budget = station.load_left(key, now);
            let slots = station.slots;
            if let Some(model) = station.models.get_mut(key) {
                epochs.1 = model.enter(now);
                let slots = model.slots.unwrap_or(slots);
                model.prompts.remember(&wish.prompt, slots);
                output = expected_output(model, wish);
                budget += model.rates.prefill_seconds(wish.prompt.tokens, model.size)
                    + model.rates.held_seconds(model.size);
            }
        }
        let prompt = wish.prompt.tokens;
        let charged = prompt as f64 + OUTPUT_WEIGHT * output;
        self.queue.seat(wish.payer, charged, now);
        self.count_permits(wish.payer, now);
        let patient = (budget * SILENCE).max(SILENCE_AT_LEAST);
        let budget = if wish.streams { patient } else { f64::INFINITY };
        let model = wish.model.clone();
        let (answered, hung) = (false, false);
        let held = Held { instance, model: model.clone(), since: now, answered, hung, budget };
        self.seats.insert(id, held);
        Some(Claim {
            id,
            instance,
            model,
            cold,
            cached,
            candidates: Vec::new(),
            runner: wish.runner,
            unloads: wish.unloads,
            payer: wish.payer,
            prompt,
            charged,
            since: now,
            epochs,
        })
    }

    /// The stations that are configured.
    pub(super) fn active(&self) -> impl Iterator<Item = (usize, &Station)> + Clone {
        self.stations.iter().filter(|(_, station)| !station.retired).map(|(id, s)| (*id, s))
    }
}

enum Considered {
    Seat(Next),
    /// This one not; perhaps the one behind.
    Passed,
    /// This one waits for a better seat; perhaps the one behind does not.
    Waits {
        evicts: bool,
    },
    /// This one not; perhaps another one of the same user.
    Again,
    /// Nobody in this line.
    Nobody,
}

/// Somebody holds as many seats as they may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holds {
    /// A user does.
    All,
    /// A key does, whatever its user may.
    AllOf(i64),
    /// Not here: but a seat more has to be granted by other gateways.
    NoPermit(Holder),
}

fn expected_output(model: &Model, wish: &Wish) -> f64 {
    let most = wish.most_output.map_or(f64::MAX, |most| most as f64);
    model.rates.output().min(most)
}
