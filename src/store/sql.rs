//! The store on a database: one SQL text for SQLite and PostgreSQL.
//!
//! Every change is one [`Change`]: it raises `revision`, does its work, writes its audit row, and
//! all of that is committed together or not at all.

mod audit;
mod dialect;
mod fault;
mod identity;
mod keys;
mod migrate;
mod passwords;
mod pool;
mod rotation;
mod ssh_keys;
mod usage;
mod users;
mod whole;

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use sqlx::{Any, AnyPool, Transaction};
use tokio::sync::{Mutex, MutexGuard};

use crate::config::Database;
use crate::store::{Actor, StoreError};
use dialect::Server;
use fault::Faults;

/// The columns of a [`User`](crate::auth::User) in table `u`.
macro_rules! user_columns {
    () => {
        "u.id AS user_id, u.username, u.email, u.issuer, u.subject, u.tier AS user_tier,
         u.tier_given, u.disabled, u.token_version"
    };
}
use user_columns;

/// How long anybody waits for an answer of the database before it counts as unreachable.
const PATIENCE: Duration = Duration::from_secs(5);

/// Users, keys, usage and audit trail in SQLite or PostgreSQL.
pub struct Store {
    pool: AnyPool,
    server: Server,
    /// Writers of this process go one at a time: in SQLite only one can write anyway, and those
    /// who wait here hold no connection that a reader could use.
    turn: Mutex<()>,
    /// The latest revision that was ever read.
    latest: AtomicI64,
}

impl Store {
    /// Opens the database, creating it or bringing its schema up to date first. Safe when several
    /// processes do so at once. The pool lives on the runtime that this is called on.
    pub async fn open(database: &Database) -> Result<Self, StoreError> {
        let server = Server::of(database).await?;
        migrate::run(&server).await?;
        let latest = AtomicI64::new(i64::MIN);
        Ok(Self { pool: pool::pool(&server), server, turn: Mutex::new(()), latest })
    }

    /// What is wrong with the settings, as far as that can be known without asking the server.
    ///
    /// # Errors
    /// In words that do not show the URL.
    pub fn check(database: &Database) -> Result<(), String> {
        dialect::check(database)
    }

    /// Which database this is: every copy of it says the same, and no other.
    pub async fn origin(&self) -> Result<String, StoreError> {
        let query = sqlx::query_scalar("SELECT id FROM origin");
        self.ask(query.fetch_one(&self.pool)).await
    }

    /// Closes all connections, waiting for what they are doing.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Writes down an act that changes nothing else in the database.
    pub async fn record_act(
        &self,
        by: &Actor<'_>,
        action: &str,
        target: &str,
    ) -> Result<(), StoreError> {
        self.write_down(by, action, &[target], "").await
    }

    /// Writes down an act that changes nothing else in the database, and more of it: for each of
    /// those to whom it is done, or not at all.
    pub async fn write_down(
        &self,
        by: &Actor<'_>,
        action: &str,
        targets: &[&str],
        detail: &str,
    ) -> Result<(), StoreError> {
        let mut change = self.change(by).await?;
        for target in targets {
            change.record(action, target, detail).await?;
        }
        change.faults.of(change.tx.commit().await)
    }

    /// Begins a change: whoever holds one is the only writer of the whole database.
    async fn change<'a>(&'a self, by: &'a Actor<'a>) -> Result<Change<'a>, StoreError> {
        let turn = self.turn().await?;
        let begin = async {
            let mut tx = self.pool.begin_with(self.server.dialect.begin()).await?;
            // First of all, because in PostgreSQL it is this row's lock that makes writers queue.
            sqlx::query("UPDATE revision SET n = n + 1").execute(&mut *tx).await?;
            Ok(tx)
        };
        let tx = self.ask(begin).await?;
        Ok(Change { tx, by, at: now(), faults: &self.server.faults, _turn: turn })
    }

    /// Takes note of a revision. One that is older than another comes from a server that was the
    /// primary once, and is connected to still.
    fn note_revision(&self, revision: i64) {
        if revision < self.latest.fetch_max(revision, Ordering::AcqRel) {
            self.server.faults.doubt().cast();
        }
    }

    /// This process's turn to write.
    async fn turn(&self) -> Result<MutexGuard<'_, ()>, StoreError> {
        let turn = tokio::time::timeout(PATIENCE, self.turn.lock()).await;
        turn.map_err(|_| self.server.faults.busy())
    }

    /// Waits for an answer to a question, but not for ever.
    async fn ask<T>(
        &self,
        query: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, StoreError> {
        let asking = self.server.faults.doubt().unless_answered();
        let outcome = in_time(query).await;
        asking.answered();
        self.server.faults.of(outcome)
    }
}

/// Waits for the outcome of a statement, but not for ever: a network that swallows what is sent
/// must hold up neither this act nor those behind it.
async fn in_time<T>(
    statement: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    let outcome = tokio::time::timeout(PATIENCE, statement).await;
    outcome.unwrap_or(Err(sqlx::Error::PoolTimedOut))
}

/// A change under way. Dropped without [`Change::commit`] it has never been.
struct Change<'a> {
    tx: Transaction<'static, Any>,
    by: &'a Actor<'a>,
    at: Timestamp,
    faults: &'a Faults,
    // after `tx`: the next writer begins when the roll-back is on its way
    _turn: MutexGuard<'a, ()>,
}

impl Change<'_> {
    /// Writes down what is being done, to whom; never a secret.
    async fn record(&mut self, action: &str, target: &str, detail: &str) -> Result<(), StoreError> {
        let row = sqlx::query(
            "INSERT INTO audit (at, actor, address, action, target, detail)
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(self.at.as_millisecond())
        .bind(self.by.name)
        .bind(self.by.address)
        .bind(action)
        .bind(target)
        .bind(detail);
        self.faults.of(in_time(row.execute(&mut *self.tx)).await).map(drop)
    }

    /// Writes down what was done and makes it last.
    async fn commit(mut self, action: &str, target: &str, detail: &str) -> Result<(), StoreError> {
        self.record(action, target, detail).await?;
        self.faults.of(in_time(self.tx.commit()).await)
    }

    /// Ends the change because there is nothing to change.
    async fn abandon(self) -> Result<(), StoreError> {
        self.faults.of(in_time(self.tx.rollback()).await)
    }
}

/// This moment, as exact as the database keeps it.
fn now() -> Timestamp {
    let now = Timestamp::now();
    moment(now.as_millisecond()).unwrap_or(now)
}

/// A moment as the database keeps it.
fn moment(milliseconds: i64) -> Result<Timestamp, sqlx::Error> {
    Timestamp::from_millisecond(milliseconds).map_err(|error| sqlx::Error::Decode(error.into()))
}

#[cfg(test)]
mod tests;
