//! Takes an instance, or one model on it, out after failures in a row, and brings it back through
//! one trial request and then step by step.
//!
//! Without it an instance that answers 503 at once is always the one with the fewest requests in
//! flight, and attracts the traffic that it refuses.

use std::time::{Duration, Instant};

/// Failures in a row that take an instance out.
const FALL: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// Requests at once after a trial; each that is answered doubles them, up to this many.
const RAMP_FROM: u32 = 2;
const RAMP_TO: u32 = 64;

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

impl State {
    /// One word for people and programs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Trial => "trial",
            Self::Open => "open",
        }
    }
}

/// The failures of one instance.
#[derive(Debug)]
pub struct Breaker {
    state: State,
    failures: u32,
    pause: Duration,
    until: Option<Instant>,
    epoch: Epoch,
    trials: u32,
    /// Requests at once while it is coming back.
    ramp: Option<u32>,
}

/// A stretch of time between two turns for the worse: what a request of an earlier one has to say
/// is old news.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Epoch(u64);

impl Default for Breaker {
    fn default() -> Self {
        Self {
            state: State::Closed,
            failures: 0,
            pause: FIRST_PAUSE,
            until: None,
            epoch: Epoch::default(),
            trials: 0,
            ramp: None,
        }
    }
}

impl Breaker {
    /// Whether one more request may be given to it, when it has `in_flight`.
    pub fn admits(&self, in_flight: u32) -> bool {
        match self.state {
            State::Closed => self.ramp.is_none_or(|most| in_flight < most),
            State::Open => false,
            State::Trial => self.trials == 0,
        }
    }

    /// A request is given to the instance; what it has to say later belongs to this epoch.
    pub fn enter(&mut self) -> Epoch {
        self.trials += u32::from(self.state == State::Trial);
        self.epoch
    }

    /// The instance began to answer a request. That ends a trial, and forgives nothing else: an
    /// instance may well die in the middle of every answer.
    pub fn answered(&mut self, epoch: Epoch) {
        if epoch != self.epoch {
            return;
        }
        if self.state == State::Trial {
            self.close();
            self.ramp = Some(RAMP_FROM);
        } else {
            self.ramp = self.ramp.map(|most| most * 2).filter(|most| *most < RAMP_TO);
        }
    }

    /// A request of this epoch left the instance: it failed, or not, or nothing can be said.
    pub fn leave(&mut self, epoch: Epoch, failed: Option<bool>, now: Instant) {
        if epoch != self.epoch {
            return;
        }
        self.trials = self.trials.saturating_sub(u32::from(self.state == State::Trial));
        match failed {
            Some(true) => self.failure(now),
            Some(false) => self.close(),
            None => {}
        }
    }

    fn close(&mut self) {
        *self = Self { epoch: self.epoch, ramp: self.ramp, ..Self::default() };
    }

    /// Takes it out at once, for more than a failure: it does nothing at all.
    /// Says whether that is news.
    pub fn eject(&mut self, now: Instant) -> bool {
        if self.state == State::Open {
            return false;
        }
        self.turn(State::Open);
        self.until = Some(now + self.pause);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        true
    }

    fn failure(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        let opens =
            self.state == State::Trial || (self.state == State::Closed && self.failures >= FALL);
        if opens {
            if self.state == State::Trial {
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
            }
            self.turn(State::Open);
            self.until = Some(now + self.pause);
        }
    }

    /// A probe of the instance succeeded: once its pause is over, one request may try it.
    pub fn probed(&mut self, now: Instant) {
        if self.state == State::Open && self.until.is_none_or(|until| now >= until) {
            self.turn(State::Trial);
        }
    }

    fn turn(&mut self, state: State) {
        self.state = state;
        self.epoch.0 += 1;
        self.trials = 0;
        self.ramp = None;
    }

