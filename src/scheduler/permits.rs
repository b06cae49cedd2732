//! How many of a user's seats this gateway may give, where several share what a user may hold.
//!
//! A *permit* is the right to one seat. All gateways together give out as many to a user as the
//! user may hold; each keeps those that it was given, also while the seat is free, so that whoever
//! comes again asks nobody. What lies idle goes back when another gateway wants it, or after a
//! while. Here is one gateway's side of that; time is an argument.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// What nobody has used for so long goes back.
const KEEP: Duration = Duration::from_secs(10);
/// What is held is told again within this time, or others take it for a dead gateway's.
pub(super) const RENEW: Duration = Duration::from_secs(3);
/// So long another gateway's wish is remembered: it repeats what it still wants.
const WANTED: Duration = Duration::from_secs(1);

/// The permits of this gateway.
#[derive(Debug, Default)]
pub(super) struct Permits {
    /// Without others every user may hold what they may hold.
    shared: bool,
    users: HashMap<i64, Permit>,
    calls: Vec<Call>,
}

/// What the others should hear of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// This user could be seated now, had we a permit more.
    Lacks(i64),
    /// We hold fewer of this user's permits than we did, and another wants them.
    Returned(i64),
}

/// What this gateway has of a user's seats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Has {
    /// Permits, for seats that are taken and for some that are free.
    pub permits: u32,
    /// More of them that would be of use now.
    pub wanted: u32,
    /// Seats that the user may hold at all gateways.
    pub limit: u32,
}

/// What came of telling the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// What they were told that we have.
    pub permits: u32,
    /// What they granted.
    pub more: u32,
    /// Whether all gateways together have more than the user may hold.
    pub in_excess: bool,
}

#[derive(Debug)]
struct Permit {
    /// Never fewer than the seats that are taken.
    granted: u32,
    /// What the user may hold, as the latest request had it.
    limit: u32,
    /// Whether more was asked for, and nothing has come of it yet.
    asked: bool,
    used: Instant,
    told: Option<Instant>,
    /// When another gateway last wanted some.
    recalled: Option<Instant>,
    /// All gateways have more than the limit, as after a time without Redis.
    in_excess: bool,
}

impl Permits {
    /// From now on permits are needed.
    pub(super) fn share(&mut self) {
        self.shared = true;
    }

    /// Whether a user who holds so many seats may have one more, as far as permits go.
    pub(super) fn allow(&self, user: i64, held: u32) -> bool {
        !self.shared || self.users.get(&user).is_some_and(|permit| held < permit.granted)
    }

    /// Whether more was asked for on behalf of this user.
    pub(super) fn is_asked(&self, user: i64) -> bool {
        self.users.get(&user).is_some_and(|permit| permit.asked)
    }

    /// This user could be seated, but for a permit.
    pub(super) fn lack(&mut self, user: i64, limit: u32, now: Instant) {
        let permit = self.users.entry(user).or_insert_with(|| Permit::new(now));
        permit.limit = limit;
        if !std::mem::replace(&mut permit.asked, true) {
            self.calls.push(Call::Lacks(user));
        }
    }

    /// What was asked for came, or at least some of it.
    pub(super) fn grant(&mut self, user: i64, more: u32, now: Instant) {
        let permit = self.users.entry(user).or_insert_with(|| Permit::new(now));
        permit.granted = permit.granted.saturating_add(more);
        permit.used = now;
        permit.asked = false;
    }

    /// Nobody waits any more for what was asked for.
    pub(super) fn ask_no_more(&mut self, user: i64) {
        if let Some(permit) = self.users.get_mut(&user) {
            permit.asked = false;
        }
    }

    /// A seat was taken or freed; the user holds so many now.
    pub(super) fn used(&mut self, user: i64, held: u32, now: Instant) {
        let Some(permit) = self.users.get_mut(&user) else { return };
        permit.used = now;
        let recalled = permit.recalled.is_some_and(|at| now.saturating_duration_since(at) < WANTED);
        if (recalled || permit.in_excess) && permit.granted > held {
            permit.granted = held;
            self.calls.push(Call::Returned(user));
        }
    }

    /// Another gateway wants some of this user's: what is idle goes back, and until it is told
    /// otherwise so does what becomes free. Returns whether something was idle.
    pub(super) fn recall(&mut self, user: i64, held: u32, now: Instant) -> bool {
        let Some(permit) = self.users.get_mut(&user) else { return false };
        permit.recalled = Some(now);
        let idle = permit.granted > held;
        permit.granted = permit.granted.min(held);
        idle
    }

    /// All gateways together have more than the user may hold, or no longer: what is idle is ours no
    /// more. Returns whether something was idle.
    pub(super) fn exceed(&mut self, user: i64, in_excess: bool, held: u32) -> bool {
        let Some(permit) = self.users.get_mut(&user) else { return false };
        permit.in_excess = in_excess;
        let idle = in_excess && permit.granted > held;
        if idle {
            permit.granted = held;
        }
        idle
    }

    /// What this gateway has of a user's seats; nothing of one it knows nothing of.
    pub(super) fn of(&self, user: i64, held: u32, waiting: usize, free: u32) -> Option<Has> {
        let permit = self.users.get(&user)?;
        let waiting = u32::try_from(waiting).unwrap_or(u32::MAX);
        let lacks = waiting > 0 && held >= permit.granted;
        let most = permit.limit.saturating_sub(permit.granted);
        let wanted = if lacks { waiting.min(free.max(1)).min(most) } else { 0 };
        Some(Has { permits: permit.granted, wanted, limit: permit.limit })
    }

    /// The others know that we have so many of this user's.
    pub(super) fn told(&mut self, user: i64, permits: u32, now: Instant) {
        let Some(permit) = self.users.get_mut(&user) else { return };
        permit.told = Some(now);
        // what was given back meanwhile they do not know yet
        if permit.granted == 0 && permits == 0 && !permit.asked {
            self.users.remove(&user);
        }
    }

    /// Users of whom the others should be told; what lay idle for long goes back.
    pub(super) fn due(&mut self, held: impl Fn(i64) -> u32, now: Instant) -> Vec<i64> {
        let mut due = Vec::new();
        for (user, permit) in &mut self.users {
            let since = |at: Instant| now.saturating_duration_since(at);
            let held = held(*user);
            let idle = permit.granted > held && since(permit.used) >= KEEP;
            if idle {
                permit.granted = held;
            }
            // what is none is told once, and then forgotten
            if idle || permit.granted == 0 || permit.told.is_none_or(|at| since(at) >= RENEW) {
                due.push(*user);
            }
        }
        due
    }

    /// Everybody of whom we have some.
    pub(super) fn users(&self) -> Vec<i64> {
        self.users.keys().copied().collect()
    }

    /// What the others should hear of, since this was asked last.
    pub(super) fn calls(&mut self) -> Vec<Call> {
        std::mem::take(&mut self.calls)
    }
}

impl Permit {
    fn new(now: Instant) -> Self {
        Self {
            granted: 0,
            limit: 0,
            asked: false,
            used: now,
            told: None,
            recalled: None,
            in_excess: false,
        }
    }
}

#[cfg(test)]
mod tests;
