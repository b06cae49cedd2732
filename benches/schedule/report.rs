//! RESULTS.md.

use std::fmt::Write as _;

use crate::bars::Bar;
use crate::gateway::{ALL, Policy};
use crate::measure::{count, first_tokens, loads, percentile, read_again, repeated, served};
use crate::world::{End, World};
use crate::{Judged, Runs};

/// The page.
pub fn write(runs: &Runs, judged: &[Judged], seed: u64) -> String {
    let mut page = String::new();
    let seeds = judged.len().to_string();
    // writing into memory cannot fail
    let _ = write!(page, "{}", HEAD.replace("SEEDS", &seeds).replace("SEED", &seed.to_string()));
    table_of_bars(judged, &mut page);
    table_of_bounds(judged, &mut page);
    fairness(runs, &mut page);
    models(runs, &mut page);
    queue(runs, &mut page);
    chats(runs, &mut page);
    trouble(runs, &mut page);
    page
}

const HEAD: &str = "\
# The scheduler, simulated

Everything here is virtual time: the scheduler's own core, and nginx's `least_conn`, random choice
and round robin as their documentation describes them, before the same modelled instances, with the
same requests. No network, no threads, no clock: the same seed gives the same numbers anywhere.

    make schedule        # SEEDS seeds from SEED on
    cargo bench --bench schedule -- seed 7       # prints those of another one

An instance reads 2000 tokens a second and writes 50, each further request at work slows the others
down by a quarter, a load takes 5 seconds, one at a time, and prompts are cached from slots and
memory for as many conversations as slots and six more. A model is loaded for whoever comes first,
and given up when that one leaves; in front of a loaded model waits who comes, without bound.

## What must be shown

";

/// Every bar over all seeds; the worst of them decides.
fn table_of_bars(judged: &[Judged], page: &mut String) {
    let _ =
        writeln!(page, "| measure | bar | least | median | most | |\n|---|---|---|---|---|---|");
    for row in rows(judged, |it| &it.bars) {
        let Some((worst, first)) = row.worst().zip(row.bars.first()) else { continue };
        let mark = if row.bars.iter().all(|bar| bar.holds()) {
            "holds".to_owned()
        } else {
            let broken = row.bars.iter().filter(|bar| !bar.holds()).count();
            let most = worst.written(worst.most);
            format!("**does not hold** with {broken} of them: {most} where it is worst")
        };
        let [least, median, most] = row.spread().map(|value| first.written(value));
        let _ = writeln!(
            page,
            "| {} | {} | {least} | {median} | {most} | {mark} |",
            first.measure, first.bar
        );
    }
}

/// What theory allows.
fn table_of_bounds(judged: &[Judged], page: &mut String) {
    let _ = writeln!(page, "\n{BOUNDS}\n");
    let _ = writeln!(
        page,
        "| measure | beside | found: least | median | most | beside it: least | median | most |\n\
         |---|---|---|---|---|---|---|---|"
    );
    for row in rows(judged, |it| &it.bounds) {
        let Some(first) = row.bars.first() else { continue };
        let found = row.spread().map(|value| first.written(value));
        let bound = row.spread_of(|bar| bar.most).map(|value| first.written(value));
        let cells: Vec<String> = found.into_iter().chain(bound).collect();
        let cells = cells.join(" | ");
        let _ = writeln!(page, "| {} | {} | {cells} |", first.measure, first.bar);
    }
}

const BOUNDS: &str = "\
How far that is from what any order of the same requests could do that takes nobody off a slot and
knows neither who will come nor how long an answer will be. A light client that comes while every slot
is taken waits for the next of them at least, and then has its prompt read beside somebody else: the
first row has what that alone comes to. Strangers wait as long on the whole in whatever order they
are served, if no slot is idle while one waits, and their waits differ least if they are served as
they came: the second row has what that comes to, beside `least_conn`.";

/// One bar with every seed.
struct Row<'a> {
    bars: Vec<&'a Bar>,
}

fn rows<'a>(
    judged: &'a [Judged],
    of: impl Fn(&'a Judged) -> &'a Vec<Bar>,
) -> impl Iterator<Item = Row<'a>> {
    let count = judged.first().map_or(0, |first| of(first).len());
    (0..count).map(move |at| Row { bars: judged.iter().filter_map(|it| of(it).get(at)).collect() })
}

