//! What several gateways share: the seats that a user may hold, and those through a key.

use std::time::Instant;

use super::Core;
use super::Station;
use crate::scheduler::permits::{Call, Has, Holder, Told};
use crate::scheduler::wish::Payer;

impl Core {
    /// From now on a seat needs a permit.
    pub fn share(&mut self) {
        self.permits.share();
    }

    /// What other gateways should hear of, since this was asked last.
    pub fn calls(&mut self) -> Vec<Call> {
        self.permits.calls()
    }

    /// What this gateway has of somebody's seats, and how many more would be of use.
    pub fn has(&self, holder: Holder) -> Option<Has> {
        let (held, waiting) = (self.queue.held_of(holder), self.queue.waiting_of(holder));
        let free = |(_, it): (usize, &Station)| it.slots.saturating_sub(it.in_flight);
        self.permits.of(holder, held, waiting, self.active().map(free).sum())
    }

    /// The others were told that this gateway has so many permits, and granted more or none. Returns
    /// whether some are to be given back, because all together have more than may be held.
    pub fn granted(&mut self, holder: Holder, told: Told, now: Instant) -> bool {
        let Told { permits, more, in_excess, answered } = told;
        if more > 0 {
            self.permits.grant(holder, more, now);
            self.queue.unpark(holder.user);
            self.dispatch(now);
        } else if self.has(holder).is_some_and(|has| has.wanted == 0) {
            self.permits.ask_no_more(holder);
        }
        self.permits.told(holder, permits.saturating_add(more), answered, now);
        self.permits.exceed(holder, in_excess, self.queue.held_of(holder))
    }

    /// Another gateway wants some of somebody's seats. Returns whether some were idle here.
    pub fn recall(&mut self, holder: Holder, now: Instant) -> bool {
        self.permits.recall(holder, self.queue.held_of(holder), now)
    }

    /// Of whom the others should be told.
    pub fn due(&mut self, now: Instant) -> Vec<Holder> {
        let queue = &self.queue;
        self.permits.due(|holder| queue.held_of(holder), now)
    }

    /// What the others were told before a moment may have been forgotten. Returns of whom they should
    /// be told anew.
    pub fn doubt(&mut self, before: Instant, now: Instant) -> Vec<Holder> {
        let queue = &self.queue;
        self.permits.doubt(before, |holder| queue.held_of(holder), now);
        self.permits.holders()
    }

    /// Of whose seats this gateway has some.
    pub fn holders(&self) -> Vec<Holder> {
        self.permits.holders()
    }

    /// A seat of this payer's was taken or freed.
    pub(super) fn count_permits(&mut self, payer: Payer, now: Instant) {
        let (of_user, through_key) = self.queue.held_by(payer);
        self.permits.used(Holder { user: payer.user, key: None }, of_user, now);
        if payer.key.is_some() {
            self.permits.used(Holder { user: payer.user, key: payer.key }, through_key, now);
        }
    }

    /// Whether others were asked for a permit, and all who wait could hold one, were it granted.
    pub(super) fn is_asked_for(&self, bounds: &[(Holder, u32)]) -> bool {
        let fits = |&(holder, most): &(Holder, u32)| {
            let (held, waiting) = (self.queue.held_of(holder), self.queue.waiting_of(holder));
            held as usize + waiting <= most as usize
        };
        bounds.iter().any(|(holder, _)| self.permits.is_asked(*holder)) && bounds.iter().all(fits)
    }
}
