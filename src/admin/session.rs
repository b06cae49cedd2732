//! Logging in and out, and who one is: `/auth`.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::{Extension, Json};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde::Serialize;
use utoipa::ToSchema;

use super::input::{MaybeBody, Nothing};
use super::{Admin, Caller, Fault};
use crate::auth::User;
use crate::auth::login::LoginForm;
use crate::auth::password::{NotHashed, Password, Passwords, Verdict};
use crate::config::Secret;
use crate::limit::ladder::{Attempt, Ladder};
use crate::limit::report::{Allowed, Used};
use crate::store::Actor;
use crate::telemetry::security_log::SecurityEvent;

/// What logging in needs besides the store.
pub struct Logins {
    passwords: Passwords,
    ladder: Mutex<Ladder>,
}

impl Logins {
    /// Nobody has failed yet.
    pub fn new(passwords: Passwords) -> Self {
        Self { passwords, ladder: Mutex::new(Ladder::new(Instant::now())) }
    }

    /// What is kept of a password that an administrator sets.
    pub(super) async fn hash(&self, password: Password) -> Result<Secret, Fault> {
        password.fit().map_err(|unfit| Fault::bad(format!("field 'password': {unfit}")))?;
        let hash = self.passwords.hash(&Arc::new(password)).await.map_err(not_hashed)?;
        Ok(Secret::new(hash))
    }
}

/// Somebody who has not said yet who it is.
#[derive(Clone, Debug)]
pub struct Visitor {
    /// Who connected.
    pub address: IpAddr,
    /// The address, or network, that counts as one.
    pub counts_as: IpAddr,
    /// The request, as in the access log.
    pub request_id: String,
    /// The route's own path.
    pub route: &'static str,
}

/// The answer to `POST /auth/login`.
#[derive(Serialize, ToSchema)]
pub(super) struct LoggedIn {
    access_token: String,
    /// Always `bearer`.
    token_type: &'static str,
    /// Seconds.
    expires_in: u64,
}

/// A name and a password, as JSON or as a form.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the shape of what `auth::login` reads, without the password")]
struct Login {
    username: String,
    password: String,
}

/// Gives a token for a name and a password.
#[utoipa::path(post, path = "/auth/login", tag = "session", security(()),
    request_body(content((Login = "application/json"),
        (Login = "application/x-www-form-urlencoded"))),
    responses((status = 200, description = "A token", body = LoggedIn)))]
pub(super) async fn login(
    State(admin): State<Arc<Admin>>,
    Extension(visitor): Extension<Visitor>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<LoggedIn>, Fault> {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let form = LoginForm::read(kind, &body).map_err(|bad| Fault::bad(bad.to_string()))?;
    form.password.bounded().map_err(|unfit| Fault::bad(format!("field 'password': {unfit}")))?;
    let LoginForm { username, password } = form;
    let attempt = climb(&admin.logins, &username, &visitor)?;
    let password = Arc::new(password);
    let found = authenticate(&admin, &username, &password, &visitor).await;
    let ladder = &admin.logins.ladder;
    match &found {
        Ok(_) => ladder.lock().succeeded(&attempt, Instant::now()),
        Err(fault) if fault.status == StatusCode::UNAUTHORIZED => {}
        // ours: nobody is slowed for it
        Err(_) => ladder.lock().withdraw(&attempt, Instant::now()),
    }
    let (user, outdated) = found?;
    if let Some(hash) = outdated {
        let (admin, id) = (Arc::clone(&admin), user.id);
        tokio::spawn(async move { renew(&admin, id, &hash, &password).await });
    }
    visitor.tell("login", Some(user.id), "password");
    token(&admin, &user).map(Json)
}

/// Slows those who guess at an account, whether it exists or not.
fn climb(logins: &Logins, username: &str, visitor: &Visitor) -> Result<Attempt, Fault> {
    let mut ladder = logins.ladder.lock();
    ladder.attempt(username, visitor.counts_as, Instant::now()).map_err(|wait| {
        visitor.tell("login_locked", None, "too many failures at this account");
        Fault {
            status: StatusCode::TOO_MANY_REQUESTS,
            reason: "login_locked",
            retry_after: Some(wait.as_secs().saturating_add(1)),
            ..Fault::bad("Too many failed attempts at this account. Try again later".to_owned())
        }
    })
}

/// Finds the user whose password this is; one hash is made, whoever is asked about. Gives, too,
/// the stored hash if the password should be hashed anew.
async fn authenticate(
    admin: &Admin,
    username: &str,
    password: &Arc<Password>,
    visitor: &Visitor,
) -> Result<(User, Option<String>), Fault> {
    let found = admin.store.login(username).await?;
    let (user, stored) = found.map_or((None, None), |(user, stored)| (Some(user), stored));
    let hash = stored.clone();
    let verdict = admin.logins.passwords.verify(password, stored).await.map_err(not_hashed)?;
    let (id, reason) = match (user, verdict) {
        (Some(user), Verdict::Right { outdated }) if !user.disabled => {
            return Ok((user, hash.filter(|_| outdated)));
        }
        (Some(user), Verdict::Right { .. }) => (Some(user.id), "user disabled"),
        (Some(user), Verdict::Wrong) => (Some(user.id), "wrong password"),
        (None, _) => (None, "unknown user"),
    };
    visitor.tell("login_failure", id, reason);
    Err(Fault {
        status: StatusCode::UNAUTHORIZED,
        reason: "login_failure",
        ..Fault::bad("Incorrect username or password".to_owned())
    })
}

fn not_hashed(trouble: NotHashed) -> Fault {
    Fault {
        status: StatusCode::SERVICE_UNAVAILABLE,
        reason: "login_busy",
        retry_after: Some(1),
        cause: Some(trouble.to_string()),
        ..Fault::bad("Too many people log in at once. Try again".to_owned())
    }
}

/// Hashes a password anew because hashes are stronger today.
async fn renew(admin: &Admin, user: i64, verified: &str, password: &Arc<Password>) {
    let renewed = match admin.logins.passwords.hash(password).await {
        Ok(hash) => {
            let renewed = admin.store.renew_password_hash(user, verified, &hash).await;
            renewed.map_err(|error| error.to_string())
        }
        Err(error) => Err(error.to_string()),
    };
    if let Err(trouble) = renewed {
        log::warn!("a password could not be hashed anew, the next login tries again: {trouble}");
    }
}

fn token(admin: &Admin, user: &User) -> Result<LoggedIn, Fault> {
    let generation = admin.live.load();
    let expires_in = generation.config.auth.jwt.ttl.as_secs();
    let made = generation.tokens.local().mint(user, expires_in, Timestamp::now());
    let token = made.map_err(|error| Fault {
        status: StatusCode::INTERNAL_SERVER_ERROR,
        reason: "internal",
        cause: Some(error.to_string()),
        ..Fault::bad("Internal error".to_owned())
    })?;
    let access_token = token.expose().to_owned();
    Ok(LoggedIn { access_token, token_type: "bearer", expires_in })
}

/// Ends the caller's token, everywhere.
#[utoipa::path(post, path = "/auth/logout", tag = "session",
    responses((status = 204, description = "The token is nobody's from now on")))]
