//! Takes an instance out after failures in a row and brings it back through one trial request.
//!
//! Without it an instance that answers 503 at once is always the one with the fewest requests in
//! flight, and attracts the traffic that it refuses.

use std::time::{Duration, Instant};

/// Failures in a row that take an instance out.
const FALL: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Whether an instance may be given requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// As many as it has slots.
    Closed,
    /// One at a time, to see whether it works again.
    Trial,
    /// None.
    Open,
}

/// The failures of one instance.
#[derive(Debug)]
pub struct Breaker {
    state: State,
    failures: u32,
    pause: Duration,
    until: Option<Instant>,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { state: State::Closed, failures: 0, pause: FIRST_PAUSE, until: None }
    }
}

impl Breaker {
    /// Whether one more request may be given to an instance that works on `in_flight`.
    pub fn admits(&self, in_flight: u32) -> bool {
        match self.state {
            State::Closed => true,
            State::Open => false,
            State::Trial => in_flight == 0,
        }
    }

    /// The instance answered.
    pub fn success(&mut self) {
        *self = Self::default();
    }

    /// The instance failed through its own fault.
    pub fn failure(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        let opens =
            self.state == State::Trial || (self.state == State::Closed && self.failures >= FALL);
        if opens {
            if self.state == State::Trial {
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
            }
            self.state = State::Open;
            self.until = Some(now + self.pause);
        }
    }

    /// A probe of the instance succeeded: once its pause is over, one request may try it.
    pub fn probed(&mut self, now: Instant) {
        if self.state == State::Open && self.until.is_none_or(|until| now >= until) {
            self.state = State::Trial;
        }
    }

    /// Where it stands.
    pub fn state(&self) -> State {
        self.state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_after_three_failures_in_a_row_and_returns_through_one_trial() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        breaker.failure(start);
        breaker.failure(start);
        breaker.success();
        breaker.failure(start);
        breaker.failure(start);
        assert!(breaker.admits(3), "a success in between starts the count anew");
        breaker.failure(start);
        assert!(!breaker.admits(0));
        breaker.probed(start + Duration::from_millis(499));
        assert_eq!(breaker.state(), State::Open, "the pause is not over");
        breaker.probed(start + FIRST_PAUSE);
        assert!(breaker.admits(0) && !breaker.admits(1), "one trial at a time");
        breaker.success();
        assert!(breaker.admits(7));
    }

    #[test]
    fn a_failed_trial_doubles_the_pause_up_to_a_bound() {
        let mut now = Instant::now();
        let mut breaker = Breaker::default();
        (0..FALL).for_each(|_| breaker.failure(now));
        let mut pause = FIRST_PAUSE;
        for _ in 0..8 {
            now += pause;
            breaker.probed(now);
            assert_eq!(breaker.state(), State::Trial);
            breaker.failure(now);
            pause = (pause * 2).min(LONGEST_PAUSE);
            breaker.probed(now + pause - Duration::from_millis(1));
            assert_eq!(breaker.state(), State::Open);
        }
    }
}
