//! What several gateways share: the seats that a user may hold.

use std::time::Instant;

use super::Core;
use super::Station;
use crate::scheduler::permits::{Call, Has, Told};

impl Core {
    /// From now on a seat needs a permit.
    pub fn share(&mut self) {
        self.permits.share();
    }

    /// What other gateways should hear of, since this was asked last.
    pub fn calls(&mut self) -> Vec<Call> {
        self.permits.calls()
    }

    /// What this gateway has of a user's seats, and how many more would be of use.
    pub fn has(&self, user: i64) -> Option<Has> {
        let (held, waiting) = (self.queue.held_by_user(user), self.queue.waiting_of(user));
        let free = |(_, it): (usize, &Station)| it.slots.saturating_sub(it.in_flight);
        self.permits.of(user, held, waiting, self.active().map(free).sum())
    }

    /// The others were told that this gateway has so many permits, and granted more or none. Returns
    /// whether some are to be given back, because all together have more than the user may hold.
    pub fn granted(&mut self, user: i64, told: Told, now: Instant) -> bool {
        let Told { permits, more, in_excess } = told;
        if more > 0 {
            self.permits.grant(user, more, now);
            self.queue.unpark(user);
            self.dispatch(now);
        } else if self.has(user).is_some_and(|has| has.wanted == 0) {
            self.permits.ask_no_more(user);
        }
        self.permits.told(user, permits.saturating_add(more), now);
        self.permits.exceed(user, in_excess, self.queue.held_by_user(user))
    }

    /// Another gateway wants some of a user's seats. Returns whether some were idle here.
    pub fn recall(&mut self, user: i64, now: Instant) -> bool {
        self.permits.recall(user, self.queue.held_by_user(user), now)
    }

    /// Users of whom the others should be told.
    pub fn due(&mut self, now: Instant) -> Vec<i64> {
        let queue = &self.queue;
        self.permits.due(|user| queue.held_by_user(user), now)
    }

    /// Users of whose seats this gateway has some.
    pub fn holders(&self) -> Vec<i64> {
        self.permits.users()
    }

    /// Whether others were asked for a permit, and all who wait could hold one, were it granted.
    pub(super) fn is_asked_for(&self, user: i64, most: u32) -> bool {
        let (held, waiting) = (self.queue.held_by_user(user), self.queue.waiting_of(user));
        self.permits.is_asked(user) && held as usize + waiting <= most as usize
    }
}
