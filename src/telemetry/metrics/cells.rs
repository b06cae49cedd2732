//! The counters that requests touch, found without looking names up in a registry.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ahash::HashMap;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec};

use super::{NONE, OTHER};
use crate::route;

/// The statuses that are counted by number; the others are rare, and looked up.
const USUAL: [u16; 18] =
    [0, 200, 201, 204, 400, 401, 403, 404, 405, 408, 411, 413, 415, 429, 500, 502, 503, 504];

/// The counters of each route of the table, and of what is no route.
pub(super) struct Routes {
    requests: IntCounterVec,
    seconds: Vec<Histogram>,
    unrouted: Histogram,
    untiered: Codes,
}

impl Routes {
    pub(super) fn new(requests: IntCounterVec, seconds: &HistogramVec) -> Self {
        let of = |path: &str| seconds.with_label_values(&[path]);
        Self {
            requests,
            seconds: route::paths().map(of).collect(),
            unrouted: of(NONE),
            untiered: Codes::new(NONE),
        }
    }

    /// Counts a request.
    pub(super) fn count(
        &self,
        route: Option<usize>,
        tier: Option<&Tier>,
        status: u16,
        total: Duration,
    ) {
        let seconds = route.and_then(|number| self.seconds.get(number));
        seconds.unwrap_or(&self.unrouted).observe(total.as_secs_f64());
        let codes = tier.map_or(&self.untiered, |tier| &tier.codes);
        let path = || route.and_then(|number| route::paths().nth(number)).unwrap_or(NONE);
        let look_up =
            || self.requests.with_label_values(&[path(), &codes.tier, status.to_string().as_str()]);
        match codes.cell(route, status) {
            Some(cell) => cell.get_or_init(look_up).inc(),
            None => look_up().inc(),
        }
    }
}

/// The requests of a tier by route and usual status; each counter is made when it is first needed.
struct Codes {
    tier: Box<str>,
    cells: Vec<[OnceLock<IntCounter>; USUAL.len()]>,
}

impl Codes {
    fn new(tier: &str) -> Self {
        let rows = 0..=route::paths().len();
        Self { tier: tier.into(), cells: rows.map(|_| Default::default()).collect() }
    }

    fn cell(&self, route: Option<usize>, status: u16) -> Option<&OnceLock<IntCounter>> {
        let usual = USUAL.binary_search(&status).ok()?;
        // the last row is that of no route
        let row = route.or_else(|| self.cells.len().checked_sub(1))?;
        self.cells.get(row)?.get(usual)
    }
}

/// The counters of a tier.
pub(super) struct Tier {
    codes: Codes,
    pub(super) queue_wait: Histogram,
}

impl Tier {
    pub(super) fn new(label: &str, waits: &HistogramVec) -> Self {
        Self { codes: Codes::new(label), queue_wait: waits.with_label_values(&[label]) }
    }
}

/// The counters of a model.
pub(super) struct Model {
    pub(super) label: Box<str>,
    pub(super) first_token: Histogram,
    pub(super) prompt: IntCounter,
    pub(super) completion: IntCounter,
}

impl Model {
    pub(super) fn new(label: &str, first_token: &HistogramVec, tokens: &IntCounterVec) -> Self {
        Self {
            label: label.into(),
            first_token: first_token.with_label_values(&[label]),
            prompt: tokens.with_label_values(&[label, "prompt"]),
            completion: tokens.with_label_values(&[label, "completion"]),
        }
    }
}

/// What belongs to each of a bounded number of names, and to all others together. Read without a
/// lock; a name that is met for the first time costs a copy of the table.
pub(super) struct Labels<T> {
    table: ArcSwap<HashMap<Box<str>, Arc<T>>>,
    growing: Mutex<()>,
    most: usize,
    make: Box<dyn Fn(&str) -> T + Send + Sync>,
    other: OnceLock<Arc<T>>,
}

impl<T> Labels<T> {
    /// At most `most` names; `make` makes what belongs to a label.
    pub(super) fn new(most: usize, make: impl Fn(&str) -> T + Send + Sync + 'static) -> Self {
        Self {
            table: ArcSwap::default(),
            growing: Mutex::default(),
            most,
            make: Box::new(make),
            other: OnceLock::new(),
        }
    }

    /// What belongs to `name`. One that is new gets this label if it is `known` and there is room.
    pub(super) fn find(&self, name: &str, label: &str, known: impl FnOnce() -> bool) -> Arc<T> {
        if let Some(found) = self.table.load().get(name) {
            return Arc::clone(found);
        }
        let _turn = self.growing.lock();
        let table = self.table.load();
        if let Some(found) = table.get(name) {
            return Arc::clone(found);
        }
        if table.len() >= self.most || !known() {
            return Arc::clone(self.other.get_or_init(|| Arc::new((self.make)(OTHER))));
        }
        let made = Arc::new((self.make)(label));
        let mut grown = HashMap::clone(&table);
        grown.insert(name.into(), Arc::clone(&made));
        self.table.store(Arc::new(grown));
        made
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_statuses_are_in_order() {
        assert!(USUAL.is_sorted());
    }

    #[test]
    fn names_beyond_the_bound_and_unknown_ones_share_a_label() {
        let labels = Labels::new(2, |label: &str| label.to_owned());
        let find = |name: &str, known: bool| String::clone(&labels.find(name, name, || known));
        assert_eq!([find("a", true), find("b", false)], ["a", OTHER]);
        assert_eq!([find("b", true), find("c", true)], ["b", OTHER]);
        assert_eq!(find("a", false), "a", "what had a label keeps it");
    }
}
