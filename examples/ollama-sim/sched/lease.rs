//! The right to use a loaded model.

use std::sync::Arc;

use super::Scheduler;
use crate::engine::Runner;

/// Keeps a model loaded; its drop starts the model's `keep_alive`.
pub(crate) struct Lease {
    scheduler: Arc<Scheduler>,
    id: u64,
    pub(crate) runner: Arc<Runner>,
}

impl Lease {
    pub(super) const fn new(scheduler: Arc<Scheduler>, id: u64, runner: Arc<Runner>) -> Self {
        Self { scheduler, id, runner }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.scheduler.release(self.id);
    }
}
