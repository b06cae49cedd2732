//! What a request has taken.

use std::sync::Arc;

use super::{Bound, Limits, Standing, Taken};

/// Bounds that one thing can have at most: of the key, of its tier, of the user.
pub(super) const MOST: usize = 3;

/// What a request has taken of its limits. Dropped, everything goes back: only what was kept or
/// settled counts.
pub struct Claim {
    limits: Arc<Limits>,
    parts: [Option<(Bound, Taken)>; MOST],
    tightest: Option<Standing>,
}

impl Claim {
    pub(super) fn new(limits: Arc<Limits>) -> Self {
        Self { limits, parts: [None; MOST], tightest: None }
    }

    pub(super) fn add(&mut self, bound: Bound, taken: Taken, standing: Standing) {
        if let Some(free) = self.parts.iter_mut().find(|part| part.is_none()) {
            *free = Some((bound, taken));
        }
        if self.tightest.is_none_or(|tightest| standing.remaining < tightest.remaining) {
            self.tightest = Some(standing);
        }
    }

    /// How the tightest of the limits stands, with this request in it.
    pub fn standing(&self) -> Option<Standing> {
        self.tightest
    }

    /// It was used, as it was taken.
    pub fn keep(mut self) {
        let taken = |(_, taken): &(Bound, Taken)| taken.amount();
        let amounts = self.parts.each_ref().map(|part| part.as_ref().map_or(0, taken));
        self.end(amounts);
    }

    /// So much of it was used.
    pub fn settle(mut self, used: u64) {
        self.end([used; MOST]);
    }

    /// Nothing of it was used. Returns how the tightest of the limits stands without it.
    pub fn give_back(mut self) -> Option<Standing> {
        let bounds = self.parts.map(|part| part.map(|(bound, _)| bound));
        self.end([0; MOST]);
        self.limits.tightest(bounds.iter().flatten())
    }

    fn end(&mut self, used: [u64; MOST]) {
        // dropped after its end there is nothing left to do
        if self.parts.iter().all(Option::is_none) {
            return;
        }
        let now = self.limits.now();
        for (part, used) in self.parts.iter_mut().zip(used) {
            if let Some((bound, taken)) = part.take() {
                self.limits.store.settle(&bound, taken, used, now);
            }
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.end([0; MOST]);
    }
}
