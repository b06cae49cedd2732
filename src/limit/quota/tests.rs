//! Laws of limits, over schedules that nobody would think of.

use proptest::prelude::*;

use super::*;

const SECOND: u64 = 1_000_000;

fn rate(text: &str) -> Rate {
    text.parse().unwrap()
}

/// What happens next, and how much the clock has moved by then.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// Take, or hold, so much.
    Take(u64),
    /// Give back, or settle, the oldest (0), the newest (1), or one in between; tokens are settled
    /// with so much.
    End { which: usize, used: u64 },
    /// Look.
    Look,
}

fn acts(most: u64) -> impl Strategy<Value = Vec<(i64, Act)>> {
    // mostly on, sometimes far, sometimes back, often not at all
    let step = prop_oneof![
        3 => Just(0i64),
        4 => 1..30_000i64,
        4 => 1..3_000_000i64,
        2 => 1..90_000_000i64,
        1 => -5_000_000..0i64,
        1 => Just(60_000_000i64),
        1 => Just(59_999_999i64),
    ];
    let act = prop_oneof![
        6 => (1..=most).prop_map(Act::Take),
        2 => (0..4usize, 0..=2 * most).prop_map(|(which, used)| Act::End { which, used }),
        1 => Just(Act::Look),
    ];
    prop::collection::vec((step, act), 1..400)
}

/// A clock that jumps.
struct Clock {
    reads: i64,
    /// The latest moment that a meter was told.
    latest: u64,
}

impl Clock {
    fn new() -> Self {
        Self { reads: 100 * 1_000_000, latest: 0 }
    }

    fn step(&mut self, by: i64) -> Moment {
        self.reads = (self.reads + by).max(0);
        Moment(self.reads.unsigned_abs())
    }

    fn tell(&mut self, by: i64) -> Moment {
        let now = self.step(by);
        self.latest = self.latest.max(now.0);
        now
    }
}

fn pick<T>(list: &mut Vec<T>, which: usize) -> Option<T> {
    let at = match which {
        0 => 0,
        1 => list.len().checked_sub(1)?,
        other => other % list.len().max(1),
    };
    (at < list.len()).then(|| list.remove(at))
}

/// The most that `uses` add up to in any window.
fn most_in_a_window(uses: &[(u64, u64)], window: u64) -> u64 {
    let from_each = uses.iter().map(|(begin, _)| {
        let inside = uses.iter().filter(|(at, _)| (*begin..begin + window).contains(at));
        inside.map(|(_, amount)| amount).sum()
    });
    from_each.max().unwrap_or(0)
}

fn any_rate() -> impl Strategy<Value = Rate> {
    prop::sample::select(vec!["1/min", "3/min", "17/min", "1024/min", "1025/min", "5k/min"])
        .prop_map(rate)
}

