//! Failed logins, by account: each further guess has to wait longer, and nobody for good.
//!
//! The steps are Kanidm's. What one address does to an account slows that address; only when many
//! fail at one account, as a botnet does, are addresses slowed that have not failed there. One
//! from which the account's owner has logged in before is never slowed by the failures of others.
//! Accounts are treated alike whether they exist or not. Time is an argument.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::recent::Recent;

/// An address may fail as often as a person mistypes; the limit by address ends a burst.
const FREE: u32 = 5;
/// Failures of all addresses within an hour that an account may have before all are slowed.
const FREE_OF_ALL: u32 = 50;
/// How long failures are remembered.
const HOUR: Duration = Duration::from_secs(3600);
/// How long the address of a success is.
const MONTH: Duration = Duration::from_secs(30 * 86_400);
/// Entries of each kind that are kept at least: a few megabytes in all.
const KEPT: usize = 16_384;

/// Failures so far.
pub struct Ladder {
    at: Recent<(u64, IpAddr), Steps>,
    all: Recent<u64, Steps>,
    homes: Recent<(u64, IpAddr), Option<Instant>>,
    hasher: RandomState,
}

/// Failures of one kind, since when, and until when the next attempt has to wait.
#[derive(Default)]
struct Steps {
    failures: u32,
    since: Option<Instant>,
    until: Option<Instant>,
}

impl Default for Ladder {
    fn default() -> Self {
        Self {
            at: Recent::new(KEPT),
            all: Recent::new(KEPT),
            homes: Recent::new(KEPT),
            hasher: RandomState::new(),
        }
    }
}

impl Ladder {
    /// Counts an attempt at this account as a failure until it [`succeeded`](Self::succeeded):
    /// attempts at the same time see each other.
    ///
    /// # Errors
    /// How long the caller has to wait; the attempt does not count then.
    pub fn attempt(&mut self, account: &str, from: IpAddr, now: Instant) -> Result<(), Duration> {
        let account = self.hasher.hash_one(account);
        let home = self.homes.get(&(account, from)).copied().flatten();
        let at_home = home.is_some_and(|at| now.saturating_duration_since(at) < MONTH);
        let here = self.at.touch((account, from));
        here.fresh(now);
        here.wait(now)?;
        let all = self.all.touch(account);
        all.fresh(now);
        if !at_home {
            all.wait(now)?;
        }
        here.fail(now, FREE);
        all.fail(now, FREE_OF_ALL);
        Ok(())
    }

    /// The attempt was none: the password was right.
    pub fn succeeded(&mut self, account: &str, from: IpAddr, now: Instant) {
        let account = self.hasher.hash_one(account);
        self.at.remove(&(account, from));
        *self.homes.touch((account, from)) = Some(now);
        let all = self.all.touch(account);
        all.failures = all.failures.saturating_sub(1);
    }
}

impl Steps {
    /// Begins anew when the first failure is long ago.
    fn fresh(&mut self, now: Instant) {
        if self.since.is_some_and(|since| now.saturating_duration_since(since) >= HOUR) {
            *self = Self::default();
        }
    }

    fn wait(&self, now: Instant) -> Result<(), Duration> {
        match self.until.map(|until| until.saturating_duration_since(now)) {
            Some(wait) if !wait.is_zero() => Err(wait),
            _ => Ok(()),
        }
    }

    fn fail(&mut self, now: Instant, free: u32) {
        self.since.get_or_insert(now);
        self.failures = self.failures.saturating_add(1);
        self.until = pause(self.failures, free).map(|pause| now + pause);
    }
}

/// How long the next attempt waits after so many failures, of which some are free.
fn pause(failures: u32, free: u32) -> Option<Duration> {
    let seconds = match failures.checked_sub(free)? {
        0..4 => 3,
        4..20 => 5,
        20..95 => 10,
        _ => 60,
    };
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn address(number: u32) -> IpAddr {
        Ipv4Addr::from_bits(number).into()
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_steps_rise_and_end() {
        for (failures, pause_after) in [
            (0, None),
            (4, None),
            (5, Some(3)),
            (8, Some(3)),
            (9, Some(5)),
            (24, Some(5)),
            (25, Some(10)),
            (99, Some(10)),
            (100, Some(60)),
            (u32::MAX, Some(60)),
        ] {
            assert_eq!(pause(failures, FREE), pause_after.map(seconds), "{failures}");
        }
    }

    #[test]
    fn an_address_that_fails_waits_longer_and_longer_at_that_account_alone() {
        let (mut ladder, start) = (Ladder::default(), Instant::now());
        for _ in 0..5 {
            assert_eq!(ladder.attempt("ann", address(1), start), Ok(()));
        }
        assert_eq!(ladder.attempt("ann", address(1), start), Err(seconds(3)));
        assert_eq!(ladder.attempt("ann", address(1), start + seconds(2)), Err(seconds(1)));
        assert_eq!(ladder.attempt("bob", address(1), start), Ok(()));
        assert_eq!(ladder.attempt("ann", address(2), start), Ok(()));
        assert_eq!(ladder.attempt("ann", address(1), start + seconds(3)), Ok(()));
        assert_eq!(ladder.attempt("ann", address(1), start + seconds(4)), Err(seconds(2)));
        assert_eq!(ladder.attempt("ann", address(1), start + HOUR), Ok(()));
        assert_eq!(ladder.attempt("ann", address(1), start + HOUR), Ok(()), "forgotten");
    }

    #[test]
    fn a_success_ends_the_waiting_of_its_address() {
        let (mut ladder, start) = (Ladder::default(), Instant::now());
        for _ in 0..5 {
            assert_eq!(ladder.attempt("ann", address(1), start), Ok(()));
        }
        ladder.succeeded("ann", address(1), start);
        for _ in 0..4 {
            assert_eq!(ladder.attempt("ann", address(1), start), Ok(()));
            ladder.succeeded("ann", address(1), start);
        }
        assert_eq!(ladder.all.get(&ladder.hasher.hash_one("ann")).unwrap().failures, 4);
    }

    #[test]
    fn many_who_fail_slow_strangers_and_never_where_the_owner_is_known() {
        let (mut ladder, start) = (Ladder::default(), Instant::now());
        let home = address(7);
        assert_eq!(ladder.attempt("ann", home, start), Ok(()));
        ladder.succeeded("ann", home, start);
        for number in 100..150 {
            assert_eq!(ladder.attempt("ann", address(number), start), Ok(()), "{number}");
        }
        assert_eq!(ladder.attempt("ann", address(8), start), Err(seconds(3)));
        assert_eq!(ladder.attempt("bob", address(8), start), Ok(()));
        assert_eq!(ladder.attempt("ann", home, start), Ok(()), "its own home");
        ladder.succeeded("ann", home, start);
        assert_eq!(ladder.attempt("ann", address(8), start + seconds(3)), Ok(()), "not for good");
        let later = start + MONTH;
        for number in 100..150 {
            assert_eq!(ladder.attempt("ann", address(number), later), Ok(()));
        }
        assert!(ladder.attempt("ann", home, later).is_err(), "a month without a success");
    }

    #[test]
    fn a_refused_attempt_does_not_count() {
        let (mut ladder, start) = (Ladder::default(), Instant::now());
        for _ in 0..5 {
            assert!(ladder.attempt("ann", address(1), start).is_ok());
        }
        for _ in 0..100 {
            assert_eq!(ladder.attempt("ann", address(1), start), Err(seconds(3)));
        }
        assert!(ladder.attempt("ann", address(1), start + seconds(3)).is_ok());
    }
}
