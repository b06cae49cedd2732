//! The guards: a [`Ticket`] is a place in the queue, a [`Seat`] a slot of an instance.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

use super::Scheduler;
use super::core::{Admitted, Claim, Wish};
use crate::model::ModelKey;

/// A place in the queue. Dropping it leaves the queue, or frees the seat that was just given.
pub struct Ticket {
    scheduler: Arc<Scheduler>,
    place: Option<Place>,
    number: u64,
}

enum Place {
    Seated(Claim),
    Waiting(oneshot::Receiver<Claim>),
}

impl Ticket {
    pub(super) fn new(scheduler: Arc<Scheduler>, admitted: Admitted) -> Self {
        let (number, place) = match admitted {
            Admitted::Seated(number, claim) => (number, Place::Seated(claim)),
            Admitted::Waiting(number, receiver) => (number, Place::Waiting(receiver)),
        };
        Self { scheduler, place: Some(place), number }
    }

    /// Whether a seat was free on arrival.
    pub fn is_seated(&self) -> bool {
        matches!(self.place, Some(Place::Seated(_)))
    }

    /// Waits for the seat. Safe to cancel: dropping the future leaves the queue.
    pub async fn seat(mut self) -> Seat {
        if let Some(Place::Waiting(receiver)) = &mut self.place {
            // the sender lives in the queue for as long as this ticket does
            let claim = match receiver.await {
                Ok(claim) => claim,
                Err(_) => std::future::pending().await,
            };
            self.place = Some(Place::Seated(claim));
        }
        match self.place.take() {
            Some(Place::Seated(claim)) => Seat {
                scheduler: Arc::clone(&self.scheduler),
                number: self.number,
                claim,
                outcome: Outcome::Neutral,
            },
            _ => std::future::pending().await,
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let claim = match self.place.take() {
            None => return,
            Some(Place::Seated(claim)) => claim,
            Some(Place::Waiting(mut receiver)) => {
                let mut core = self.scheduler.core.lock();
                if core.leave(self.number) {
                    return;
                }
                drop(core);
                // no longer queued: the seat was given while we were leaving
                match receiver.try_recv() {
                    Ok(claim) => claim,
                    Err(_) => return,
                }
            }
        };
        self.scheduler.core.lock().release(&claim, Outcome::Neutral, Instant::now());
    }
}

/// How a request ended, as far as its instance is to blame or to praise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The instance answered.
    Answered,
    /// The instance failed through its own fault.
    Failed,
    /// Nothing can be said: the client left, or the request never reached it.
    Neutral,
}

/// A slot of an instance. Dropping it frees the slot and wakes the next.
pub struct Seat {
    scheduler: Arc<Scheduler>,
    number: u64,
    claim: Claim,
    outcome: Outcome,
}

impl Seat {
    /// The instance's number.
    pub fn instance(&self) -> usize {
        self.claim.instance
    }

    /// The model that the instance has to load first, if it has to.
    pub fn loads(&self) -> Option<&ModelKey> {
        self.claim.model.as_ref().filter(|_| self.claim.cold)
    }

    /// Says how the request fares with the instance. An answer counts at once, for trials; a
    /// failure counts when the seat is left.
    pub fn report(&mut self, outcome: Outcome) {
        if outcome == Outcome::Answered && self.outcome != Outcome::Answered {
            self.scheduler.core.lock().answered(&self.claim, Instant::now());
        }
        self.outcome = outcome;
    }

    /// Gives the seat back and asks for one that the wish does not exclude, with the same place
    /// in the queue.
    pub fn elsewhere(self, mut wish: Wish) -> Result<Ticket, super::Refused> {
        wish.number = Some(self.number);
        let scheduler = Arc::clone(&self.scheduler);
        drop(self);
        scheduler.enter(wish)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.scheduler.core.lock().release(&self.claim, self.outcome, Instant::now());
    }
}
