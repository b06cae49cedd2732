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
mod rotation;
mod ssh_keys;
mod usage;
mod users;

use std::time::Duration;

use jiff::Timestamp;
use sqlx::any::AnyPoolOptions;
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

/// How long anybody waits for the database before it counts as unreachable.
const PATIENCE: Duration = Duration::from_secs(5);

/// Users, keys, usage and audit trail in SQLite or PostgreSQL.
pub struct Store {
    pool: AnyPool,
    server: Server,
    /// Writers of this process go one at a time: in SQLite only one can write anyway, and those
    /// who wait here hold no connection that a reader could use.
    turn: Mutex<()>,
}

impl Store {
    /// Opens the database, creating it or bringing its schema up to date first. Safe when several
    /// processes do so at once. The pool lives on the runtime that this is called on.
    pub async fn open(database: &Database) -> Result<Self, StoreError> {
        let server = Server::of(database).await?;
        migrate::run(&server).await?;
        let opening = server.clone();
        let pool = AnyPoolOptions::new()
            .max_connections(server.dialect.connections())
            .acquire_timeout(PATIENCE)
            .after_connect(move |connection, _| {
                let dialect = opening.dialect;
                Box::pin(async move { dialect.prepare(connection).await })
            })
            .connect_lazy_with(server.options.clone());
        Ok(Self { pool, server, turn: Mutex::new(()) })
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
        let turn = self.turn.lock().await;
        let begin = async {
            let mut tx = self.pool.begin_with(self.server.dialect.begin()).await?;
            // First of all, because in PostgreSQL it is this row's lock that makes writers queue.
            sqlx::query("UPDATE revision SET n = n + 1").execute(&mut *tx).await?;
            Ok(tx)
        };
        // longer than SQLite and PostgreSQL wait for a lock themselves, and then say so
        let tx = self.within(PATIENCE * 2, begin).await?;
        Ok(Change { tx, by, at: now(), faults: &self.server.faults, _turn: turn })
    }

    /// Waits for an answer to a question, but not for ever.
    async fn ask<T>(
        &self,
        query: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, StoreError> {
        self.within(PATIENCE, query).await
    }

    async fn within<T>(
        &self,
        limit: Duration,
        statement: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, StoreError> {
        match tokio::time::timeout(limit, statement).await {
            Ok(outcome) => outcome.map_err(|error| self.server.faults.explain(&error)),
            Err(_) => Err(self.server.faults.silence()),
        }
    }
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
        self.faults.of(row.execute(&mut *self.tx).await).map(drop)
    }

    /// Writes down what was done and makes it last.
    async fn commit(mut self, action: &str, target: &str, detail: &str) -> Result<(), StoreError> {
        self.record(action, target, detail).await?;
        self.faults.of(self.tx.commit().await)
    }

    /// Ends the change because there is nothing to change.
    async fn abandon(self) -> Result<(), StoreError> {
        self.faults.of(self.tx.rollback().await)
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
