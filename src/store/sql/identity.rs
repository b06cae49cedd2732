//! What authentication asks of the database.

use async_trait::async_trait;
use sqlx::any::AnyRow;
use sqlx::{FromRow, Row};

use super::keys::{limits, models, rate};
use super::{Store, moment};
use crate::auth::{Identity, IdentityStore, Key, KeyHash, Unavailable, User};

#[async_trait]
impl IdentityStore for Store {
    async fn identity_by_hash(&self, hash: &KeyHash) -> Result<Option<Identity>, Unavailable> {
        let query = sqlx::query_as(
            "SELECT u.id AS user_id, u.username, u.tier AS user_tier, u.disabled,
                    k.id AS key_id, k.public_id, k.tier AS key_tier, k.models, k.limits,
                    k.delegating, k.expires_at, k.revoked_at
             FROM api_keys k JOIN users u ON u.id = k.user_id
             WHERE k.key_hash = $1",
        )
        .bind(hash.to_hex());
        let found = self.ask(query.fetch_optional(&self.pool)).await;
        found.map_err(|error| Unavailable(error.to_string()))
    }

    async fn revision(&self) -> Result<i64, Unavailable> {
        let query = sqlx::query_scalar("SELECT n FROM revision");
        let found = self.ask(query.fetch_one(&self.pool)).await;
        found.map_err(|error| Unavailable(error.to_string()))
    }
}

impl FromRow<'_, AnyRow> for Identity {
    fn from_row(row: &AnyRow) -> Result<Self, sqlx::Error> {
        let limits = limits(row)?;
        Ok(Self {
            user: User {
                id: row.try_get("user_id")?,
                username: row.try_get("username")?,
                tier: row.try_get("user_tier")?,
                disabled: row.try_get::<i64, _>("disabled")? != 0,
            },
            key: Key {
                id: row.try_get("key_id")?,
                public_id: row.try_get("public_id")?,
                tier: row.try_get("key_tier")?,
                models: models(row)?,
                concurrency: limits.concurrency,
                requests: rate(limits.requests.as_deref())?,
                tokens: rate(limits.tokens.as_deref())?,
                delegating: row.try_get::<i64, _>("delegating")? != 0,
                expires_at: row.try_get::<Option<i64>, _>("expires_at")?.map(moment).transpose()?,
                revoked_at: row.try_get::<Option<i64>, _>("revoked_at")?.map(moment).transpose()?,
            },
        })
    }
}
