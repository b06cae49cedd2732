//! What must be shown, and whether it is.

use crate::Runs;
use crate::gateway::Policy;
use crate::measure::{
    count, first_tokens, left_in_queue, loads, percentile, read_again, residual, served,
};
use crate::scenes::DEATH;
use crate::world::{End, World};

/// One row.
pub struct Bar {
    pub measure: &'static str,
    pub bar: &'static str,
    pub found: String,
    pub holds: bool,
}

fn p99(world: &World, of: impl Fn(usize) -> bool) -> f64 {
    percentile(&first_tokens(world, |fate| of(fate.request.user)), 0.99)
}

pub fn all(runs: &Runs) -> Vec<Bar> {
    vec![
        equal(runs),
        light(runs),
        cold(runs),
        eighty(runs),
        chats(runs),
        refusing(runs),
        killed(runs),
        back(runs),
        leavers(runs),
    ]
}

fn equal(runs: &Runs) -> Bar {
    let world = runs.of("greedy", Policy::Usher);
    let served: Vec<f64> = (0..10).map(|user| served(world, user, 900.0)).collect();
    let mean = served.iter().sum::<f64>() / served.len() as f64;
    let off = served.iter().map(|it| (it / mean - 1.0).abs()).fold(0.0, f64::max);
    Bar {
        measure: "one client sends 10× the others: served tokens per weight",
        bar: "within 10 % of equal",
        found: format!("{:.1} % off at most", off * 100.0),
        holds: off <= 0.1,
    }
}

fn light(runs: &Runs) -> Bar {
    let (alone, beset) = (runs.of("alone", Policy::Usher), runs.of("beset", Policy::Usher));
    let (before, with) = (p99(alone, |user| user > 0), p99(beset, |user| user > 0));
    // all of them are p99s: a mean would be no bound for the unluckiest of a hundred
    let (mean, residual) = residual(beset, 0);
    Bar {
        measure: "the light clients' p99 time to first token beside it",
        bar: "≤ 2× what they see alone + one residual service time",
        found: format!(
            "{with:.2} s; alone {before:.2} s, residual {residual:.2} s at p99, {mean:.2} s on average"
        ),
        holds: with <= 2.0 * before + residual,
    }
}

fn cold(runs: &Runs) -> Bar {
    let per = |policy| {
        let world = runs.of("mixed", policy);
        1000.0 * loads(world) as f64 / world.fates.len() as f64
    };
    let (ours, theirs) = (per(Policy::Usher), per(Policy::LeastConn));
    Bar {
        measure: "mixed models on 3 instances: cold loads per 1000 requests",
        bar: "≤ half of least_conn",
        found: format!("{ours:.0}; least_conn {theirs:.0}"),
        holds: ours <= theirs / 2.0,
    }
}

fn eighty(runs: &Runs) -> Bar {
    let of = |policy| p99(runs.of("eighty", policy), |_| true);
    let (ours, theirs) = (of(Policy::Usher), of(Policy::LeastConn));
    Bar {
        measure: "one queue for the box: p99 time to first token at 80 % load",
        bar: "≤ half of least_conn",
        found: format!("{ours:.1} s; least_conn {theirs:.1} s"),
        holds: ours <= theirs / 2.0,
    }
}

fn chats(runs: &Runs) -> Bar {
    let of = |policy| read_again(runs.of("chats", policy));
    let (ours, theirs) = (of(Policy::Usher), of(Policy::LeastConn));
    Bar {
        measure: "multi-turn chats: prompt tokens read again",
        bar: "≤ a third of least_conn",
        found: format!("{ours}; least_conn {theirs}"),
        holds: ours * 3 <= theirs,
    }
}

fn refusing(runs: &Runs) -> Bar {
    let world = runs.of("refusing", Policy::Usher);
    let share = world.sent_to.get(1).copied().unwrap_or_default() as f64 / world.fates.len() as f64;
    let seen = count(world, End::Failed);
    Bar {
        measure: "an instance that answers 503 at once",
        bar: "< 1 % of requests, no client sees it",
        found: format!("{:.2} % of requests, {seen} clients saw it", share * 100.0),
        holds: share < 0.01 && seen == 0,
    }
}

/// Those that it was working on when it died are not repeated: what killed it would kill the next.
fn killed(runs: &Runs) -> Bar {
    let world = runs.of("killed", Policy::Usher);
    let failed = world.fates.iter().filter(|fate| fate.end == End::Failed && fate.first.is_none());
    let (at_work, later): (Vec<_>, Vec<_>) =
        failed.partition(|fate| fate.sent.is_some_and(|sent| sent <= DEATH.0));
    Bar {
        measure: "an instance killed under load: client errors before a first byte",
        bar: "none",
        found: format!(
            "{} of requests sent later, {} that it was reading when it died",
            later.len(),
            at_work.len()
        ),
        holds: later.is_empty() && at_work.is_empty(),
    }
}

fn back(runs: &Runs) -> Bar {
    let world = runs.of("killed", Policy::Usher);
    let after = world.back_at_work.first().map_or(f64::NAN, |(returned, at)| at - returned);
    Bar {
        measure: "… and at work again after it is back",
        bar: "< 2 s",
        found: format!("{after:.2} s"),
        holds: after < 2.0,
    }
}

fn leavers(runs: &Runs) -> Bar {
    let world = runs.of("leavers", Policy::Usher);
    let queued = left_in_queue(world);
    let read: u64 = world
        .fates
        .iter()
        .filter(|fate| fate.end == End::Left && fate.sent.is_none())
        .map(|fate| fate.read)
        .sum();
    Bar {
        measure: "clients that leave: GPU tokens for those still queued",
        bar: "0",
        found: format!("{read} tokens for {queued} of them"),
        holds: read == 0 && queued > 0,
    }
}
