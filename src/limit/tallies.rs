//! Failures by key, in memory that does not grow: each key has a cell in each of several rows, and
//! shares it with whoever else the dice have put there. The cell with the least decides, so nobody
//! is taken to have failed less than they have, and hardly anybody for worse. It is the same with
//! the pauses behind failures. Time is an argument.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use super::ladder::HOUR;

const ROWS: usize = 4;
/// Cells of a row. All that we can hash in an hour leaves ten or twenty failures in each.
const COLUMNS: usize = 32_768;

/// Failures of many keys.
pub(super) struct Tallies {
    cells: Vec<Cell>,
    dice: RandomState,
    base: Instant,
    /// How many failures there were.
    count: u64,
}

/// A failure that may turn out to be none.
#[derive(Debug)]
pub(super) struct Mark {
    number: u64,
    hour: u16,
    places: [usize; ROWS],
    /// How long its cells made wait before it.
    before: [u64; ROWS],
}

impl Mark {
    /// Its number: each has its own.
    pub(super) fn number(&self) -> u64 {
        self.number
    }
}

/// What a cell has seen: failures of this hour of ours and of the one before.
#[derive(Clone, Copy, Default)]
struct Cell {
    hour: u16,
    failures: u16,
    before: u16,
    /// The millisecond from which on it makes nobody wait.
    until: u64,
    /// The last failure.
    last: u64,
}

impl Cell {
    /// As it is in this hour.
    fn turned(self, hour: u16) -> Self {
        match hour.saturating_sub(self.hour) {
            0 => self,
            1 => Self { hour, failures: 0, before: self.failures, ..self },
            _ => Self { hour, failures: 0, before: 0, ..self },
        }
    }
}

impl Tallies {
    pub(super) fn new(now: Instant) -> Self {
        let cells = vec![Cell::default(); ROWS * COLUMNS];
        Self { cells, dice: RandomState::new(), base: now, count: 0 }
    }

    /// When a key may be tried again, if not now: its shortest pause counts.
    pub(super) fn until(&self, key: u64, now: Instant) -> Option<Instant> {
        let places = self.places(key);
        let cells = places.iter().filter_map(|place| self.cells.get(*place));
        let until = cells.map(|cell| cell.until).min()?;
        (until > self.millis(now)).then(|| self.base + Duration::from_millis(until))
    }

    /// Counts a failure. `pause` says how long the next attempt waits after so many.
    pub(super) fn fail(
        &mut self,
        key: u64,
        now: Instant,
        pause: impl Fn(u32) -> Option<Duration>,
    ) -> Mark {
        self.count += 1;
        let (number, places) = (self.count, self.places(key));
        let (hour, now) = (self.hour(now), self.millis(now));
        let mut before = [0; ROWS];
        for (place, before) in places.iter().zip(&mut before) {
            let Some(cell) = self.cells.get_mut(*place) else { continue };
            *cell = cell.turned(hour);
            cell.failures = cell.failures.saturating_add(1);
            *before = cell.until;
            let failures = u32::from(cell.failures) + u32::from(cell.before);
            let pause = pause(failures).map_or(0, |pause| pause.as_millis());
            let until = now.saturating_add(u64::try_from(pause).unwrap_or(u64::MAX));
            // nobody's failure ends the pause behind another's
            cell.until = cell.until.max(if pause > 0 { until } else { 0 });
            cell.last = number;
        }
        Mark { number, hour, places, before }
    }

    /// What was counted was no failure. Where there was none since, all is as it was before.
    pub(super) fn take_back(&mut self, mark: &Mark, now: Instant) {
        let hour = self.hour(now);
        for (place, before) in mark.places.iter().zip(mark.before) {
            let Some(cell) = self.cells.get_mut(*place) else { continue };
            *cell = cell.turned(hour);
            match hour.saturating_sub(mark.hour) {
                0 => cell.failures = cell.failures.saturating_sub(1),
                1 => cell.before = cell.before.saturating_sub(1),
                _ => {}
            }
            if cell.last == mark.number {
                cell.until = before;
            }
        }
    }

    fn places(&self, key: u64) -> [usize; ROWS] {
        std::array::from_fn(|row| {
            let column = self.dice.hash_one((row, key)) % COLUMNS as u64;
            row * COLUMNS + usize::try_from(column).unwrap_or_default()
        })
    }

    fn hour(&self, now: Instant) -> u16 {
        let hours = now.saturating_duration_since(self.base).as_secs() / HOUR.as_secs();
        u16::try_from(hours).unwrap_or(u16::MAX)
    }

    fn millis(&self, now: Instant) -> u64 {
        let millis = now.saturating_duration_since(self.base).as_millis();
        u64::try_from(millis).unwrap_or(u64::MAX)
    }
}
