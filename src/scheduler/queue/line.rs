//! One line: requests that any instance can or cannot serve alike.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound::{Excluded, Unbounded};

use super::{Head, Stamp, Waiting};

/// Users by their clocks; within a user end users by theirs; within those, first come first served.
#[derive(Debug, Default)]
pub(super) struct Line {
    order: BTreeSet<(Stamp, i64)>,
    bundles: HashMap<i64, Bundle>,
}

/// The requests of one user in a line.
#[derive(Debug, Default)]
struct Bundle {
    order: BTreeSet<(Stamp, u64)>,
    end_users: HashMap<u64, BTreeMap<u64, Waiting>>,
    /// Not in the line's order, until the user frees a seat.
    parked: bool,
}

impl Line {
    pub(super) fn push(
        &mut self,
        head: Head,
        (end_clock, end_user): (Stamp, u64),
        number: u64,
        waiting: Waiting,
    ) {
        let bundle = self.bundles.entry(head.user).or_default();
        let requests = bundle.end_users.entry(end_user).or_default();
        if requests.is_empty() {
            bundle.order.insert((end_clock, end_user));
        }
        requests.insert(number, waiting);
        // whoever comes may hold more than those who are parked
        bundle.parked = false;
        self.order.insert((head.stamp, head.user));
    }

    pub(super) fn remove(&mut self, head: Head, end_user: u64, number: u64) -> Option<Waiting> {
        let bundle = self.bundles.get_mut(&head.user)?;
        let requests = bundle.end_users.get_mut(&end_user)?;
        let removed = requests.remove(&number);
        if requests.is_empty() {
            bundle.end_users.remove(&end_user);
            bundle.order.retain(|(_, other)| *other != end_user);
        }
        if bundle.end_users.is_empty() {
            self.bundles.remove(&head.user);
            self.order.remove(&(head.stamp, head.user));
        } else if bundle.parked {
            bundle.parked = false;
            self.order.insert((head.stamp, head.user));
        }
        removed
    }

    pub(super) fn has(&self, user: i64) -> bool {
        self.bundles.contains_key(&user)
    }

    pub(super) fn has_end_user(&self, user: i64, end_user: u64) -> bool {
        self.bundles.get(&user).is_some_and(|bundle| bundle.end_users.contains_key(&end_user))
    }

    /// The end users who wait, each with their user and where they stand.
    #[cfg(test)]
    pub(super) fn end_users(&self) -> impl Iterator<Item = (i64, u64, Stamp)> {
        self.bundles.iter().flat_map(|(user, bundle)| {
            bundle.order.iter().map(|(stamp, end_user)| (*user, *end_user, *stamp))
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bundles.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.bundles.values().map(Bundle::len).sum()
    }

    /// The first, or the one behind this one.
    pub(super) fn next(&self, behind: Option<Head>) -> Option<Head> {
        let from = behind.map_or(Unbounded, |head| Excluded((head.stamp, head.user)));
        let &(stamp, user) = self.order.range((from, Unbounded)).next()?;
        Some(Head { stamp, user })
    }

    pub(super) fn first_of(&self, user: i64) -> Option<(u64, &Waiting)> {
        let bundle = self.bundles.get(&user)?;
        let (_, end_user) = bundle.order.first()?;
        let (number, waiting) = bundle.end_users.get(end_user)?.first_key_value()?;
        Some((*number, waiting))
    }

    pub(super) fn get(&self, user: i64, end_user: u64, number: u64) -> Option<&Waiting> {
        self.bundles.get(&user)?.end_users.get(&end_user)?.get(&number)
    }

    pub(super) fn get_mut(
        &mut self,
        user: i64,
        end_user: u64,
        number: u64,
    ) -> Option<&mut Waiting> {
        self.bundles.get_mut(&user)?.end_users.get_mut(&end_user)?.get_mut(&number)
    }

    pub(super) fn park(&mut self, head: Head) {
        if let Some(bundle) = self.bundles.get_mut(&head.user) {
            bundle.parked = true;
            self.order.remove(&(head.stamp, head.user));
        }
    }

    pub(super) fn unpark(&mut self, head: Head) {
        if let Some(bundle) = self.bundles.get_mut(&head.user)
            && std::mem::take(&mut bundle.parked)
        {
            self.order.insert((head.stamp, head.user));
        }
    }

    pub(super) fn move_user(&mut self, old: Head, new: Stamp) {
        if self.order.remove(&(old.stamp, old.user)) {
            self.order.insert((new, old.user));
        }
    }

    pub(super) fn move_end_user(&mut self, user: i64, end_user: u64, old: Stamp, new: Stamp) {
        if let Some(bundle) = self.bundles.get_mut(&user)
            && bundle.order.remove(&(old, end_user))
        {
            bundle.order.insert((new, end_user));
        }
    }

    pub(super) fn rescale(&mut self, scaled: impl Fn(Stamp) -> Stamp) {
        self.order = self.order.iter().map(|(stamp, user)| (scaled(*stamp), *user)).collect();
        for bundle in self.bundles.values_mut() {
            let order = bundle.order.iter();
            bundle.order = order.map(|(stamp, it)| (scaled(*stamp), *it)).collect();
        }
    }

    pub(super) fn everybody(&self) -> impl Iterator<Item = (u64, &Waiting)> {
        let bundles = self.bundles.values().flat_map(|bundle| bundle.end_users.values());
        bundles.flatten().map(|(number, waiting)| (*number, waiting))
    }

    /// As many of every other user as of this one, and one more of those whose clock is behind.
    pub(super) fn ahead_of(&self, head: Head, number: u64) -> Option<usize> {
        let own = self.bundles.get(&head.user)?;
        let before = |requests: &BTreeMap<u64, Waiting>| requests.range(..number).count();
        let own: usize = own.end_users.values().map(before).sum();
        let others = self.order.iter().filter(|(_, user)| *user != head.user);
        let others = others.map(|(stamp, user)| {
            let turns = own + usize::from((*stamp, *user) < (head.stamp, head.user));
            self.bundles.get(user).map_or(0, Bundle::len).min(turns)
        });
        Some(own + others.sum::<usize>())
    }
}

impl Bundle {
    fn len(&self) -> usize {
        self.end_users.values().map(BTreeMap::len).sum()
    }
}
