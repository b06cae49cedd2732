//! What is on its way to the client: enough to end a stream in order when it has to end early.

use bytes::Bytes;

/// The chunks that were passed on last.
///
/// Pingora runs the filters over a few chunks and then writes them together; an error between the
/// two loses what had passed. So a chunk is remembered until it was written.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    /// Bytes passed on so far.
    passed: usize,
    /// The last chunk at least, and all before it that may not have been written.
    recent: Vec<Bytes>,
}

impl Outgoing {
    /// Remembers a chunk. `written` is how many bytes of the body have reached the connection.
    pub(super) fn pass(&mut self, chunk: &Bytes, written: usize) {
        if written >= self.passed {
            self.recent.clear();
        }
        self.passed += chunk.len();
        self.recent.push(chunk.clone());
    }

    /// What was passed on and never written.
    pub(super) fn unwritten(&self, written: usize) -> Bytes {
        if written >= self.passed { Bytes::new() } else { self.recent.concat().into() }
    }

    /// What has to come before a line (or an event, of a stream of events) of our own.
    pub(super) fn separator(&self, events: bool) -> &'static [u8] {
        let last = self.recent.last().map_or(&b""[..], |chunk| chunk);
        match events {
            true if !last.ends_with(b"\n\n") && !last.ends_with(b"\r\n\r\n") => b"\n\n",
            false if !last.ends_with(b"\n") => b"\n",
            _ => b"",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(chunks: &[(&'static str, usize)]) -> Outgoing {
        let mut outgoing = Outgoing::default();
        for (chunk, written) in chunks {
            outgoing.pass(&Bytes::from_static(chunk.as_bytes()), *written);
        }
        outgoing
    }

    #[test]
    fn what_was_passed_since_the_last_write_is_remembered() {
        let outgoing = passed(&[("one\n", 0), ("two\n", 4), ("three\n", 4)]);
        assert_eq!(outgoing.unwritten(4), "two\nthree\n");
        assert_eq!(outgoing.unwritten(14), "");
        assert_eq!(passed(&[]).unwritten(0), "");
    }

    #[test]
    fn a_line_or_an_event_of_our_own_begins_anew() {
        assert_eq!(passed(&[("{}\n", 0)]).separator(false), b"");
        assert_eq!(passed(&[("{\"a", 0)]).separator(false), b"\n");
        assert_eq!(passed(&[("data: 1\n\n", 0)]).separator(true), b"");
        assert_eq!(passed(&[("data: 1\r\n\r\n", 0)]).separator(true), b"");
        assert_eq!(passed(&[("data: 1\n", 0)]).separator(true), b"\n\n");
        assert_eq!(passed(&[]).separator(false), b"\n", "an empty line harms nobody");
    }
}
