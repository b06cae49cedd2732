//! What the operator says by signals.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// An order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// `SIGTERM`: let what is under way finish.
    Stop,
    /// `SIGINT`: now.
    StopNow,
    /// `SIGUSR2`: hand over to a new process, and let what is under way finish.
    Upgrade,
}

/// Orders as they come. `SIGHUP`, which rereads the configuration, is listened to elsewhere.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    upgrade: Signal,
    /// Asked for so that a file that may not grow is an error of its write, not our end.
    _too_large: Signal,
}

impl Signals {
    /// Listens from now on.
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            upgrade: signal(SignalKind::user_defined2())?,
            _too_large: signal(SignalKind::from_raw(nix::libc::SIGXFSZ))?,
        })
    }

    /// The next order. Safe to cancel.
    pub(super) async fn next(&mut self) -> Order {
        tokio::select! {
            _ = self.interrupt.recv() => Order::StopNow,
            _ = self.terminate.recv() => Order::Stop,
            _ = self.upgrade.recv() => Order::Upgrade,
        }
    }
}
