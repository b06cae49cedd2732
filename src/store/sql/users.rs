//! Acts on accounts.

use jiff::Timestamp;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, FromRow, Row};

use super::{Change, Store, moment};
use crate::store::{ADMIN, Actor, NewUser, StoreError, UserRecord};

const LONGEST_USERNAME: usize = 64;

macro_rules! select_users {
    ($rest:literal) => {
        concat!(
            "SELECT id, username, email, issuer, subject, tier, disabled, created_at FROM users ",
            $rest
        )
    };
}

impl Store {
    /// Makes an account; [`StoreError::Conflict`] if the name is taken.
    pub async fn create_user(
        &self,
        by: &Actor<'_>,
        new: &NewUser,
    ) -> Result<UserRecord, StoreError> {
        let mut change = self.change(by).await?;
        let id = change.insert_user(new).await?;
        let at = change.at;
        change.commit("user.create", &new.username, &format!("tier {}", new.tier)).await?;
        Ok(record(id, new, at))
    }

    /// All accounts, oldest first.
    pub async fn list_users(&self) -> Result<Vec<UserRecord>, StoreError> {
        let query = sqlx::query_as(select_users!("ORDER BY id"));
        self.ask(query.fetch_all(&self.pool)).await
    }

    /// The account of this name.
    pub async fn show_user(&self, username: &str) -> Result<UserRecord, StoreError> {
        let query = sqlx::query_as(select_users!("WHERE username = $1")).bind(username);
        let found = self.ask(query.fetch_optional(&self.pool)).await?;
        found.ok_or_else(|| unknown(username))
    }

    /// Gives a user another tier and ends the user's tokens; [`StoreError::LastAdmin`] if nobody
    /// would be left to administer.
    pub async fn set_tier(
        &self,
        by: &Actor<'_>,
        username: &str,
        tier: &str,
    ) -> Result<UserRecord, StoreError> {
        let mut change = self.change(by).await?;
        let mut user = change.user(username).await?;
        // of a user of another issuer it changes who decides, even where it says the same
        if user.tier == tier && user.issuer.is_none() {
            change.abandon().await?;
            return Ok(user);
        }
        change.spare_last_admin(&user).await?;
        let update = sqlx::query(
            "UPDATE users SET tier = $1, tier_given = 1, token_version = token_version + 1
             WHERE id = $2",
        )
        .bind(tier)
        .bind(user.id);
        change.faults.of(update.execute(&mut *change.tx).await)?;
        let before = std::mem::replace(&mut user.tier, tier.to_owned());
        change.commit("user.set-tier", username, &format!("{before} to {tier}")).await?;
        Ok(user)
    }

    /// Disables or enables a user; disabling ends the user's tokens, and is refused with
    /// [`StoreError::LastAdmin`] if nobody would be left to administer.
    pub async fn set_disabled(
        &self,
        by: &Actor<'_>,
        username: &str,
        disabled: bool,
    ) -> Result<UserRecord, StoreError> {
        let mut change = self.change(by).await?;
        let mut user = change.user(username).await?;
        if user.disabled == disabled {
            change.abandon().await?;
            return Ok(user);
        }
        change.spare_last_admin(&user).await?;
        let update = sqlx::query(
            "UPDATE users SET disabled = $1, token_version = token_version + $1 WHERE id = $2",
        )
        .bind(i64::from(disabled))
        .bind(user.id);
        change.faults.of(update.execute(&mut *change.tx).await)?;
        user.disabled = disabled;
        let action = if disabled { "user.disable" } else { "user.enable" };
        change.commit(action, username, "").await?;
        Ok(user)
    }
}

impl Change<'_> {
    /// Adds an account and returns its id.
    pub(super) async fn insert_user(&mut self, new: &NewUser) -> Result<i64, StoreError> {
        check_username(&new.username)?;
        let insert = sqlx::query_scalar(
            "INSERT INTO users (username, email, tier, created_at) VALUES ($1, $2, $3, $4)
             RETURNING id",
        )
        .bind(&new.username)
        .bind(&new.email)
        .bind(&new.tier)
        .bind(self.at.as_millisecond());
        let id = insert.fetch_one(&mut *self.tx).await;
        self.faults.unless_taken(id, || format!("there is a user '{}' already", new.username))
    }

    /// The account of this name, as no other writer can change it now.
    pub(super) async fn user(&mut self, username: &str) -> Result<UserRecord, StoreError> {
        let connection: &mut AnyConnection = &mut self.tx;
        let query = sqlx::query_as(select_users!("WHERE username = $1")).bind(username);
        self.faults.of(query.fetch_optional(connection).await)?.ok_or_else(|| unknown(username))
    }

    /// How many others are enabled admins.
    pub(super) async fn admins_besides(&mut self, id: i64) -> Result<i64, StoreError> {
        let query = sqlx::query_scalar(
            "SELECT COUNT(*) FROM users WHERE tier = $1 AND disabled = 0 AND id <> $2",
        )
        .bind(ADMIN)
        .bind(id);
        self.faults.of(query.fetch_one(&mut *self.tx).await)
    }

    async fn spare_last_admin(&mut self, user: &UserRecord) -> Result<(), StoreError> {
        let counts = user.tier == ADMIN && !user.disabled;
        if counts && self.admins_besides(user.id).await? == 0 {
            return Err(StoreError::LastAdmin(user.username.clone()));
        }
        Ok(())
    }
}

fn record(id: i64, new: &NewUser, created_at: Timestamp) -> UserRecord {
    UserRecord {
        id,
        username: new.username.clone(),
        email: new.email.clone(),
        issuer: None,
        subject: None,
        tier: new.tier.clone(),
        disabled: false,
        created_at,
    }
}

fn unknown(username: &str) -> StoreError {
    StoreError::NotFound(format!("user '{}'", username.escape_debug()))
}

/// Names appear in logs, tables and paths, so they are made of characters that are safe there.
pub(super) fn check_username(name: &str) -> Result<(), StoreError> {
    let allowed = |c: char| c.is_alphanumeric() || "._-+@".contains(c);
    let length = name.chars().count();
    if (1..=LONGEST_USERNAME).contains(&length) && name.chars().all(allowed) {
        return Ok(());
    }
    Err(StoreError::Invalid(format!(
        "'{}' cannot be a username: 1 to {LONGEST_USERNAME} letters, digits and . _ - + @",
        name.escape_debug()
    )))
}

impl FromRow<'_, AnyRow> for UserRecord {
    fn from_row(row: &AnyRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: row.try_get("id")?,
            username: row.try_get("username")?,
            email: row.try_get("email")?,
            issuer: row.try_get("issuer")?,
            subject: row.try_get("subject")?,
            tier: row.try_get("tier")?,
            disabled: row.try_get::<i64, _>("disabled")? != 0,
            created_at: moment(row.try_get("created_at")?)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::check_username;

    #[test]
    fn usernames_are_short_words_without_spaces_or_control_characters() {
        for good in ["bob", "Zoë", "ann.lee+lab@example.org", &"x".repeat(64)] {
            assert!(check_username(good).is_ok(), "{good}");
        }
        for bad in ["", "two words", "new\nline", "a/b", "\u{202e}bob", &"x".repeat(65)] {
            let error = check_username(bad).unwrap_err().to_string();
            assert!(!error.contains(['\n', '\u{202e}']), "{error}");
        }
    }
}
