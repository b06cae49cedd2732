//! Acts on the public keys of users. The table holds the middle of a key's line, its base64.

use sqlx::any::AnyRow;
use sqlx::{FromRow, Row};

use super::{Store, in_time, moment};
use crate::auth::ssh_key::PublicKey;
use crate::store::{Actor, SshKeyRecord, StoreError};

macro_rules! select_ssh_keys {
    ($rest:literal) => {
        concat!(
            "SELECT s.id, u.username, s.public_key, s.created_at ",
            "FROM ssh_keys s JOIN users u ON u.id = s.user_id ",
            $rest
        )
    };
}

impl Store {
    /// Registers a public key for the user with this id; [`StoreError::Conflict`] if it is
    /// somebody's already.
    pub async fn add_ssh_key(
        &self,
        by: &Actor<'_>,
        user: i64,
        key: &PublicKey,
    ) -> Result<SshKeyRecord, StoreError> {
        let mut change = self.change(by).await?;
        let user = change.user_by_id(user).await?;
        change.must_have_tier(user.id, &user.username).await?;
        let insert = sqlx::query_scalar(
            "INSERT INTO ssh_keys (user_id, public_key, created_at) VALUES ($1, $2, $3)
             RETURNING id",
        )
        .bind(user.id)
        .bind(key.base64())
        .bind(change.at.as_millisecond());
        let id = in_time(insert.fetch_one(&mut *change.tx)).await;
        let id = change.faults.unless_taken(id, || "this key is registered already".to_owned())?;
        let record = SshKeyRecord {
            id,
            user: user.username,
            public_key: key.line(),
            fingerprint: key.fingerprint(),
            created_at: change.at,
        };
        let detail = format!("{id} {}", record.fingerprint);
        change.commit("user.add-ssh-key", &record.user, &detail).await?;
        Ok(record)
    }

    /// The public keys of the user with this id, oldest first.
    pub async fn list_ssh_keys(&self, user: i64) -> Result<Vec<SshKeyRecord>, StoreError> {
        let user = self.show_user_by_id(user).await?.id;
        let query = sqlx::query_as(select_ssh_keys!("WHERE s.user_id = $1 ORDER BY s.id"));
        self.ask(query.bind(user).fetch_all(&self.pool)).await
    }

    /// Takes a public key from the user with this id.
    pub async fn remove_ssh_key(
        &self,
        by: &Actor<'_>,
        user: i64,
        id: i64,
    ) -> Result<SshKeyRecord, StoreError> {
        let mut change = self.change(by).await?;
        let user = change.user_by_id(user).await?;
        let query = sqlx::query_as(select_ssh_keys!("WHERE s.id = $1 AND s.user_id = $2"));
        let found = in_time(query.bind(id).bind(user.id).fetch_optional(&mut *change.tx)).await;
        let found: Option<SshKeyRecord> = change.faults.of(found)?;
        let unknown = || StoreError::NotFound(format!("SSH key {id} of '{}'", user.username));
        let record = found.ok_or_else(unknown)?;
        let delete = sqlx::query("DELETE FROM ssh_keys WHERE id = $1").bind(id);
        change.faults.of(in_time(delete.execute(&mut *change.tx)).await)?;
        let detail = format!("{id} {}", record.fingerprint);
        change.commit("user.remove-ssh-key", &record.user, &detail).await?;
        Ok(record)
    }
}

impl FromRow<'_, AnyRow> for SshKeyRecord {
    fn from_row(row: &AnyRow) -> Result<Self, sqlx::Error> {
        let base64: String = row.try_get("public_key")?;
        let key = PublicKey::from_base64(&base64);
        let key = key.map_err(|error| sqlx::Error::Decode(error.into()))?;
        Ok(Self {
            id: row.try_get("id")?,
            user: row.try_get("username")?,
            public_key: key.line(),
            fingerprint: key.fingerprint(),
            created_at: moment(row.try_get("created_at")?)?,
        })
    }
}