pub(super) async fn logout(
    State(admin): State<Arc<Admin>>,
    Extension(caller): Extension<Caller>,
    MaybeBody(Nothing {}): MaybeBody<Nothing>,
) -> Result<StatusCode, Fault> {
    let Some(token) = &caller.principal.token else {
        let detail = "Only a token can be logged out. An administrator revokes keys";
        return Err(Fault::bad(detail.to_owned()));
    };
    let address = caller.address.to_string();
    let actor = Actor { name: &caller.username, address: &address };
    admin.store.end_token(&actor, &token.id, token.expires_at).await?;
    admin.authenticator.invalidate();
    caller.tell("logout", "token");
    Ok(StatusCode::NO_CONTENT)
}

/// The answer to `GET /auth/me`.
#[derive(Serialize, ToSchema)]
pub(super) struct Me {
    user_id: i64,
    username: String,
    email: Option<String>,
    issuer: Option<String>,
    subject: Option<String>,
    tier: String,
    /// `api_key`, `jwt` or `signature`.
    method: &'static str,
    /// Null for a token or a signature.
    key_id: Option<i64>,
    limits: Allowed,
    usage: Used,
}

/// Tells who the caller is, and what of their limits is used.
#[utoipa::path(get, path = "/auth/me", tag = "session",
    responses((status = 200, description = "The caller", body = Me)))]
pub(super) async fn me(
    State(admin): State<Arc<Admin>>,
    Extension(caller): Extension<Caller>,
    MaybeBody(Nothing {}): MaybeBody<Nothing>,
) -> Json<Me> {
    let principal = &caller.principal;
    let (limits, usage) = admin.limits.report(principal, &admin.live.load().config);
    let user = &principal.identity.user;
    Json(Me {
        user_id: user.id,
        username: user.username.clone(),
        email: user.email.clone(),
        issuer: user.issuer.clone(),
        subject: user.subject.clone(),
        tier: principal.tier().to_owned(),
        method: principal.method.word(),
        key_id: principal.key_id(),
        limits,
        usage,
    })
}

impl Visitor {
    /// Writes down in the security log what became of a login. Never the name: it may be a
    /// password in the wrong field.
    fn tell(&self, event: &'static str, user_id: Option<i64>, reason: &str) {
        SecurityEvent {
            event,
            address: self.address,
            request_id: &self.request_id,
            route: self.route,
            key: None,
            user_id,
            reason,
        }
        .write();
    }
}
