//! Who goes next: weighted fair service, in tokens.
//!
//! Each user has a clock that runs by what is served, divided by their weight; of those who wait,
//! the one with the smallest clock goes next, and within a user the first who came. Who was idle
//! starts at the smallest clock of those who wait, as it was when somebody was last served: nothing
//! is saved up. (The idea is that of
//! virtual token counters, arXiv 2401.00588, on start-time fair queueing.)
//!
//! All clocks fade with a half-life of a minute. They fade alike, which changes no order among
//! them; so instead of them it is new charges that grow, and everything is kept as of one moment.
//!
//! Requests that any instance can or cannot serve alike stand in one [`Line`]. A decision looks
//! at the heads of lines: what it costs grows with the lines, and with the logarithm of the users.

mod line;
mod share;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Included, Unbounded};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::{HashMap, HashMapExt};

use super::permits::Holder;
use super::wish::{Class, Payer, Wish};
use crate::model::ModelKey;
use crate::payload::Runner;
use line::Line;
use share::Share;

/// After this time what was served counts half.
const HALF_LIFE: f64 = 60.0;
/// Half-lives after which everything is put as of a later moment: long before numbers overflow.
const REBASE: f64 = 32.0;
/// Who has been served less than this lately is forgotten, tokens.
const FORGOTTEN: f64 = 1.0;

/// A clock's reading, in tokens as of the queue's epoch; ordered as numbers are.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Stamp(f64);

impl Eq for Stamp {}

impl PartialOrd for Stamp {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Stamp {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// A request that waits.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) wish: Wish,
    /// When it came.
    pub(super) since: Instant,
    /// When it first let a seat pass for a better one.
    pub(super) declined: Option<Instant>,
}

/// One after the other at the heads of a line: where one stands, and who that is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Head {
    pub(super) stamp: Stamp,
    pub(super) user: i64,
}

/// Everybody who waits, and the clocks of all who do or did lately.
#[derive(Debug)]
pub(super) struct Queue {
    epoch: Option<Instant>,
    /// Where the clock stood of whoever was served last: where one begins if nobody waits.
    floor: Stamp,
    shares: HashMap<i64, Share>,
    /// Users who wait, by their clocks.
    backlog: BTreeSet<(Stamp, i64)>,
    lines: BTreeMap<Arc<Class>, Line>,
    places: HashMap<u64, Place>,
}

