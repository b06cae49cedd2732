//! What a test wants to know and a real Ollama does not tell.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$about:meta])? $name:ident $kind:ident;)*) => {
        /// All counters of the process.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $($(#[$about])? pub(crate) $name: AtomicU64,)*
        }

        impl Counters {
            pub(crate) fn to_json(&self) -> serde_json::Value {
                let values = [$((stringify!($name), self.$name.load(Ordering::SeqCst)),)*];
                values.into_iter().map(|(name, value)| (name, serde_json::Value::from(value))).collect()
            }

            /// Sets totals to zero and peaks to what is held now; what is held stays counted.
            pub(crate) fn reset(&self) {
                $(counters!(@reset self $name $kind);)*
                self.max_inflight.store(self.inflight.load(Ordering::SeqCst), Ordering::SeqCst);
                self.max_concurrent.store(self.slots_in_use.load(Ordering::SeqCst), Ordering::SeqCst);
            }
        }
    };
    (@reset $self:ident $name:ident total) => { $self.$name.store(0, Ordering::SeqCst); };
    (@reset $self:ident $name:ident gauge) => {};
}

counters! {
    /// Requests between their head and the end of their answer.
    inflight gauge;
    /// Requests waiting for another load to end.
    queued gauge;
    /// Loads under way: 0 or 1.
    loading gauge;
    /// Requests waiting for a slot of a loaded model.
    waiting_slot gauge;
    /// Slots held by requests.
    slots_in_use gauge;
    /// Requests producing tokens at this moment.
    decoding gauge;
    connections_open gauge;
    /// The most requests ever in flight.
    max_inflight total;
    /// The most slots ever in use.
    max_concurrent total;
    /// Requests whose head arrived.
    requests total;
    /// Connections accepted.
    connections total;
    loads total;
    /// Loads given up because their requester left.
    aborted_loads total;
    /// Models unloaded to make room.
    evictions total;
    /// Models unloaded because a request came with other Runner options.
    reloads total;
    /// Models unloaded for any reason.
    unloads total;
    /// 503: the pending queue was full.
    refused_busy total;
    slot_acquisitions total;
    /// Requests whose client left before the answer was complete.
    cancelled_requests total;
    /// Tokens decoded for requests that were then cancelled.
    cancelled_tokens total;
    /// Tokens that cancelled requests had still to get.
    saved_tokens total;
    decoded_tokens total;
    prefill_tokens total;
    cache_hit_tokens total;
    /// Answers to refused Host or Origin headers.
    forbidden total;
    /// Requests that would have left the box.
    egress total;
    /// Requests that would have touched the owner's account.
    account total;
    faults_fired total;
    bytes_in total;
    bytes_out total;
}

/// Picks one counter.
pub(crate) type Which = fn(&Counters) -> &AtomicU64;

impl Counters {
    pub(crate) fn add(&self, which: Which, amount: usize) {
        which(self).fetch_add(amount as u64, Ordering::SeqCst);
    }

    pub(crate) fn read(&self, which: Which) -> u64 {
        which(self).load(Ordering::SeqCst)
    }

    /// Raises a gauge until the guard is dropped; with it, a peak.
    pub(crate) fn hold(self: &Arc<Self>, which: Which, peak: Option<Which>) -> Held {
        let now = which(self).fetch_add(1, Ordering::SeqCst) + 1;
        if let Some(peak) = peak {
            peak(self).fetch_max(now, Ordering::SeqCst);
        }
        Held { counters: Arc::clone(self), which }
    }
}

/// One unit of a gauge.
#[derive(Debug)]
pub(crate) struct Held {
    counters: Arc<Counters>,
    which: Which,
}

impl Drop for Held {
    fn drop(&mut self) {
        (self.which)(&self.counters).fetch_sub(1, Ordering::SeqCst);
    }
}
