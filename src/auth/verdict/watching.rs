//! Watching for changes: those made here, those that the store shows, those that peers tell of.
//!
//! An epoch ends with each. A revision only moves forward: a store that shows an older one is a copy
//! that lags, from which a revoked key would come back. A peer's answer counts only if it is of the revision that we know the
//! store to have reached in this very epoch: a change made here ends the epoch at once, and no
//! revision is known again until the store was read after it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::{Authenticator, Epoch};
use crate::auth::{Heard, Peers, Unavailable};

/// Between two looks at the store's revision: a quarter of the second in which changes made by
/// other processes take effect.
const POLL: Duration = Duration::from_millis(250);

/// Longest time that such a look takes.
const POLL_TIMEOUT: Duration = Duration::from_millis(500);

/// Between two times that the peers are told what they know.
const TELL: Duration = Duration::from_millis(900);

/// How far the store had come when it was last looked at.
#[derive(Clone, Copy, Default)]
pub(super) struct Reached {
    /// None before the first look.
    revision: Option<i64>,
    /// Changes made in this process, and how many of them the revision is known to include.
    changes: u64,
    settled: u64,
    /// The epoch that the revision is true of; none while a change has ended the last one and its
    /// revision is not known yet.
    epoch: Option<Epoch>,
    /// Since when the store itself has been behind that revision.
    behind: Option<Instant>,
}

/// What was last told to the peers, and when.
#[derive(Default)]
struct Told(Option<(i64, Instant)>);

impl Told {
    /// Whether to tell it: what is new at once, what is not once a second.
    fn is_due(&mut self, revision: i64, now: Instant) -> bool {
        let is_old =
            self.0.is_some_and(|(told, at)| told == revision && now.duration_since(at) < TELL);
        if !is_old {
            self.0 = Some((revision, now));
        }
        !is_old
    }
}

async fn hear(peers: Option<&dyn Peers>) -> Heard {
    match peers {
        Some(peers) => peers.hear().await,
        None => std::future::pending().await,
    }
}

impl Authenticator {
    /// Forgets everything: from now on, no answer that was asked for earlier serves a request.
    /// For changes made in this process; what others change is noticed by [`watch`](Self::watch).
    pub fn invalidate(&self) {
        {
            let mut reached = self.reached.lock();
            reached.changes += 1;
            reached.epoch = None;
            self.end_epoch();
        }
        self.changed.notify_one();
    }

    /// Ends the epoch; only whoever holds `reached` may.
    fn end_epoch(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
        self.known.invalidate_all();
        self.unknown.invalidate_all();
    }

    /// Watches the store and the peers for changes until told to stop, or until nobody is left to
    /// tell. Without it identities are served for `max_stale` and changes go unseen, so it should
    /// outlive the last request.
    pub async fn watch(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let mut told = Told::default();
        let mut ticks = interval(POLL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let polling = async {
            loop {
                tokio::select! {
                    _ = ticks.tick() => self.poll(&mut told).await,
                    () = self.changed.notified() => self.poll(&mut told).await,
                    heard = hear(self.peers.as_deref()) => self.note(heard),
                }
            }
        };
        tokio::select! {
            () = polling => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }

    async fn poll(&self, told: &mut Told) {
        let (changes, begun) = (self.reached.lock().changes, Instant::now());
        let answer = match timeout(POLL_TIMEOUT, self.store.revision()).await {
            Ok(answer) => answer,
            Err(_) => Err(Unavailable("no answer in time".to_owned())),
        };
        match answer {
            Ok(revision) if !self.reached(revision, Some(changes), begun) => {
                self.missed(&format!(
                    "it is at revision {revision} and was further: it is a copy that lags, or was \
                     restored from a backup, which is believed after {:?} or a restart",
                    self.max_stale
                ));
            }
            Ok(revision) => {
                if self.silent.swap(false, Ordering::Relaxed) {
                    log::info!("the database answers again");
                }
                if let Some(peers) = self.peers.as_ref().filter(|_| told.is_due(revision, begun)) {
                    peers.tell(revision).await;
                }
            }
            Err(cause) => self.missed(&format!("the database is silent: {cause}")),
        }
    }

    fn missed(&self, cause: &str) {
        if !self.silent.swap(true, Ordering::Relaxed) {
            log::warn!("known keys are served from memory: {cause}");
        }
    }

    /// What a peer has read counts like what we read ourselves, unless we know better already.
    pub(super) fn note(&self, heard: Heard) {
        let ours = self.reached.lock().revision;
        if ours.is_some_and(|ours| heard.revision >= ours) {
            let now = Instant::now();
            self.reached(heard.revision, None, now.checked_sub(heard.age).unwrap_or(now));
        }
    }

    /// The store had reached this revision at this moment, when so many changes had been made
    /// here; a peer does not know of those. False if it had reached a later one before, unless it
    /// has shown this for so long that it will not come to be there again.
    fn reached(&self, revision: i64, changes: Option<u64>, moment: Instant) -> bool {
        let mut reached = self.reached.lock();
        if reached.revision.is_some_and(|known| revision < known) {
            let since = *reached.behind.get_or_insert(moment);
            if moment.saturating_duration_since(since) < self.max_stale {
                return false;
            }
        }
        reached.behind = None;
        // the first answer ends an epoch too: what was asked before may be older
        let is_new = reached.revision.replace(revision) != Some(revision);
        if is_new {
            self.end_epoch();
        }
        if let Some(changes) = changes {
            reached.settled = changes;
        }
        if is_new || changes.is_some() {
            let epoch = self.epoch.load(Ordering::Acquire);
            reached.epoch = (reached.settled == reached.changes).then_some(epoch);
        }
        self.confirmed.fetch_max(self.age(moment), Ordering::AcqRel);
        true
    }

    /// What the store had reached in this epoch, if it was looked at lately enough: then an answer
    /// that a peer had of that revision is as good as one of ours.
    pub(super) fn shared_revision(&self, epoch: Epoch, now: Instant) -> Option<i64> {
        self.peers.as_ref()?;
        let lately = now.saturating_duration_since(self.confirmed()) <= self.max_stale;
        let reached = *self.reached.lock();
        reached.revision.filter(|_| lately && reached.epoch == Some(epoch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_revision_is_told_at_once_and_a_known_one_every_now_and_then() {
        let (mut told, start) = (Told::default(), Instant::now());
        let just_before = TELL - Duration::from_millis(1);
        assert!(told.is_due(1, start), "nothing was told yet");
        assert!(!told.is_due(1, start) && !told.is_due(1, start + just_before));
        assert!(told.is_due(2, start + just_before), "it is new");
        assert!(!told.is_due(2, start + TELL), "that was told a moment ago");
        assert!(told.is_due(2, start + just_before + TELL));
        assert!(!told.is_due(2, start + just_before + TELL));
    }
}
