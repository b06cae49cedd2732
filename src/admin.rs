//! ADMINISTER: what is behind `/admin` and `/auth`, a router that is called in process.
//!
//! Whether somebody may come here was decided before; [`Caller`] says who it is. Knows nothing of
//! how requests arrive.

pub mod session;
mod upstreams;
mod usage;

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

use crate::auth::{Authenticator, Principal};
use crate::limit::Limits;
use crate::live::Live;
use crate::scheduler::Scheduler;
use crate::store::{Store, StoreError};
use crate::telemetry::security_log::SecurityEvent;
use session::Logins;

/// What administrators look at and change.
pub struct Admin {
    /// The instances in force.
    pub live: Arc<Live>,
    /// Who sits where, and who waits.
    pub scheduler: Arc<Scheduler>,
    /// Where every act is written down.
    pub store: Arc<Store>,
    /// Remembers whose credentials are whose.
    pub authenticator: Arc<Authenticator>,
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
        .route("/admin/usage", get(usage::all))
        .route("/auth/usage", get(usage::own))
        .route("/admin/upstreams", get(upstreams::list))
        .route("/admin/upstreams/{name}/drain", post(upstreams::drain))
        .route("/admin/upstreams/{name}/resume", post(upstreams::resume))
        .layer(map_response(no_store))
        .with_state(Arc::new(admin))
}

async fn no_store(mut response: Response) -> Response {
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

impl Caller {
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
        Self { status, reason: "bad_request", detail, cause: None, retry_after: None }
    }

    fn not_found(detail: String) -> Self {
        Self { status: StatusCode::NOT_FOUND, reason: "not_found", ..Self::bad(detail) }
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            reason: "store_unavailable",
            cause: Some(error.to_string()),
            ..Self::bad("The database does not answer now, so nothing was changed".to_owned())
        }
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}
