//! Where: the instance with the smallest time to the first token, in seconds.
//!
//! That time is made of loading the model, if it is not in memory as it is wanted, and of reading
//! what of the prompt is not cached. Where every slot is taken the wait for one is added; if that
//! is still the quickest, the request waits for it, but never longer than the wait was meant to
//! save: so no guess costs more than twice what knowing would have.

use std::time::Instant;

use super::station::Station;
use super::wish::Wish;
use crate::model::ModelKey;

/// Times that differ by less, absolutely or of the smaller one, are alike: then it is one that has
/// the model, then the one with the fewest requests for its slots, then the one that has rested
/// longest.
const ALIKE: f64 = 0.025;
const ALIKE_OF: f64 = 0.1;
/// Waiting has to promise this much, seconds, or the seat at hand is taken.
const WORTH_WAITING: f64 = 0.1;

/// A request that has its model unloaded waits so long, seconds, for an instance that has it in
/// memory before it goes where it has nothing to do.
const NOTHING_TO_UNLOAD: f64 = 10.0;

/// An instance that could serve a request, and what that would take, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Its number.
    pub instance: usize,
    /// Until a slot is free.
    pub wait: f64,
    /// Until the model is in memory.
    pub load: f64,
    /// Until the prompt is read.
    pub prefill: f64,
    /// Tokens of the prompt that are likely cached there.
    pub cached: u64,
    /// Whether there is a slot now.
    pub free: bool,
    /// Whether the model would be loaded for it.
    pub cold: bool,
    /// Whether another model would have to make room.
    pub evicts: bool,
}

impl Candidate {
    /// To the first token.
    pub fn seconds(&self) -> f64 {
        self.wait + self.load + self.prefill
    }
}

/// What is decided about a request.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    /// Here, and now.
    Seat {
        /// The instance.
        instance: usize,
        /// Tokens of the prompt that are taken for cached.
        cached: u64,
        /// Among which it was chosen.
        candidates: Vec<Candidate>,
    },
    /// There is a seat, and a better one soon.
    Wait {
        /// Whether that seat, wherever it is, costs another model its place.
        evicts: bool,
    },
    /// There is no seat for any request of this kind.
    Nowhere,
}

/// How a request is looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    /// How many of the same line go before it.
    pub(super) ahead: usize,
    /// Whether it may wait for a better seat than one that is free.
    pub(super) patient: bool,
    /// When it first did.
    pub(super) declined: Option<Instant>,
    /// The moment.
    pub(super) now: Instant,
}

/// The instance as a candidate for a request; none if it would have to load the model and may not,
/// or if the model would have to be loaded and there is no slot.
pub(super) fn candidate(
    (instance, station): (usize, &Station),
    wish: &Wish,
    look: Look,
    may_load: impl Fn(&[&ModelKey]) -> bool,
) -> Option<Candidate> {
    let free = station.has_room_for(wish);
    if !free && !station.will_have_room_for(wish) {
        return None;
    }
    let wait = if free { 0.0 } else { station.wait_seconds(wish.model.as_ref(), look.ahead) };
    let (load, prefill, cold, evicts) = (0.0, 0.0, false, false);
    let mut found = Candidate { instance, wait, load, prefill, cached: 0, free, cold, evicts };
    let (Some(key), Some(model)) = (&wish.model, station.model(wish.model.as_ref())) else {
        return Some(found);
    };
    if wish.unloads {
        found.load = if station.holds(key) { 0.0 } else { NOTHING_TO_UNLOAD };
        return Some(found);
    }
    if station.is_warm(key, wish.runner) {
        found.load = station.load_left(key, look.now);
        found.cached = model.prompts.cached(&wish.prompt).min(wish.prompt.tokens);
    } else {
        let evicted = station.evicted_by(key);
        if !free || !may_load(&evicted) {
            return None;
        }
        found.load = station.load_seconds(key, &evicted, look.now);
        found.cold = true;
        found.evicts = !evicted.is_empty();
    }
    let crowd = 1.0 + f64::from(station.in_flight) / f64::from(station.slots.max(1));
    let unread = wish.prompt.tokens - found.cached;
    found.prefill = model.rates.prefill_seconds(unread, model.size) * crowd;
    Some(found)
}

/// The best of the candidates, or whether to wait for it.
pub(super) fn choose<'s>(
    candidates: Vec<Candidate>,
    station: impl Fn(usize) -> Option<&'s Station>,
    look: Look,
) -> Verdict {
    let quickest = |free: bool| {
        let seconds = candidates.iter().filter(|it| it.free == free).map(Candidate::seconds);
        seconds.min_by(f64::total_cmp)
    };
    let Some(best) = quickest(true) else { return Verdict::Nowhere };
    if look.patient
        && let Some(soon) = quickest(false)
    {
        let waited = look.declined.map(|since| look.now.saturating_duration_since(since));
        let spent = waited.is_some_and(|waited| waited.as_secs_f64() >= best);
        if !spent && soon + WORTH_WAITING < best {
            let evicts = !candidates.iter().any(|it| it.free && !it.evicts);
            return Verdict::Wait { evicts };
        }
    }
    let alike = best + ALIKE.max(best * ALIKE_OF);
    let chosen = candidates
        .iter()
        .filter(|it| it.free && it.seconds() <= alike)
        .filter_map(|it| Some((it, station(it.instance)?)))
        .min_by(|(one, a), (two, b)| {
            // a/b < c/d without fractions
            let load = (u64::from(a.in_flight) * u64::from(b.slots))
                .cmp(&(u64::from(b.in_flight) * u64::from(a.slots)));
            one.cold.cmp(&two.cold).then(load).then(a.last_seated.cmp(&b.last_seated))
        });
    match chosen {
        Some((it, _)) => Verdict::Seat { instance: it.instance, cached: it.cached, candidates },
        None => Verdict::Nowhere,
    }
}
