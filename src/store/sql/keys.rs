//! Acts on API keys.

use sqlx::any::AnyRow;
use sqlx::{FromRow, Row};

use super::{Change, Store, moment, now};
use crate::config::Rate;
use crate::config::units::UnitError;
use crate::store::{
    ADMIN, Actor, Fingerprint, KeyFilter, KeyLimits, KeyRecord, KeySpec, KeyState, NewUser,
    StoreError,
};

const LONGEST_NAME: usize = 100;

macro_rules! select_keys {
    ($rest:literal) => {
        concat!(
            "SELECT k.id, k.public_id, u.username, k.name, k.tier, k.models, k.limits, ",
            "k.delegating, k.created_at, k.expires_at, k.revoked_at, k.last_used_at ",
            "FROM api_keys k JOIN users u ON u.id = k.user_id ",
            $rest
        )
    };
}

impl Store {
    /// Makes a key known by its fingerprint; [`StoreError::Conflict`] if it is known already.
    pub async fn create_key(
        &self,
        by: &Actor<'_>,
        spec: &KeySpec,
        print: &Fingerprint<'_>,
    ) -> Result<KeyRecord, StoreError> {
        let mut change = self.change(by).await?;
        let user = change.user(&spec.user).await?.id;
        let key = change.insert_key(user, spec, print).await?;
        let action = if print.public_id.is_some() { "key.create" } else { "key.import" };
        change.commit(action, &key.id.to_string(), &describe(&key)).await?;
        Ok(key)
    }

    /// On a database without any admin: makes the user of `spec` an account of tier `admin` and
    /// its first key, together or not at all. `None`, and nothing done, if there is an admin.
    pub async fn create_first_admin(
        &self,
        by: &Actor<'_>,
        spec: &KeySpec,
        print: &Fingerprint<'_>,
    ) -> Result<Option<KeyRecord>, StoreError> {
        const NOBODY: i64 = 0;
        let mut change = self.change(by).await?;
        if change.admins_besides(NOBODY).await? > 0 {
            change.abandon().await?;
            return Ok(None);
        }
        let admin = NewUser { username: spec.user.clone(), tier: ADMIN.to_owned(), email: None };
        let user = change.insert_user(&admin).await?;
        let key = change.insert_key(user, spec, print).await?;
        change.record("user.create", &spec.user, "tier admin").await?;
        change.commit("key.create", &key.id.to_string(), &describe(&key)).await?;
        Ok(Some(key))
    }

    /// The keys that `filter` asks for, oldest first.
    pub async fn list_keys(&self, filter: &KeyFilter) -> Result<Vec<KeyRecord>, StoreError> {
        if let Some(user) = &filter.user {
            self.show_user(user).await?;
        }
        let query = sqlx::query_as(select_keys!(
            "WHERE CAST($1 AS TEXT) IS NULL OR u.username = $1 ORDER BY k.id"
        ))
        .bind(&filter.user);
        let mut keys: Vec<KeyRecord> = self.ask(query.fetch_all(&self.pool)).await?;
        keys.retain(|key| filter.state.is_none_or(|state| key.state == state));
        Ok(keys)
    }

    /// The key with this id.
    pub async fn show_key(&self, id: i64) -> Result<KeyRecord, StoreError> {
        let query = sqlx::query_as(select_keys!("WHERE k.id = $1")).bind(id);
        let found = self.ask(query.fetch_optional(&self.pool)).await?;
        found.ok_or_else(|| unknown(id))
    }

    /// Ends a key for good. A key that was revoked before stays so, since then.
    pub async fn revoke_key(&self, by: &Actor<'_>, id: i64) -> Result<KeyRecord, StoreError> {
        let mut change = self.change(by).await?;
        let query = sqlx::query_as(select_keys!("WHERE k.id = $1")).bind(id);
        let found: Option<KeyRecord> =
            change.faults.of(query.fetch_optional(&mut *change.tx).await)?;
        let mut key = found.ok_or_else(|| unknown(id))?;
        if key.revoked_at.is_some() {
            change.abandon().await?;
            return Ok(key);
        }
        let update = sqlx::query("UPDATE api_keys SET revoked_at = $1 WHERE id = $2")
            .bind(change.at.as_millisecond())
            .bind(id);
        change.faults.of(update.execute(&mut *change.tx).await)?;
        key.revoked_at = Some(change.at);
        key.state = KeyState::Revoked;
        change.commit("key.revoke", &id.to_string(), &describe(&key)).await?;
        Ok(key)
    }
}

