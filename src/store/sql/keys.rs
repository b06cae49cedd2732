//! Acts on API keys.

use sqlx::any::AnyRow;
use sqlx::{FromRow, Row};

use super::{Change, Store, in_time, moment, now};
use crate::config::Rate;
use crate::config::units::UnitError;
use crate::store::{
    ADMIN, Act, Actor, Fingerprint, KeyFilter, KeyLimits, KeyPatch, KeyRecord, KeySpec, KeyState,
    LimitsPatch, NewUser, StoreError,
};

const LONGEST_NAME: usize = 100;

macro_rules! select_keys {
    ($rest:literal) => {
        concat!(
            "SELECT k.id, k.public_id, u.username, k.name, k.tier, k.models, k.limits, ",
            "k.delegating, k.created_at, k.expires_at, k.revoked_at, k.last_used_at, ",
            "k.replaced_by, old.id AS replaces ",
            "FROM api_keys k JOIN users u ON u.id = k.user_id ",
            "LEFT JOIN api_keys old ON old.replaced_by = k.id ",
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
        let (username, tier) = (spec.user.clone(), ADMIN.to_owned());
        let admin = NewUser { username, tier, ..NewUser::default() };
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
            "WHERE k.id > $1
               AND (CAST($2 AS TEXT) IS NULL OR u.username = $2)
               AND (CAST($3 AS TEXT) IS NULL OR $3 = CASE
                     WHEN k.revoked_at IS NOT NULL THEN 'revoked'
                     WHEN k.expires_at <= $4 THEN 'expired'
                     ELSE 'active' END)
             ORDER BY k.id LIMIT $5"
        ))
        .bind(filter.span.after())
        .bind(&filter.user)
        .bind(filter.state.map(KeyState::as_str))
        .bind(now().as_millisecond())
        .bind(filter.span.rows());
        self.ask(query.fetch_all(&self.pool)).await
    }

    /// The key with this id.
    pub async fn show_key(&self, id: i64) -> Result<KeyRecord, StoreError> {
        let query = sqlx::query_as(select_keys!("WHERE k.id = $1")).bind(id);
        let found = self.ask(query.fetch_optional(&self.pool)).await?;
        found.ok_or_else(|| unknown(id))
    }

    /// Changes a key, all that `patch` says or nothing. [`StoreError::Conflict`] if it would move
    /// the end of a key that was replaced: its grace is over when it was said to be.
    pub async fn patch_key(
        &self,
        by: &Actor<'_>,
        id: i64,
        patch: &KeyPatch,
    ) -> Result<Act<KeyRecord>, StoreError> {
        let mut change = self.change(by).await?;
        let before = change.key(id).await?;
        let after = patched(&before, patch);
        let news = differences(&before, &after);
        if news.is_empty() {
            change.abandon().await?;
            return Ok(Act::nothing(before));
        }
        check(&after.name, after.models.as_deref(), &after.limits)?;
        if let (true, Some(successor)) = (before.expires_at != after.expires_at, before.replaced_by)
        {
            let text = format!("key {id} was replaced by key {successor}, so its end stays");
            return Err(StoreError::Conflict(text));
        }
        let update = sqlx::query(
            "UPDATE api_keys SET name = $1, models = $2, limits = $3, expires_at = $4 WHERE id = $5",
        )
        .bind(&after.name)
        .bind(after.models.as_ref().map(json))
        .bind(json(&after.limits))
        .bind(after.expires_at.map(|end| end.as_millisecond()))
        .bind(id);
        change.faults.of(in_time(update.execute(&mut *change.tx)).await)?;
        // as the database keeps it
        let after = change.key(id).await?;
        let detail = format!("{}: {}", describe(&after), news.join(", "));
        change.commit("key.update", &id.to_string(), &detail).await?;
        Ok(Act::done(after))
    }

    /// Ends a key for good, and with it the grace of the one that it replaced. A key that was
    /// revoked before stays so, since then.
    pub async fn revoke_key(&self, by: &Actor<'_>, id: i64) -> Result<Act<KeyRecord>, StoreError> {
        let mut change = self.change(by).await?;
        let key = change.key(id).await?;
        if key.revoked_at.is_some() {
            change.abandon().await?;
            return Ok(Act::nothing(key));
        }
        if let Some(old) = key.replaces {
            let old = change.key(old).await?;
            if old.state == KeyState::Active {
                change.revoke(old).await?;
            }
        }
        let key = change.revoke(key).await?;
        change.faults.of(change.tx.commit().await)?;
        Ok(Act::done(key))
    }
}

