//! AUTHENTICATE: who is asking?
//!
//! [`credential`] reads what the request presents, [`api_key`] knows the format of keys, and
//! [`verdict`] remembers whose they are. A plaintext credential never leaves this module.

pub mod api_key;
pub mod credential;
pub mod peers;
pub mod verdict;

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::config::Rate;

pub use api_key::KeyHash;
pub use peers::{Heard, Peers};
pub use verdict::Authenticator;

/// An account, as the store knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Database id.
    pub id: i64,
    /// Unique name.
    pub username: String,
    /// Tier; a user without one of its own is `free`.
    pub tier: String,
    /// A disabled user's credentials are refused.
    pub disabled: bool,
}

/// An API key, as the store knows it; never the key itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// Database id.
    pub id: i64,
    /// The part of the key that may be shown, absent for imported keys.
    pub public_id: Option<String>,
    /// The key's own tier, which can only narrow the user's.
    pub tier: Option<String>,
    /// Patterns of the models that it may use; `None` is all that its tiers may.
    pub models: Option<Vec<String>>,
    /// The key's own bound on seats held at once.
    pub concurrency: Option<u32>,
    /// The key's own bound on requests for inference.
    pub requests: Option<Rate>,
    /// The key's own bound on tokens.
    pub tokens: Option<Rate>,
    /// Whether it may name its end user in `X-OpenWebUI-User-Id`.
    pub delegating: bool,
    /// Refused from this moment on.
    pub expires_at: Option<Timestamp>,
    /// Refused since this moment.
    pub revoked_at: Option<Timestamp>,
}

/// A key and the user it belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The account.
    pub user: User,
    /// The key that was presented.
    pub key: Key,
}

/// What authentication asks of the database.
#[async_trait]
pub trait IdentityStore: Send + Sync + 'static {
    /// The key with this SHA-256 and its user; `None` if there is none.
    async fn identity_by_hash(&self, hash: &KeyHash) -> Result<Option<Identity>, Unavailable>;
    /// A number that every change to users and keys raises.
    async fn revision(&self) -> Result<i64, Unavailable>;
}

/// The database did not answer; the text is for the log alone.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unavailable(pub String);

/// Who is asking: proof that a credential was checked.
#[derive(Clone, Debug)]
pub struct Principal {
    /// Identity as it was when last read from the store.
    pub identity: Arc<Identity>,
    /// How it was proven.
    pub method: Method,
}

/// How an identity was proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// An API key, in whichever header.
    ApiKey,
}

/// Why a request is not authenticated.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// No credential at all.
    #[error("no credential")]
    Missing,
    /// A key that does not open the door; the reason is for the log alone.
    #[error("{reason}")]
    InvalidKey {
        /// Which of the reasons.
        reason: KeyFault,
        /// The public id, where the credential had one: it may be logged.
        public_id: Option<String>,
    },
    /// Two `Authorization` lines, or one that cannot be read.
    #[error("{0}")]
    Malformed(&'static str),
    /// Identity cannot be known now: never a reason to say 401.
    #[error("identity cannot be known: {0}")]
    Unavailable(#[from] Unavailable),
}

impl AuthError {
    /// One word for metrics.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed(_) => "malformed",
            Self::Unavailable(_) => "unavailable",
            Self::InvalidKey { reason, .. } => match reason {
                KeyFault::Expired => "key_expired",
                KeyFault::Malformed => "key_malformed",
                KeyFault::Revoked => "key_revoked",
                KeyFault::Unknown => "key_unknown",
                KeyFault::UserDisabled => "user_disabled",
            },
        }
    }
}

/// Why a key does not open the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    /// Past its expiry.
    #[error("key expired")]
    Expired,
    /// Not in the format of any key.
    #[error("malformed key")]
    Malformed,
    /// Revoked.
    #[error("key revoked")]
    Revoked,
    /// Not in the database.
    #[error("unknown key")]
    Unknown,
    /// Its user is disabled.
    #[error("user disabled")]
    UserDisabled,
}
