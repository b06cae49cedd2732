//! One model on one instance.

use std::time::Instant;

use super::Station;
use crate::model::ModelKey;
use crate::payload::Runner;
use crate::scheduler::breaker::{Breaker, Epoch};
use crate::scheduler::core::ModelView;
use crate::scheduler::learn::Rates;
use crate::scheduler::prefix::Memory;

/// A model of which nobody said how large it is, bytes.
const USUAL_SIZE: u64 = 5_000_000_000;

#[derive(Debug, Default)]
pub(in crate::scheduler) struct Model {
    /// The instance lists it.
    pub(in crate::scheduler) installed: bool,
    /// Another server answers for it: it is never loaded here.
    pub(in crate::scheduler) remote: bool,
    /// Bytes on disk.
    pub(in crate::scheduler) size: Option<u64>,
    /// Bytes in memory, when it was last there.
    pub(in crate::scheduler) memory: Option<u64>,
    /// Slots of its own.
    pub(in crate::scheduler) slots: Option<u32>,
    pub(in crate::scheduler) in_flight: u32,
    pub(in crate::scheduler) resident: Option<Resident>,
    /// It is making room for another one: what lists say of it is old news.
    pub(in crate::scheduler) leaving: bool,
    pub(in crate::scheduler) used: Option<Instant>,
    pub(in crate::scheduler) rates: Rates,
    pub(in crate::scheduler) prompts: Memory,
    pub(in crate::scheduler) breaker: Breaker,
}

/// A model in memory.
#[derive(Debug)]
pub(in crate::scheduler) struct Resident {
    /// With which options; unknown if it was not us who had it loaded.
    pub(in crate::scheduler) runner: Option<Runner>,
    pub(in crate::scheduler) since: Instant,
    /// A list named it since.
    pub(in crate::scheduler) seen: bool,
    /// It came beside another model, and no list has told since whether that one stayed.
    pub(in crate::scheduler) among_others: bool,
}

impl Model {
    pub(in crate::scheduler) fn is_resident(&self, runner: Runner) -> bool {
        let same = |it: &Resident| it.runner.is_none_or(|known| known == runner);
        self.resident.as_ref().is_some_and(same)
    }

    pub(in crate::scheduler) fn has_room(&self) -> bool {
        self.slots.is_none_or(|slots| self.in_flight < slots) && self.breaker.admits(self.in_flight)
    }

    pub(in crate::scheduler) fn bytes(&self) -> u64 {
        self.memory.or(self.size).unwrap_or(USUAL_SIZE)
    }

    pub(in crate::scheduler) fn appears(&mut self, runner: Option<Runner>, now: Instant) {
        let seen = runner.is_none();
        self.resident = Some(Resident { runner, since: now, seen, among_others: false });
    }

    pub(in crate::scheduler) fn vanishes(&mut self) {
        self.resident = None;
        self.prompts.forget();
    }

    /// A request for it is given to the instance.
    pub(in crate::scheduler) fn enter(&mut self, now: Instant) -> Epoch {
        self.in_flight += 1;
        self.used = Some(now);
        self.breaker.enter()
    }

    pub(in crate::scheduler) fn view(&self, key: &ModelKey, station: &Station) -> ModelView {
        ModelView {
            model: key.clone(),
            in_flight: self.in_flight,
            asked_for: self.used.is_some(),
            resident: self.resident.is_some() || station.is_always_warm(self),
            breaker: self.breaker.state(),
            load_seconds: self.rates.load_seconds(self.size, &station.disk),
            prefill_rate: self.rates.prefill_rate(self.size),
            decode_rate: self.rates.decode_rate(self.size),
        }
    }
}
