//! Public keys that requests may be signed with, as the `ollama` command does:
//! `/admin/users/{id}/ssh-keys`.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::answers::Page;
use super::input::{self, Body, MaybeBody, Nothing, Query};
use super::{Admin, Caller, Fault};
use crate::auth::ssh_key::PublicKey;
use crate::store::SshKeyRecord;

/// A public key to be registered.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewSshKey {
    /// The line of a `.pub` file: `ssh-ed25519 AAAA...`.
    public_key: String,
}

/// Which of the user's public keys.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct WhichSshKey {
    /// Its id, as listed.
    #[serde(deserialize_with = "input::id")]
    #[param(value_type = i64, required = true, minimum = 1)]
    id: Option<i64>,
}

/// Registers a public key for a user.
#[utoipa::path(post, path = "/admin/users/{id}/ssh-keys", tag = "users", request_body = NewSshKey,
    params(("id" = i64, Path, description = "The user's id")),
    responses((status = 201, description = "The key", body = SshKeyRecord)))]
pub(super) async fn add(
    State(admin): State<Arc<Admin>>,
    Extension(caller): Extension<Caller>,
    Path(user): Path<i64>,
    Body(new): Body<NewSshKey>,
) -> Result<(StatusCode, Json<SshKeyRecord>), Fault> {
    let key = PublicKey::parse(&new.public_key)
        .map_err(|error| Fault::bad(format!("field 'public_key': {error}")))?;
    let record = admin.store.add_ssh_key(&caller.actor(), user, &key).await?;
    admin.done(&caller, &format!("user.add-ssh-key {} {}", record.user, record.id));
    Ok((StatusCode::CREATED, Json(record)))
}

/// Lists a user's public keys, oldest first.
#[utoipa::path(get, path = "/admin/users/{id}/ssh-keys", tag = "users",
    params(("id" = i64, Path, description = "The user's id")),
    responses((status = 200, description = "All of them", body = Page<SshKeyRecord>)))]
pub(super) async fn list(
    State(admin): State<Arc<Admin>>,
    Path(user): Path<i64>,
    MaybeBody(Nothing {}): MaybeBody<Nothing>,
) -> Result<Json<Page<SshKeyRecord>>, Fault> {
    Ok(Json(Page { data: admin.store.list_ssh_keys(user).await?, next: None }))
}

/// Takes a public key from a user.
#[utoipa::path(delete, path = "/admin/users/{id}/ssh-keys", tag = "users",
    params(("id" = i64, Path, description = "The user's id"), WhichSshKey),
    responses((status = 204, description = "What it signs is refused from now on")))]
pub(super) async fn remove(
    State(admin): State<Arc<Admin>>,
    Extension(caller): Extension<Caller>,
    Path(user): Path<i64>,
    Query(which): Query<WhichSshKey>,
    MaybeBody(Nothing {}): MaybeBody<Nothing>,
) -> Result<StatusCode, Fault> {
    let id = which.id.ok_or_else(|| Fault::bad("query field 'id' is missing".to_owned()))?;
    let record = admin.store.remove_ssh_key(&caller.actor(), user, id).await?;
    admin.done(&caller, &format!("user.remove-ssh-key {} {id}", record.user));
    Ok(StatusCode::NO_CONTENT)
}
