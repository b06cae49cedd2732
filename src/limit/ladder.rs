//! Failed logins, by account: each further guess has to wait longer, and nobody for good.
//!
//! The steps are Kanidm's. What one address does to an account slows that address; only when many
//! fail at one account, as a botnet does, are addresses slowed that have not failed there. One
//! from which the account's owner has logged in before is never slowed by the failures of others.
//! Accounts are treated alike whether they exist or not. Time is an argument.
//!
//! What all addresses together have failed is counted in [`Tallies`], which take the same memory
//! whatever comes and never count too few: no flood of other names can make it forgotten. What each
//! address has failed may be forgotten under such a flood, and bounds less than that. The owners'
//! addresses come from successes alone, which a flood has none of. What we could not judge, because
//! too many log in at once or the database is away, is no failure.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::recent::Recent;
use super::tallies::{Mark, Tallies};

/// An address may fail as often as a person mistypes; the limit by address ends a burst.
const FREE: u32 = 5;
/// Failures of all addresses within an hour that an account may have before all are slowed.
const FREE_OF_ALL: u32 = 50;
/// How long failures are remembered.
pub(super) const HOUR: Duration = Duration::from_secs(3600);
/// How long the address of a success is.
const MONTH: Duration = Duration::from_secs(30 * 86_400);
/// Entries of each kind that are kept at least: a few megabytes in all.
const KEPT: usize = 16_384;
/// Addresses of one account's owner that are kept: the newest.
const HOMES: usize = 8;

/// Failures so far.
pub struct Ladder {
    at: Recent<(u64, IpAddr), Steps>,
    all: Tallies,
    homes: Recent<u64, Vec<(IpAddr, Instant)>>,
    hasher: RandomState,
}

/// An attempt that counts as a failure until it is known to be none.
#[derive(Debug)]
#[must_use]
pub struct Attempt {
    account: u64,
    from: IpAddr,
    mark: Mark,
    /// How things stood at its address.
    before: Option<Instant>,
}

/// Failures of one address, since when, and until when the next attempt has to wait.
#[derive(Default)]
struct Steps {
    failures: u32,
    since: Option<Instant>,
    until: Option<Instant>,
    /// The attempt that set it last.
    last: u64,
}

impl Ladder {
    /// Nobody has failed yet.
    pub fn new(now: Instant) -> Self {
        Self {
            at: Recent::new(KEPT),
            all: Tallies::new(now),
            homes: Recent::new(KEPT),
            hasher: RandomState::new(),
        }
    }

    /// Counts an attempt at this account as a failure until it [`succeeded`](Self::succeeded) or
    /// was [`withdrawn`](Self::withdraw): attempts at the same time see each other.
    ///
    /// # Errors
    /// How long the caller has to wait; the attempt does not count then.
    pub fn attempt(
        &mut self,
        account: &str,
        from: IpAddr,
        now: Instant,
    ) -> Result<Attempt, Duration> {
        let account = self.hasher.hash_one(account);
        if let Some(here) = self.at.get(&(account, from)).filter(|here| !here.is_stale(now)) {
            wait(here.until, now)?;
        }
        if !self.is_home(account, from, now) {
            wait(self.all.until(account, now), now)?;
        }
        let mark = self.all.fail(account, now, |failures| pause(failures, FREE_OF_ALL));
        let here = self.at.touch((account, from));
        if here.is_stale(now) {
            *here = Steps::default();
        }
        let before = here.until;
        here.fail(now, mark.number());
        Ok(Attempt { account, from, mark, before })
    }

    /// The attempt was none: the password was right. What its address has failed is forgiven, and
    /// where it came from is where the owner is.
    pub fn succeeded(&mut self, attempt: &Attempt, now: Instant) {
        let Attempt { account, from, mark, .. } = attempt;
        self.at.remove(&(*account, *from));
        self.all.take_back(mark, now);
        let homes = self.homes.touch(*account);
        homes.retain(|(home, _)| home != from);
        homes.push((*from, now));
        if homes.len() > HOMES {
            homes.remove(0);
        }
    }

    /// Nothing came of the attempt, and that was not its sender's fault.
    pub fn withdraw(&mut self, attempt: &Attempt, now: Instant) {
        let Attempt { account, from, mark, before } = attempt;
        self.all.take_back(mark, now);
        let key = (*account, *from);
        if self.at.get(&key).is_none_or(|here| here.failures <= 1) {
            // it takes no room from those who failed
            self.at.remove(&key);
            return;
        }
        let here = self.at.touch(key);
        here.failures -= 1;
        if here.last == mark.number() {
            here.until = *before;
        }
    }

    fn is_home(&self, account: u64, from: IpAddr, now: Instant) -> bool {
        let lately = |at: Instant| now.saturating_duration_since(at) < MONTH;
        let homes = self.homes.get(&account).map(Vec::as_slice).unwrap_or_default();
        homes.iter().any(|(home, at)| *home == from && lately(*at))
    }
}

fn wait(until: Option<Instant>, now: Instant) -> Result<(), Duration> {
    match until.map(|until| until.saturating_duration_since(now)) {
        Some(wait) if !wait.is_zero() => Err(wait),
        _ => Ok(()),
    }
}

impl Steps {
    /// Whether the first failure is so long ago that all is forgotten.
    fn is_stale(&self, now: Instant) -> bool {
        self.since.is_some_and(|since| now.saturating_duration_since(since) >= HOUR)
    }

    fn fail(&mut self, now: Instant, number: u64) {
        self.since.get_or_insert(now);
        self.failures = self.failures.saturating_add(1);
        self.until = pause(self.failures, FREE).map(|pause| now + pause);
        self.last = number;
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
mod tests;
