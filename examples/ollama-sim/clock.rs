//! Modelled time: real time made faster, and the stamps and durations that answers show.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// How modelled time passes and shows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    speed: f64,
    deterministic: bool,
}

/// 2026-01-01T00:00:00Z: the only moment that a deterministic stand-in knows.
const FIXED: i64 = 1_767_225_600;

impl Clock {
    pub(crate) const fn new(speed: f64, deterministic: bool) -> Self {
        Self { speed, deterministic }
    }

    pub(crate) const fn is_deterministic(self) -> bool {
        self.deterministic
    }

    /// How long to wait for some modelled time to pass.
    pub(crate) fn real(self, modelled: Duration) -> Duration {
        modelled.div_f64(self.speed)
    }

    pub(crate) async fn pass(self, modelled: Duration) {
        if !modelled.is_zero() {
            tokio::time::sleep(self.real(modelled)).await;
        }
    }

    /// The modelled time since `start`.
    pub(crate) fn since(self, start: Instant) -> Duration {
        start.elapsed().mul_f64(self.speed)
    }

    /// The modelled time until `end`, zero when it has passed.
    pub(crate) fn until(self, end: Instant) -> Duration {
        end.saturating_duration_since(Instant::now()).mul_f64(self.speed)
    }

    /// RFC 3339 with nanoseconds, as Go prints it.
    pub(crate) fn stamp(self) -> String {
        self.now().to_string()
    }

    pub(crate) fn stamp_after(self, ahead: Duration) -> String {
        let ahead = SignedDuration::try_from(ahead).unwrap_or(SignedDuration::ZERO);
        self.now().checked_add(ahead).unwrap_or(Timestamp::MAX).to_string()
    }

    /// Seconds since 1970.
    pub(crate) fn unix(self) -> i64 {
        self.now().as_second()
    }

    fn now(self) -> Timestamp {
        if self.deterministic {
            Timestamp::from_second(FIXED).unwrap_or(Timestamp::UNIX_EPOCH)
        } else {
            Timestamp::now()
        }
    }
}
