//! How far the end of this process has come. The server moves it on, connections and requests
//! look at it.

use tokio::sync::watch;

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage {
    /// The step.
    pub step: Step,
    /// Whether another process has taken the listeners over, so that the service goes on.
    pub replaced: bool,
}

/// Each step includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Business as usual.
    Serving,
    /// Nobody new is accepted. A request on an open connection is its last.
    Leaving,
    /// Connections without a request are closed.
    Closing,
    /// What is still under way is ended, with an error.
    Cut,
}

impl Stage {
    /// The beginning.
    pub const SERVING: Self = Self { step: Step::Serving, replaced: false };

    /// Whether connections end with their current request.
    pub(super) fn is_leaving(self) -> bool {
        self.step >= Step::Leaving
    }

    /// Whether the service as a whole is about to end.
    pub(super) fn is_stopping(self) -> bool {
        self.is_leaving() && !self.replaced
    }
}

/// Resolves when the stage moves on from what it is now; never if nobody moves it any more.
pub(super) async fn moved(mut stage: watch::Receiver<Stage>) {
    if stage.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}
