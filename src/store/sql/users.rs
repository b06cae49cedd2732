//! Acts on accounts.

use jiff::Timestamp;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, FromRow, Row};

use super::{Change, Store, in_time, moment};
use crate::config::Secret;
use crate::store::record::check_email;
use crate::store::{ADMIN, Act, Actor, NewUser, StoreError, UserFilter, UserPatch, UserRecord};

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
        self.find_users(&UserFilter::default()).await
    }

    /// The accounts that `filter` asks for, oldest first.
    pub async fn find_users(&self, filter: &UserFilter) -> Result<Vec<UserRecord>, StoreError> {
        let query = sqlx::query_as(select_users!(
            "WHERE id > $1
               AND (CAST($2 AS TEXT) IS NULL OR tier = $2)
               AND (CAST($3 AS BIGINT) IS NULL OR disabled = $3)
             ORDER BY id LIMIT $4"
        ))
        .bind(filter.span.after())
        .bind(&filter.tier)
        .bind(filter.disabled.map(i64::from))
        .bind(filter.span.rows());
        self.ask(query.fetch_all(&self.pool)).await
    }

    /// The account of this name.
    pub async fn show_user(&self, username: &str) -> Result<UserRecord, StoreError> {
        check_username(username).map_err(|_| unknown(username))?;
        let query = sqlx::query_as(select_users!("WHERE username = $1")).bind(username);
        let found = self.ask(query.fetch_optional(&self.pool)).await?;
        found.ok_or_else(|| unknown(username))
    }

    /// The account with this id.
    pub async fn show_user_by_id(&self, id: i64) -> Result<UserRecord, StoreError> {
        let query = sqlx::query_as(select_users!("WHERE id = $1")).bind(id);
        let found = self.ask(query.fetch_optional(&self.pool)).await?;
        found.ok_or_else(|| unknown_id(id))
    }

    /// Gives a user another tier and ends the user's tokens; [`StoreError::LastAdmin`] if nobody
    /// would be left to administer.
    pub async fn set_tier(
        &self,
        by: &Actor<'_>,
        username: &str,
        tier: &str,
    ) -> Result<UserRecord, StoreError> {
        let patch = UserPatch { tier: Some(tier.to_owned()), ..UserPatch::default() };
        let mut change = self.change(by).await?;
        let user = change.user(username).await?;
        Ok(change.patch_user(user, &patch).await?.record)
    }

    /// Disables or enables a user; disabling ends the user's tokens, and is refused with
    /// [`StoreError::LastAdmin`] if nobody would be left to administer.
    pub async fn set_disabled(
        &self,
        by: &Actor<'_>,
        username: &str,
        disabled: bool,
    ) -> Result<UserRecord, StoreError> {
        let patch = UserPatch { disabled: Some(disabled), ..UserPatch::default() };
        let mut change = self.change(by).await?;
        let user = change.user(username).await?;
        Ok(change.patch_user(user, &patch).await?.record)
    }

    /// Changes an account, all that `patch` says or nothing. Another tier and a disabling end the
    /// user's tokens; [`StoreError::LastAdmin`] if nobody would be left to administer.
    pub async fn patch_user(
        &self,
        by: &Actor<'_>,
        id: i64,
        patch: &UserPatch,
    ) -> Result<Act<UserRecord>, StoreError> {
        let mut change = self.change(by).await?;
        let user = change.user_by_id(id).await?;
        change.patch_user(user, patch).await
    }

    /// Removes an account and all its keys; [`StoreError::LastAdmin`] if nobody would be left to
    /// administer, [`StoreError::Conflict`] for a user of another issuer, whose next token would
    /// make it anew, enabled. What it used and what it did stays known.
    pub async fn delete_user(&self, by: &Actor<'_>, id: i64) -> Result<UserRecord, StoreError> {
        let mut change = self.change(by).await?;
        let user = change.user_by_id(id).await?;
        if user.issuer.is_some() {
            let name = &user.username;
            let text = format!("'{name}' would come back with its next token: disable it instead");
            return Err(StoreError::Conflict(text));
        }
        change.spare_last_admin(&user).await?;
        // keys that were rotated point at each other, so they go in one statement
        let delete = sqlx::query("DELETE FROM users WHERE id = $1").bind(id);
        change.faults.of(in_time(delete.execute(&mut *change.tx)).await)?;
        change.commit("user.delete", &user.username, &format!("id {id}")).await?;
        Ok(user)
    }
}