impl Row<'_> {
    fn worst(&self) -> Option<&Bar> {
        let beyond = |bar: &&&Bar| bar.found - bar.most;
        self.bars.iter().max_by(|a, b| beyond(a).total_cmp(&beyond(b))).copied()
    }

    fn spread(&self) -> [f64; 3] {
        self.spread_of(|bar| bar.found)
    }

    /// The least, the median and the most.
    fn spread_of(&self, value: impl Fn(&Bar) -> f64) -> [f64; 3] {
        let mut values: Vec<f64> = self.bars.iter().map(|bar| value(bar)).collect();
        values.sort_unstable_by(f64::total_cmp);
        let median = values.get(values.len() / 2);
        [values.first(), median, values.last()].map(|it| it.copied().unwrap_or(f64::NAN))
    }
}

/// A table with a column for everybody who chooses.
fn table(page: &mut String, rows: &[(&str, &dyn Fn(Policy) -> String)]) {
    let _ = write!(page, "\n| |");
    for policy in ALL {
        let _ = write!(page, " {} |", policy.name());
    }
    let _ = writeln!(page, "\n|---|---|---|---|---|");
    for (name, cell) in rows {
        let _ = write!(page, "| {name} |");
        for policy in ALL {
            let _ = write!(page, " {} |", cell(policy));
        }
        let _ = writeln!(page);
    }
}

fn times(world: &World, share: f64, of: impl Fn(usize) -> bool) -> String {
    let times = first_tokens(world, |fate| of(fate.request.user));
    format!("{:.2} s", percentile(&times, share))
}

fn fairness(runs: &Runs, page: &mut String) {
    let _ = writeln!(page, "\n## One who wants ten times as much\n\n{FAIRNESS}");
    let greedy = |policy| runs.of("greedy", policy);
    let share = |policy| {
        let all: f64 = (0..10).map(|user| served(greedy(policy), user, 900.0)).sum();
        format!("{:.1} %", 100.0 * served(greedy(policy), 0, 900.0) / all)
    };
    let light = |policy, share| times(runs.of("beset", policy), share, |user| user > 0);
    let alone = |policy| times(runs.of("alone", policy), 0.99, |user| user > 0);
    table(
        page,
        &[
            ("share of the greedy one (fair: 10 %)", &share),
            ("light clients: first token, median", &|policy| light(policy, 0.5)),
            ("light clients: first token, p99", &|policy| light(policy, 0.99)),
            ("light clients without the greedy one, p99", &alone),
        ],
    );
    let _ = writeln!(page, "\n![Times to first token beside a greedy client](light.svg)");
}

const FAIRNESS: &str = "\
Ten clients on two instances of two slots, all always asking for more, one of them with 40 requests
under way and the others with four each; and nine clients who ask once a minute, with and without a
tenth who always has 40 under way.";

fn models(runs: &Runs, page: &mut String) {
    let _ = writeln!(page, "\n## More models than room\n\n{MODELS}");
    let rate = |scene, policy| {
        let world: &World = runs.of(scene, policy);
        format!("{:.0}", 1000.0 * loads(world) as f64 / world.fates.len() as f64)
    };
    table(
        page,
        &[
            ("five on three: loads per 1000", &|policy| rate("mixed", policy)),
            ("first token, median", &|policy| times(runs.of("mixed", policy), 0.5, |_| true)),
            ("first token, p99", &|policy| times(runs.of("mixed", policy), 0.99, |_| true)),
            ("three on two: loads per 1000", &|policy| rate("three on two", policy)),
            ("first token, median", &|policy| {
                times(runs.of("three on two", policy), 0.5, |_| true)
            }),
            ("first token, p99", &|policy| times(runs.of("three on two", policy), 0.99, |_| true)),
        ],
    );
    let _ = writeln!(page, "\n![Cold loads per 1000 requests](loads.svg)");
}

const MODELS: &str = "\
Five models of unequal fame on three instances, and three on two, with room for one each.";

