//! API keys: `/admin/keys`.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use jiff::Timestamp;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::answers::{IssuedKey, Page, RotatedKey};
use super::input::{self, Body, LimitsInput, MaybeBody, Nothing, Object, Query, Time};
use super::{Admin, Caller, Fault};
use crate::auth::api_key;
use crate::store::{
    Fingerprint, KeyFilter, KeyLimits, KeyPatch, KeyRecord, KeySpec, KeyState, LimitsPatch,
};

/// A key to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewKey {
    /// Name of the user it is for.
    user: String,
    /// What to call it.
    name: String,
    /// The key's own tier, which can only narrow the user's.
    #[serde(default)]
    tier: Option<String>,
    /// How long it works: `12h`, `30d`; without, until it is revoked.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    expires_in: Option<Time>,
    /// Patterns of the only models that it may use.
    #[serde(default)]
    models: Option<Vec<String>>,
    /// Limits of its own.
    #[serde(default)]
    #[schema(value_type = Option<LimitsInput>)]
    limits: Option<Object<LimitsInput>>,
    /// Whether it may name its end user in `X-OpenWebUI-User-Id`.
    #[serde(default)]
    delegating: bool,
}

/// What changes about a key.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyChange {
    /// What to call it from now on.
    #[serde(default)]
    name: Option<String>,
    /// Patterns of the only models that it may use; null: all that its tiers may.
    #[serde(default, deserialize_with = "input::given")]
    #[schema(value_type = Option<Vec<String>>)]
    models: Option<Option<Vec<String>>>,
    /// Limits of its own: those that are named change, null lifts one.
    #[serde(default)]
    #[schema(value_type = Option<LimitsInput>)]
    limits: Option<Object<LimitsInput>>,
    /// How long it works from now on: `12h`, `30d`; null: until it is revoked.
    #[serde(default, deserialize_with = "input::given")]
    #[schema(value_type = Option<String>)]
    expires_in: Option<Option<Time>>,
    /// Refused from this moment on; null: never.
    #[serde(default, deserialize_with = "input::given")]
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Option<Timestamp>>,
}

/// How a key is rotated.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Rotation {
    /// How long the old key still works: `0s`, `24h`, `7d`; else as `auth.rotation_grace` says.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    grace: Option<Time>,
}

/// Which keys.
#[derive(Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(super) struct KeyQuery {
    /// Only those of this user.
    #[serde(deserialize_with = "input::text")]
    user: Option<String>,
    /// Only those in this state.
    #[serde(deserialize_with = "state")]
    state: Option<KeyState>,
    /// Only those behind the one with this id: `next` of the page before.
    #[serde(deserialize_with = "input::id")]
    #[param(minimum = 1)]
    after: Option<i64>,
    /// At most so many; 100 unless said otherwise.
    #[serde(deserialize_with = "input::limit")]
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

/// Makes a key; this answer alone holds it.
#[utoipa::path(post, path = "/admin/keys", tag = "keys", request_body = NewKey,
    responses((status = 201, description = "The key, shown this once", body = IssuedKey)))]
pub(super) async fn create(
    State(admin): State<Arc<Admin>>,
    Extension(caller): Extension<Caller>,
    Body(new): Body<NewKey>,
) -> Result<Response, Fault> {
    let spec = spec(new, &admin)?;
    let new = api_key::generate().map_err(|error| Fault::ours(&error))?;
    let print = Fingerprint { hash: new.hash, public_id: Some(&new.public_id) };
    let record = admin.store.create_key(&caller.actor(), &spec, &print).await?;
    admin.done(&caller, &format!("key.create {}", record.id));
    let issued = IssuedKey { key: new.plaintext.expose(), record: &record };
    Ok((StatusCode::CREATED, Json(&issued)).into_response())
}

/// Lists keys, oldest first; never a key itself nor its hash.
#[utoipa::path(get, path = "/admin/keys", tag = "keys", params(KeyQuery),
    responses((status = 200, description = "A part of the list", body = Page<KeyRecord>)))]
pub(super) async fn list(
    State(admin): State<Arc<Admin>>,
    Query(asked): Query<KeyQuery>,
    MaybeBody(Nothing {}): MaybeBody<Nothing>,
) -> Result<Json<Page<KeyRecord>>, Fault> {
    let span = input::span(asked.after, asked.limit);
    let filter = KeyFilter { user: asked.user, state: asked.state, span };
    let rows = admin.store.list_keys(&filter).await?;
    Ok(Json(Page::cut(rows, input::shown(span))))
}

/// Shows a key; never the key itself nor its hash.
#[utoipa::path(get, path = "/admin/keys/{id}", tag = "keys",
    params(("id" = i64, Path, description = "The key's id")),
    responses((status = 200, description = "The key", body = KeyRecord)))]