impl Change<'_> {
    /// Adds an account and returns its id.
    pub(super) async fn insert_user(&mut self, new: &NewUser) -> Result<i64, StoreError> {
        check_username(&new.username)?;
        if new.username == Actor::CLI.name {
            let text = "'cli' cannot be a username: the audit trail calls the commands so";
            return Err(StoreError::Invalid(text.to_owned()));
        }
        new.email.as_deref().map_or(Ok(()), check_email)?;
        let insert = sqlx::query_scalar(
            "INSERT INTO users (username, email, tier, disabled, created_at, password_hash)
             VALUES ($1, $2, $3, $4, $5, $6) RETURNING id",
        )
        .bind(&new.username)
        .bind(&new.email)
        .bind(&new.tier)
        .bind(i64::from(new.disabled))
        .bind(self.at.as_millisecond())
        .bind(new.password_hash.as_ref().map(Secret::expose));
        let id = in_time(insert.fetch_one(&mut *self.tx)).await;
        self.faults.unless_taken(id, || format!("there is a user '{}' already", new.username))
    }

    /// The account of this name, as no other writer can change it now.
    pub(super) async fn user(&mut self, username: &str) -> Result<UserRecord, StoreError> {
        // nobody has it, and PostgreSQL refuses some texts that are no names
        check_username(username).map_err(|_| unknown(username))?;
        let connection: &mut AnyConnection = &mut self.tx;
        let query = sqlx::query_as(select_users!("WHERE username = $1")).bind(username);
        self.faults.of(query.fetch_optional(connection).await)?.ok_or_else(|| unknown(username))
    }

    /// The account with this id, as no other writer can change it now.
    pub(super) async fn user_by_id(&mut self, id: i64) -> Result<UserRecord, StoreError> {
        let connection: &mut AnyConnection = &mut self.tx;
        let query = sqlx::query_as(select_users!("WHERE id = $1")).bind(id);
        self.faults.of(query.fetch_optional(connection).await)?.ok_or_else(|| unknown_id(id))
    }

    /// Refuses a lasting credential for a user of another issuer whose tier only tokens say: it
    /// would keep the tier of the first of them for ever.
    pub(super) async fn must_have_tier(&mut self, id: i64, name: &str) -> Result<(), StoreError> {
        let query = sqlx::query_scalar(
            "SELECT COUNT(*) FROM users WHERE id = $1 AND issuer IS NOT NULL AND tier_given = 0",
        )
        .bind(id);
        let mapped: i64 = self.faults.of(in_time(query.fetch_one(&mut *self.tx)).await)?;
        if mapped == 0 {
            return Ok(());
        }
        Err(StoreError::Invalid(format!(
            "the tier of '{name}' is what its issuer's tokens say, and a key says nothing: give \
             it a tier first, with `usher users set-tier {name} TIER`"
        )))
    }

    /// Does what `patch` says, and writes down each thing that is new; commits.
    async fn patch_user(
        mut self,
        before: UserRecord,
        patch: &UserPatch,
    ) -> Result<Act<UserRecord>, StoreError> {
        let mut user = before.clone();
        user.tier.clone_from(patch.tier.as_ref().unwrap_or(&before.tier));
        user.email.clone_from(patch.email.as_ref().unwrap_or(&before.email));
        user.disabled = patch.disabled.unwrap_or(before.disabled);
        // of a user of another issuer it changes who decides, even where it says the same
        let given = patch.tier.is_some() && before.issuer.is_some();
        let password = patch.password_hash.as_ref().map(Secret::expose);
        if user == before && !given && password.is_none() {
            self.abandon().await?;
            return Ok(Act::nothing(user));
        }
        if let (Some(_), Some(issuer)) = (password, &before.issuer) {
            return Err(logs_in_elsewhere(&before.username, issuer));
        }
        user.email.as_deref().map_or(Ok(()), check_email)?;
        let promoted = user.tier != before.tier;
        if promoted || user.disabled != before.disabled {
            self.spare_last_admin(&before).await?;
        }
        let ends_tokens = promoted || password.is_some() || (user.disabled && !before.disabled);
        let update = sqlx::query(
            "UPDATE users SET tier = $1, email = $2, disabled = $3,
                              token_version = token_version + $4,
                              tier_given = CASE CAST($5 AS BIGINT) WHEN 1 THEN 1 ELSE tier_given END,
                              password_hash = COALESCE(CAST($6 AS TEXT), password_hash)
             WHERE id = $7",
        )
        .bind(&user.tier)
        .bind(&user.email)
        .bind(i64::from(user.disabled))
        .bind(i64::from(ends_tokens))
        .bind(i64::from(patch.tier.is_some()))
        .bind(password)
        .bind(user.id);
        self.faults.of(in_time(update.execute(&mut *self.tx)).await)?;
        for (action, detail) in differences(&before, &user, given) {
            self.record(action, &user.username, &detail).await?;
        }
        if password.is_some() {
            self.record("user.set-password", &user.username, "").await?;
        }
        self.faults.of(self.tx.commit().await)?;
        Ok(Act::done(user))
    }

    /// How many others are enabled admins for certain: the next token of a user of another issuer
    /// may say something else, unless an administrator gave that user its tier.
    pub(super) async fn admins_besides(&mut self, id: i64) -> Result<i64, StoreError> {
        let query = sqlx::query_scalar(
            "SELECT COUNT(*) FROM users WHERE tier = $1 AND disabled = 0 AND id <> $2
               AND (issuer IS NULL OR tier_given = 1)",
        )
        .bind(ADMIN)
        .bind(id);
        self.faults.of(in_time(query.fetch_one(&mut *self.tx)).await)
    }

    async fn spare_last_admin(&mut self, user: &UserRecord) -> Result<(), StoreError> {
        let counts = user.tier == ADMIN && !user.disabled;
        const NOBODY: i64 = 0;
        let counts = counts && self.admins_besides(NOBODY).await? > 0;
        if counts && self.admins_besides(user.id).await? == 0 {
            return Err(StoreError::LastAdmin(user.username.clone()));
        }
        Ok(())
    }
}

