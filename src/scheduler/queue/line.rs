//! One line: requests that any instance can or cannot serve alike.

mod lane;

use std::collections::BTreeSet;
use std::ops::Bound::{Excluded, Unbounded};

use ahash::HashMap;

use super::{Head, Place, Stamp, Waiting};
use lane::Lane;

/// Users by their clocks; within a user end users by theirs; within those, first come first served.
#[derive(Debug, Default)]
pub(super) struct Line {
    order: BTreeSet<(Stamp, i64)>,
    bundles: HashMap<i64, Bundle>,
    len: usize,
}

/// The requests of one user in a line.
#[derive(Debug, Default)]
struct Bundle {
    /// One for all keys without a limit on seats, and one for each that has a limit of its own: it
    /// holds up nobody else when it is reached. Never empty ones.
    lanes: Vec<Lane>,
    len: usize,
    /// Not in the line's order, until the user frees a seat.
    parked: bool,
}

impl Line {
    pub(super) fn push(
        &mut self,
        head: Head,
        (place, end_clock): (&Place, Stamp),
        number: u64,
        waiting: Waiting,
    ) {
        let bundle = self.bundles.entry(head.user).or_default();
        bundle.len += 1;
        self.len += 1;
        bundle.push(place.lane, |lane| lane.push((end_clock, place.end_user), number, waiting));
        // whoever comes may hold more than those who are parked
        bundle.parked = false;
        self.order.insert((head.stamp, head.user));
    }

    /// Takes a request out; its end user stands at this clock.
    pub(super) fn remove(
        &mut self,
        head: Head,
        (place, end_clock): (&Place, Stamp),
        number: u64,
    ) -> Option<Waiting> {
        let bundle = self.bundles.get_mut(&head.user)?;
        let lane = bundle.lanes.iter_mut().find(|lane| lane.key == place.lane)?;
        let removed = lane.remove((end_clock, place.end_user), number)?;
        bundle.len -= 1;
        self.len -= 1;
        bundle.lanes.retain(|lane| !lane.is_empty());
        if bundle.lanes.is_empty() {
            self.bundles.remove(&head.user);
            self.order.remove(&(head.stamp, head.user));
        } else if bundle.parked {
            bundle.parked = false;
            self.order.insert((head.stamp, head.user));
        }
        Some(removed)
    }

    pub(super) fn has(&self, user: i64) -> bool {
        self.bundles.contains_key(&user)
    }

    pub(super) fn has_end_user(&self, user: i64, end_user: u64) -> bool {
        self.lanes_of(user).any(|lane| lane.has(end_user))
    }

    /// The end users who wait, each with their user and where they stand.
    #[cfg(test)]
    pub(super) fn end_users(&self) -> impl Iterator<Item = (i64, u64, Stamp)> {
        self.bundles.iter().flat_map(|(user, bundle)| {
            let lanes = bundle.lanes.iter().flat_map(Lane::end_users);
            lanes.map(|(stamp, end_user)| (*user, end_user, stamp))
        })
    }

    /// The first request of each of a user's lanes, parked ones included.
    #[cfg(test)]
    pub(super) fn firsts_of(
        &self,
        user: i64,
    ) -> impl Iterator<Item = ((Stamp, u64), u64, &Waiting)> {
        self.lanes_of(user).filter_map(Lane::first)
    }

