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

/// Resolves when this step is reached; never if nobody moves the stage any more.
pub(super) async fn reached(mut stage: watch::Receiver<Stage>, step: Step) {
    if stage.wait_for(|now| now.step >= step).await.is_err() {
        std::future::pending::<()>().await;
    }
}
