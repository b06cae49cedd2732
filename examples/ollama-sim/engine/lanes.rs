//! The prefix cache of a runner: one live prefix a slot, and an optional pool in host memory.

use crate::text::tokens;

/// A slot's share of a prompt that needs no work, at least, to be worth choosing it.
const SIMILARITY: f64 = 0.10;

/// The slots of one runner.
#[derive(Debug)]
pub(crate) struct Lanes {
    lanes: Vec<Lane>,
    /// Prompts that slots left, oldest first.
    pool: Vec<Vec<u8>>,
    pool_budget: u64,
    /// Bytes of memory for one token.
    token_bytes: u64,
    uses: u64,
}

#[derive(Debug, Default)]
struct Lane {
    text: Vec<u8>,
    used: u64,
    busy: bool,
}

/// A slot, and how much of the prompt it already holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) lane: usize,
    pub(super) cached: usize,
}

impl Lanes {
    pub(crate) fn new(count: usize, pool_budget: u64, token_bytes: u64) -> Self {
        let lanes = std::iter::repeat_with(Lane::default).take(count).collect();
        Self { lanes, pool: Vec::new(), pool_budget, token_bytes, uses: 0 }
    }

    /// The idle slot with the longest common prefix above a tenth of the prompt, else the one
    /// that was used longest ago.
    pub(super) fn take(&mut self, prompt: &[u8]) -> Taken {
        self.uses += 1;
        let worth = |length: usize| length as f64 > SIMILARITY * prompt.len() as f64;
        let idle = || self.lanes.iter().enumerate().filter(|(_, lane)| !lane.busy);
        let best = idle()
            .map(|(index, lane)| (common(&lane.text, prompt), index))
            .filter(|(length, _)| worth(*length))
            .max_by_key(|(length, index)| (*length, usize::MAX - index));
        let oldest = idle().min_by_key(|(_, lane)| lane.used).map_or(0, |(index, _)| index);
        let (mut cached, index) = best.unwrap_or((0, oldest));
        let uses = self.uses;
        if let Some(found) = self.pooled(prompt, cached) {
            cached = common(&found, prompt);
            self.swap(index, found);
        } else if cached == 0 {
            self.swap(index, Vec::new());
        }
        if let Some(lane) = self.lanes.get_mut(index) {
            (lane.busy, lane.used) = (true, uses);
            lane.text.truncate(cached);
        }
        Taken { lane: index, cached }
    }

    /// Gives a slot back with what it holds now.
    pub(super) fn give_back(&mut self, index: usize, text: Vec<u8>) {
        if let Some(lane) = self.lanes.get_mut(index) {
            lane.text = text;
            lane.busy = false;
        }
    }

    /// Takes the pooled prompt that beats what a slot offers.
    fn pooled(&mut self, prompt: &[u8], offered: usize) -> Option<Vec<u8>> {
        let (length, index) =
            self.pool.iter().enumerate().map(|(i, text)| (common(text, prompt), i)).max()?;
        (length > offered).then(|| self.pool.remove(index))
    }

    /// Puts another text into a slot, and its old one into the pool as far as that reaches.
    fn swap(&mut self, index: usize, text: Vec<u8>) {
        let Some(lane) = self.lanes.get_mut(index) else { return };
        let old = std::mem::replace(&mut lane.text, text);
        if self.pool_budget == 0 || old.is_empty() {
            return;
        }
        self.pool.push(old);
        while self.pool.iter().map(|text| self.cost(text)).sum::<u64>() > self.pool_budget {
            self.pool.remove(0);
        }
    }

    fn cost(&self, text: &[u8]) -> u64 {
        (tokens(text.len()) as u64).saturating_mul(self.token_bytes.max(1))
    }
}

fn common(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_finds_its_slot_again() {
        let mut lanes = Lanes::new(2, 0, 1);
        for text in [b"aaaaaaaaaa".to_vec(), b"bbbbbbbbbb".to_vec()] {
            let taken = lanes.take(&text);
            lanes.give_back(taken.lane, text);
        }
        assert_eq!(lanes.take(b"bbbbbbbbbbbb"), Taken { lane: 1, cached: 10 });
        assert_eq!(
            lanes.take(b"bbbbbbbbbbbb"),
            Taken { lane: 0, cached: 0 },
            "a busy slot shares nothing"
        );
    }

    #[test]
    fn a_short_common_prefix_is_not_worth_it() {
        let mut lanes = Lanes::new(1, 0, 1);
        let taken = lanes.take(b"abc");
        lanes.give_back(taken.lane, b"abc".to_vec());
        assert_eq!(lanes.take(&[b"abc".as_slice(), &[b'z'; 97]].concat()).cached, 0);
    }

    #[test]
    fn the_pool_keeps_what_slots_lose_as_far_as_it_reaches() {
        let (one, two) = (vec![b'a'; 400], vec![b'b'; 400]);
        for (budget, cached) in [(0, 0), (150, 400), (99, 0)] {
            let mut lanes = Lanes::new(1, budget, 1);
            for text in [&one, &two] {
                let taken = lanes.take(text);
                lanes.give_back(taken.lane, text.clone());
            }
            assert_eq!(lanes.take(&one).cached, cached, "budget {budget}");
        }
    }
}
