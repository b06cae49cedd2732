//! A part of a user's requests in a line, of which some may be seated while the others may not.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Stamp, Waiting};

/// An end user, and where they stand.
type Rank = (Stamp, u64);

/// End users by their clocks; within those, first come first served.
#[derive(Debug)]
pub(super) struct Lane {
    /// The key whose requests these are; `None` are those of all keys without a limit of their own.
    pub(super) key: Option<i64>,
    /// The key holds all the seats that it may.
    pub(super) parked: bool,
    order: BTreeSet<Rank>,
    end_users: HashMap<u64, BTreeMap<u64, Waiting>>,
}

impl Lane {
    pub(super) fn new(key: Option<i64>) -> Self {
        Self { key, parked: false, order: BTreeSet::new(), end_users: HashMap::new() }
    }

    pub(super) fn push(&mut self, (clock, end_user): Rank, number: u64, waiting: Waiting) {
        let requests = self.end_users.entry(end_user).or_default();
        if requests.is_empty() {
            self.order.insert((clock, end_user));
        }
        requests.insert(number, waiting);
        // its limit may be another one by now
        self.parked = false;
    }

    pub(super) fn remove(&mut self, (clock, end_user): Rank, number: u64) -> Option<Waiting> {
        let requests = self.end_users.get_mut(&end_user)?;
        let removed = requests.remove(&number);
        if requests.is_empty() {
            self.end_users.remove(&end_user);
            self.order.remove(&(clock, end_user));
        }
        self.parked = false;
        removed
    }

    pub(super) fn has(&self, end_user: u64) -> bool {
        self.end_users.contains_key(&end_user)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.end_users.is_empty()
    }

    /// The first request: where its end user stands, its number, and itself.
    pub(super) fn first(&self) -> Option<(Rank, u64, &Waiting)> {
        let rank = self.order.first()?;
        let (number, waiting) = self.end_users.get(&rank.1)?.first_key_value()?;
        Some((*rank, *number, waiting))
    }

    pub(super) fn get(&self, end_user: u64, number: u64) -> Option<&Waiting> {
        self.end_users.get(&end_user)?.get(&number)
    }

    pub(super) fn get_mut(&mut self, end_user: u64, number: u64) -> Option<&mut Waiting> {
        self.end_users.get_mut(&end_user)?.get_mut(&number)
    }

    pub(super) fn move_end_user(&mut self, end_user: u64, old: Stamp, new: Stamp) {
        if self.order.remove(&(old, end_user)) {
            self.order.insert((new, end_user));
        }
    }

    pub(super) fn rescale(&mut self, scaled: &impl Fn(Stamp) -> Stamp) {
        self.order = self.order.iter().map(|(stamp, it)| (scaled(*stamp), *it)).collect();
    }

    pub(super) fn everybody(&self) -> impl Iterator<Item = (u64, &Waiting)> {
        let requests = self.end_users.values().flatten();
        requests.map(|(number, waiting)| (*number, waiting))
    }

    /// How many came before this number.
    pub(super) fn before(&self, number: u64) -> usize {
        self.end_users.values().map(|requests| requests.range(..number).count()).sum()
    }

    #[cfg(test)]
    pub(super) fn end_users(&self) -> impl Iterator<Item = Rank> {
        self.order.iter().copied()
    }
}
