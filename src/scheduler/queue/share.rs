//! What is kept of one user.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Class, Payer, Stamp};

/// One user.
#[derive(Debug, Default)]
pub(super) struct Share {
    pub(super) clock: Stamp,
    /// Clocks of the end users within it, and where the last of them stood.
    pub(super) end_users: HashMap<u64, Stamp>,
    pub(super) end_floor: Stamp,
    pub(super) waiting: usize,
    pub(super) held: u32,
    /// Seats that are held through each key; none that hold none.
    keys: Vec<(i64, u32)>,
    /// The lines in which it waits.
    pub(super) lines: Vec<Arc<Class>>,
}

impl Share {
    pub(super) fn hold(&mut self, payer: Payer) {
        self.held += 1;
        let Some(key) = payer.key else { return };
        match self.keys.iter_mut().find(|(other, _)| *other == key) {
            Some((_, held)) => *held += 1,
            None => self.keys.push((key, 1)),
        }
    }

    pub(super) fn free(&mut self, payer: Payer) {
        self.held = self.held.saturating_sub(1);
        let key = self.keys.iter_mut().filter(|(key, _)| Some(*key) == payer.key);
        key.for_each(|(_, held)| *held -= 1);
        self.keys.retain(|(_, held)| *held > 0);
    }

    pub(super) fn held_through(&self, payer: Payer) -> u32 {
        let key = self.keys.iter().find(|(key, _)| Some(*key) == payer.key);
        key.map_or(0, |(_, held)| *held)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.waiting == 0 && self.held == 0
    }
}
