//! The guards: a [`Ticket`] is a place in the queue, a [`Seat`] a slot of an instance, a [`Load`]
//! the loading of a model that several may wait for.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::core::{Claim, Ending};
use super::learn::Report;
use super::placement::Candidate;
use super::wish::Wish;
use super::{Desk, Lock, Outlook, Scheduler};
use crate::model::ModelKey;

/// A place in the queue. Dropping it leaves the queue, or frees the seat that was just given.
pub struct Ticket<L: Lock = Mutex<Desk>> {
    scheduler: Arc<Scheduler<L>>,
    place: Option<Place>,
    number: u64,
}

pub(super) enum Admission {
    Seated(u64, Claim),
    Waiting(u64, oneshot::Receiver<Claim>),
}

enum Place {
    Seated(Claim),
    Waiting(oneshot::Receiver<Claim>),
}

impl<L: Lock> Ticket<L> {
    pub(super) fn new(scheduler: Arc<Scheduler<L>>, admitted: Admission) -> Self {
        let (number, place) = match admitted {
            Admission::Seated(number, claim) => (number, Place::Seated(claim)),
            Admission::Waiting(number, receiver) => (number, Place::Waiting(receiver)),
        };
        Self { scheduler, place: Some(place), number }
    }

    /// Whether a seat was free on arrival.
    pub fn is_seated(&self) -> bool {
        matches!(self.place, Some(Place::Seated(_)))
    }

    /// The request's number in the queue, for [`Scheduler::outlook`] while [`Self::seat`] waits.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Waits for the seat. Safe to cancel: dropping the future leaves the queue.
    pub async fn seat(mut self) -> Seat<L> {
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
                ending: Ending::nothing(),
            },
            _ => std::future::pending().await,
        }
    }
}

impl<L: Lock> Drop for Ticket<L> {
    fn drop(&mut self) {
        let claim = match self.place.take() {
            None => return,
            Some(Place::Seated(claim)) => claim,
            Some(Place::Waiting(mut receiver)) => {
                let left = self.scheduler.change(|desk, now| {
                    let left = desk.core.leave(self.number, now);
                    if left {
                        desk.waiting.remove(&self.number);
                    }
                    left
                });
                if left {
                    return;
                }
                // no longer queued: the seat was given while we were leaving
                match receiver.try_recv() {
                    Ok(claim) => claim,
                    Err(_) => return,
                }
            }
        };
        let ending = Ending::nothing();
        self.scheduler.change(|desk, now| desk.core.release(&claim, &ending, now));
    }
}

/// How a request ended, as far as its instance is to blame or to praise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The instance answered.
    Answered,
    /// The instance refused the request: it is well, and did nothing from which to learn.
    Refused,
    /// The instance failed through its own fault.
    Failed,
    /// Nothing can be said: the client left, or the request never reached it.
    Neutral,
}

impl Ending {
    /// An end of which nothing is known.
    pub fn nothing() -> Self {
        Self { outcome: Outcome::Neutral, report: Report::default(), pieces: 0 }
    }
}

/// A slot of an instance. Dropping it frees the slot and wakes the next.
pub struct Seat<L: Lock = Mutex<Desk>> {
    scheduler: Arc<Scheduler<L>>,
    number: u64,
    claim: Claim,
    ending: Ending,
}

impl<L: Lock> Seat<L> {
    /// The instance's number.
    pub fn instance(&self) -> usize {
        self.claim.instance
    }

    /// The model that the instance has to load first, if it has to.
    pub fn loads(&self) -> Option<&ModelKey> {
        self.claim.model.as_ref().filter(|_| self.claim.cold)
    }

    /// The instances among which this one was chosen, with their seconds.
    pub fn take_candidates(&mut self) -> Vec<Candidate> {
        std::mem::take(&mut self.claim.candidates)
    }

    /// Says how the request fares with the instance. An answer counts at once, for trials; a
    /// failure counts when the seat is left.
    pub fn report(&mut self, outcome: Outcome) {
        if self.ending.outcome != outcome {
            self.scheduler.change(|desk, now| match outcome {
                Outcome::Answered => desk.core.answered(&self.claim, now),
                Outcome::Refused => desk.core.refused(&self.claim, now),
                Outcome::Failed | Outcome::Neutral => {}
            });
        }
        self.ending.outcome = outcome;
    }

    /// Says what the answer has said of the work behind it, and how many pieces it came in: for
    /// the charge, and to learn from.
    pub fn account(&mut self, report: Report, pieces: u64) {
        self.ending.report = report;
        self.ending.pieces = pieces;
    }

    /// Makes the load for which this seat was given go on without it, for as long as anybody
    /// waits for the model; none if there is nothing to load (any more).
    pub fn detach_load(&self) -> Option<Load<L>> {
        let claim = self.claim.id;
        let (sender, abandoned) = oneshot::channel();
        let detached = self.scheduler.change(|desk, _| {
            let detached = desk.core.detach_load(claim);
            if detached {
                desk.loads.insert(claim, sender);
            }
            detached
        });
        let scheduler = Arc::clone(&self.scheduler);
        detached.then_some(Load { scheduler, claim, abandoned: Some(abandoned), worked: false })
    }

    /// Gives the seat back and asks for one that the wish does not exclude, with the same place
    /// in the queue.
    ///
    /// # Errors
    /// There is no other instance, or no room.
    pub fn elsewhere(self, mut wish: Wish) -> Result<Ticket<L>, super::Refused> {
        wish.number = Some(self.number);
        let scheduler = Arc::clone(&self.scheduler);
        drop(self);
        scheduler.enter(wish)
    }
}

impl<L: Lock> Drop for Seat<L> {
    fn drop(&mut self) {
        let (claim, ending) = (&self.claim, &self.ending);
        self.scheduler.change(|desk, now| desk.core.release(claim, ending, now));
    }
}

/// A load that goes on by itself. Dropping it says that it is over.
pub struct Load<L: Lock = Mutex<Desk>> {
    scheduler: Arc<Scheduler<L>>,
    claim: u64,
    abandoned: Option<oneshot::Receiver<()>>,
    worked: bool,
}

impl<L: Lock> Load<L> {
    /// Resolves when nobody waits for the model any more.
    pub async fn abandoned(&mut self) {
        if let Some(abandoned) = &mut self.abandoned {
            // nothing is ever sent: the sender's end is the message
            let _ = abandoned.await;
            self.abandoned = None;
        }
    }

    /// The model is in memory.
    pub fn worked(mut self) {
        self.worked = true;
    }
}

impl<L: Lock> Drop for Load<L> {
    fn drop(&mut self) {
        self.scheduler.change(|desk, now| {
            desk.loads.remove(&self.claim);
            desk.core.load_ended(self.claim, self.worked, now);
        });
    }
}

impl<L: Lock> Scheduler<L> {
    /// What a request that waits may expect; none if it does not wait.
    pub fn outlook(&self, number: u64) -> Option<Outlook> {
        self.desk.with(|desk| desk.core.outlook(number, std::time::Instant::now()))
    }
}
