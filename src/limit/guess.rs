//! How many tokens an answer will have: what answers of its model had lately.

use std::sync::atomic::{AtomicU64, Ordering};

use ahash::RandomState;

use crate::model::ModelKey;

/// Models that are told apart, as a rule: two that share a cell share a guess, and no more.
const CELLS: usize = 1024;
/// Tokens of an answer, before anything is known.
const FIRST_OUTPUT: u32 = 256;
/// Thousandths of the estimate that a prompt turns out to have, before anything is known.
const FIRST_RATIO: u32 = 1000;
/// How much of what was believed a new fact leaves: seven eighths.
const INERTIA: u64 = 8;

/// What was learnt of each model, in cells without locks. A fact that is lost when two answers end
/// at once is missed by nobody.
pub(super) struct Guesses {
    cells: Vec<AtomicU64>,
    hashes: RandomState,
}

/// What is believed of a model.
#[derive(Clone, Copy)]
struct Belief {
    output: u32,
    ratio: u32,
}

impl Default for Guesses {
    fn default() -> Self {
        let cells = std::iter::repeat_with(AtomicU64::default).take(CELLS).collect();
        Self { cells, hashes: RandomState::with_seeds(1, 2, 3, 4) }
    }
}

impl Guesses {
    /// Tokens that a prompt of so many estimated ones will have, with its answer; `most` is what
    /// the client allows the answer, if it says so.
    pub(super) fn expect(&self, model: &ModelKey, prompt: u64, most: Option<u64>) -> u64 {
        let belief = self.cell(model).map_or(Belief::FIRST, Belief::from);
        let prompt = prompt.saturating_mul(belief.ratio.into()).div_ceil(1000);
        let output = u64::from(belief.output);
        prompt.saturating_add(most.map_or(output, |most| most.min(output)))
    }

    /// Learns from an answer that came to its end: how many tokens its prompt was estimated to
    /// have, how many it had, and how many the answer.
    pub(super) fn learn(&self, model: &ModelKey, estimated: u64, prompt: u64, output: u64) {
        let Some(cell) = self.cell(model) else { return };
        let before = Belief::from(cell);
        let ratio = match estimated {
            0 => before.ratio.into(),
            estimated => (prompt.saturating_mul(1000) / estimated).clamp(100, 10_000),
        };
        let after =
            Belief { output: drift(before.output, output), ratio: drift(before.ratio, ratio) };
        cell.store(u64::from(after.output) << 32 | u64::from(after.ratio), Ordering::Relaxed);
    }

    fn cell(&self, model: &ModelKey) -> Option<&AtomicU64> {
        let hash = self.hashes.hash_one(model);
        self.cells.get(usize::try_from(hash % CELLS as u64).unwrap_or_default())
    }
}

impl Belief {
    const FIRST: Self = Self { output: FIRST_OUTPUT, ratio: FIRST_RATIO };
}

impl From<&AtomicU64> for Belief {
    fn from(cell: &AtomicU64) -> Self {
        let both = cell.load(Ordering::Relaxed);
        let half = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).unwrap_or(u32::MAX);
        if both == 0 { Self::FIRST } else { Self { output: half(both >> 32), ratio: half(both) } }
    }
}

/// An eighth of the way from what was believed to what was seen, and at least one step.
fn drift(before: u32, seen: u64) -> u32 {
    let before = u64::from(before);
    let after = match seen >= before {
        true => before + (seen - before).div_ceil(INERTIA),
        false => before - (before - seen).div_ceil(INERTIA),
    };
    u32::try_from(after).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ModelName;

    fn model(name: &str) -> ModelKey {
        ModelName::parse(name).unwrap().key().clone()
    }

    #[test]
    fn guesses_follow_what_a_model_does_and_never_exceed_what_the_client_allows() {
        let guesses = Guesses::default();
        let (talker, other) = (model("talker"), model("other"));
        assert_eq!(guesses.expect(&talker, 100, None), 356);
        assert_eq!(guesses.expect(&talker, 100, Some(16)), 116);
        for _ in 0..60 {
            guesses.learn(&talker, 100, 150, 1000);
        }
        assert_eq!(guesses.expect(&talker, 100, None), 1150);
        assert_eq!(guesses.expect(&talker, 100, Some(5000)), 1150);
        assert_eq!(guesses.expect(&other, 100, None), 356, "others are not touched");
        for _ in 0..200 {
            guesses.learn(&talker, 0, 0, 0);
        }
        assert_eq!(guesses.expect(&talker, 100, None), 150, "an embedder answers with no token");
        guesses.learn(&talker, 1, u64::MAX, u64::MAX);
        assert!(guesses.expect(&talker, u64::MAX, None) > 0, "absurd counts do no harm");
    }
}
