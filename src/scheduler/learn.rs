//! What is learnt of a model on an instance: how fast it loads, reads and writes.
//!
//! Ollama says in each final chunk what its time went into. Until the first of them a guess from
//! the model's size has to do; it only has to tell a load from a long prompt.

use std::time::Duration;

/// Bytes a second from disk to card, at first.
const LOAD_RATE: f64 = 1e9;
/// The part of a load that does not depend on size, seconds.
const LOAD_BASE: f64 = 1.0;
/// Size × tokens a second, of reading a prompt and of writing: an 8 GB model reads about 1000
/// tokens a second and writes about 50 on a card that such models are bought for.
const PREFILL: f64 = 8e12;
const DECODE: f64 = 4e11;
/// Size of a model that nobody told, bytes.
const USUAL_SIZE: u64 = 5_000_000_000;
/// Tokens of an answer, before the first was counted.
const USUAL_OUTPUT: f64 = 256.0;
/// Weight of the newest observation.
const NEWEST: f64 = 0.25;
/// Prompts shorter than this say little about a rate.
const TELLING_PROMPT: u64 = 64;
/// A rate this much above what is known is a prompt that was cached, not a faster card.
const CACHED: f64 = 4.0;

/// Loads that are smaller, bytes, or shorter, seconds, were none, or say nothing of a disk.
const TELLING_SIZE: u64 = 10_000_000;
const TELLING_LOAD: f64 = 0.05;

/// A mean in which the past fades.
#[derive(Clone, Copy, Debug, Default)]
struct Mean(Option<f64>);

impl Mean {
    fn learn(&mut self, value: f64) {
        if value.is_finite() && value >= 0.0 {
            self.0 = Some(self.0.map_or(value, |mean| mean + (value - mean) * NEWEST));
        }
    }
}

/// What an answer said of the work behind it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Tokens of the prompt, cached ones included.
    pub prompt: Option<u64>,
    /// Tokens generated.
    pub completion: Option<u64>,
    /// Time until a runner was ready.
    pub load: Option<Duration>,
    /// Time of work on the uncached part of the prompt.
    pub prefill: Option<Duration>,
    /// Time of generation.
    pub decode: Option<Duration>,
    /// Time in all.
    pub total: Option<Duration>,
}

impl Report {
    /// What none of the parts explains: a wait in the instance's own queue.
    pub(super) fn hidden(&self) -> Option<Duration> {
        let parts = self.load.unwrap_or_default()
            + self.prefill.unwrap_or_default()
            + self.decode.unwrap_or_default();
        // without the parts of real work there is nothing to subtract
        self.decode.or(self.prefill)?;
        Some(self.total?.saturating_sub(parts))
    }
}

/// One model on one instance.
#[derive(Clone, Debug, Default)]
pub(super) struct Rates {
    load: Mean,
    prefill: Mean,
    decode: Mean,
    output: Mean,
    held: Mean,
}

/// What holds for all models of an instance.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Disk {
    bytes_per_second: Mean,
}

impl Rates {
    /// Takes in an answer. `cached` are the tokens of its prompt that were taken for cached, and
    /// `loaded` says whether the model was loaded for it.
    pub(super) fn learn(&mut self, report: &Report, cached: u64, size: Option<u64>) {
        if let (Some(prompt), Some(time)) = (report.prompt, report.prefill) {
            let read = prompt.saturating_sub(cached);
            let rate = read as f64 / time.as_secs_f64();
            if read >= TELLING_PROMPT && rate < self.prefill_rate(size) * CACHED {
                self.prefill.learn(rate);
            }
        }
        if let (Some(tokens), Some(time)) = (report.completion, report.decode) {
            self.decode.learn(tokens as f64 / time.as_secs_f64());
        }
        if let Some(tokens) = report.completion {
            self.output.learn(tokens as f64);
        }
    }

    /// Takes in how long a load took.
    pub(super) fn loaded(&mut self, took: Duration, size: Option<u64>, disk: &mut Disk) {
        self.load.learn(took.as_secs_f64());
        let seconds = took.as_secs_f64();
        if let Some(size) = size.filter(|size| *size >= TELLING_SIZE && seconds >= TELLING_LOAD) {
            disk.bytes_per_second.learn(size as f64 / seconds);
        }
    }

    /// Takes in how long a seat was held.
    pub(super) fn held(&mut self, time: Duration) {
        self.held.learn(time.as_secs_f64());
    }