proptest! {
    /// The promise: no span of a window's length sees more than the limit.
    #[test]
    fn no_schedule_exceeds_a_request_limit(rate in any_rate(), acts in acts(400)) {
        let (limit, window) = (rate.amount.get(), 60 * SECOND);
        let mut meter = Meter::default();
        let mut clock = Clock::new();
        let (mut open, mut uses) = (Vec::new(), Vec::<(u64, u64)>::new());
        for (step, act) in acts {
            match act {
                Act::Take(amount) => {
                    if let Ok(taken) = meter.take(rate, amount, clock.tell(step)) {
                        open.push((taken, uses.len()));
                        uses.push((clock.latest, amount));
                    }
                }
                Act::End { which, .. } => {
                    clock.step(step);
                    if let Some((taken, use_of)) = pick(&mut open, which) {
                        meter.give_back(taken);
                        uses[use_of].1 = 0;
                    }
                }
                Act::Look => {
                    let standing = meter.standing(rate, clock.tell(step));
                    prop_assert!(standing.remaining <= limit);
                }
            }
            let last = uses.iter().rev().take_while(|(at, _)| at + window > clock.latest);
            let recent: u64 = last.map(|(_, amount)| amount).sum();
            prop_assert!(recent <= limit, "{recent} of {limit} in the window that ends now");
            prop_assert!(meter.log.len() <= 1026);
        }
        prop_assert!(most_in_a_window(&uses, window) <= limit);
    }

    /// The other side of it: who is refused would have exceeded the limit, by a small limit's own
    /// reckoning to the microsecond, by a large one's within a 1024th of the window; and the wait
    /// that is told is enough.
    #[test]
    fn nobody_is_refused_needlessly_and_the_wait_is_enough(rate in any_rate(), acts in acts(400)) {
        let (limit, window) = (rate.amount.get(), 60 * SECOND);
        let slack = if limit <= EXACT { 1 } else { 2 * window / PARTS };
        let mut meter = Meter::default();
        let mut clock = Clock::new();
        let mut uses = Vec::<(u64, u64)>::new();
        for (step, act) in acts {
            let Act::Take(amount) = act else { continue };
            let now = clock.tell(step);
            let amount = amount.min(limit);
            match meter.take(rate, amount, now) {
                Ok(_) => uses.push((clock.latest, amount)),
                Err(no) => {
                    let since = clock.latest.saturating_sub(window + slack);
                    let recent = uses.iter().filter(|(at, _)| *at >= since);
                    let recent: u64 = recent.map(|(_, amount)| amount).sum();
                    prop_assert!(recent + amount > limit, "{recent} + {amount} of {limit}");
                    let wait = u64::try_from(no.wait.as_micros()).unwrap();
                    prop_assert!(0 < wait && wait <= window + slack);
                    // a clock that is behind has further to go
                    if now.0 == clock.latest {
                        let then = clock.tell(i64::try_from(wait).unwrap());
                        prop_assert!(meter.take(rate, amount, then).is_ok());
                        uses.push((clock.latest, amount));
                    }
                }
            }
        }
    }

    /// Tokens: what settles in a window exceeds the limit by no more than answers that were under
    /// way had underestimated themselves, and what is set aside comes back to the last token.
    #[test]
    fn tokens_exceed_their_limit_by_no_more_than_was_in_flight(
        rate in any_rate(),
        acts in acts(400),
    ) {
        let (limit, window) = (rate.amount.get(), 60 * SECOND);
        let mut meter = Meter::default();
        let mut clock = Clock::new();
        let mut open = Vec::<Taken>::new();
        let mut uses = Vec::<(u64, u64)>::new();
        // the most that those under way together may go beyond what they hold, since admission
        let mut excess = 0u64;
        for (step, act) in acts {
            let now = clock.tell(step);
            match act {
                Act::Take(amount) => {
                    if let Ok(held) = meter.hold(rate, amount, now) {
                        open.push(held);
                        // whatever is settled from now on was under way now
                        excess = 0;
                    }
                }
                Act::End { which, used } => {
                    if let Some(held) = pick(&mut open, which) {
                        meter.settle(held, used, now);
                        uses.push((clock.latest, used));
                        excess += used.saturating_sub(held.amount());
                    } else {
                        // it has to hear of every moment that this test counts from
                        meter.is_idle(now);
                    }
                }
                Act::Look => drop(meter.standing(rate, now)),
            }
            let last = uses.iter().filter(|(at, _)| at + window > clock.latest);
            let recent: u64 = last.map(|(_, amount)| amount).sum();
            prop_assert!(recent <= limit + excess, "{recent} of {limit}, {excess} in flight");
            prop_assert_eq!(meter.held, open.iter().map(Taken::amount).sum::<u64>());
        }
        for held in open {
            meter.settle(held, 0, Moment(clock.latest));
        }
        prop_assert_eq!(meter.held, 0);
        let over = Moment(clock.latest + window + window / PARTS + 1);
        prop_assert!(meter.is_idle(over), "nothing is left behind: {meter:?}");
        prop_assert_eq!(meter.standing(rate, over).remaining, limit);
    }

    /// A reload changes a limit, and never what was used of it.
    #[test]
    fn a_changed_limit_forgets_nothing_that_its_window_reaches(
        amounts in prop::collection::vec((0..20_000_000u64, 1..50u64), 1..60),
        path in prop::collection::vec(
            prop::sample::select(vec!["9/min", "2k/min", "1M/min", "700/h", "50k/h", "1M/d"]),
            1..5,
        ),
    ) {
        let generous = rate("1M/min");
        let mut meter = Meter::default();
        let mut now = 0;
        let mut all = Vec::new();
        for (step, amount) in amounts {
            now += step;
            prop_assert!(meter.take(generous, amount, Moment(now)).is_ok());
            all.push((now, amount));
        }
        for text in path {
            let next = rate(text);
            let limit = next.amount.get();
            let used = limit - meter.standing(next, Moment(now)).remaining;
            // every rate so far reached back a minute at least
            let recent = all.iter().filter(|(at, _)| at + 60 * SECOND > now);
            let recent: u64 = recent.map(|(_, amount)| amount).sum();
            prop_assert!(used >= recent.min(limit), "{used} of {recent} known to {text}");
        }
    }
}

#[test]
fn a_window_has_no_edge_at_which_a_burst_could_double() {
    let (limit, mut meter) = (rate("100/h"), Meter::default());
    let second = |n: u64| Moment(n * SECOND);
    for n in 3590..3640 {
        assert!(meter.take(limit, 1, second(n)).is_ok());
    }
    for n in 3640..3690 {
        assert!(meter.take(limit, 1, second(n)).is_ok(), "the other half");
    }
    let no = meter.take(limit, 1, second(3700)).unwrap_err();
    assert_eq!(no.wait, Duration::from_secs(3590 + 3600 - 3700));
    assert_eq!(no.standing.remaining, 0);
    assert!(meter.take(limit, 1, second(7189)).is_err(), "an hour is not over yet");
    assert!(meter.take(limit, 1, second(7190)).is_ok());
    assert!(meter.take(limit, 1, second(7190)).is_err(), "one left the window, one may come");
}

#[test]
fn what_is_held_counts_for_as_long_as_it_takes() {
    let (limit, mut meter) = (rate("1000/min"), Meter::default());
    let minute = |n: u64| Moment(n * 60 * SECOND);
    let held = meter.hold(limit, 800, minute(0)).unwrap();
    assert!(meter.hold(limit, 300, minute(30)).is_err(), "half an hour later it still is");
    meter.settle(held, 900, minute(31));
    assert_eq!(meter.standing(limit, minute(31)).remaining, 100, "settled is used now");
    let no = meter.hold(limit, 300, minute(31)).unwrap_err();
    assert_eq!(no.wait, Duration::from_secs(60));
    assert_eq!(meter.standing(limit, minute(33)).remaining, 1000);
    assert_eq!(meter.standing(limit, minute(33)).reset, Duration::ZERO);
}

#[test]
fn a_long_way_back_or_forth_neither_opens_nor_overflows() {
    let (limit, mut meter) = (rate("2/d"), Meter::default());
    assert!(meter.take(limit, 2, Moment(u64::MAX - 5)).is_ok());
    assert!(meter.take(limit, 1, Moment(0)).is_err(), "time does not run backwards");
    assert!(meter.take(limit, u64::MAX, Moment(u64::MAX)).is_err());
    let mut other = Meter::default();
    let held = other.hold(limit, 2, Moment(0)).unwrap();
    other.settle(held, u64::MAX, Moment(1));
    other.settle(held, u64::MAX, Moment(2));
    assert_eq!(other.standing(limit, Moment(3)).remaining, 0);
}
