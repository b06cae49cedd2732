//! How many of somebody's seats this gateway may give, where several share what one may hold.
//!
//! A *permit* is the right to one seat. All gateways together give out as many to a user, or to a key
//! with a limit of its own, as they may hold; each keeps those that it was given, also while the seat is free, so that whoever
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
/// Within this time after the memory that all share was lost, every gateway has told anew.
const DOUBT: Duration = RENEW.saturating_add(Duration::from_secs(1));

/// Who may hold so many seats and no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Holder {
    /// The user.
    pub user: i64,
    /// One of the user's keys, by itself; `None` is all that the user holds.
    pub key: Option<i64>,
}

/// The permits of this gateway.
#[derive(Debug, Default)]
pub(super) struct Permits {
    /// Without others everybody may hold what they may hold.
    shared: bool,
    holders: HashMap<Holder, Permit>,
    calls: Vec<Call>,
}

/// What the others should hear of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Somebody could be seated now, had we a permit more.
    Lacks(Holder),
    /// We hold fewer of somebody's permits than we did, and another wants them.
    Returned(Holder),
}

/// What this gateway has of a holder's seats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Has {
    /// Permits, for seats that are taken and for some that are free.
    pub permits: u32,
    /// More of them that would be of use now.
    pub wanted: u32,
    /// Seats that may be held at all gateways.
    pub limit: u32,
}

/// What came of telling the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// What they were told that we have.
    pub permits: u32,
    /// What they granted.
    pub more: u32,
    /// Whether all gateways together have more than may be held.
    pub in_excess: bool,
    /// Whether there was an answer.
    pub answered: bool,
}

#[derive(Debug)]
struct Permit {
    /// Never fewer than the seats that are taken.
    granted: u32,
    /// What may be held, as the latest request had it.
    limit: u32,
    /// Whether more was asked for, and nothing has come of it yet.
    asked: bool,
    used: Instant,
    told: Option<Instant>,
    /// When others last heard of it for certain.
    known: Option<Instant>,
    /// When another gateway last wanted some.
    recalled: Option<Instant>,
    /// When it was learnt that the others may not know of these.
    forgotten: Option<Instant>,
    /// All gateways have more than the limit, as after a time without Redis.
    in_excess: bool,
}

impl Permits {
    /// From now on permits are needed.
    pub(super) fn share(&mut self) {
        self.shared = true;
    }

    /// Whether one who holds so many seats may have one more, as far as permits go.
    pub(super) fn allow(&self, holder: Holder, held: u32) -> bool {
        !self.shared || self.holders.get(&holder).is_some_and(|permit| held < permit.granted)
    }

    /// Whether more was asked for on their behalf.
    pub(super) fn is_asked(&self, holder: Holder) -> bool {
        self.holders.get(&holder).is_some_and(|permit| permit.asked)
    }

    /// They could be seated, but for a permit.
    pub(super) fn lack(&mut self, holder: Holder, limit: u32, now: Instant) {
        let permit = self.holders.entry(holder).or_insert_with(|| Permit::new(now));
        permit.limit = limit;
        if !std::mem::replace(&mut permit.asked, true) {
            self.calls.push(Call::Lacks(holder));
        }
    }

    /// What was asked for came, or at least some of it.
    pub(super) fn grant(&mut self, holder: Holder, more: u32, now: Instant) {
        let permit = self.holders.entry(holder).or_insert_with(|| Permit::new(now));
        permit.granted = permit.granted.saturating_add(more);
        permit.used = now;
        permit.asked = false;
    }

    /// Nobody waits any more for what was asked for.
    pub(super) fn ask_no_more(&mut self, holder: Holder) {
        if let Some(permit) = self.holders.get_mut(&holder) {
            permit.asked = false;
        }
    }

