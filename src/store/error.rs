//! Why the store did not do what was asked.

/// Why the store did not do what was asked; in every case nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The caller named something that is not there.
    #[error("there is no {0}")]
    NotFound(String),
    /// The caller asked for something that exists already.
    #[error("{0}")]
    Conflict(String),
    /// The caller asked for something that no record may hold.
    #[error("{0}")]
    Invalid(String),
    /// The act would have left nobody to administer Usher.
    #[error("'{0}' is the last enabled admin: make another user admin first")]
    LastAdmin(String),
    /// The database belongs to a later version of this program.
    #[error("the database has schema {found}, but this usher knows up to {known}: use a newer one")]
    Newer {
        /// Schema found.
        found: i64,
        /// Newest schema known here.
        known: i64,
    },
    /// The database did not do its part: unreachable, locked, read-only, full. Ours to mend.
    #[error("{0}")]
    Unavailable(String),
}