impl Change<'_> {
    /// Adds a key and returns its record.
    async fn insert_key(
        &mut self,
        user: i64,
        spec: &KeySpec,
        print: &Fingerprint<'_>,
    ) -> Result<KeyRecord, StoreError> {
        check(spec)?;
        let insert = sqlx::query_scalar(
            "INSERT INTO api_keys (public_id, key_hash, user_id, name, tier, delegating, models,
                                   limits, created_at, expires_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
             RETURNING id",
        )
        .bind(print.public_id)
        .bind(print.hash.to_hex())
        .bind(user)
        .bind(&spec.name)
        .bind(&spec.tier)
        .bind(i64::from(spec.delegating))
        .bind(spec.models.as_ref().map(json))
        .bind(json(&spec.limits))
        .bind(self.at.as_millisecond())
        .bind(spec.expires_at.map(|end| end.as_millisecond()));
        let id = insert.fetch_one(&mut *self.tx).await;
        let id = self.faults.unless_taken(id, || "this key is known already".to_owned())?;
        let query = sqlx::query_as(select_keys!("WHERE k.id = $1")).bind::<i64>(id);
        self.faults.of(query.fetch_one(&mut *self.tx).await)
    }
}

/// A key's words for the audit trail.
fn describe(key: &KeyRecord) -> String {
    let prefix = key.prefix.as_deref().unwrap_or("imported");
    format!("{prefix} '{}' of {}", key.name, key.user)
}

fn unknown(id: i64) -> StoreError {
    StoreError::NotFound(format!("key {id}"))
}

fn check(spec: &KeySpec) -> Result<(), StoreError> {
    let length = spec.name.chars().count();
    if !(1..=LONGEST_NAME).contains(&length) || spec.name.chars().any(char::is_control) {
        return Err(StoreError::Invalid(format!(
            "'{}' cannot be a key's name: 1 to {LONGEST_NAME} characters on one line",
            spec.name.escape_debug()
        )));
    }
    let limits = &spec.limits;
    for (name, text) in [("requests", &limits.requests), ("tokens", &limits.tokens)] {
        if let Some(Err(error)) = text.as_ref().map(|text| text.parse::<Rate>()) {
            return Err(StoreError::Invalid(format!("{name}: {error}")));
        }
    }
    let mut patterns = spec.models.iter().flatten();
    match patterns.find(|p| p.is_empty() || p.chars().any(|c| c.is_whitespace() || c.is_control()))
    {
        Some(bad) => Err(StoreError::Invalid(format!(
            "'{}' cannot be the name of a model: no spaces, and not empty",
            bad.escape_debug()
        ))),
        None => Ok(()),
    }
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).unwrap_or_default().to_string()
}

/// The column `models`.
pub(super) fn models(row: &AnyRow) -> Result<Option<Vec<String>>, sqlx::Error> {
    let text: Option<String> = row.try_get("models")?;
    text.map(|text| serde_json::from_str(&text)).transpose().map_err(unreadable)
}

/// The column `limits`.
pub(super) fn limits(row: &AnyRow) -> Result<KeyLimits, sqlx::Error> {
    let text: String = row.try_get("limits")?;
    serde_json::from_str(&text).map_err(unreadable)
}

/// A rate among the limits. One that cannot be read is no limit that could be kept, and whoever
/// has it is better told that something is wrong than let in without it.
pub(super) fn rate(text: Option<&str>) -> Result<Option<Rate>, sqlx::Error> {
    text.map(str::parse).transpose().map_err(|error: UnitError| sqlx::Error::Decode(error.into()))
}

fn unreadable(error: serde_json::Error) -> sqlx::Error {
    sqlx::Error::Decode(error.into())
}

impl FromRow<'_, AnyRow> for KeyRecord {
    fn from_row(row: &AnyRow) -> Result<Self, sqlx::Error> {
        let optional = |column| -> Result<_, sqlx::Error> {
            row.try_get::<Option<i64>, &str>(column)?.map(moment).transpose()
        };
        let (expires_at, revoked_at) = (optional("expires_at")?, optional("revoked_at")?);
        let public_id: Option<String> = row.try_get("public_id")?;
        Ok(Self {
            id: row.try_get("id")?,
            prefix: public_id.map(|id| format!("usk_{id}")),
            user: row.try_get("username")?,
            name: row.try_get("name")?,
            tier: row.try_get("tier")?,
            models: models(row)?,
            limits: limits(row)?,
            delegating: row.try_get::<i64, _>("delegating")? != 0,
            state: KeyState::of(revoked_at, expires_at, now()),
            created_at: moment(row.try_get("created_at")?)?,
            expires_at,
            revoked_at,
            last_used_at: optional("last_used_at")?,
        })
    }
}
