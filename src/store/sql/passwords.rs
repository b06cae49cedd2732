//! Passwords, and the ends of tokens.

use jiff::{Timestamp, ToSpan};
use sqlx::any::AnyRow;
use sqlx::{FromRow, Row};

use super::users::logs_in_elsewhere;
use super::{Store, in_time, user_columns};
use crate::auth::User;
use crate::store::{Actor, StoreError, UserRecord};

impl Store {
    /// Who logs in under this name, and the hash of the password if there is one. Users of other
    /// issuers have none and log in there.
    pub async fn login(&self, name: &str) -> Result<Option<(User, Option<String>)>, StoreError> {
        // no name has it, and PostgreSQL takes no text that does
        if name.contains('\0') {
            return Ok(None);
        }
        let query = sqlx::query_as(concat!(
            "SELECT ",
            user_columns!(),
            ", u.password_hash FROM users u WHERE u.username = $1 AND u.issuer IS NULL"
        ))
        .bind(name);
        let found: Option<Login> = self.ask(query.fetch_optional(&self.pool)).await?;
        Ok(found.map(|login| (login.user, login.hash)))
    }

    /// Gives a user another password, as its hash, and ends the user's tokens.
    pub async fn set_password(
        &self,
        by: &Actor<'_>,
        username: &str,
        hash: &str,
    ) -> Result<UserRecord, StoreError> {
        let mut change = self.change(by).await?;
        let user = change.user(username).await?;
        if let Some(issuer) = &user.issuer {
            return Err(logs_in_elsewhere(username, issuer));
        }
        let update = sqlx::query(
            "UPDATE users SET password_hash = $1, token_version = token_version + 1 WHERE id = $2",
        )
        .bind(hash)
        .bind(user.id);
        change.faults.of(in_time(update.execute(&mut *change.tx)).await)?;
        change.commit("user.set-password", username, "").await?;
        Ok(user)
    }

    /// Keeps a stronger hash of the same password, in the place of the one that it was `verified`
    /// with; nothing else changes, and nobody notices. Nothing is done if the password was changed
    /// meanwhile.
    pub async fn renew_password_hash(
        &self,
        user: i64,
        verified: &str,
        hash: &str,
    ) -> Result<(), StoreError> {
        let mut change = self.change(&Actor::SELF).await?;
        let update =
            sqlx::query("UPDATE users SET password_hash = $1 WHERE id = $2 AND password_hash = $3")
                .bind(hash)
                .bind(user)
                .bind(verified);
        let updated = change.faults.of(in_time(update.execute(&mut *change.tx)).await)?;
        if updated.rows_affected() == 0 {
            return change.abandon().await;
        }
        change.commit("user.renew-hash", &user.to_string(), "").await
    }

    /// Ends one token for good; those that have expired meanwhile are forgotten.
    pub async fn end_token(
        &self,
        by: &Actor<'_>,
        id: &str,
        expires_at: Timestamp,
    ) -> Result<(), StoreError> {
        let mut change = self.change(by).await?;
        let insert = sqlx::query(
            "INSERT INTO revoked_tokens (jti, expires_at) VALUES ($1, $2)
             ON CONFLICT (jti) DO NOTHING",
        )
        .bind(id)
        .bind(expires_at.as_millisecond());
        change.faults.of(in_time(insert.execute(&mut *change.tx)).await)?;
        // a day later: clocks of other machines may be behind
        let over = change.at.checked_sub(24.hours()).unwrap_or(Timestamp::MIN);
        let forget = sqlx::query("DELETE FROM revoked_tokens WHERE expires_at < $1")
            .bind(over.as_millisecond());
        change.faults.of(in_time(forget.execute(&mut *change.tx)).await)?;
        change.commit("token.end", id, "").await
    }
}

struct Login {
    user: User,
    hash: Option<String>,
}

impl FromRow<'_, AnyRow> for Login {
    fn from_row(row: &AnyRow) -> Result<Self, sqlx::Error> {
        Ok(Self { user: User::from_row(row)?, hash: row.try_get("password_hash")? })
    }
}