impl Change<'_> {
    /// The key with this id, as no other writer can change it now.
    pub(super) async fn key(&mut self, id: i64) -> Result<KeyRecord, StoreError> {
        let query = sqlx::query_as(select_keys!("WHERE k.id = $1")).bind(id);
        self.faults
            .of(in_time(query.fetch_optional(&mut *self.tx)).await)?
            .ok_or_else(|| unknown(id))
    }

    /// Ends a key and writes that down.
    async fn revoke(&mut self, mut key: KeyRecord) -> Result<KeyRecord, StoreError> {
        let update = sqlx::query("UPDATE api_keys SET revoked_at = $1 WHERE id = $2")
            .bind(self.at.as_millisecond())
            .bind(key.id);
        self.faults.of(in_time(update.execute(&mut *self.tx)).await)?;
        key.revoked_at = Some(self.at);
        key.state = KeyState::Revoked;
        self.record("key.revoke", &key.id.to_string(), &describe(&key)).await?;
        Ok(key)
    }

    /// Adds a key and returns its record.
    pub(super) async fn insert_key(
        &mut self,
        user: i64,
        spec: &KeySpec,
        print: &Fingerprint<'_>,
    ) -> Result<KeyRecord, StoreError> {
        check(&spec.name, spec.models.as_deref(), &spec.limits)?;
        self.must_have_tier(user, &spec.user).await?;
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
        let id = in_time(insert.fetch_one(&mut *self.tx)).await;
        let id = self.faults.unless_taken(id, || "this key is known already".to_owned())?;
        self.key(id).await
    }
}

/// The key as `patch` wants it.
fn patched(key: &KeyRecord, patch: &KeyPatch) -> KeyRecord {
    let LimitsPatch { requests, tokens, concurrency } = &patch.limits;
    let mut key = key.clone();
    key.name = patch.name.clone().unwrap_or(key.name);
    key.models = patch.models.clone().unwrap_or(key.models);
    key.expires_at = patch.expires_at.unwrap_or(key.expires_at);
    key.limits = KeyLimits {
        requests: requests.clone().unwrap_or(key.limits.requests),
        tokens: tokens.clone().unwrap_or(key.limits.tokens),
        concurrency: concurrency.unwrap_or(key.limits.concurrency),
    };
    key
}

/// What is new about a key.
fn differences(before: &KeyRecord, after: &KeyRecord) -> Vec<&'static str> {
    let rows = [
        ("name", before.name != after.name),
        ("models", before.models != after.models),
        ("limits", before.limits != after.limits),
        ("expiry", before.expires_at != after.expires_at),
    ];
    rows.into_iter().filter(|(_, differs)| *differs).map(|(what, _)| what).collect()
}

/// A key's words for the audit trail.
pub(super) fn describe(key: &KeyRecord) -> String {
    let prefix = key.prefix.as_deref().unwrap_or("imported");
    format!("{prefix} '{}' of {}", key.name, key.user)
}

fn unknown(id: i64) -> StoreError {
    StoreError::NotFound(format!("key {id}"))
}

fn check(name: &str, models: Option<&[String]>, limits: &KeyLimits) -> Result<(), StoreError> {
    let length = name.chars().count();
    if !(1..=LONGEST_NAME).contains(&length) || name.chars().any(char::is_control) {
        return Err(StoreError::Invalid(format!(
            "'{}' cannot be a key's name: 1 to {LONGEST_NAME} characters on one line",
            name.escape_debug()
        )));
    }
    for (name, text) in [("requests", &limits.requests), ("tokens", &limits.tokens)] {
        if let Some(Err(error)) = text.as_ref().map(|text| text.parse::<Rate>()) {
            return Err(StoreError::Invalid(format!("{name}: {error}")));
        }
    }
    let mut patterns = models.into_iter().flatten();
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
            replaces: row.try_get("replaces")?,
            replaced_by: row.try_get("replaced_by")?,
        })
    }
}
