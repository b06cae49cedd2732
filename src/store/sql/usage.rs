//! What was used, as sums by hour, user, key and model.
//!
//! Unlike other changes these raise no revision and write no audit row: they change nobody's
//! rights, and come twice a second.

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::any::AnyRow;
use sqlx::{Any, Row, Transaction};

use super::{Store, moment};
use crate::store::StoreError;
use crate::usage::ledger::{Amounts, Batch, Seen, Slot, UsageStore};
use crate::usage::report::{By, Line, Period};

/// How long it is remembered which batch a gateway wrote last, in milliseconds: longer than any
/// waits to be tried again.
const WRITERS_KEPT: i64 = 30 * 24 * 3_600_000;
/// Hours of their own usage that users see.
const OWN_HOURS: i64 = 50;

macro_rules! sums {
    ($columns:literal, $rest:literal) => {
        concat!(
            "SELECT ",
            $columns,
            ", CAST(SUM(n.requests) AS BIGINT) AS requests,
               CAST(SUM(n.prompt_tokens) AS BIGINT) AS prompt_tokens,
               CAST(SUM(n.completion_tokens) AS BIGINT) AS completion_tokens,
               CAST(SUM(n.gpu_ms) AS BIGINT) AS gpu_ms,
               CAST(SUM(n.errors) AS BIGINT) AS errors ",
            $rest
        )
    };
}

impl Store {
    /// What was used in a period.
    pub async fn usage(&self, by: By, period: Period) -> Result<Vec<Line>, StoreError> {
        let text = match by {
            By::Hour => sums!(
                "n.hour",
                "FROM usage n WHERE n.hour >= $1 AND n.hour < $2 GROUP BY n.hour ORDER BY n.hour"
            ),
            By::Key => sums!(
                "n.key_id, k.public_id, k.name, n.user_id, u.username",
                "FROM usage n LEFT JOIN api_keys k ON k.id = n.key_id
                 LEFT JOIN users u ON u.id = n.user_id
                 WHERE n.hour >= $1 AND n.hour < $2
                 GROUP BY n.key_id, k.public_id, k.name, n.user_id, u.username
                 ORDER BY SUM(n.prompt_tokens + n.completion_tokens) DESC, n.key_id, n.user_id"
            ),
            By::Model => sums!(
                "n.model",
                "FROM usage n WHERE n.hour >= $1 AND n.hour < $2 GROUP BY n.model
                 ORDER BY SUM(n.prompt_tokens + n.completion_tokens) DESC, n.model"
            ),
            By::User => sums!(
                "n.user_id, u.username",
                "FROM usage n LEFT JOIN users u ON u.id = n.user_id
                 WHERE n.hour >= $1 AND n.hour < $2 GROUP BY n.user_id, u.username
                 ORDER BY SUM(n.prompt_tokens + n.completion_tokens) DESC, n.user_id"
            ),
        };
        let query = sqlx::query(text).bind(period.from).bind(period.to);
        let query = query.try_map(|row: AnyRow| line(by, &row));
        self.ask(query.fetch_all(&self.pool)).await
    }

    /// What a user has used in the newest 50 hours in which they used anything, by hour and model,
    /// the newest first.
    pub async fn own_usage(&self, user: i64) -> Result<Vec<Line>, StoreError> {
        let query = sqlx::query(sums!(
            "n.hour, n.model",
            "FROM usage n
             WHERE n.user_id = $1 AND n.hour >= (
                 SELECT COALESCE(MIN(newest.hour), 0) FROM (
                     SELECT DISTINCT hour FROM usage WHERE user_id = $1
                     ORDER BY hour DESC LIMIT $2) AS newest)
             GROUP BY n.hour, n.model ORDER BY n.hour DESC, n.model"
        ));
        let query = query.bind(user).bind(OWN_HOURS).try_map(|row: AnyRow| {
            Ok(Line { model: row.try_get("model")?, ..line(By::Hour, &row)? })
        });
        self.ask(query.fetch_all(&self.pool)).await
    }
}