    /// Where it stands.
    pub fn state(&self) -> State {
        self.state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fail(breaker: &mut Breaker, now: Instant) {
        let epoch = breaker.enter();
        breaker.leave(epoch, Some(true), now);
    }

    fn succeed(breaker: &mut Breaker, now: Instant) {
        let epoch = breaker.enter();
        breaker.answered(epoch);
        breaker.leave(epoch, Some(false), now);
    }

    #[test]
    fn opens_after_three_failures_in_a_row_and_returns_through_one_trial() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        fail(&mut breaker, start);
        fail(&mut breaker, start);
        succeed(&mut breaker, start);
        fail(&mut breaker, start);
        fail(&mut breaker, start);
        assert!(breaker.admits(0), "a success in between starts the count anew");
        fail(&mut breaker, start);
        assert!(!breaker.admits(0));
        breaker.probed(start + Duration::from_millis(499));
        assert_eq!(breaker.state(), State::Open, "the pause is not over");
        breaker.probed(start + FIRST_PAUSE);
        assert!(breaker.admits(0));
        let trial = breaker.enter();
        assert!(!breaker.admits(0), "one trial at a time");
        breaker.answered(trial);
        assert!(breaker.admits(1) && !breaker.admits(2), "not all at once");
        succeed(&mut breaker, start);
        assert!(breaker.admits(3) && !breaker.admits(4));
        (0..5).for_each(|_| succeed(&mut breaker, start));
        assert!(breaker.admits(10_000), "it is as good as ever");
    }

    #[test]
    fn what_hangs_is_taken_out_at_once_and_longer_each_time() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        breaker.eject(start);
        assert!(!breaker.admits(0));
        breaker.eject(start + Duration::from_millis(400));
        breaker.probed(start + FIRST_PAUSE);
        assert_eq!(breaker.state(), State::Trial, "it was out already: that adds nothing");
        breaker.eject(start + FIRST_PAUSE);
        breaker.probed(start + FIRST_PAUSE * 2);
        assert_eq!(breaker.state(), State::Open);
        breaker.probed(start + FIRST_PAUSE * 3);
        assert_eq!(breaker.state(), State::Trial);
    }

    #[test]
    fn a_failed_trial_doubles_the_pause_up_to_a_bound() {
        let mut now = Instant::now();
        let mut breaker = Breaker::default();
        (0..FALL).for_each(|_| fail(&mut breaker, now));
        let mut pause = FIRST_PAUSE;
        for _ in 0..8 {
            now += pause;
            breaker.probed(now);
            assert_eq!(breaker.state(), State::Trial);
            fail(&mut breaker, now);
            pause = (pause * 2).min(LONGEST_PAUSE);
            breaker.probed(now + pause - Duration::from_millis(1));
            assert_eq!(breaker.state(), State::Open);
        }
    }

    #[test]
    fn requests_from_before_the_failure_neither_delay_nor_end_a_trial() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        let (answers_late, fails_late) = (breaker.enter(), breaker.enter());
        (0..FALL).for_each(|_| fail(&mut breaker, start));
        breaker.answered(answers_late);
        assert_eq!(breaker.state(), State::Open, "an old answer says nothing of now");
        breaker.probed(start + FIRST_PAUSE);
        assert!(breaker.admits(0), "an old stream is no trial");
        breaker.leave(fails_late, Some(true), start);
        assert_eq!(breaker.state(), State::Trial);
        breaker.leave(answers_late, Some(false), start);
        assert_eq!(breaker.state(), State::Trial);
    }

    #[test]
    fn answers_that_never_come_to_their_end_count_as_failures() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..FALL {
            let epoch = breaker.enter();
            breaker.answered(epoch);
            breaker.leave(epoch, Some(true), start);
        }
        assert_eq!(breaker.state(), State::Open);
    }

    #[test]
    fn a_trial_of_which_nothing_can_be_said_makes_room_for_another() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        (0..FALL).for_each(|_| fail(&mut breaker, start));
        breaker.probed(start + FIRST_PAUSE);
        let trial = breaker.enter();
        breaker.leave(trial, None, start);
        assert!(breaker.state() == State::Trial && breaker.admits(0));
    }
}