    /// A seat was taken or freed; so many are held now.
    pub(super) fn used(&mut self, holder: Holder, held: u32, now: Instant) {
        let is_since = |at: Option<Instant>, time| {
            at.is_some_and(|at| now.saturating_duration_since(at) < time)
        };
        let Some(permit) = self.holders.get_mut(&holder) else { return };
        permit.used = now;
        let goes_back = permit.in_excess
            || is_since(permit.recalled, WANTED)
            || is_since(permit.forgotten, DOUBT);
        if goes_back && permit.granted > held {
            permit.granted = held;
            self.calls.push(Call::Returned(holder));
        }
    }

    /// Another gateway wants some of these: what is idle goes back, and until it is told
    /// otherwise so does what becomes free. Returns whether something was idle.
    pub(super) fn recall(&mut self, holder: Holder, held: u32, now: Instant) -> bool {
        let Some(permit) = self.holders.get_mut(&holder) else { return false };
        permit.recalled = Some(now);
        let idle = permit.granted > held;
        permit.granted = permit.granted.min(held);
        idle
    }

    /// All gateways together have more than may be held, or no longer: what is idle is ours no more. Returns whether something was idle.
    pub(super) fn exceed(&mut self, holder: Holder, in_excess: bool, held: u32) -> bool {
        let Some(permit) = self.holders.get_mut(&holder) else { return false };
        permit.in_excess = in_excess;
        let idle = in_excess && permit.granted > held;
        if idle {
            permit.granted = held;
        }
        idle
    }

    /// What was told before this moment may have been forgotten, and others may have been given what
    /// we hold: nothing of it that is idle is ours any more, nor what becomes free before all have
    /// told anew.
    pub(super) fn doubt(&mut self, before: Instant, held: impl Fn(Holder) -> u32, now: Instant) {
        for (holder, permit) in &mut self.holders {
            if permit.granted > 0 && permit.known.is_none_or(|at| at < before) {
                permit.forgotten = Some(now);
                permit.granted = permit.granted.min(held(*holder));
            }
        }
    }

    /// What this gateway has of somebody's seats; nothing of one it knows nothing of.
    pub(super) fn of(&self, holder: Holder, held: u32, waiting: usize, free: u32) -> Option<Has> {
        let permit = self.holders.get(&holder)?;
        let waiting = u32::try_from(waiting).unwrap_or(u32::MAX);
        let lacks = waiting > 0 && held >= permit.granted;
        let most = permit.limit.saturating_sub(permit.granted);
        let wanted = if lacks { waiting.min(free.max(1)).min(most) } else { 0 };
        Some(Has { permits: permit.granted, wanted, limit: permit.limit })
    }

    /// The others know that we have so many of these.
    pub(super) fn told(&mut self, holder: Holder, permits: u32, answered: bool, now: Instant) {
        let Some(permit) = self.holders.get_mut(&holder) else { return };
        permit.told = Some(now);
        if answered {
            permit.known = Some(now);
        }
        // what was given back meanwhile they do not know yet
        if permit.granted == 0 && permits == 0 && !permit.asked {
            self.holders.remove(&holder);
        }
    }

    /// Of whom the others should be told; what lay idle for long goes back.
    pub(super) fn due(&mut self, held: impl Fn(Holder) -> u32, now: Instant) -> Vec<Holder> {
        let mut due = Vec::new();
        for (holder, permit) in &mut self.holders {
            let since = |at: Instant| now.saturating_duration_since(at);
            let held = held(*holder);
            let idle = permit.granted > held && since(permit.used) >= KEEP;
            if idle {
                permit.granted = held;
            }
            // what is none is told once, and then forgotten
            if idle || permit.granted == 0 || permit.told.is_none_or(|at| since(at) >= RENEW) {
                due.push(*holder);
            }
        }
        due
    }

    /// Everybody of whom we have some.
    pub(super) fn holders(&self) -> Vec<Holder> {
        self.holders.keys().copied().collect()
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
            known: None,
            recalled: None,
            forgotten: None,
            in_excess: false,
        }
    }
}

#[cfg(test)]
mod tests;
