//! States that a test switches on and off while the process runs.

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// What the control port's `/knobs` reads and sets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Knobs {
    /// Generation stands still, while `/` and `/api/tags` stay healthy.
    pub(crate) wedged: bool,
    /// Loads stand still.
    pub(crate) load_stall: bool,
    /// Loads fail with 500 and this reason.
    pub(crate) load_error: Option<String>,
    /// Milliseconds of real time before `/api/ps` answers.
    pub(crate) ps_stall_ms: u64,
    /// The listening socket is closed: connects are refused.
    pub(crate) refuse: bool,
    /// Connections are accepted and closed at once.
    pub(crate) close_at_accept: bool,
}

/// The knobs, for those who turn them and those who wait on them.
#[derive(Debug)]
pub(crate) struct Panel {
    sender: watch::Sender<Knobs>,
}

impl Panel {
    pub(crate) fn new() -> Self {
        Self { sender: watch::Sender::new(Knobs::default()) }
    }

    pub(crate) fn now(&self) -> Knobs {
        self.sender.borrow().clone()
    }

    pub(crate) fn set(&self, knobs: Knobs) {
        self.sender.send_replace(knobs);
    }

    /// Returns once the knobs satisfy `condition`.
    pub(crate) async fn wait(&self, condition: impl FnMut(&Knobs) -> bool) {
        // the sender lives as long as `self`, so the wait cannot fail
        let _ = self.sender.subscribe().wait_for(condition).await;
    }
}
