//! Brings a database's schema up to date.

use sqlx::{AnyConnection, AssertSqlSafe, Connection};

use super::dialect::{Dialect, Server};
use super::whole;
use crate::store::{StoreError, mark};

/// Every step the schema ever took, in order. A step that was released never changes again.
const STEPS: [&str; 3] = [
    include_str!("../migrations/0001_accounts.sql"),
    include_str!("../migrations/0002_tokens.sql"),
    include_str!("../migrations/0003_origin.sql"),
];

/// Takes the steps that the database has not taken yet: all or none, however many try at once.
pub(super) async fn run(server: &Server) -> Result<(), StoreError> {
    let known = STEPS.len() as i64;
    let mut connection = server.connect().await?;
    let found = match schema(&mut connection).await {
        // The common case takes no lock: commands that only read do not write.
        Ok(found) if found >= known => found,
        // no such table: new
        Ok(_) | Err(sqlx::Error::Database(_)) => {
            match step(&mut connection, server.dialect).await {
                Err(sqlx::Error::Database(fault)) if whole::is_missing(fault.message()) => {
                    return Err(server.faults.not_whole(fault.message()));
                }
                stepped => server.faults.of(stepped)?,
            }
        }
        Err(error) => return Err(server.faults.explain(&error)),
    };
    if found > known {
        return Err(StoreError::Newer { found, known });
    }
    whole::refuse_parts(&mut connection, &server.faults).await?;
    server.faults.of(connection.close().await)
}

/// Takes the missing steps and says where the schema is now.
async fn step(connection: &mut AnyConnection, dialect: Dialect) -> Result<i64, sqlx::Error> {
    let mut tx = connection.begin_with(dialect.begin()).await?;
    if let Some(lock) = dialect.lock_schema() {
        sqlx::raw_sql(lock).execute(&mut *tx).await?;
    }
    sqlx::raw_sql("CREATE TABLE IF NOT EXISTS schema_steps (n BIGINT NOT NULL)")
        .execute(&mut *tx)
        .await?;
    let found = schema(&mut tx).await?;
    let origin = mark();
    for (n, text) in (1..).zip(STEPS).filter(|(n, _)| *n > found) {
        let text = text.replace("{identity}", dialect.identity()).replace("{origin}", &origin);
        sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut *tx).await?;
        sqlx::query("INSERT INTO schema_steps (n) VALUES ($1)").bind(n).execute(&mut *tx).await?;
    }
    let reached = schema(&mut tx).await?;
    tx.commit().await?;
    Ok(reached)
}

/// The last step taken; 0 before the first.
async fn schema(connection: &mut AnyConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT COALESCE(MAX(n), 0) FROM schema_steps").fetch_one(connection).await
}
