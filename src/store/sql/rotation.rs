//! Rotation: a key gets a successor, and both work for a while.

use std::time::Duration;

use super::keys::describe;
use super::{Change, Store, in_time};
use crate::store::{Actor, Fingerprint, KeyRecord, KeySpec, KeyState, Rotated, StoreError};

impl Store {
    /// Gives a key a successor that may do the same for as long, and ends the old one when `grace`
    /// is over, or at its own end if that is earlier.
    ///
    /// [`StoreError::Conflict`] if the key does not work any more, was rotated before, or itself
    /// replaces one that still works: so of one client at most two keys work.
    pub async fn rotate_key(
        &self,
        by: &Actor<'_>,
        id: i64,
        grace: Duration,
        print: &Fingerprint<'_>,
    ) -> Result<Rotated, StoreError> {
        let mut change = self.change(by).await?;
        let old = change.key(id).await?;
        change.refuse_rotation(&old).await?;
        let far = |_| StoreError::Invalid("the grace is too long".to_owned());
        let end = change.at.checked_add(grace).map_err(far)?;
        let old_expires_at = old.expires_at.map_or(end, |own| own.min(end));
        let owner = change.user(&old.user).await?.id;
        let mut key = change.insert_key(owner, &successor(&old), print).await?;
        let update =
            sqlx::query("UPDATE api_keys SET replaced_by = $1, expires_at = $2 WHERE id = $3")
                .bind(key.id)
                .bind(old_expires_at.as_millisecond())
                .bind(id);
        change.faults.of(in_time(update.execute(&mut *change.tx)).await)?;
        key.replaces = Some(id);
        let detail = format!("{} by key {}, until {old_expires_at}", describe(&old), key.id);
        change.commit("key.rotate", &id.to_string(), &detail).await?;
        Ok(Rotated { key, old_expires_at })
    }
}

impl Change<'_> {
    async fn refuse_rotation(&mut self, old: &KeyRecord) -> Result<(), StoreError> {
        let id = old.id;
        let conflict = |text| Err(StoreError::Conflict(text));
        if let Some(successor) = old.replaced_by {
            return conflict(format!("key {id} was replaced by key {successor} already"));
        }
        match old.state {
            KeyState::Active => {}
            state => return conflict(format!("key {id} is {}: create a new one", state.as_str())),
        }
        let Some(replaced) = old.replaces else { return Ok(()) };
        let replaced = self.key(replaced).await?;
        match (replaced.state, replaced.expires_at) {
            (KeyState::Active, Some(end)) => conflict(format!(
                "key {id} replaces key {}, which works until {end}: revoke that one first",
                replaced.id
            )),
            _ => Ok(()),
        }
    }
}

/// A new secret, and nothing else that is new.
fn successor(old: &KeyRecord) -> KeySpec {
    KeySpec {
        user: old.user.clone(),
        name: old.name.clone(),
        tier: old.tier.clone(),
        models: old.models.clone(),
        limits: old.limits.clone(),
        delegating: old.delegating,
        expires_at: old.expires_at,
    }
}
