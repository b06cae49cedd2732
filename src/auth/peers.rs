//! What gateways of one database share about who somebody is.
//!
//! A gateway believes its peers only as far as it can check: what it recalls belongs to the very
//! revision of the database that it knows itself, so an answer from before a revocation is none.

use std::time::Duration;

use async_trait::async_trait;

use super::{Holder, Identity};

/// The other gateways, as far as a memory that all share reaches. None of its acts fails: what it
/// does not know, or does not say in time, the store is asked.
#[async_trait]
pub trait Peers: Send + Sync + 'static {
    /// Who this is, as one of them read it when the database had reached this revision.
    async fn recall(&self, holder: &Holder, revision: i64) -> Option<Identity>;

    /// Lets the others know who this is, as read when the database had reached this
    /// revision or a later one.
    async fn remember(&self, holder: &Holder, revision: i64, identity: &Identity);

    /// Tells the others the revision that the database has reached.
    async fn tell(&self, revision: i64);

    /// Waits for what another gateway tells.
    async fn hear(&self) -> Heard;
}

/// A revision that another gateway has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The revision.
    pub revision: i64,
    /// How long ago it was read.
    pub age: Duration,
}
