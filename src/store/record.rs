//! Users and keys as people see them: what `--json` prints and the admin API answers.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::StoreError;
use crate::config::Secret;

const LONGEST_EMAIL: usize = 254;

/// An account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = User)]
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
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// An account to be made.
#[derive(Clone, Debug, Default)]
pub struct NewUser {
    /// Name: 1 to 64 letters, digits and `. _ - + @`.
    pub username: String,
    /// Tier; whether the configuration has it is for the caller to check.
    pub tier: String,
    /// Where mail reaches the user.
    pub email: Option<String>,
    /// Whether every credential of the user is refused from the beginning.
    pub disabled: bool,
    /// Hash of the password, if there is one.
    pub password_hash: Option<Secret>,
}

/// What changes about an account; the default is nothing.
#[derive(Clone, Debug, Default)]
pub struct UserPatch {
    /// Another tier; whether the configuration has it is for the caller to check.
    pub tier: Option<String>,
    /// Another address, or none any more.
    pub email: Option<Option<String>>,
    /// Whether every credential of the user is refused.
    pub disabled: Option<bool>,
    /// Hash of another password.
    pub password_hash: Option<Secret>,
}

/// A public key that a user's requests may be signed with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = SshKey)]
pub struct SshKeyRecord {
    /// Database id.
    pub id: i64,
    /// Name of the user whose key it is.
    pub user: String,
    /// The key, as a `.pub` file has it.
    pub public_key: String,
    /// Its fingerprint, as `ssh-keygen -l` shows it.
    pub fingerprint: String,
    /// When it was registered.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// Which accounts to list; the default is all.
#[derive(Clone, Debug, Default)]
pub struct UserFilter {
    /// Only those of this tier.
    pub tier: Option<String>,
    /// Only those that are disabled, or only those that are not.
    pub disabled: Option<bool>,
    /// Which part of them.
    pub span: Span,
}

/// Which part of a list; the default is the whole.
#[derive(Clone, Copy, Debug, Default)]
pub struct Span {
    /// What comes behind the entry with this id.
    pub after: Option<i64>,
    /// At most so many.
    pub limit: Option<u32>,
}

impl Span {
    /// The id behind which the list goes on.
    pub(super) fn after(self) -> i64 {
        self.after.unwrap_or(0)
    }

    /// How many rows to read at most.
    pub(super) fn rows(self) -> i64 {
        self.limit.map_or(i64::MAX, i64::from)
    }
}

/// A key; never the key itself nor its hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Key)]
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
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// Refused from this moment on.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    /// Refused since this moment.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub revoked_at: Option<Timestamp>,
    /// When it last opened the door, as far as that was written down.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_used_at: Option<Timestamp>,
    /// Id of the key that this one took the place of.
    pub replaces: Option<i64>,
    /// Id of the key that took the place of this one; `expires_at` is then the end of its grace.
    pub replaced_by: Option<i64>,
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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
    /// Which part of them.
    pub span: Span,
}

/// What changes about a key; the default is nothing.
#[derive(Clone, Debug, Default)]
pub struct KeyPatch {
    /// What the user calls it from now on.
    pub name: Option<String>,
    /// Other patterns of models, or all that its tiers may use.
    pub models: Option<Option<Vec<String>>>,
    /// Other limits of its own.
    pub limits: LimitsPatch,
    /// Another end, or none.
    pub expires_at: Option<Option<Timestamp>>,
}

/// What changes about a key's own limits: another one, or none any more.
#[derive(Clone, Debug, Default)]
pub struct LimitsPatch {
    /// Inference requests, as a rate.
    pub requests: Option<Option<String>>,
    /// Tokens, as a rate.
    pub tokens: Option<Option<String>>,
    /// Seats held at once.
    pub concurrency: Option<Option<u32>>,
}

/// A key that took the place of another.
#[derive(Clone, Debug)]
pub struct Rotated {
    /// The new key.
    pub key: KeyRecord,
    /// The old one is refused from this moment on.
    pub old_expires_at: Timestamp,
}

/// One act of the audit trail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Act)]
pub struct AuditRecord {
    /// Database id.
    pub id: i64,
    /// When it was done.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Name of the user who did it; `cli` is somebody with a shell on the machine.
    pub actor: String,
    /// The address that the act came from; empty for commands.
    pub address: String,
    /// What was done, such as `key.revoke`.
    pub action: String,
    /// To what: a key's id, the name of a user or of an instance.
    pub target: String,
    /// What else is worth knowing; never a secret.
    pub detail: String,
}

/// Which acts to list, newest first; the default is all.
#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    /// Only those of this user.
    pub actor: Option<String>,
    /// Only acts of this kind.
    pub action: Option<String>,
    /// Only those on this key, user or instance.
    pub target: Option<String>,
    /// Which part of them: `after` an id means before it in time.
    pub span: Span,
}

/// Addresses appear in tables and logs, so they hold nothing that could forge a line.
pub(super) fn check_email(email: &str) -> Result<(), StoreError> {
    let odd = |c: char| c.is_whitespace() || c.is_control();
    let named = email.split_once('@').is_some_and(|(who, at)| !who.is_empty() && !at.is_empty());
    if named && email.chars().count() <= LONGEST_EMAIL && !email.chars().any(odd) {
        return Ok(());
    }
    Err(StoreError::Invalid(format!(
        "'{}' cannot be an email address: write NAME@HOST, at most {LONGEST_EMAIL} characters",
        email.escape_debug()
    )))
}