/// What is written down of a change: each thing as an act of its own.
fn differences(
    before: &UserRecord,
    after: &UserRecord,
    tier_given: bool,
) -> Vec<(&'static str, String)> {
    let mut acts = Vec::new();
    if tier_given || before.tier != after.tier {
        acts.push(("user.set-tier", format!("{} to {}", before.tier, after.tier)));
    }
    if before.email != after.email {
        acts.push(("user.set-email", after.email.clone().unwrap_or_default()));
    }
    if before.disabled != after.disabled {
        acts.push((if after.disabled { "user.disable" } else { "user.enable" }, String::new()));
    }
    acts
}

fn record(id: i64, new: &NewUser, created_at: Timestamp) -> UserRecord {
    UserRecord {
        id,
        username: new.username.clone(),
        email: new.email.clone(),
        issuer: None,
        subject: None,
        tier: new.tier.clone(),
        disabled: new.disabled,
        created_at,
    }
}

fn unknown(username: &str) -> StoreError {
    StoreError::NotFound(format!("user '{}'", username.escape_debug()))
}

/// Why the password of a user of another issuer is not set here.
pub(super) fn logs_in_elsewhere(username: &str, issuer: &str) -> StoreError {
    StoreError::Invalid(format!("'{username}' logs in at {issuer}, where passwords are changed"))
}

fn unknown_id(id: i64) -> StoreError {
    StoreError::NotFound(format!("user {id}"))
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
