//! Users and keys as people see them: what `--json` prints and the admin API answers.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// An account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UserRecord {
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
    /// Tier.
    pub tier: String,
    /// Whether every credential of the user is refused.
    pub disabled: bool,
    /// When the account was made.
    pub created_at: Timestamp,
}

/// An account to be made.
#[derive(Clone, Debug)]
pub struct NewUser {
    /// Name: 1 to 64 letters, digits and `. _ - + @`.
    pub username: String,
    /// Tier; whether the configuration has it is for the caller to check.
    pub tier: String,
    /// Where mail reaches the user.
    pub email: Option<String>,
}

/// A public key with which a user of the `ollama` command signs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SshKeyRecord {
    /// Database id.
    pub id: i64,
    /// Name of the user it belongs to.
    pub user: String,
    /// As `ssh-keygen -l` shows it.
    pub fingerprint: String,
    /// When it was registered.
    pub created_at: Timestamp,
}

/// A key; never the key itself nor its hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyRecord {
    /// Database id.
    pub id: i64,
    /// How the key begins; imported keys do not tell.
    pub prefix: Option<String>,
    /// Name of the user it belongs to.
    pub user: String,
    /// What the user calls it.
    pub name: String,
    /// The key's own tier, which can only narrow the user's.
    pub tier: Option<String>,
    /// Patterns of the models that it may use; `None` is all that its tiers may.
    pub models: Option<Vec<String>>,
    /// The key's own limits.
    pub limits: KeyLimits,
    /// Whether it may name its end user in `X-OpenWebUI-User-Id`.
    pub delegating: bool,
    /// Whether it opens the door now.
    pub state: KeyState,
    /// When it was made.
    pub created_at: Timestamp,
    /// Refused from this moment on.
    pub expires_at: Option<Timestamp>,
    /// Refused since this moment.
    pub revoked_at: Option<Timestamp>,
    /// When it last opened the door, as far as that was written down.
    pub last_used_at: Option<Timestamp>,
}

/// A key to be made.
#[derive(Clone, Debug)]
pub struct KeySpec {
    /// Name of the user it belongs to.
    pub user: String,
    /// What the user calls it: 1 to 100 characters on one line.
    pub name: String,
    /// The key's own tier; whether the configuration has it is for the caller to check.
    pub tier: Option<String>,
    /// Patterns of the models that it may use; `None` is all that its tiers may.
    pub models: Option<Vec<String>>,
    /// The key's own limits.
    pub limits: KeyLimits,
    /// Whether it may name its end user.
    pub delegating: bool,
    /// Refused from this moment on.
    pub expires_at: Option<Timestamp>,
}

/// The limits that a key has of its own; the tiers' hold besides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KeyLimits {
    /// Inference requests, as a rate.
    pub requests: Option<String>,
    /// Tokens, as a rate.
    pub tokens: Option<String>,
    /// Seats held at once.
    pub concurrency: Option<u32>,
}

/// Whether a key opens the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyState {
    /// It does.
    Active,
    /// Its time is over.
    Expired,
    /// Somebody ended it.
    Revoked,
}

impl KeyState {
    /// The state as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }

    /// The state of a key at `now`; at the very moment of its expiry a key is expired.
    pub(super) fn of(
        revoked_at: Option<Timestamp>,
        expires_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Self {
        match (revoked_at, expires_at) {
            (Some(_), _) => Self::Revoked,
            (None, Some(end)) if end <= now => Self::Expired,
            _ => Self::Active,
        }
    }
}

/// Which keys to list; the default is all.
#[derive(Clone, Debug, Default)]
pub struct KeyFilter {
    /// Only this user's.
    pub user: Option<String>,
    /// Only those in this state.
    pub state: Option<KeyState>,
}
