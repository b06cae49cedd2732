//! ADMINISTER: what is behind `/admin` and `/auth`, a router that is called in process.
//!
//! Whether somebody may come here was decided before; [`Caller`] says who it is. Knows nothing of
//! how requests arrive.

pub mod answers;
#[expect(unused_qualifications, reason = "those of utoipa's macro")]
mod audit;
mod config;
mod input;
#[expect(unused_qualifications, reason = "those of utoipa's macro")]
mod keys;
mod openapi;
pub mod session;
#[expect(unused_qualifications, reason = "those of utoipa's macro")]
mod ssh_keys;
mod upstreams;
mod usage;
#[expect(unused_qualifications, reason = "those of utoipa's macro")]
mod users;

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::http::header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

use crate::auth::{Authenticator, Principal};
use crate::limit::Limits;
use crate::live::Live;
use crate::live::reload::Reloader;
use crate::scheduler::Scheduler;
use crate::store::{Actor, Store, StoreError};
use crate::telemetry::security_log::SecurityEvent;
use session::Logins;

/// Seconds after which a database that does not answer may be there again.
const STORE_BACK: u64 = 2;

/// What administrators look at and change.
pub struct Admin {
    /// The instances in force.
    pub live: Arc<Live>,
    /// Who sits where, and who waits.
    pub scheduler: Arc<Scheduler>,
    /// Users and keys, and where every act is written down.
    pub store: Arc<Store>,
    /// Remembers whose credentials are whose.
    pub authenticator: Arc<Authenticator>,
    /// Rereads the configuration.
    pub reloader: Arc<Reloader>,
    /// Checks passwords.
    pub logins: Logins,
    /// How much of it everybody has had.
    pub limits: Arc<Limits>,
}

/// Who is asking, for handlers that change something.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Account.
    pub username: String,
    /// Its id.
    pub user_id: i64,
    /// Public id of the key, if it has one.
    pub key: Option<String>,
    /// All that is known of who it is.
    pub principal: Principal,
    /// Who connected.
    pub address: IpAddr,
    /// The same as text.
    pub from: String,
    /// The request, as in the access log.
    pub request_id: String,
    /// The route's own path.
    pub route: &'static str,
}

/// A no. It travels in the extensions of a response: how it is written is not decided here.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Status.
    pub status: StatusCode,
    /// One word for logs.
    pub reason: &'static str,
    /// What the caller reads.
    pub detail: String,
    /// Mistakes to be listed besides.
    pub problems: Vec<String>,
    /// What the log reads besides.
    pub cause: Option<String>,
    /// Seconds after which the same may succeed.
    pub retry_after: Option<u64>,
}

/// Everything under `/admin` and `/auth`. The paths are also lines of the route table, which knows who may.
pub fn router(admin: Admin) -> Router {
    Router::new()
        .route("/auth/login", post(session::login))
        .route("/auth/logout", post(session::logout))
        .route("/auth/me", get(session::me))
        .route("/admin/keys", get(keys::list).post(keys::create))
        .route("/admin/keys/{id}", get(keys::show).patch(keys::change).delete(keys::revoke))
        .route("/admin/keys/{id}/rotate", post(keys::rotate))
        .route("/admin/users", get(users::list).post(users::create))
        .route("/admin/users/{id}", get(users::show).patch(users::change).delete(users::remove))
        .route(
            "/admin/users/{id}/ssh-keys",
            get(ssh_keys::list).post(ssh_keys::add).delete(ssh_keys::remove),
        )
        .route("/admin/usage", get(usage::all))
        .route("/auth/usage", get(usage::own))
        .route("/admin/upstreams", get(upstreams::list))
        .route("/admin/upstreams/{name}/drain", post(upstreams::drain))
        .route("/admin/upstreams/{name}/resume", post(upstreams::resume))
        .route("/admin/audit", get(audit::list))
        .route("/admin/config", get(config::show))
        .route("/admin/reload", post(config::reload))
        .route("/admin/openapi.json", get(openapi::document))
        .layer(map_response(no_store))
        .with_state(Arc::new(admin))
}

/// Nobody keeps these answers, and no browser takes them for anything but what they say they are.
async fn no_store(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

impl Admin {
    /// Makes sure that a change holds from the next request on, and tells the security log. Other
    /// processes notice by themselves, within a second.
    fn done(&self, caller: &Caller, what: &str) {
        self.authenticator.invalidate();
        caller.did(what);
    }

    /// The same, where something changed: an act that changes nothing leaves no trace anywhere.
    fn done_if(&self, changed: bool, caller: &Caller, what: &str) {
        if changed {
            self.done(caller, what);
        }
    }

    /// Refuses a tier that the configuration does not have.
    fn check_tier(&self, tier: &str) -> Result<(), Fault> {
        let generation = self.live.load();
        let tiers = &generation.config.tiers;
        if tiers.contains_key(tier) {
            return Ok(());
        }
        let known: Vec<&str> = tiers.keys().map(String::as_str).collect();
        let known = known.join(", ");
        Err(Fault::bad(format!(
            "field 'tier': there is no tier '{tier}': the configuration has {known}"
        )))
    }
}

impl Caller {
    /// Who it is, for the audit trail.
    fn actor(&self) -> Actor<'_> {
        Actor { name: &self.username, address: &self.from }
    }

    /// Writes down in the security log what was done.
    fn did(&self, what: &str) {
        self.tell("admin", what);
    }

    fn tell(&self, event: &'static str, what: &str) {
        SecurityEvent {
            event,
            address: self.address,
            request_id: &self.request_id,
            route: self.route,
            key: self.key.as_deref(),
            user_id: Some(self.user_id),
            reason: what,
        }
        .write();
    }
}

impl Fault {
    /// The caller's mistake.
    fn bad(detail: String) -> Self {
        let status = StatusCode::BAD_REQUEST;
        let problems = Vec::new();
        Self { status, reason: "bad_request", detail, problems, cause: None, retry_after: None }
    }

    fn not_found(detail: String) -> Self {
        Self { status: StatusCode::NOT_FOUND, reason: "not_found", ..Self::bad(detail) }
    }

    fn conflict(detail: String) -> Self {
        Self { status: StatusCode::CONFLICT, reason: "conflict", ..Self::bad(detail) }
    }

    /// Our own.
    fn ours(error: &dyn std::error::Error) -> Self {
        Self {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            reason: "internal",
            cause: Some(error.to_string()),
            ..Self::bad("Internal error".to_owned())
        }
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        let text = capitalised(&error.to_string());
        match error {
            StoreError::NotFound(_) => Self::not_found(text),
            StoreError::Conflict(_) | StoreError::LastAdmin(_) => Self::conflict(text),
            StoreError::Invalid(_) => Self::bad(text),
            StoreError::Newer { .. } | StoreError::Unavailable(_) => Self {
                status: StatusCode::SERVICE_UNAVAILABLE,
                reason: "store_unavailable",
                cause: Some(error.to_string()),
                retry_after: Some(STORE_BACK),
                ..Self::bad("The database does not answer now, so nothing was changed".to_owned())
            },
        }
    }
}

/// A sentence of its own, where a command would put the program's name before it.
fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().into_iter().flat_map(char::to_uppercase);
    first.chain(letters).collect()
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}
