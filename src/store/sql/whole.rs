//! Whether the database is whole, looked at before anybody is served from it.
//!
//! A page that a disk has damaged, or a backup that brought back a part of the tables, would show
//! itself in the middle of the night, as an error of some request or as a key that nobody knows.

use std::time::Duration;

use sqlx::AnyConnection;
use tokio::time::timeout;

use super::Store;
use super::dialect::Dialect;
use super::fault::Faults;
use crate::config::Database;
use crate::store::StoreError;

/// For reading a whole SQLite file; one that takes longer is served from as it is.
const READING: Duration = Duration::from_secs(5);

/// What every step of the schema left behind, in statements that read nothing.
const TABLES: [&str; 10] = [
    "SELECT id, username, issuer, subject, email, password_hash, tier, tier_given, disabled,
            token_version, created_at FROM users WHERE 1 = 0",
    "SELECT id, user_id, public_key, created_at FROM ssh_keys WHERE 1 = 0",
    "SELECT id, public_id, key_hash, user_id, name, tier, delegating, models, limits, created_at,
            expires_at, revoked_at, replaced_by, last_used_at FROM api_keys WHERE 1 = 0",
    "SELECT jti, expires_at FROM revoked_tokens WHERE 1 = 0",
    "SELECT hour, key_id, user_id, model, requests, prompt_tokens, completion_tokens, gpu_ms,
            errors FROM usage WHERE 1 = 0",
    "SELECT id, at, actor, address, action, target, detail FROM audit WHERE 1 = 0",
    "SELECT n FROM revision WHERE 1 = 0",
    "SELECT n FROM schema_steps WHERE 1 = 0",
    "SELECT id FROM origin WHERE 1 = 0",
    "SELECT writer, batch, at FROM usage_writers WHERE 1 = 0",
];

/// Refuses a database that lacks a part of its schema.
pub(super) async fn refuse_parts(
    connection: &mut AnyConnection,
    faults: &Faults,
) -> Result<(), StoreError> {
    for table in TABLES {
        match sqlx::query(table).fetch_optional(&mut *connection).await {
            Ok(_) => {}
            Err(sqlx::Error::Database(fault)) if is_missing(fault.message()) => {
                return Err(faults.not_whole(fault.message()));
            }
            Err(error) => return Err(faults.explain(&error)),
        }
    }
    let revision: Option<i64> = faults
        .of(sqlx::query_scalar("SELECT n FROM revision").fetch_optional(&mut *connection).await)?;
    revision.map(drop).ok_or_else(|| faults.not_whole("the table revision is empty"))
}

/// In the words of either database.
pub(super) fn is_missing(message: &str) -> bool {
    ["no such table", "no such column", "does not exist", "already exists", "duplicate column"]
        .iter()
        .any(|words| message.contains(words))
}

impl Store {
    /// As [`open`](Self::open), for who will serve from it: one that is damaged is not opened.
    pub async fn open_whole(database: &Database) -> Result<Self, StoreError> {
        let store = Self::open(database).await?;
        store.look_for_damage().await?;
        Ok(store)
    }

    /// Reads a whole SQLite file, to serve from no damaged one. PostgreSQL looks after its own.
    ///
    /// # Errors
    /// It is damaged.
    pub async fn look_for_damage(&self) -> Result<(), StoreError> {
        if self.server.dialect == Dialect::Postgres {
            return Ok(());
        }
        let reading = async {
            let mut connection = self.pool.acquire().await?;
            let found = sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(&mut *connection);
            let found: Result<String, sqlx::Error> = found.await;
            found
        };
        match timeout(READING, reading).await {
            Ok(Ok(found)) if found == "ok" => Ok(()),
            Ok(Ok(found)) => Err(self.server.faults.damaged(&found)),
            Ok(Err(error)) => Err(self.server.faults.explain(&error)),
            Err(_) => {
                log::warn!("the database was not read to its end in {READING:?} to find damage");
                Ok(())
            }
        }
    }
}
