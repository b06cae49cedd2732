//! AUTHENTICATE: who is asking?
//!
//! [`credential`] reads what the request presents, [`api_key`] knows the format of keys, [`jwt`]
//! that of tokens, [`tokens`] which of them are believed, [`signature`] what the `ollama` command
//! signs, and [`verdict`] remembers whose they are. People log in with a [`password`]. A plaintext
//! credential never leaves this module.

pub mod api_key;
pub mod credential;
mod issuer;
pub mod jwt;
pub mod login;
pub mod password;
pub mod peers;
pub mod signature;
pub mod ssh_key;
pub mod tokens;
pub mod verdict;

use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::config::Rate;

pub use api_key::KeyHash;
pub use jwt::TokenFault;
pub use peers::{Heard, Peers};
pub use signature::{SignatureFault, Signed};
pub use tokens::Tokens;
pub use verdict::{Asking, Authenticator};

/// An account, as the store knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Database id.
    pub id: i64,
    /// Unique name.
    pub username: String,
    /// Where mail reaches the user.
    pub email: Option<String>,
    /// Who vouches for the user; `None` is this database.
    pub issuer: Option<String>,
    /// The user's name with that issuer.
    pub subject: Option<String>,
    /// Tier; a user without one of its own is `free`.
    pub tier: String,
    /// Whether an administrator gave a user of another issuer its tier, which then holds over
    /// what the issuer's tokens say.
    pub tier_given: bool,
    /// A disabled user's credentials are refused.
    pub disabled: bool,
    /// A token of ours is refused unless it was made for this very version of the user.
    pub token_version: i64,
}

impl User {
    /// Whether the user's tier is known without a token: that of a user of another issuer is what
    /// its tokens say, until an administrator gives it one.
    pub fn has_own_tier(&self) -> bool {
        self.issuer.is_none() || self.tier_given
    }
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

/// A user, and the key that was presented if it was one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The account.
    pub user: User,
    /// The key; none for a token or a signature.
    pub key: Option<Key>,
}

/// Whom the store is asked for: what a checked credential says of its holder. Answers are
/// remembered under it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Holder {
    /// Who holds the API key with this SHA-256.
    Key(KeyHash),
    /// Who holds the private half of this public key: the base64 of an SSH public key.
    PublicKey(Arc<str>),
    /// Whom a token of another issuer speaks of.
    Subject(Arc<Subject>),
    /// Whom a token of ours speaks of.
    Token {
        /// The user's id.
        user: i64,
        /// The token's own id: one that was logged out is nobody's.
        id: Arc<str>,
    },
}

/// A user of another issuer, as a checked token names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Subject {
    /// The issuer, as its tokens write it.
    pub issuer: String,
    /// What the configuration calls the issuer.
    pub issuer_name: String,
    /// The user's name with that issuer.
    pub subject: String,
    /// Where mail reaches the user, if the token says so.
    pub email: Option<String>,
    /// The tier that the issuer's mapping gives.
    pub tier: Arc<str>,
    /// What a logout of this token is written down as: one that was logged out is nobody's.
    pub token: Arc<str>,
}

/// What authentication asks of the database.
#[async_trait]
pub trait IdentityStore: Send + Sync + 'static {
    /// Who this is, presented by a client at this address; `None` if it is nobody. A user of
    /// another issuer becomes somebody by being asked for.
    async fn identity(&self, of: &Holder, from: IpAddr) -> Result<Option<Identity>, Unavailable>;
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
    /// The token that proved it, if it was one.
    pub token: Option<Token>,
}

impl Principal {
    /// The account's id.
    pub fn user_id(&self) -> i64 {
        self.identity.user.id
    }

    /// The key's id; none for a token or a signature.
    pub fn key_id(&self) -> Option<i64> {
        self.identity.key.as_ref().map(|key| key.id)
    }

    /// The part of the key that may be shown.
    pub fn public_id(&self) -> Option<&str> {
        self.identity.key.as_ref()?.public_id.as_deref()
    }

    /// The user's tier: what the database says, or of a user of another issuer what the token
    /// says by the mapping in force, unless an administrator gave the user a tier.
    pub fn tier(&self) -> &str {
        let user = &self.identity.user;
        let mapped = self.token.as_ref().and_then(|token| token.tier.as_deref());
        mapped.filter(|_| !user.tier_given).unwrap_or(&user.tier)
    }
}

/// A token that was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// What a logout is written down as.
    pub id: Arc<str>,
    /// Refused from this moment on.
    pub expires_at: Timestamp,
    /// The tier that the mapping in force gives to another issuer's token.
    pub tier: Option<Arc<str>>,
}

/// How an identity was proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// An API key, in whichever header.
    ApiKey,
    /// A JSON Web Token, of ours or of another issuer.
    Jwt,
    /// A signature with a registered SSH key, as the `ollama` command makes it.
    Signature,
}

impl Method {
    /// The word for it in answers.
    pub fn word(self) -> &'static str {
        match self {
            Self::ApiKey => "api_key",
            Self::Jwt => "jwt",
            Self::Signature => "signature",
        }
    }
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
    /// A signature that is not accepted; the reason is for the log alone.
    #[error("{reason}")]
    InvalidSignature {
        /// Which of the reasons.
        reason: SignatureFault,
        /// Whose it is, if that is known.
        user_id: Option<i64>,
    },
    /// A token that is not believed; the reason is for the log alone.
    #[error("{reason}")]
    InvalidToken {
        /// Which of the reasons.
        reason: TokenFault,
        /// Whose it is, if that is known.
        user_id: Option<i64>,
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
            Self::InvalidSignature { reason, .. } => reason.word(),
            Self::InvalidToken { reason, .. } => reason.word(),
            Self::InvalidKey { reason, .. } => match reason {
                KeyFault::Expired => "key_expired",
                KeyFault::Malformed => "key_malformed",
                KeyFault::Revoked => "key_revoked",
                KeyFault::TierUnknown => "key_tier_unknown",
                KeyFault::Unknown => "key_unknown",
                KeyFault::UserDisabled => "user_disabled",
            },
        }
    }
}

impl From<TokenFault> for AuthError {
    fn from(reason: TokenFault) -> Self {
        Self::InvalidToken { reason, user_id: None }
    }
}

impl From<SignatureFault> for AuthError {
    fn from(reason: SignatureFault) -> Self {
        Self::InvalidSignature { reason, user_id: None }
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
    /// Its user's tier is what another issuer's tokens say.
    #[error("no administrator gave the user a tier")]
    TierUnknown,
    /// Not in the database.
    #[error("unknown key")]
    Unknown,
    /// Its user is disabled.
    #[error("user disabled")]
    UserDisabled,
}

#[cfg(test)]
mod tests;