fn queue(runs: &Runs, page: &mut String) {
    let _ = writeln!(page, "\n## One queue\n\n{QUEUE}");
    let of = |scene, share, keep: fn(usize) -> bool| {
        move |policy| times(runs.of(scene, policy), share, keep)
    };
    table(
        page,
        &[
            ("conversations, 80 % load: first token, median", &of("eighty", 0.5, |_| true)),
            ("conversations, 80 % load: first token, p99", &of("eighty", 0.99, |_| true)),
            ("strangers, 80 % load: first token, median", &of("strangers", 0.5, |_| true)),
            ("strangers, 80 % load: first token, p99", &of("strangers", 0.99, |_| true)),
            ("the same, all of one user (in order), p99", &of("in order", 0.99, |_| true)),
            ("beside bursts of embeddings: chats, p99", &of("bursts", 0.99, |user| user > 0)),
            ("the embeddings themselves, p99", &of("bursts", 0.99, |user| user == 0)),
            ("beside large prompts: the others, p99", &of("large prompts", 0.99, |user| user > 0)),
        ],
    );
    let _ = writeln!(page, "\n![Times to first token of conversations at 80 % load](eighty.svg)");
}

const QUEUE: &str = "\
People in conversations with two models on three instances of two slots with room for one model
each, at 80 % of what the box can do if nothing is loaded or read twice. Then requests that have
nothing to do with each other, for one model on three instances of one slot, most answers short and
some very long, also at 80 %: nothing can be saved there but turns, and how long the unlucky wait is
a matter of the load more than of who chooses. Then six who chat beside 200 embeddings a minute in
one burst; and eight with short prompts beside one with prompts of 12,000 tokens.";

fn chats(runs: &Runs, page: &mut String) {
    let _ = writeln!(page, "\n## Conversations\n\n{CHATS}");
    let of = |policy| runs.of("chats", policy);
    table(
        page,
        &[
            ("prompt tokens sent again", &|policy| repeated(of(policy)).to_string()),
            ("of them read again", &|policy| read_again(of(policy)).to_string()),
            ("first token, median", &|policy| times(of(policy), 0.5, |_| true)),
            ("first token, p99", &|policy| times(of(policy), 0.99, |_| true)),
        ],
    );
    let _ = writeln!(page, "\n![Prompt tokens read again](chats.svg)");
}

const CHATS: &str = "Twelve conversations of twelve turns each, on three instances of two slots.";

fn trouble(runs: &Runs, page: &mut String) {
    let _ = writeln!(page, "\n## Trouble\n\n{TROUBLE}");
    let failed = |scene| move |policy| count(runs.of(scene, policy), End::Failed).to_string();
    let sent = |policy| {
        let world = runs.of("refusing", policy);
        let sent = world.sent_to.get(1).copied().unwrap_or_default();
        format!("{:.1} %", 100.0 * sent as f64 / world.fates.len() as f64)
    };
    let open = |policy| count(runs.of("hung", policy), End::Open).to_string();
    table(
        page,
        &[
            ("503 at once: share of requests that met it", &sent),
            ("503 at once: clients that saw it", &failed("refusing")),
            ("killed: clients that saw it", &failed("killed")),
            ("killed: first token, median", &|policy| {
                times(runs.of("killed", policy), 0.5, |_| true)
            }),
            ("killed: first token, p99", &|policy| {
                times(runs.of("killed", policy), 0.99, |_| true)
            }),
            ("the same, all of one user (in order), median", &|policy| {
                times(runs.of("killed, in order", policy), 0.5, |_| true)
            }),
            ("the same, all of one user (in order), p99", &|policy| {
                times(runs.of("killed, in order", policy), 0.99, |_| true)
            }),
            ("hung: requests that never ended", &open),
            ("clients leave: answered", &|policy| {
                count(runs.of("leavers", policy), End::Answered).to_string()
            }),
            ("clients leave: the others' first token, p99", &|policy| {
                times(runs.of("leavers", policy), 0.99, |_| true)
            }),
        ],
    );
}

const TROUBLE: &str = "\
One of three instances answers 503 at once; is killed and back after half a minute; hangs for good
while its probes succeed. What a killed instance was working on is repeated by nobody. In the last
rows a third of the clients leave after some seconds, of a box that is asked for more than it has.";
