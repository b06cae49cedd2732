//! What administrators are answered: objects that the commands print too.

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use crate::store::{AuditRecord, KeyRecord, UserRecord};

/// A part of a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct Page<T> {
    /// Its entries.
    pub data: Vec<T>,
    /// What to give as `after` to get the next part; null: this was the last.
    pub next: Option<i64>,
}

impl<T: Entry> Page<T> {
    /// The page of rows of which one more was asked for than are shown.
    pub(super) fn cut(mut rows: Vec<T>, shown: usize) -> Self {
        let more = rows.len() > shown;
        rows.truncate(shown);
        let next = rows.last().map(Entry::id).filter(|_| more);
        Self { data: rows, next }
    }
}

/// What a list is made of.
pub trait Entry {
    /// Its id.
    fn id(&self) -> i64;
}

impl Entry for AuditRecord {
    fn id(&self) -> i64 {
        self.id
    }
}

impl Entry for KeyRecord {
    fn id(&self) -> i64 {
        self.id
    }
}

impl Entry for UserRecord {
    fn id(&self) -> i64 {
        self.id
    }
}

/// A key that was just made: the only answer that holds the key itself.
#[derive(Serialize, ToSchema)]
pub struct IssuedKey<'a> {
    /// The key, shown this once.
    pub key: &'a str,
    /// What is known of it from now on.
    #[serde(flatten)]
    pub record: &'a KeyRecord,
}

/// A key that took the place of another, which works until `old_expires_at`.
#[derive(Serialize, ToSchema)]
pub struct RotatedKey<'a> {
    /// The new key, shown this once.
    pub key: &'a str,
    /// What is known of it from now on.
    #[serde(flatten)]
    pub record: &'a KeyRecord,
    /// The key that it replaces is refused from this moment on.
    #[schema(value_type = String, format = DateTime)]
    pub old_expires_at: Timestamp,
}

/// What came of rereading the file.
#[derive(Serialize, ToSchema)]
pub struct Reloaded {
    /// What deserves a word but is no mistake, each as `FILE:LINE: path.to.key: text`.
    pub warnings: Vec<String>,
    /// Keys that have changed and take effect with a restart.
    pub need_restart: Vec<&'static str>,
}

/// Why a file was not taken; what is wrong with it stands beside.
pub const MISTAKES: &str = "The file has mistakes, so nothing was changed";

#[cfg(test)]
mod tests {
    use super::*;

    impl Entry for i64 {
        fn id(&self) -> i64 {
            *self
        }
    }

    #[test]
    fn a_page_tells_where_the_next_begins_if_there_is_one() {
        let page = |rows: &[i64], shown| {
            let page = Page::cut(rows.to_vec(), shown);
            (page.data, page.next)
        };
        assert_eq!(page(&[], 2), (vec![], None));
        assert_eq!(page(&[3, 4], 2), (vec![3, 4], None));
        assert_eq!(page(&[3, 4, 9], 2), (vec![3, 4], Some(4)));
    }
}
