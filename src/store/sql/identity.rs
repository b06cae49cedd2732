//! What authentication asks of the database.

use std::net::IpAddr;

use async_trait::async_trait;
use ring::digest;
use sqlx::any::AnyRow;
use sqlx::{FromRow, Row};

use super::keys::{limits, models, rate};
use super::users::check_username;
use super::{Change, Store, in_time, moment, user_columns};
use crate::auth::{Holder, Identity, IdentityStore, Key, KeyHash, Subject, Unavailable, User};
use crate::store::{Actor, StoreError};

#[async_trait]
impl IdentityStore for Store {
    async fn identity(&self, of: &Holder, from: IpAddr) -> Result<Option<Identity>, Unavailable> {
        let found = match of {
            Holder::Key(hash) => self.holder_of_key(hash).await,
            Holder::PublicKey(key) => self.holder_of_public_key(key).await,
            Holder::Subject(subject) => self.user_of_issuer(subject, from).await,
            Holder::Token { user, id } => self.holder_of_token(*user, id).await,
        };
        found.map_err(|error| Unavailable(error.to_string()))
    }

    async fn revision(&self) -> Result<i64, Unavailable> {
        let query = sqlx::query_scalar(self.server.dialect.revision());
        let found = self.ask(query.fetch_optional(&self.pool)).await;
        let found: Result<i64, _> =
            found.and_then(|found| found.ok_or_else(|| self.server.faults.standby()));
        found.iter().for_each(|revision| self.note_revision(*revision));
        found.map_err(|error| Unavailable(error.to_string()))
    }
}

impl Store {
    async fn holder_of_key(&self, hash: &KeyHash) -> Result<Option<Identity>, StoreError> {
        let query = sqlx::query_as(concat!(
            "SELECT ",
            user_columns!(),
            ", k.id AS key_id, k.public_id, k.tier AS key_tier, k.models, k.limits,
              k.delegating, k.expires_at, k.revoked_at
             FROM api_keys k JOIN users u ON u.id = k.user_id
             WHERE k.key_hash = $1"
        ))
        .bind(hash.to_hex());
        self.ask(query.fetch_optional(&self.pool)).await
    }

    async fn holder_of_public_key(&self, key: &str) -> Result<Option<Identity>, StoreError> {
        let query = sqlx::query_as(concat!(
            "SELECT ",
            user_columns!(),
            " FROM ssh_keys s JOIN users u ON u.id = s.user_id WHERE s.public_key = $1"
        ))
        .bind(key);
        let found: Option<User> = self.ask(query.fetch_optional(&self.pool)).await?;
        Ok(found.map(without_key))
    }

    async fn holder_of_token(&self, user: i64, id: &str) -> Result<Option<Identity>, StoreError> {
        let query = sqlx::query_as(concat!(
            "SELECT ",
            user_columns!(),
            ", (SELECT COUNT(*) FROM revoked_tokens r WHERE r.jti = $2) AS ended
             FROM users u WHERE u.id = $1 AND u.issuer IS NULL"
        ))
        .bind(user)
        .bind(id);
        let found: Option<Bearer> = self.ask(query.fetch_optional(&self.pool)).await?;
        Ok(found.and_then(Bearer::unless_ended))
    }

    /// The user that another issuer speaks of, made at first sight.
    async fn user_of_issuer(
        &self,
        subject: &Subject,
        from: IpAddr,
    ) -> Result<Option<Identity>, StoreError> {
        let found = match self.bearer_of(subject).await? {
            Some(found) => Some(found),
            None => {
                self.welcome(subject, from).await?;
                self.bearer_of(subject).await?
            }
        };
        Ok(found.and_then(Bearer::unless_ended))
    }

    async fn bearer_of(&self, subject: &Subject) -> Result<Option<Bearer>, StoreError> {
        let query = sqlx::query_as(concat!(
            "SELECT ",
            user_columns!(),
            ", (SELECT COUNT(*) FROM revoked_tokens r WHERE r.jti = $3) AS ended
             FROM users u WHERE u.issuer = $1 AND u.subject = $2"
        ))
        .bind(&subject.issuer)
        .bind(&subject.subject)
        .bind(&*subject.token);
        self.ask(query.fetch_optional(&self.pool)).await
    }