    /// Every user who waits.
    #[cfg(test)]
    pub(super) fn users(&self) -> impl Iterator<Item = i64> {
        self.bundles.keys().copied()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bundles.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The first, or the one behind this one.
    pub(super) fn next(&self, behind: Option<Head>) -> Option<Head> {
        let from = behind.map_or(Unbounded, |head| Excluded((head.stamp, head.user)));
        let &(stamp, user) = self.order.range((from, Unbounded)).next()?;
        Some(Head { stamp, user })
    }

    /// The first request of a user, of those that are not parked.
    pub(super) fn first_of(&self, user: i64) -> Option<(u64, &Waiting)> {
        let firsts = self.lanes_of(user).filter(|lane| !lane.parked).filter_map(Lane::first);
        let (_, number, waiting) = firsts.min_by_key(|(rank, number, _)| (*rank, *number))?;
        Some((number, waiting))
    }

    pub(super) fn get(&self, place: &Place, number: u64) -> Option<&Waiting> {
        let mut lanes = self.lanes_of(place.user);
        lanes.find(|lane| lane.key == place.lane)?.get(place.end_user, number)
    }

    pub(super) fn get_mut(&mut self, place: &Place, number: u64) -> Option<&mut Waiting> {
        let mut lanes = self.bundles.get_mut(&place.user)?.lanes.iter_mut();
        lanes.find(|lane| lane.key == place.lane)?.get_mut(place.end_user, number)
    }

    /// Takes a user out of the order until they free a seat.
    pub(super) fn park(&mut self, head: Head) {
        if let Some(bundle) = self.bundles.get_mut(&head.user) {
            bundle.parked = true;
            self.order.remove(&(head.stamp, head.user));
        }
    }

    /// Takes the requests of one key out of the order until its user frees a seat; true if the
    /// user has others.
    pub(super) fn park_key(&mut self, head: Head, key: i64) -> bool {
        let Some(bundle) = self.bundles.get_mut(&head.user) else { return false };
        let full = bundle.lanes.iter_mut().filter(|lane| lane.key == Some(key));
        full.for_each(|lane| lane.parked = true);
        let others = bundle.lanes.iter().any(|lane| !lane.parked);
        if !others {
            self.park(head);
        }
        others
    }

    pub(super) fn unpark(&mut self, head: Head) {
        let Some(bundle) = self.bundles.get_mut(&head.user) else { return };
        bundle.lanes.iter_mut().for_each(|lane| lane.parked = false);
        if std::mem::take(&mut bundle.parked) {
            self.order.insert((head.stamp, head.user));
        }
    }

    pub(super) fn move_user(&mut self, old: Head, new: Stamp) {
        if self.order.remove(&(old.stamp, old.user)) {
            self.order.insert((new, old.user));
        }
    }

    pub(super) fn move_end_user(&mut self, user: i64, end_user: u64, old: Stamp, new: Stamp) {
        if let Some(bundle) = self.bundles.get_mut(&user) {
            bundle.lanes.iter_mut().for_each(|lane| lane.move_end_user(end_user, old, new));
        }
    }

    pub(super) fn rescale(&mut self, scaled: impl Fn(Stamp) -> Stamp) {
        self.order = self.order.iter().map(|(stamp, user)| (scaled(*stamp), *user)).collect();
        let lanes = self.bundles.values_mut().flat_map(|bundle| &mut bundle.lanes);
        lanes.for_each(|lane| lane.rescale(&scaled));
    }

    pub(super) fn everybody(&self) -> impl Iterator<Item = (u64, &Waiting)> {
        self.bundles.values().flat_map(|bundle| &bundle.lanes).flat_map(Lane::everybody)
    }

    /// As many of every other user as of this one, and one more of those whose clock is behind.
    pub(super) fn ahead_of(&self, head: Head, number: u64) -> Option<usize> {
        let own = self.bundles.get(&head.user)?;
        let own: usize = own.lanes.iter().map(|lane| lane.before(number)).sum();
        let others = self.order.iter().filter(|(_, user)| *user != head.user);
        let others = others.map(|(stamp, user)| {
            let turns = own + usize::from((*stamp, *user) < (head.stamp, head.user));
            self.bundles.get(user).map_or(0, |bundle| bundle.len).min(turns)
        });
        Some(own + others.sum::<usize>())
    }

    fn lanes_of(&self, user: i64) -> impl Iterator<Item = &Lane> {
        self.bundles.get(&user).into_iter().flat_map(|bundle| &bundle.lanes)
    }
}

impl Bundle {
    fn push(&mut self, key: Option<i64>, act: impl FnOnce(&mut Lane)) {
        if let Some(lane) = self.lanes.iter_mut().find(|lane| lane.key == key) {
            return act(lane);
        }
        let mut lane = Lane::new(key);
        act(&mut lane);
        self.lanes.push(lane);
    }
}