fn line(by: By, row: &AnyRow) -> Result<Line, sqlx::Error> {
    let mut line = Line {
        requests: row.try_get("requests")?,
        prompt_tokens: row.try_get("prompt_tokens")?,
        completion_tokens: row.try_get("completion_tokens")?,
        gpu_seconds: seconds(row.try_get("gpu_ms")?),
        errors: row.try_get("errors")?,
        ..Line::default()
    };
    match by {
        By::Hour => line.hour = Some(hour(row)?),
        By::Key => {
            line.key_id = row.try_get("key_id")?;
            let public_id: Option<String> = row.try_get("public_id")?;
            line.prefix = public_id.map(|id| format!("usk_{id}"));
            line.name = row.try_get("name")?;
        }
        By::Model => line.model = row.try_get("model")?,
        By::User => {}
    }
    if matches!(by, By::Key | By::User) {
        line.user_id = row.try_get("user_id")?;
        line.user = row.try_get("username")?;
    }
    Ok(line)
}

fn hour(row: &AnyRow) -> Result<Timestamp, sqlx::Error> {
    moment(row.try_get("hour")?)
}

#[expect(clippy::cast_precision_loss, reason = "nobody computes for 285,000 years")]
fn seconds(milliseconds: i64) -> f64 {
    milliseconds as f64 / 1000.0
}

#[async_trait]
impl UsageStore for Store {
    async fn add_usage(&self, batch: &Batch) -> Result<(), String> {
        // as other changes, one writer of this process at a time
        let _turn = self.turn().await.map_err(|error| error.to_string())?;
        let adding = async {
            let mut tx = self.pool.begin_with(self.server.dialect.begin()).await?;
            if is_new(&mut tx, batch).await? {
                for (slot, amounts) in &batch.sums {
                    add_one(&mut tx, slot, amounts).await?;
                }
            }
            tx.commit().await
        };
        self.ask(adding).await.map_err(|error| error.to_string())
    }

    async fn mark_used(&self, seen: &[Seen]) -> Result<(), String> {
        let _turn = self.turn().await.map_err(|error| error.to_string())?;
        let marking = async {
            let mut tx = self.pool.begin_with(self.server.dialect.begin()).await?;
            for (key, at) in seen {
                // another gateway may know of a later use
                let update = sqlx::query(
                    "UPDATE api_keys SET last_used_at = $1
                     WHERE id = $2 AND (last_used_at IS NULL OR last_used_at < $1)",
                );
                update.bind(*at).bind(*key).execute(&mut *tx).await?;
            }
            tx.commit().await
        };
        self.ask(marking).await.map_err(|error| error.to_string())
    }
}

/// Notes that a batch is written; false if it was before, and the answer had been lost. Two who try
/// at once wait for each other at the writer's row.
async fn is_new(tx: &mut Transaction<'static, Any>, batch: &Batch) -> Result<bool, sqlx::Error> {
    let now = Timestamp::now().as_millisecond();
    let note = sqlx::query(
        "INSERT INTO usage_writers (writer, batch, at) VALUES ($1, $2, $3)
         ON CONFLICT (writer) DO UPDATE SET batch = excluded.batch, at = excluded.at
         WHERE usage_writers.batch < excluded.batch",
    );
    let note = note.bind(&*batch.writer).bind(batch.number).bind(now);
    let noted = note.execute(&mut **tx).await?.rows_affected();
    if batch.number == 1 {
        // whoever begins clears up behind those who ended long ago
        let forget = sqlx::query("DELETE FROM usage_writers WHERE at < $1");
        forget.bind(now - WRITERS_KEPT).execute(&mut **tx).await?;
    }
    Ok(noted > 0)
}

async fn add_one(
    tx: &mut Transaction<'static, Any>,
    slot: &Slot,
    amounts: &Amounts,
) -> Result<(), sqlx::Error> {
    let number = |amount: u64| i64::try_from(amount).unwrap_or(i64::MAX);
    let upsert = sqlx::query(
        "INSERT INTO usage (hour, user_id, key_id, model, requests, prompt_tokens,
                            completion_tokens, gpu_ms, errors)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
         ON CONFLICT (hour, user_id, key_id, model) DO UPDATE SET
             requests = usage.requests + excluded.requests,
             prompt_tokens = usage.prompt_tokens + excluded.prompt_tokens,
             completion_tokens = usage.completion_tokens + excluded.completion_tokens,
             gpu_ms = usage.gpu_ms + excluded.gpu_ms,
             errors = usage.errors + excluded.errors",
    )
    .bind(slot.hour)
    .bind(slot.user)
    .bind(slot.key)
    .bind(slot.model.display())
    .bind(number(amounts.requests))
    .bind(number(amounts.prompt_tokens))
    .bind(number(amounts.completion_tokens))
    .bind(number(amounts.gpu_ms))
    .bind(number(amounts.errors));
    upsert.execute(&mut **tx).await.map(drop)
}
