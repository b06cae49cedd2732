//! A slot that a request holds, and when it is free again.

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::lanes::Taken;
use crate::counters::Held;
use crate::sched::Lease;

/// A held slot. Dropped during a prefill it is free only at the end of the batch (or, with old
/// runners, of the prefill): the card does not stop in the middle.
pub(super) struct Seat {
    local: Option<Local>,
}

struct Local {
    lease: Lease,
    taken: Taken,
    /// How much of `text` was worked on: what the slot's cache will hold.
    done: usize,
    /// The whole prompt, then the output.
    text: Vec<u8>,
    busy_until: Option<Instant>,
    // dropped after the cache was written, in this order
    _held: Held,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Seat {
    pub(super) const fn remote() -> Self {
        Self { local: None }
    }

    pub(super) fn new(
        lease: Lease,
        permit: Option<OwnedSemaphorePermit>,
        held: Held,
        taken: Taken,
        prompt: &[u8],
    ) -> Self {
        let done = taken.cached;
        let (text, busy_until) = (prompt.to_vec(), None);
        let local = Local { lease, taken, done, text, busy_until, _held: held, _permit: permit };
        Self { local: Some(local) }
    }

    pub(super) fn cached_bytes(&self) -> usize {
        self.local.as_ref().map_or(0, |local| local.taken.cached)
    }

    pub(super) fn busy_until(&mut self, moment: Instant) {
        if let Some(local) = &mut self.local {
            local.busy_until = Some(moment);
        }
    }

    pub(super) fn prefilled(&mut self, bytes: usize) {
        if let Some(local) = &mut self.local {
            local.done = bytes;
        }
    }

    pub(super) fn decoded(&mut self, piece: &str) {
        if let Some(local) = &mut self.local {
            local.text.extend_from_slice(piece.as_bytes());
            local.done = local.text.len();
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some(local) = self.local.take() else { return };
        let late = local.busy_until.filter(|until| *until > Instant::now());
        if let (Some(until), Ok(runtime)) = (late, tokio::runtime::Handle::try_current()) {
            runtime.spawn(async move {
                tokio::time::sleep_until(until).await;
                drop(local);
            });
        }
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.text.truncate(self.done);
        let text = std::mem::take(&mut self.text);
        self.lease.runner.lanes.lock().give_back(self.taken.lane, text);
    }
}