    /// Makes a row for a user of another issuer. Whoever makes the same one at the same time is
    /// no trouble: there is one row afterwards.
    async fn welcome(&self, subject: &Subject, from: IpAddr) -> Result<(), StoreError> {
        let address = from.to_string();
        let by = Actor { name: &subject.issuer_name, address: &address };
        for name in names_for(subject) {
            let mut change = self.change(&by).await?;
            match change.insert_subject(&name, subject).await {
                Ok(()) => {
                    let detail = format!("tier {} as its issuer says", subject.tier);
                    return change.commit("user.create", &name, &detail).await;
                }
                // the name belongs to somebody else, or another process was faster
                Err(StoreError::Conflict(_)) => change.abandon().await?,
                Err(other) => return Err(other),
            }
            if self.bearer_of(subject).await?.is_some() {
                break;
            }
        }
        Ok(())
    }
}

impl Change<'_> {
    async fn insert_subject(&mut self, name: &str, subject: &Subject) -> Result<(), StoreError> {
        let insert = sqlx::query(
            "INSERT INTO users (username, email, issuer, subject, tier, created_at)
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(name)
        .bind(&subject.email)
        .bind(&subject.issuer)
        .bind(&subject.subject)
        .bind(&*subject.tier)
        .bind(self.at.as_millisecond());
        let inserted = in_time(insert.execute(&mut *self.tx)).await.map(drop);
        self.faults.unless_taken(inserted, || format!("there is a user '{name}' already"))
    }
}

/// Names for a user of another issuer, best first: the issuer's name and the subject, and, where
/// that is no username or somebody else's, the issuer's name and a hash that is unique for it.
fn names_for(subject: &Subject) -> impl Iterator<Item = String> {
    let Subject { issuer, issuer_name, subject, .. } = subject;
    let plain = format!("{issuer_name}+{subject}");
    let digest = digest::digest(&digest::SHA256, format!("{issuer}\n{subject}").as_bytes());
    let hash: String = digest.as_ref().iter().take(12).map(|byte| format!("{byte:02x}")).collect();
    // an issuer's name may be as long as a username
    let stem: String = issuer_name.chars().take(32).collect();
    let names = [plain, format!("{stem}+{hash}")];
    names.into_iter().filter(|name| check_username(name).is_ok())
}

/// A user, and whether the token that led there was logged out.
struct Bearer {
    user: User,
    ended: bool,
}

impl Bearer {
    fn unless_ended(self) -> Option<Identity> {
        (!self.ended).then(|| without_key(self.user))
    }
}

fn without_key(user: User) -> Identity {
    Identity { user, key: None }
}

impl FromRow<'_, AnyRow> for Bearer {
    fn from_row(row: &AnyRow) -> Result<Self, sqlx::Error> {
        Ok(Self { user: User::from_row(row)?, ended: row.try_get::<i64, _>("ended")? != 0 })
    }
}

impl FromRow<'_, AnyRow> for User {
    fn from_row(row: &AnyRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: row.try_get("user_id")?,
            username: row.try_get("username")?,
            email: row.try_get("email")?,
            issuer: row.try_get("issuer")?,
            subject: row.try_get("subject")?,
            tier: row.try_get("user_tier")?,
            tier_given: row.try_get::<i64, _>("tier_given")? != 0,
            disabled: row.try_get::<i64, _>("disabled")? != 0,
            token_version: row.try_get("token_version")?,
        })
    }
}

impl FromRow<'_, AnyRow> for Identity {
    fn from_row(row: &AnyRow) -> Result<Self, sqlx::Error> {
        let limits = limits(row)?;
        let key = Key {
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
        };
        Ok(Self { user: User::from_row(row)?, key: Some(key) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(issuer_name: &str, subject: &str) -> Vec<String> {
        names_for(&Subject {
            issuer: "https://id.example".to_owned(),
            issuer_name: issuer_name.to_owned(),
            subject: subject.to_owned(),
            email: None,
            tier: "free".into(),
            token: "t".into(),
        })
        .collect()
    }

    #[test]
    fn a_user_of_another_issuer_is_named_after_both_if_that_is_a_name() {
        let id = "0f8fad5b-d9cb-469f-a165-70867728950e";
        let usual = names("supabase", id);
        assert_eq!(usual.first().unwrap(), &format!("supabase+{id}"));
        assert_eq!(usual.len(), 2);
        for strange in ["auth0|1234", &"x".repeat(64), "two words"] {
            let names = names("supabase", strange);
            assert_eq!(names.len(), 1, "{names:?}");
            assert!(names[0].starts_with("supabase+") && names[0].len() == 33, "{names:?}");
        }
        assert_ne!(names("supabase", "a|b"), names("supabase", "a|c"));
        assert!(names(&"i".repeat(64), "s").iter().all(|name| name.len() <= 64));
    }
}
