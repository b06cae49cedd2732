//! Numbers that look random and are the same on every run (splitmix64).

use std::time::Duration;

/// A stream of them.
pub struct Dice(u64);

impl Dice {
    /// One that is all its own for this seed and purpose.
    pub fn new(seed: u64, purpose: &str) -> Self {
        let mixed = purpose
            .bytes()
            .fold(seed, |mixed, byte| (mixed ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        Self(mixed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 up to, but not, 1.
    pub fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A number below `bound`.
    pub fn roll(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    /// The time to the next of arrivals that come `rate` a second, independently of each other.
    pub fn gap(&mut self, rate: f64) -> Duration {
        Duration::from_secs_f64(-(1.0 - self.fraction()).ln() / rate)
    }

    /// Text of about this many of the stand-ins' tokens, four bytes each, that repeats nothing.
    pub fn text(&mut self, tokens: usize) -> String {
        let mut text = String::with_capacity(tokens * 4 + 8);
        while text.len() < tokens * 4 {
            text.push_str(&format!("{:07x} ", self.next() >> 36));
        }
        text
    }
}
