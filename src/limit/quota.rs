//! What was used of a limit, in any window that ends now: exactly, or never too little.
//!
//! A [`Meter`] is a log of what was used and when, oldest first. A small limit's log holds every
//! use, to the microsecond; a large one's holds sums over a 1024th of the window, and such a sum
//! counts until the last moment of its time has left the window. So a span of the window's length
//! never sees more than the limit, wherever it begins, in at most 1026 entries.
//!
//! Pure: time is an argument, and never runs backwards for a meter.

use std::collections::VecDeque;
use std::time::Duration;

use crate::config::Rate;

/// Limits up to this are kept use by use.
const EXACT: u64 = 1024;
/// Sums that a window of a larger limit is cut into.
const PARTS: u64 = 1024;
/// When nobody can tell how long the wait is, because answers under way hold what is wanted.
const UNKNOWN_WAIT: u64 = 10_000_000;

/// A moment: microseconds since some beginning that whoever asks has chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub u64);

impl Moment {
    /// The moment that is `age` after the beginning.
    pub fn at(age: Duration) -> Self {
        Self(u64::try_from(age.as_micros()).unwrap_or(u64::MAX))
    }
}

/// What was used of a limit, and what is held for answers under way.
#[derive(Debug, Default)]
pub struct Meter {
    log: VecDeque<Entry>,
    /// The sum of the log.
    used: u64,
    /// Taken, and not settled yet.
    held: u64,
    window: u64,
    grain: u64,
    /// Goes up when the log is cut anew: what was taken before is found no more.
    cut: u32,
    /// The latest moment that was ever told.
    latest: u64,
}

/// What was used in a stretch of time of one grain's length.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Number of the stretch, counted from the beginning.
    stretch: u64,
    amount: u64,
}

/// What was taken, for whoever gives it back or settles it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    amount: u64,
    stretch: u64,
    cut: u32,
}

impl Taken {
    /// How much.
    pub fn amount(&self) -> u64 {
        self.amount
    }
}

/// How a limit stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The limit.
    pub rate: Rate,
    /// What may still be taken now.
    pub remaining: u64,
    /// Until all of it may be taken again, should nothing be taken meanwhile.
    pub reset: Duration,
}

/// A no: the limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exhausted {
    /// How the limit stands.
    pub standing: Standing,
    /// Until what was asked for can be had, should nobody be faster.
    pub wait: Duration,
}

impl Meter {
    /// Uses `amount` now, or none of it. It counts from now on, for a window.
    ///
    /// # Errors
    /// It would be more than the rate allows.
    pub fn take(&mut self, rate: Rate, amount: u64, now: Moment) -> Result<Taken, Exhausted> {
        self.admit(rate, amount, now)?;
        let stretch = self.write(amount);
        Ok(Taken { amount, stretch, cut: self.cut })
    }

    /// Takes back what [`take`](Self::take) gave: it was not used after all.
    pub fn give_back(&mut self, taken: Taken) {
        let found = self.log.binary_search_by_key(&taken.stretch, |entry| entry.stretch);
        // what left the window, or was cut anew since, is no longer there to be taken back
        let (Ok(at), true) = (found, taken.cut == self.cut) else { return };
        let Some(entry) = self.log.get_mut(at) else { return };
        let amount = taken.amount.min(entry.amount);
        entry.amount -= amount;
        self.used -= amount;
        if entry.amount == 0 {
            self.log.remove(at);
        }
    }

    /// Sets `amount` aside until it is known how much is used: it counts for as long as that
    /// takes, however long the window is. Or none of it.
    ///
    /// # Errors
    /// It would be more than the rate allows.
    pub fn hold(&mut self, rate: Rate, amount: u64, now: Moment) -> Result<Taken, Exhausted> {
        self.admit(rate, amount, now)?;
        self.held = self.held.saturating_add(amount);
        Ok(Taken { amount, stretch: 0, cut: self.cut })
    }

