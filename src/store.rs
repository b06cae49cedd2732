//! The stores: what outlives a request and the process.
//!
//! [`Store`] keeps users, keys, usage and the audit trail in SQLite or PostgreSQL. Other modules
//! meet only its acts and the plain records of this file; SQL stays below.

mod error;
mod files;
mod mark;
mod record;
mod redis;
mod sql;

pub use error::StoreError;
pub use files::{create_private_dir, create_secret_file};
pub(crate) use mark::mark;
pub use record::{
    AuditFilter, AuditRecord, KeyFilter, KeyLimits, KeyPatch, KeyRecord, KeySpec, KeyState,
    LimitsPatch, NewUser, Rotated, Span, SshKeyRecord, UserFilter, UserPatch, UserRecord,
};
pub use redis::{Recalled, Redis, RedisSeen, SharedAttempts, SharedQuotas, SharedSeats};
pub use sql::Store;

use crate::auth::KeyHash;

/// The tier whose last enabled user can neither be disabled nor demoted.
pub const ADMIN: &str = "admin";

/// Who changes something, for the audit trail.
#[derive(Clone, Copy, Debug)]
pub struct Actor<'a> {
    /// A user's name, or `cli` for commands.
    pub name: &'a str,
    /// The address that the act came from; empty for commands.
    pub address: &'a str,
}

impl Actor<'static> {
    /// Somebody with a shell on the machine.
    pub const CLI: Self = Self { name: "cli", address: "" };

    /// Nobody: what the gateway does by itself.
    pub const SELF: Self = Self { name: "usher", address: "" };
}

/// What a change came to. One that changes nothing leaves no trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Act<T> {
    /// As it is now.
    pub record: T,
    /// Whether that is new.
    pub changed: bool,
}

impl<T> Act<T> {
    fn done(record: T) -> Self {
        Self { record, changed: true }
    }

    fn nothing(record: T) -> Self {
        Self { record, changed: false }
    }
}

/// What the store keeps of a key in place of the key.
#[derive(Clone, Copy)]
pub struct Fingerprint<'a> {
    /// SHA-256 of the whole key.
    pub hash: KeyHash,
    /// The part that may be shown; a key issued by an earlier system has none.
    pub public_id: Option<&'a str>,
}
