//! Who did what to what, from where, when: `/admin/audit`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;

use super::answers::Page;
use super::input::{self, MaybeBody, Nothing, Query};
use super::{Admin, Fault};
use crate::store::{AuditFilter, AuditRecord};

/// Which acts.
#[derive(Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(super) struct AuditQuery {
    /// Only acts of this user; `cli` are the commands.
    #[serde(deserialize_with = "input::text")]
    actor: Option<String>,
    /// Only acts of this kind, such as `key.revoke`.
    #[serde(deserialize_with = "input::text")]
    action: Option<String>,
    /// Only acts on this: a key's id, the name of a user or of an instance.
    #[serde(deserialize_with = "input::text")]
    target: Option<String>,
    /// Only acts before the one with this id: `next` of the page before.
    #[serde(deserialize_with = "input::id")]
    #[param(minimum = 1)]
    after: Option<i64>,
    /// At most so many; 100 unless said otherwise.
    #[serde(deserialize_with = "input::limit")]
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

/// Lists acts, newest first.
#[utoipa::path(get, path = "/admin/audit", tag = "audit", params(AuditQuery),
    responses((status = 200, description = "A part of the trail", body = Page<AuditRecord>)))]
pub(super) async fn list(
    State(admin): State<Arc<Admin>>,
    Query(asked): Query<AuditQuery>,
    MaybeBody(Nothing {}): MaybeBody<Nothing>,
) -> Result<Json<Page<AuditRecord>>, Fault> {
    let AuditQuery { actor, action, target, after, limit } = asked;
    let span = input::span(after, limit);
    let rows = admin.store.list_acts(&AuditFilter { actor, action, target, span }).await?;
    Ok(Json(Page::cut(rows, input::shown(span))))
}