pub(super) async fn show(
    State(admin): State<Arc<Admin>>,
    Path(id): Path<i64>,
    MaybeBody(Nothing {}): MaybeBody<Nothing>,
) -> Result<Json<KeyRecord>, Fault> {
    Ok(Json(admin.store.show_key(id).await?))
}

/// Changes a key's name, models, limits or expiry.
#[utoipa::path(patch, path = "/admin/keys/{id}", tag = "keys", request_body = KeyChange,
    params(("id" = i64, Path, description = "The key's id")),
    responses((status = 200, description = "The key as it is now", body = KeyRecord)))]
pub(super) async fn change(
    State(admin): State<Arc<Admin>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<i64>,
    Body(change): Body<KeyChange>,
) -> Result<Json<KeyRecord>, Fault> {
    let expires_at = match (change.expires_in, change.expires_at) {
        (Some(_), Some(_)) => {
            return Err(Fault::bad("give 'expires_in' or 'expires_at', not both".to_owned()));
        }
        (Some(lifetime), None) => Some(lifetime.map(end_of).transpose()?),
        (None, moment) => {
            moment.map(|moment| moment.map(to_the_millisecond).transpose()).transpose()?
        }
    };
    let limits = change.limits.map(|Object(limits)| limits.into()).unwrap_or_default();
    let patch = KeyPatch { name: change.name, models: change.models, limits, expires_at };
    let act = admin.store.patch_key(&caller.actor(), id, &patch).await?;
    admin.done_if(act.changed, &caller, &format!("key.update {id}"));
    Ok(Json(act.record))
}

/// Ends a key for good, from the next request on.
#[utoipa::path(delete, path = "/admin/keys/{id}", tag = "keys",
    params(("id" = i64, Path, description = "The key's id")),
    responses((status = 204, description = "It is refused from now on")))]
pub(super) async fn revoke(
    State(admin): State<Arc<Admin>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<i64>,
    MaybeBody(Nothing {}): MaybeBody<Nothing>,
) -> Result<StatusCode, Fault> {
    let act = admin.store.revoke_key(&caller.actor(), id).await?;
    admin.done_if(act.changed, &caller, &format!("key.revoke {id}"));
    Ok(StatusCode::NO_CONTENT)
}

/// Gives a key a successor; the old one works until its grace is over.
#[utoipa::path(post, path = "/admin/keys/{id}/rotate", tag = "keys", request_body = Option<Rotation>,
    params(("id" = i64, Path, description = "The key's id")),
    responses((status = 201, description = "The new key, shown this once", body = RotatedKey)))]
pub(super) async fn rotate(
    State(admin): State<Arc<Admin>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<i64>,
    MaybeBody(asked): MaybeBody<Rotation>,
) -> Result<Response, Fault> {
    let usual = admin.live.load().config.auth.rotation_grace;
    let grace = asked.grace.map_or(usual, |Time(grace)| grace);
    let new = api_key::generate().map_err(|error| Fault::ours(&error))?;
    let print = Fingerprint { hash: new.hash, public_id: Some(&new.public_id) };
    let rotated = admin.store.rotate_key(&caller.actor(), id, grace, &print).await?;
    admin.done(&caller, &format!("key.rotate {id} by {}", rotated.key.id));
    let answer = RotatedKey {
        key: new.plaintext.expose(),
        record: &rotated.key,
        old_expires_at: rotated.old_expires_at,
    };
    Ok((StatusCode::CREATED, Json(&answer)).into_response())
}

fn spec(new: NewKey, admin: &Admin) -> Result<KeySpec, Fault> {
    if let Some(tier) = &new.tier {
        admin.check_tier(tier)?;
    }
    let limits: LimitsPatch = new.limits.map(|Object(limits)| limits.into()).unwrap_or_default();
    Ok(KeySpec {
        user: new.user,
        name: new.name,
        tier: new.tier,
        models: new.models,
        limits: KeyLimits {
            requests: limits.requests.flatten(),
            tokens: limits.tokens.flatten(),
            concurrency: limits.concurrency.flatten(),
        },
        delegating: new.delegating,
        expires_at: new.expires_in.map(end_of).transpose()?,
    })
}

fn end_of(Time(lifetime): Time) -> Result<Timestamp, Fault> {
    if lifetime.is_zero() {
        let text = "field 'expires_in': must be longer than zero; to end a key, revoke it";
        return Err(Fault::bad(text.to_owned()));
    }
    let end = Timestamp::now().checked_add(lifetime);
    end.map_err(|error| Fault::bad(format!("field 'expires_in': {error}")))
}

/// As exact as it is kept.
fn to_the_millisecond(moment: Timestamp) -> Result<Timestamp, Fault> {
    let kept = Timestamp::from_millisecond(moment.as_millisecond());
    kept.map_err(|error| Fault::bad(format!("field 'expires_at': {error}")))
}

fn state<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<KeyState>, D::Error> {
    KeyState::deserialize(deserializer).map(Some)
}