    /// Seconds that loading takes.
    pub(super) fn load_seconds(&self, size: Option<u64>, disk: &Disk) -> f64 {
        self.load.0.unwrap_or_else(|| {
            let size = size.unwrap_or(USUAL_SIZE) as f64;
            match disk.bytes_per_second.0 {
                Some(rate) => size / rate.max(1.0),
                None => LOAD_BASE + size / LOAD_RATE,
            }
        })
    }

    /// Seconds that reading these tokens takes.
    pub(super) fn prefill_seconds(&self, tokens: u64, size: Option<u64>) -> f64 {
        tokens as f64 / self.prefill_rate(size).max(1.0)
    }

    /// Seconds that a seat is held, from rates while none was counted.
    pub(super) fn held_seconds(&self, size: Option<u64>) -> f64 {
        self.held.0.unwrap_or_else(|| USUAL_OUTPUT / self.decode_rate(size).max(1.0))
    }

    /// Tokens that an answer has.
    pub(super) fn output(&self) -> f64 {
        self.output.0.unwrap_or(USUAL_OUTPUT)
    }

    /// Tokens of a prompt that are read in a second.
    pub(super) fn prefill_rate(&self, size: Option<u64>) -> f64 {
        self.prefill.0.unwrap_or_else(|| guess(PREFILL, size, 100.0, 10_000.0))
    }

    /// Tokens that are written in a second.
    pub(super) fn decode_rate(&self, size: Option<u64>) -> f64 {
        self.decode.0.unwrap_or_else(|| guess(DECODE, size, 5.0, 200.0))
    }
}

fn guess(product: f64, size: Option<u64>, least: f64, most: f64) -> f64 {
    (product / size.unwrap_or(USUAL_SIZE).max(1) as f64).clamp(least, most)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Option<u64> = Some(8_000_000_000);

    fn seconds(seconds: f64) -> Option<Duration> {
        Some(Duration::from_secs_f64(seconds))
    }

    #[test]
    fn what_is_not_known_is_guessed_from_the_size() {
        let (rates, disk) = (Rates::default(), Disk::default());
        assert_eq!(rates.prefill_rate(SIZE), 1000.0);
        assert_eq!(rates.decode_rate(SIZE), 50.0);
        assert_eq!(rates.load_seconds(SIZE, &disk), 9.0);
        assert!(rates.load_seconds(Some(1_000_000_000), &disk) < 3.0);
        assert!(rates.prefill_seconds(4000, SIZE) < rates.load_seconds(SIZE, &disk));
    }

    #[test]
    fn one_models_load_tells_of_the_disk_for_all_others() {
        let (mut rates, mut disk) = (Rates::default(), Disk::default());
        rates.loaded(Duration::from_secs(2), SIZE, &mut disk);
        assert_eq!(rates.load_seconds(SIZE, &disk), 2.0);
        assert_eq!(Rates::default().load_seconds(Some(4_000_000_000), &disk), 1.0);
    }

    #[test]
    fn what_was_no_real_load_tells_nothing_of_the_disk() {
        let (mut rates, mut disk) = (Rates::default(), Disk::default());
        rates.loaded(Duration::from_secs(1), Some(400), &mut disk);
        rates.loaded(Duration::from_millis(2), SIZE, &mut disk);
        assert_eq!(Rates::default().load_seconds(SIZE, &disk), 9.0);
    }

    #[test]
    fn rates_come_from_the_parts_that_were_worked_on() {
        let mut rates = Rates::default();
        let report = Report {
            prompt: Some(3000),
            completion: Some(100),
            prefill: seconds(1.0),
            decode: seconds(4.0),
            total: seconds(5.0),
            load: None,
        };
        rates.learn(&report, 1000, SIZE);
        assert_eq!(rates.prefill_rate(SIZE), 2000.0);
        assert_eq!(rates.decode_rate(SIZE), 25.0);
        assert_eq!(rates.output(), 100.0);
        let cached = Report { prefill: seconds(0.001), ..report };
        rates.learn(&cached, 0, SIZE);
        assert_eq!(rates.prefill_rate(SIZE), 2000.0, "nobody reads three million in a second");
    }

    #[test]
    fn what_no_part_explains_was_a_wait_inside_the_instance() {
        let report = Report {
            prefill: seconds(1.0),
            decode: seconds(2.0),
            load: seconds(0.5),
            total: seconds(10.0),
            ..Report::default()
        };
        assert_eq!(report.hidden(), seconds(6.5));
        assert_eq!(Report { total: None, ..report }.hidden(), None);
        assert_eq!(Report { total: seconds(9.0), ..Report::default() }.hidden(), None);
    }
}