    /// Replaces what was held by what was used, now.
    pub fn settle(&mut self, held: Taken, used: u64, now: Moment) {
        self.held = self.held.saturating_sub(held.amount);
        self.advance(now);
        if used > 0 && self.grain > 0 {
            self.write(used);
        }
    }

    /// How the limit stands.
    pub fn standing(&mut self, rate: Rate, now: Moment) -> Standing {
        self.fit(rate);
        self.advance(now);
        let reset = match (self.held, self.log.back()) {
            (0, None) => 0,
            (0, Some(newest)) => self.end_of(*newest).saturating_sub(self.latest),
            _ => self.window,
        };
        Standing {
            rate,
            remaining: rate.amount.get().saturating_sub(self.taken()),
            reset: Duration::from_micros(reset),
        }
    }

    /// Whether there is nothing to remember.
    pub fn is_idle(&mut self, now: Moment) -> bool {
        self.advance(now);
        self.taken() == 0
    }

    fn taken(&self) -> u64 {
        self.used.saturating_add(self.held)
    }

    fn admit(&mut self, rate: Rate, amount: u64, now: Moment) -> Result<(), Exhausted> {
        self.fit(rate);
        self.advance(now);
        let excess = self.taken().saturating_add(amount).saturating_sub(rate.amount.get());
        if excess == 0 {
            return Ok(());
        }
        let wait = Duration::from_micros(self.wait_for(excess));
        Err(Exhausted { standing: self.standing(rate, now), wait })
    }

    /// Microseconds until `excess` has left the window.
    fn wait_for(&self, excess: u64) -> u64 {
        let mut left = excess;
        for entry in &self.log {
            left = left.saturating_sub(entry.amount);
            if left == 0 {
                return self.end_of(*entry).saturating_sub(self.latest);
            }
        }
        self.window.min(UNKNOWN_WAIT)
    }

    /// When an entry leaves the window: a window after the last moment of its stretch.
    fn end_of(&self, entry: Entry) -> u64 {
        last_moment(entry.stretch, self.grain).saturating_add(self.window)
    }

    /// Notes `amount` as used now; returns in which stretch.
    fn write(&mut self, amount: u64) -> u64 {
        let stretch = self.latest / self.grain.max(1);
        self.used = self.used.saturating_add(amount);
        match self.log.back_mut() {
            // a log that was cut anew may reach a little into the future
            Some(newest) if newest.stretch >= stretch => {
                newest.amount = newest.amount.saturating_add(amount);
                newest.stretch
            }
            _ => {
                self.log.push_back(Entry { stretch, amount });
                stretch
            }
        }
    }

    /// Lets go of what has left the window.
    fn advance(&mut self, now: Moment) {
        self.latest = self.latest.max(now.0);
        while let Some(oldest) = self.log.front()
            && self.end_of(*oldest) <= self.latest
        {
            self.used = self.used.saturating_sub(oldest.amount);
            self.log.pop_front();
        }
    }

    /// Cuts the log for this rate. What was used stays used when the limit changes, as far back as
    /// the log reaches.
    fn fit(&mut self, rate: Rate) {
        let window = u64::try_from(rate.per.duration().as_micros()).unwrap_or(u64::MAX);
        let grain = if rate.amount.get() <= EXACT { 1 } else { (window / PARTS).max(1) };
        if (window, grain) == (self.window, self.grain) {
            return;
        }
        let before = std::mem::replace(&mut self.grain, grain).max(1);
        self.window = window;
        self.cut = self.cut.wrapping_add(1);
        let old = std::mem::take(&mut self.log);
        for Entry { stretch, amount } in old {
            // dated at the last moment that it can be from
            let stretch = last_moment(stretch, before) / grain;
            match self.log.back_mut() {
                Some(newest) if newest.stretch >= stretch => {
                    newest.amount = newest.amount.saturating_add(amount);
                }
                _ => self.log.push_back(Entry { stretch, amount }),
            }
        }
    }
}

fn last_moment(stretch: u64, grain: u64) -> u64 {
    stretch.saturating_add(1).saturating_mul(grain).saturating_sub(1)
}

#[cfg(test)]
mod tests;
