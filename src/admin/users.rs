//! Accounts: `/admin/users`.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::answers::Page;
use super::input::{self, Body, MaybeBody, Nothing, Query};
use super::{Admin, Caller, Fault};
use crate::auth::password::Password;
use crate::config::Secret;
use crate::store::{NewUser, UserFilter, UserPatch, UserRecord};

/// The tier of a user for whom none is named.
const USUAL_TIER: &str = "free";

/// An account to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewAccount {
    /// Name: 1 to 64 letters, digits and `. _ - + @`.
    username: String,
    /// 12 to 1024 bytes; without, the user cannot log in.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    password: Option<Password>,
    /// What the user may do; `free` unless said otherwise.
    #[serde(default)]
    tier: Option<String>,
    /// Where mail reaches the user.
    #[serde(default)]
    email: Option<String>,
    /// Whether every credential of the user is refused.
    #[serde(default)]
    disabled: bool,
}

/// What changes about an account.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AccountChange {
    /// Another password, 12 to 1024 bytes; ends the user's tokens.
    #[serde(default, deserialize_with = "input::not_null")]
    #[schema(value_type = String)]
    password: Option<Password>,
    /// What the user may do from now on; ends the user's tokens.
    #[serde(default)]
    tier: Option<String>,
    /// Where mail reaches the user; null: nowhere.
    #[serde(default, deserialize_with = "input::given")]
    #[schema(value_type = Option<String>)]
    email: Option<Option<String>>,
    /// Whether every credential of the user is refused.
    #[serde(default)]
    disabled: Option<bool>,
}

/// Which accounts.
#[derive(Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(super) struct UserQuery {
    /// Only those of this tier.
    #[serde(deserialize_with = "input::text")]
    tier: Option<String>,
    /// Only those that are disabled, or only those that are not.
    #[serde(deserialize_with = "input::truth")]
    disabled: Option<bool>,
    /// Only those behind the one with this id: `next` of the page before.
    #[serde(deserialize_with = "input::id")]
    #[param(minimum = 1)]
    after: Option<i64>,
    /// At most so many; 100 unless said otherwise.
    #[serde(deserialize_with = "input::limit")]
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

/// Makes an account.
#[utoipa::path(post, path = "/admin/users", tag = "users", request_body = NewAccount,
    responses((status = 201, description = "The account", body = UserRecord)))]
pub(super) async fn create(
    State(admin): State<Arc<Admin>>,
    Extension(caller): Extension<Caller>,
    Body(new): Body<NewAccount>,
) -> Result<(StatusCode, Json<UserRecord>), Fault> {
    let tier = new.tier.unwrap_or_else(|| USUAL_TIER.to_owned());
    admin.check_tier(&tier)?;
    let NewAccount { username, email, disabled, password, .. } = new;
    let password_hash = hash(&admin, password).await?;
    let new = NewUser { username, tier, email, disabled, password_hash };
    let user = admin.store.create_user(&caller.actor(), &new).await?;
    admin.done(&caller, &format!("user.create {}", user.username));
    Ok((StatusCode::CREATED, Json(user)))
}

/// Lists accounts, oldest first.
#[utoipa::path(get, path = "/admin/users", tag = "users", params(UserQuery),
    responses((status = 200, description = "A part of the list", body = Page<UserRecord>)))]
pub(super) async fn list(
    State(admin): State<Arc<Admin>>,
    Query(asked): Query<UserQuery>,
    MaybeBody(Nothing {}): MaybeBody<Nothing>,
) -> Result<Json<Page<UserRecord>>, Fault> {
    let span = input::span(asked.after, asked.limit);
    let filter = UserFilter { tier: asked.tier, disabled: asked.disabled, span };
    let rows = admin.store.find_users(&filter).await?;
    Ok(Json(Page::cut(rows, input::shown(span))))
}

/// Shows an account.
#[utoipa::path(get, path = "/admin/users/{id}", tag = "users",
    params(("id" = i64, Path, description = "The user's id")),
    responses((status = 200, description = "The account", body = UserRecord)))]
pub(super) async fn show(
    State(admin): State<Arc<Admin>>,
    Path(id): Path<i64>,
    MaybeBody(Nothing {}): MaybeBody<Nothing>,
) -> Result<Json<UserRecord>, Fault> {
    Ok(Json(admin.store.show_user_by_id(id).await?))
}

/// Changes an account. The last enabled admin stays one.
#[utoipa::path(patch, path = "/admin/users/{id}", tag = "users", request_body = AccountChange,
    params(("id" = i64, Path, description = "The user's id")),
    responses((status = 200, description = "The account as it is now", body = UserRecord)))]
pub(super) async fn change(
    State(admin): State<Arc<Admin>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<i64>,
    Body(change): Body<AccountChange>,
) -> Result<Json<UserRecord>, Fault> {
    if let Some(tier) = &change.tier {
        admin.check_tier(tier)?;
    }
    let AccountChange { tier, email, disabled, password } = change;
    let password_hash = hash(&admin, password).await?;
    let patch = UserPatch { tier, email, disabled, password_hash };
    let act = admin.store.patch_user(&caller.actor(), id, &patch).await?;
    admin.done_if(act.changed, &caller, &format!("user.update {}", act.record.username));
    Ok(Json(act.record))
}

/// Removes an account and its keys. The last enabled admin stays.
#[utoipa::path(delete, path = "/admin/users/{id}", tag = "users",
    params(("id" = i64, Path, description = "The user's id")),
    responses((status = 204, description = "It is gone, and its keys are refused from now on")))]
pub(super) async fn remove(
    State(admin): State<Arc<Admin>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<i64>,
    MaybeBody(Nothing {}): MaybeBody<Nothing>,
) -> Result<StatusCode, Fault> {
    let user = admin.store.delete_user(&caller.actor(), id).await?;
    admin.done(&caller, &format!("user.delete {}", user.username));
    Ok(StatusCode::NO_CONTENT)
}

/// What is kept of a password.
async fn hash(admin: &Admin, password: Option<Password>) -> Result<Option<Secret>, Fault> {
    match password {
        Some(password) => admin.logins.hash(password).await.map(Some),
        None => Ok(None),
    }
}
