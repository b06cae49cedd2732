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
    /// Keys through which something is held, or waited for.
    keys: Vec<Through>,
    /// The lines in which it waits.
    pub(super) lines: Vec<Arc<Class>>,
}

/// What a key holds, and how many of its requests wait if it has a limit of its own.
#[derive(Clone, Copy, Debug)]
struct Through {
    key: i64,
    held: u32,
    waiting: usize,
}

impl Share {
    /// One more waits; through a key, if that has a limit of its own.
    pub(super) fn wait(&mut self, limited: Option<i64>) {
        self.waiting += 1;
        self.change(limited, |it| it.waiting += 1);
    }

    /// One of those waits no longer.
    pub(super) fn leave(&mut self, limited: Option<i64>) {
        self.waiting = self.waiting.saturating_sub(1);
        self.change(limited, |it| it.waiting = it.waiting.saturating_sub(1));
    }

    pub(super) fn hold(&mut self, payer: Payer) {
        self.held += 1;
        self.change(payer.key, |it| it.held += 1);
    }

    pub(super) fn free(&mut self, payer: Payer) {
        self.held = self.held.saturating_sub(1);
        self.change(payer.key, |it| it.held = it.held.saturating_sub(1));
    }

    pub(super) fn held_through(&self, key: Option<i64>) -> u32 {
        self.through(key).map_or(0, |it| it.held)
    }

    /// All who wait, or those through a key with a limit of its own.
    pub(super) fn waiting_of(&self, limited: Option<i64>) -> usize {
        match limited {
            Some(_) => self.through(limited).map_or(0, |it| it.waiting),
            None => self.waiting,
        }
    }

    fn through(&self, key: Option<i64>) -> Option<&Through> {
        self.keys.iter().find(|it| Some(it.key) == key)
    }

    fn change(&mut self, key: Option<i64>, change: impl FnOnce(&mut Through)) {
        let Some(key) = key else { return };
        let at = self.keys.iter().position(|it| it.key == key).unwrap_or_else(|| {
            self.keys.push(Through { key, held: 0, waiting: 0 });
            self.keys.len() - 1
        });
        let Some(through) = self.keys.get_mut(at) else { return };
        change(through);
        if through.held == 0 && through.waiting == 0 {
            self.keys.swap_remove(at);
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.waiting == 0 && self.held == 0
    }
}
