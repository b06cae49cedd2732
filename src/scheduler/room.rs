//! How many models fit into an instance's memory at once: learnt, because it does not say.

/// What is known of an instance's room for models, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Room {
    /// So much has been in memory at once.
    proven: u64,
    /// So much was tried, and something had to leave.
    refused: Option<u64>,
}

impl Room {
    /// So much is in memory now.
    pub(super) fn holds(&mut self, bytes: u64) {
        self.proven = self.proven.max(bytes);
        // contexts differ, and with them what a model takes: the latest word counts
        self.refused = self.refused.filter(|refused| *refused > self.proven);
    }

    /// A model had to leave for another one: so much did not fit.
    pub(super) fn refuses(&mut self, bytes: u64) {
        self.refused = Some(self.refused.map_or(bytes, |known| known.min(bytes)));
        self.proven = self.proven.min(bytes.saturating_sub(1));
    }

    /// Whether so much fits, as far as is known: what was never tried is tried.
    pub(super) fn fits(&self, bytes: u64) -> bool {
        bytes <= self.proven || self.refused.is_none_or(|refused| bytes < refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_never_tried_is_tried_and_what_failed_is_not() {
        let mut room = Room::default();
        assert!(room.fits(100));
        room.holds(8);
        room.refuses(16);
        assert!(room.fits(8) && room.fits(12) && !room.fits(16) && !room.fits(20));
        room.refuses(12);
        assert!(room.fits(11) && !room.fits(12));
        room.holds(14);
        assert!(room.fits(14), "it was seen to fit");
    }
}
