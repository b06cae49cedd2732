//! The configuration: `/admin/config` shows what is in force, `/admin/reload` rereads the file,
//! which is the only place where it changes.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde_json::Value;

use super::answers::{MISTAKES, Reloaded};
use super::input::{MaybeBody, Nothing};
use super::{Admin, Caller, Fault};
use crate::config;
use crate::live::reload::Rejected;

/// Shows the configuration in force, as the file would say it; secrets are left out.
#[utoipa::path(get, path = "/admin/config", tag = "config",
    responses((status = 200, description = "Sections as in the file", body = Object)))]
pub(super) async fn show(
    State(admin): State<Arc<Admin>>,
    MaybeBody(Nothing {}): MaybeBody<Nothing>,
) -> Json<Value> {
    Json(config::show(&admin.live.load().config))
}

/// Rereads the configuration file, as `SIGHUP` does. A file with mistakes changes nothing.
#[utoipa::path(post, path = "/admin/reload", tag = "config",
    responses(
        (status = 200, description = "The file is in force", body = Reloaded),
        (status = 422, description = "The file has mistakes, each with its line: nothing changed"),
    ))]
pub(super) async fn reload(
    State(admin): State<Arc<Admin>>,
    Extension(caller): Extension<Caller>,
    MaybeBody(Nothing {}): MaybeBody<Nothing>,
) -> Result<Json<Reloaded>, Fault> {
    // written down first: what cannot be written down is not done
    admin.store.record_act(&caller.actor(), "config.reload", "").await?;
    caller.did("config.reload");
    let applied = admin.reloader.reload().await?;
    Ok(Json(Reloaded { warnings: applied.warnings, need_restart: applied.need_restart }))
}

impl From<Rejected> for Fault {
    fn from(rejected: Rejected) -> Self {
        let problems = match &rejected {
            Rejected::File(problems) => problems.lines().collect(),
            Rejected::Address(error) => vec![error.to_string()],
            Rejected::Certificate(error) => vec![error.clone()],
            Rejected::Tokens(error) => error.to_string().lines().map(str::to_owned).collect(),
            Rejected::Stopping => {
                return Self {
                    status: StatusCode::SERVICE_UNAVAILABLE,
                    reason: "stopping",
                    ..Self::bad(rejected.to_string())
                };
            }
        };
        Self {
            status: StatusCode::UNPROCESSABLE_ENTITY,
            reason: "bad_config",
            problems,
            ..Self::bad(MISTAKES.to_owned())
        }
    }
}
