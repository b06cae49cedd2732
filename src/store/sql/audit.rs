//! The audit trail, read.

use sqlx::any::AnyRow;
use sqlx::{FromRow, Row};

use super::{Store, moment};
use crate::store::{AuditFilter, AuditRecord, StoreError};

impl Store {
    /// The acts that `filter` asks for, newest first.
    pub async fn list_acts(&self, filter: &AuditFilter) -> Result<Vec<AuditRecord>, StoreError> {
        let query = sqlx::query_as(
            "SELECT id, at, actor, address, action, target, detail FROM audit
             WHERE id < $1
               AND (CAST($2 AS TEXT) IS NULL OR actor = $2)
               AND (CAST($3 AS TEXT) IS NULL OR action = $3)
               AND (CAST($4 AS TEXT) IS NULL OR target = $4)
             ORDER BY id DESC LIMIT $5",
        )
        .bind(filter.span.after.unwrap_or(i64::MAX))
        .bind(&filter.actor)
        .bind(&filter.action)
        .bind(&filter.target)
        .bind(filter.span.rows());
        self.ask(query.fetch_all(&self.pool)).await
    }
}

impl FromRow<'_, AnyRow> for AuditRecord {
    fn from_row(row: &AnyRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: row.try_get("id")?,
            at: moment(row.try_get("at")?)?,
            actor: row.try_get("actor")?,
            address: row.try_get("address")?,
            action: row.try_get("action")?,
            target: row.try_get("target")?,
            detail: row.try_get("detail")?,
        })
    }
}
