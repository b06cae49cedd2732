//! The connections to the database: how many, for how long, and when they are not to be used again.
//!
//! A connection may go on answering after it has become useless: the server behind it was made a
//! standby, or the network swallows what is sent. So whoever finds out casts a [`Doubt`], and every
//! connection that is older than the doubt is thrown away and made anew.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sqlx::any::AnyPoolOptions;
use sqlx::pool::PoolConnectionMetadata;
use sqlx::{AnyConnection, AnyPool, Connection};
use tokio::time::timeout;

use super::PATIENCE;
use super::dialect::{Dialect, Server, is_standby};

/// A connection that nobody used for so long is closed.
const IDLE: Duration = Duration::from_secs(600);
/// So is one that is so old, when it is next used: servers and balancers are changed now and then.
const OLD: Duration = Duration::from_secs(1800);
/// For a connection to show that it is alive before it is used.
const PING: Duration = Duration::from_secs(1);
/// Between two doubts: a server that stays as it is must not be connected to all the time.
const SOON: Duration = Duration::from_millis(250);
/// Whoever gives up after so long has waited in vain, and did not just leave.
const IN_VAIN: Duration = Duration::from_millis(400);

/// When connections were last found to be of no use.
#[derive(Clone, Default)]
pub(super) struct Doubt(Arc<State>);

#[derive(Default)]
struct State {
    cast: Mutex<Option<Instant>>,
    standby: AtomicBool,
}

impl Doubt {
    /// What is connected now is not to be used again.
    pub(super) fn cast(&self) {
        let mut cast = self.0.cast.lock();
        if cast.is_none_or(|at| at.elapsed() >= SOON) {
            *cast = Some(Instant::now());
        }
    }

    /// For the length of a question: whoever gives it up has a doubt, and the connection on which
    /// it was asked must not be waited for when it is put back.
    pub(super) fn unless_answered(&self) -> Asking<'_> {
        Asking { doubt: self, since: Some(Instant::now()) }
    }

    /// Whether the server that was last connected to only repeats another.
    pub(super) fn met_a_standby(&self) -> bool {
        self.0.standby.load(Ordering::Relaxed)
    }

    /// Whether a connection of this age was there when the doubt was cast.
    fn hits(&self, age: Duration) -> bool {
        self.0.cast.lock().is_some_and(|at| at.elapsed() <= age)
    }
}

/// A question under way.
pub(super) struct Asking<'d> {
    doubt: &'d Doubt,
    since: Option<Instant>,
}

impl Asking<'_> {
    /// It was answered, one way or another.
    pub(super) fn answered(mut self) {
        self.since = None;
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if self.since.is_some_and(|since| since.elapsed() >= IN_VAIN) {
            self.doubt.cast();
        }
    }
}

/// Connections to this server, made when they are needed.
pub(super) fn pool(server: &Server) -> AnyPool {
    let dialect = server.dialect;
    let doubt = || server.faults.doubt().clone();
    let (joining, asking, leaving) = (doubt(), doubt(), doubt());
    AnyPoolOptions::new()
        .max_connections(dialect.connections())
        .acquire_timeout(PATIENCE)
        .idle_timeout(IDLE)
        .max_lifetime(OLD)
        // the pool's own test has no time limit; neither has the one when a connection is put back,
        // which is why those in doubt must not come to it
        .test_before_acquire(false)
        .after_connect(move |connection, _| {
            let doubt = joining.clone();
            Box::pin(async move {
                let outcome = dialect.prepare(connection).await;
                let standby = outcome.as_ref().is_err_and(is_standby);
                doubt.0.standby.store(standby, Ordering::Relaxed);
                outcome
            })
        })
        .before_acquire(move |connection, of| {
            let doubt = asking.clone();
            Box::pin(async move { Ok(is_good(connection, &of, &doubt, dialect).await) })
        })
        .after_release(move |_, of| {
            let doubt = leaving.clone();
            Box::pin(async move { Ok(!doubt.hits(of.age)) })
        })
        .connect_lazy_with(server.options.clone())
}

async fn is_good(
    connection: &mut AnyConnection,
    of: &PoolConnectionMetadata,
    doubt: &Doubt,
    dialect: Dialect,
) -> bool {
    // SQLite ends a transaction by itself when the disk fails it, which this crate never hears of:
    // a connection that counts one still could never begin another
    if doubt.hits(of.age) || connection.is_in_transaction() {
        return false;
    }
    // a file does not hang up
    dialect == Dialect::Sqlite || timeout(PING, connection.ping()).await.is_ok_and(|it| it.is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_doubt_hits_what_was_connected_before_it_and_nothing_newer() {
        let doubt = Doubt::default();
        assert!(!doubt.hits(Duration::from_secs(3600)));
        doubt.cast();
        assert!(doubt.hits(Duration::from_secs(1)));
        let (mark, cast) = (Instant::now(), *doubt.0.cast.lock());
        while mark.elapsed() < Duration::from_millis(2) {
            std::hint::spin_loop();
        }
        assert!(!doubt.hits(Duration::from_millis(1)), "made since");
        doubt.cast();
        assert_eq!(*doubt.0.cast.lock(), cast, "a moment ago is soon enough");
        let doubt = Doubt::default();
        doubt.unless_answered().answered();
        drop(doubt.unless_answered());
        assert!(!doubt.hits(Duration::from_secs(1)), "nobody waited in vain");
        let since = Instant::now().checked_sub(IN_VAIN).unwrap();
        drop(Asking { doubt: &doubt, since: Some(since) });
        assert!(doubt.hits(Duration::from_secs(1)));
    }
}
