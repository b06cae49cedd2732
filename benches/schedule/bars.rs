//! What must be shown, and whether it is.

use crate::Runs;
use crate::gateway::Policy;
use crate::measure::{
    count, first_tokens, freed, left_in_queue, loads, percentile, read_again, residual, served,
    soonest,
};
use crate::scenes::{DEATH, make};
use crate::world::{End, Fate, World};

/// One row, as one seed has it.
pub struct Bar {
    pub measure: &'static str,
    pub bar: &'static str,
    /// What was found, and the most that it may be.
    pub found: f64,
    pub most: f64,
    pub unit: Unit,
}

/// How a number is written.
#[derive(Clone, Copy)]
pub enum Unit {
    Count,
    Percent,
    Seconds,
    Milliseconds,
    /// A part of what `least_conn` has.
    OfLeastConn,
}

impl Bar {
    pub fn holds(&self) -> bool {
        self.found <= self.most
    }

    pub fn written(&self, value: f64) -> String {
        match self.unit {
            Unit::Count => format!("{value:.0}"),
            Unit::Percent => format!("{:.2} %", value * 100.0),
            Unit::Seconds => format!("{value:.2} s"),
            Unit::Milliseconds => format!("{:.0} ms", value * 1000.0),
            Unit::OfLeastConn => format!("{value:.2} of it"),
        }
    }
}

fn p99(world: &World, of: impl Fn(usize) -> bool) -> f64 {
    percentile(&first_tokens(world, |fate| of(fate.request.user)), 0.99)
}

fn is_light(fate: &Fate) -> bool {
    fate.request.user > 0
}

pub fn all(runs: &Runs) -> Vec<Bar> {
    let mut all = vec![equal(runs), light(runs), cold(runs), eighty(runs), chats(runs)];
    all.extend(refusing(runs));
    all.extend([killed(runs), back(runs)]);
    all.extend(leavers(runs));
    all
}

/// What no other order of the same requests could do much better, beside what is done.
pub fn bounds(runs: &Runs) -> Vec<Bar> {
    let beset = runs.of("beset", Policy::Usher);
    let next = percentile(&soonest(beset, &make(2, 1), is_light), 0.99);
    let strangers = |scene, policy| p99(runs.of(scene, policy), |_| true);
    let theirs = strangers("strangers", Policy::LeastConn);
    vec![
        Bar {
            measure: "light clients beside a greedy one, p99",
            bar: "as if each of them had the very next seat",
            found: p99(beset, |user| user > 0),
            most: next,
            unit: Unit::Seconds,
        },
        Bar {
            measure: "strangers at 80 % load, p99",
            bar: "one queue, first come, first served",
            found: strangers("strangers", Policy::Usher) / theirs,
            most: strangers("in order", Policy::Usher) / theirs,
            unit: Unit::OfLeastConn,
        },
    ]
}

fn equal(runs: &Runs) -> Bar {
    let world = runs.of("greedy", Policy::Usher);
    let served: Vec<f64> = (0..10).map(|user| served(world, user, 900.0)).collect();
    let mean = served.iter().sum::<f64>() / served.len() as f64;
    Bar {
        measure: "one client sends 10× the others: served tokens per weight, furthest from equal",
        bar: "within 10 %",
        found: served.iter().map(|it| (it / mean - 1.0).abs()).fold(0.0, f64::max),
        most: 0.1,
        unit: Unit::Percent,
    }
}

fn light(runs: &Runs) -> Bar {
    let (alone, beset) = (runs.of("alone", Policy::Usher), runs.of("beset", Policy::Usher));
    let residual = residual(beset, 0);
    Bar {
        measure: "the light clients' p99 time to first token beside it",
        bar: "≤ 2× what they see alone + one mean residual service time",
        found: p99(beset, |user| user > 0),
        most: 2.0 * p99(alone, |user| user > 0) + residual,
        unit: Unit::Seconds,
    }
}

fn cold(runs: &Runs) -> Bar {
    let loads = |policy| loads(runs.of("mixed", policy)) as f64;
    Bar {
        measure: "mixed models on 3 instances: cold loads",
        bar: "≤ half of least_conn",
        found: loads(Policy::Usher) / loads(Policy::LeastConn),
        most: 0.5,
        unit: Unit::OfLeastConn,
    }
}

fn eighty(runs: &Runs) -> Bar {
    let of = |policy| p99(runs.of("eighty", policy), |_| true);
    Bar {
        measure: "one queue for the box: p99 time to first token of conversations at 80 % load",
        bar: "≤ half of least_conn",
        found: of(Policy::Usher) / of(Policy::LeastConn),
        most: 0.5,
        unit: Unit::OfLeastConn,
    }
}

fn chats(runs: &Runs) -> Bar {
    let of = |policy| read_again(runs.of("chats", policy)) as f64;
    Bar {
        measure: "multi-turn chats: prompt tokens read again",
        bar: "≤ a third of least_conn",
        found: of(Policy::Usher) / of(Policy::LeastConn),
        most: 1.0 / 3.0,
        unit: Unit::OfLeastConn,
    }
}

fn refusing(runs: &Runs) -> [Bar; 2] {
    let world = runs.of("refusing", Policy::Usher);
    let met = world.sent_to.get(1).copied().unwrap_or_default() as f64;
    [
        Bar {
            measure: "an instance that answers 503 at once: requests that meet it",
            bar: "< 1 %",
            found: met / world.fates.len() as f64,
            most: 0.01,
            unit: Unit::Percent,
        },
        Bar {
            measure: "… and clients that see it",
            bar: "none",
            found: count(world, End::Failed) as f64,
            most: 0.0,
            unit: Unit::Count,
        },
    ]
}

/// Those that it was reading when it died are not repeated: what killed it would kill the next.
fn killed(runs: &Runs) -> Bar {
    let world = runs.of("killed", Policy::Usher);
    let failed = world.fates.iter().filter(|fate| fate.end == End::Failed && fate.first.is_none());
    let later = failed.filter(|fate| fate.sent.is_none_or(|sent| sent > DEATH.0));
    Bar {
        measure: "an instance killed under load: errors before a first byte, of requests that it was \
                  not reading when it died",
        bar: "none",
        found: later.count() as f64,
        most: 0.0,
        unit: Unit::Count,
    }
}

fn back(runs: &Runs) -> Bar {
    let world = runs.of("killed", Policy::Usher);
    Bar {
        measure: "… and at work again after it is back",
        bar: "< 2 s",
        found: world.back_at_work.first().map_or(f64::NAN, |(returned, at)| at - returned),
        most: 2.0,
        unit: Unit::Seconds,
    }
}

fn leavers(runs: &Runs) -> [Bar; 2] {
    let world = runs.of("leavers", Policy::Usher);
    let left = world.fates.iter().filter(|fate| fate.end == End::Left && fate.sent.is_none());
    let read: u64 = left.map(|fate| fate.read).sum();
    [
        Bar {
            measure: "clients that leave: GPU tokens for those still queued",
            bar: "0",
            // a run in which none was queued shows nothing
            found: if left_in_queue(world) > 0 { read as f64 } else { f64::NAN },
            most: 0.0,
            unit: Unit::Count,
        },
        Bar {
            measure: "… and the slot free again, at the latest",
            bar: "within 250 ms",
            found: freed(world).last().copied().unwrap_or(f64::NAN),
            most: 0.25,
            unit: Unit::Milliseconds,
        },
    ]
}