/// Where a request stands.
#[derive(Debug)]
struct Place {
    class: Arc<Class>,
    user: i64,
    /// Its key, if that has a limit of its own.
    lane: Option<i64>,
    end_user: u64,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self {
            epoch: None,
            floor: Stamp::default(),
            shares: HashMap::new(),
            backlog: BTreeSet::new(),
            lines: BTreeMap::new(),
            places: HashMap::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// How many of a user's requests wait, or of those through a key with a limit of its own.
    pub(super) fn waiting_of(&self, holder: Holder) -> usize {
        self.shares.get(&holder.user).map_or(0, |share| share.waiting_of(holder.key))
    }

    /// Seats that are held by a user, and those of them through the key.
    pub(super) fn held_by(&self, payer: Payer) -> (u32, u32) {
        let share = self.shares.get(&payer.user);
        share.map_or((0, 0), |share| (share.held, share.held_through(payer.key)))
    }

    /// Seats that are held by a user, or through a key.
    pub(super) fn held_of(&self, holder: Holder) -> u32 {
        let held = |share: &Share| match holder.key {
            Some(_) => share.held_through(holder.key),
            None => share.held,
        };
        self.shares.get(&holder.user).map_or(0, held)
    }

    /// Takes a place at the end of the user's requests of its class, or, if it was seated before,
    /// where its number belongs.
    pub(super) fn push(&mut self, number: u64, waiting: Waiting, now: Instant) {
        self.rebase(now);
        let Payer { user, end_user, .. } = waiting.wish.payer;
        let lane = waiting.wish.limited_key();
        let class = self.class_of(&waiting.wish);
        // where the smallest clock stood when somebody was last served: those who wait may since
        // have been charged by estimates that are yet to be put right
        let begins = self.backlog.first().map_or(self.floor, |(stamp, _)| self.floor.min(*stamp));
        let share = self.shares.entry(user).or_default();
        if share.waiting == 0 {
            share.clock = share.clock.max(begins);
            self.backlog.insert((share.clock, user));
        }
        share.wait(lane);
        if !share.lines.contains(&class) {
            share.lines.push(Arc::clone(&class));
        }
        let mut own = share.lines.iter().filter_map(|class| self.lines.get(class));
        let waits = own.any(|line| line.has_end_user(user, end_user));
        let floor = share.end_floor;
        let end_clock = share.end_users.entry(end_user).or_insert(floor);
        if !waits {
            // who waits already keeps their clock: lines know them by it
            *end_clock = floor.max(*end_clock);
        }
        let end_clock = *end_clock;
        let line = self.lines.entry(Arc::clone(&class)).or_default();
        let place = Place { class, user, lane, end_user };
        line.push(Head { stamp: share.clock, user }, (&place, end_clock), number, waiting);
        self.places.insert(number, place);
    }

    fn class_of(&self, wish: &Wish) -> Arc<Class> {
        let class = wish.class();
        match self.lines.get_key_value(&class) {
            Some((known, _)) => Arc::clone(known),
            None => Arc::new(class),
        }
    }

    /// Leaves the queue; nothing if it is not there.
    pub(super) fn remove(&mut self, number: u64) -> Option<Waiting> {
        let place = self.places.remove(&number)?;
        let user = place.user;
        let share = self.shares.get_mut(&user)?;
        let line = self.lines.get_mut(&place.class)?;
        let end_clock = share.end_users.get(&place.end_user).copied().unwrap_or_default();
        let waiting = line.remove(Head { stamp: share.clock, user }, (&place, end_clock), number);
        if !line.has(user) {
            share.lines.retain(|other| *other != place.class);
        }
        if line.is_empty() {
            self.lines.remove(&place.class);
        }
        share.leave(place.lane);
        if share.waiting == 0 {
            self.backlog.remove(&(share.clock, user));
            self.forget_if_idle(user);
        }
        waiting
    }

    /// Charges a user who is given a seat, and counts it.
    pub(super) fn seat(&mut self, payer: Payer, tokens: f64, now: Instant) {
        self.rebase(now);
        let share = self.shares.entry(payer.user).or_default();
        share.hold(payer);
        let end_clock = share.end_users.get(&payer.end_user).copied().unwrap_or_default();
        share.end_floor = share.end_floor.max(end_clock);
        self.floor = self.floor.max(share.clock);
        self.advance(payer, tokens, self.scale(now));
    }

    /// Puts right what was charged at `since`, and frees the seat.
    pub(super) fn settle(&mut self, payer: Payer, tokens_more: f64, since: Instant) {
        self.advance(payer, tokens_more, self.scale(since));
        let Some(share) = self.shares.get_mut(&payer.user) else { return };
        share.free(payer);
        self.unpark(payer.user);
    }

    /// Brings a user back into the lines out of which they were taken.
    pub(super) fn unpark(&mut self, user: i64) {
        let Some(share) = self.shares.get(&user) else { return };
        let head = Head { stamp: share.clock, user };
        for class in &share.lines {
            if let Some(line) = self.lines.get_mut(class) {
                line.unpark(head);
            }
        }
    }

    fn advance(&mut self, payer: Payer, tokens: f64, scale: f64) {
        let Some(share) = self.shares.get_mut(&payer.user) else { return };
        let old = Head { stamp: share.clock, user: payer.user };
        let by = tokens / f64::from(payer.weight.max(1)) * scale;
        let new = Stamp((share.clock.0 + by).max(0.0));
        share.clock = new;
        if share.waiting > 0 {
            self.backlog.remove(&(old.stamp, old.user));
            self.backlog.insert((new, old.user));
        }
        let end_old = share.end_users.get(&payer.end_user).copied().unwrap_or_default();
        let end_new = Stamp((end_old.0 + tokens * scale).max(0.0));
        let delegates = payer.end_user != 0 || !share.end_users.is_empty();
        if delegates {
            share.end_users.insert(payer.end_user, end_new);
        }
        for class in &share.lines {
            if let Some(line) = self.lines.get_mut(class) {
                line.move_user(old, new);
                if delegates {
                    line.move_end_user(old.user, payer.end_user, end_old, end_new);
                }
            }
        }
    }

    /// What a charge at this moment is worth as of the epoch.
    fn scale(&self, at: Instant) -> f64 {
        let Some(epoch) = self.epoch else { return 1.0 };
        let since = at.saturating_duration_since(epoch).as_secs_f64()
            - epoch.saturating_duration_since(at).as_secs_f64();
        (since / HALF_LIFE).exp2()
    }

    /// Puts everything as of this moment, once in a long while.
    fn rebase(&mut self, now: Instant) {
        let epoch = *self.epoch.get_or_insert(now);
        if now.saturating_duration_since(epoch) < Duration::from_secs_f64(REBASE * HALF_LIFE) {
            return;
        }
        let factor = self.scale(now).recip();
        self.epoch = Some(now);
        let scaled = |stamp: Stamp| Stamp(stamp.0 * factor);
        self.floor = scaled(self.floor);
        for share in self.shares.values_mut() {
            share.clock = scaled(share.clock);
            share.end_floor = scaled(share.end_floor);
            share.end_users.values_mut().for_each(|clock| *clock = scaled(*clock));
            if share.waiting == 0 {
                share.end_users.retain(|_, clock| clock.0 >= FORGOTTEN);
            }
        }
        self.backlog = self.backlog.iter().map(|(stamp, user)| (scaled(*stamp), *user)).collect();
        self.lines.values_mut().for_each(|line| line.rescale(scaled));
        self.shares.retain(|_, share| !share.is_idle() || share.clock.0 >= FORGOTTEN);
    }

    fn forget_if_idle(&mut self, user: i64) {
        let idle = self.shares.get(&user).is_some_and(|it| it.is_idle() && it.clock.0 < FORGOTTEN);
        if idle {
            self.shares.remove(&user);
        }
    }

    /// The lines in which somebody waits, each with its first.
    pub(super) fn lines(&self) -> impl Iterator<Item = (&Arc<Class>, Head)> {
        self.lines.iter().filter_map(|(class, line)| Some((class, line.next(None)?)))
    }

    /// Those of them that wish for this model, with these options if any are given.
    pub(super) fn lines_of(
        &self,
        model: &ModelKey,
        runner: Option<Runner>,
    ) -> impl Iterator<Item = (&Arc<Class>, Head)> {
        let first = Class::first_of(model.clone(), runner.unwrap_or_default());
        let lines = self.lines.range::<Class, _>((Included(&first), Unbounded));
        let lines = lines.take_while(move |(class, _)| {
            class.model == first.model && runner.is_none_or(|runner| class.runner == runner)
        });
        lines.filter_map(|(class, line)| Some((class, line.next(None)?)))
    }

    /// Who stands behind this head.
    pub(super) fn behind(&self, class: &Class, head: Head) -> Option<Head> {
        self.lines.get(class)?.next(Some(head))
    }

    /// The request at a head.
    pub(super) fn at(&self, class: &Class, head: Head) -> Option<(u64, &Waiting)> {
        self.lines.get(class)?.first_of(head.user)
    }

    /// The request with this number.
    pub(super) fn get(&self, number: u64) -> Option<&Waiting> {
        let place = self.places.get(&number)?;
        self.lines.get(&place.class)?.get(place, number)
    }

    /// Takes a user out of a line until they free a seat: they hold as many as they may.
    pub(super) fn park(&mut self, class: &Class, head: Head) {
        if let Some(line) = self.lines.get_mut(class) {
            line.park(head);
        }
    }

    /// Takes the requests of a key out of a line until its user frees a seat; true if the user has
    /// others there.
    pub(super) fn park_key(&mut self, class: &Class, head: Head, key: i64) -> bool {
        self.lines.get_mut(class).is_some_and(|line| line.park_key(head, key))
    }

    /// Notes that a request let a seat pass.
    pub(super) fn declined(&mut self, number: u64, now: Instant) {
        let Some(place) = self.places.get(&number) else { return };
        if let Some(line) = self.lines.get_mut(&place.class)
            && let Some(waiting) = line.get_mut(place, number)
        {
            waiting.declined.get_or_insert(now);
        }
    }

    /// How many of a class wait.
    pub(super) fn len_of(&self, class: &Class) -> usize {
        self.lines.get(class).map_or(0, Line::len)
    }

    /// How many of them are one user's.
    pub(super) fn len_of_user(&self, class: &Class, user: i64) -> usize {
        self.lines.get(class).map_or(0, |line| line.len_of(user))
    }

    /// Everybody who waits, line by line, in no order that matters.
    pub(super) fn everybody(&self) -> impl Iterator<Item = (u64, &Waiting)> {
        self.lines.values().flat_map(Line::everybody)
    }

    /// Everybody in one line.
    pub(super) fn line(&self, class: &Class) -> impl Iterator<Item = (u64, &Waiting)> {
        self.lines.get(class).into_iter().flat_map(Line::everybody)
    }

    /// About how many of the same class go before this request, if all requests cost alike.
    pub(super) fn ahead_of(&self, number: u64) -> Option<usize> {
        let place = self.places.get(&number)?;
        let stamp = self.shares.get(&place.user)?.clock;
        self.lines.get(&place.class)?.ahead_of(Head { stamp, user: place.user }, number)
    }

    /// Whether nothing is left of anybody but clocks.
    #[cfg(test)]
    pub(super) fn is_settled(&self) -> bool {
        self.places.is_empty()
            && self.lines.is_empty()
            && self.backlog.is_empty()
            && self.shares.values().all(Share::is_idle)
    }

    /// Whether every line has its end users where their clocks stand.
    #[cfg(test)]
    pub(super) fn clocks_agree(&self) -> bool {
        self.lines.values().flat_map(Line::end_users).all(|(user, end_user, stamp)| {
            let share = self.shares.get(&user);
            share.and_then(|share| share.end_users.get(&end_user)) == Some(&stamp)
        })
    }

    /// The first request of each user in a line, by clock, of those for which this holds, and how
    /// many the user has there.
    #[cfg(test)]
    pub(super) fn firsts(
        &self,
        class: &Class,
        able: impl Fn(&Wish) -> bool,
    ) -> Vec<(usize, &Waiting)> {
        let Some(line) = self.lines.get(class) else { return Vec::new() };
        let mut users: Vec<_> =
            line.users().map(|user| (self.shares.get(&user).map(|it| it.clock), user)).collect();
        users.sort_unstable();
        let first = |(_, user)| {
            let firsts = line.firsts_of(user).filter(|(.., it)| able(&it.wish));
            let first = firsts.min_by_key(|(rank, number, _)| (*rank, *number));
            first.map(|(.., it)| (line.len_of(user), it))
        };
        users.into_iter().filter_map(first).collect()
    }

    /// What a user was served lately, in tokens by weight as of the epoch.
    #[cfg(test)]
    pub(super) fn clock(&self, user: i64) -> f64 {
        self.shares.get(&user).map_or(0.0, |share| share.clock.0)
    }
}
