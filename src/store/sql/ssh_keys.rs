//! The public keys with which users of the `ollama` command sign.

use sqlx::any::AnyRow;
use sqlx::{FromRow, Row};

use super::{Store, moment};
use crate::auth::signature::{PublicKey, fingerprint};
use crate::store::{Actor, SshKeyRecord, StoreError};

impl Store {
    /// Registers a public key of a user; [`StoreError::Conflict`] if it is anybody's already.
    pub async fn add_ssh_key(
        &self,
        by: &Actor<'_>,
        username: &str,
        key: &PublicKey,
    ) -> Result<SshKeyRecord, StoreError> {
        let mut change = self.change(by).await?;
        let user = change.user(username).await?;
        let insert = sqlx::query_scalar(
            "INSERT INTO ssh_keys (user_id, public_key, created_at) VALUES ($1, $2, $3)
             RETURNING id",
        )
        .bind(user.id)
        .bind(key.as_str())
        .bind(change.at.as_millisecond());
        let id = insert.fetch_one(&mut *change.tx).await;
        let id: i64 =
            change.faults.unless_taken(id, || "this key is registered already".to_owned())?;
        let record = SshKeyRecord {
            id,
            user: user.username,
            fingerprint: fingerprint(key.as_str()),
            created_at: change.at,
        };
        change.commit("user.add-ssh-key", username, &record.fingerprint).await?;
        Ok(record)
    }

    /// The public keys of a user, oldest first.
    pub async fn list_ssh_keys(&self, username: &str) -> Result<Vec<SshKeyRecord>, StoreError> {
        let user = self.show_user(username).await?;
        let query = sqlx::query_as(
            "SELECT s.id, u.username, s.public_key, s.created_at
             FROM ssh_keys s JOIN users u ON u.id = s.user_id WHERE u.id = $1 ORDER BY s.id",
        )
        .bind(user.id);
        self.ask(query.fetch_all(&self.pool)).await
    }

    /// Takes a public key from a user.
    pub async fn remove_ssh_key(
        &self,
        by: &Actor<'_>,
        username: &str,
        id: i64,
    ) -> Result<(), StoreError> {
        let mut change = self.change(by).await?;
        let user = change.user(username).await?;
        let delete = sqlx::query("DELETE FROM ssh_keys WHERE id = $1 AND user_id = $2")
            .bind(id)
            .bind(user.id);
        let deleted = change.faults.of(delete.execute(&mut *change.tx).await)?;
        if deleted.rows_affected() == 0 {
            let text = format!("SSH key {id} of '{}'", username.escape_debug());
            return Err(StoreError::NotFound(text));
        }
        change.commit("user.remove-ssh-key", username, &id.to_string()).await
    }
}

impl FromRow<'_, AnyRow> for SshKeyRecord {
    fn from_row(row: &AnyRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: row.try_get("id")?,
            user: row.try_get("username")?,
            fingerprint: fingerprint(row.try_get("public_key")?),
            created_at: moment(row.try_get("created_at")?)?,
        })
    }
}
