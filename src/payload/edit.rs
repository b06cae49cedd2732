//! Changes to a body: a few bytes here and there, all others as the client wrote them.

use std::borrow::Cow;
use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::walk::Field;

/// Bytes of the body to replace, and by what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Edit {
    at: Range<usize>,
    text: Cow<'static, str>,
}

impl Edit {
    /// Another value at this place.
    pub(super) fn replace(at: Range<usize>, text: impl Into<Cow<'static, str>>) -> Self {
        Self { at, text: text.into() }
    }

    /// More members at the end of an object.
    pub(super) fn append(end: End, members: &str) -> Self {
        let comma = if end.empty { "" } else { "," };
        Self { at: end.brace..end.brace, text: format!("{comma}{members}").into() }
    }
}

/// Where an object of the body ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct End {
    /// The place of its closing brace, in bytes from the beginning of the body.
    brace: usize,
    /// Whether it has no members.
    empty: bool,
}

impl End {
    /// The end of the object in `text`, which begins at byte `start` of the body.
    pub(super) fn of(text: &str, start: usize, empty: bool) -> Self {
        let brace = start + text.trim_ascii_end().len().saturating_sub(1);
        Self { brace, empty }
    }
}

/// Where a value stands in the body, as `field` of an object that begins at byte `start`.
pub(super) fn place(field: &Field<'_>, start: usize) -> Range<usize> {
    let from = start + field.start;
    from..from + field.value.len()
}

/// All changes to one body.
#[derive(Debug, Default)]
pub(super) struct Edits {
    list: Vec<Edit>,
    /// Members that the body itself gets, behind its own.
    members: String,
}

impl Edits {
    /// One more; it overlaps no other.
    pub(super) fn push(&mut self, edit: Edit) {
        self.list.push(edit);
    }

    /// One more member of the body itself, as JSON; it has none of this name.
    pub(super) fn add(&mut self, member: &str) {
        if !self.members.is_empty() {
            self.members.push(',');
        }
        self.members.push_str(member);
    }

    /// Whether nothing changes.
    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty() && self.members.is_empty()
    }

    /// The changed body in memory of its own, or none if nothing changes.
    pub(super) fn apply(mut self, body: &[u8], end: End) -> Option<Bytes> {
        if !self.members.is_empty() {
            self.list.push(Edit::append(end, &self.members));
        }
        if self.list.is_empty() {
            return None;
        }
        self.list.sort_by_key(|edit| edit.at.start);
        let added: usize = self.list.iter().map(|edit| edit.text.len()).sum();
        let mut out = BytesMut::with_capacity(body.len() + added);
        let mut from = 0;
        for edit in &self.list {
            out.extend_from_slice(body.get(from..edit.at.start)?);
            out.extend_from_slice(edit.text.as_bytes());
            from = edit.at.end;
        }
        out.extend_from_slice(body.get(from..)?);
        Some(out.freeze())
    }
}
