//! What a seat costs.

use std::collections::{HashSet, VecDeque};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
use futures_util::FutureExt;
use parking_lot::Mutex;

use usher::config::{Balance, Config};
use usher::model::{ModelKey, ModelName};
use usher::payload::{self, Prompt};
use usher::scheduler::core::{Admitted, Core, Ending};
use usher::scheduler::{Facts, Outcome, Payer, Post, Report, Scheduler, Surface, Ticket, Wish};

use crate::config;

/// What a seat costs, taken and given back: on an idle box, beside the least that any balance does,
/// and where every release hands the seat to the first of 512 who wait.
pub(crate) fn seating(c: &mut Criterion) {
    let mut group = c.benchmark_group("seat");
    let scheduler = scheduler();
    group.bench_function("take and free, idle", |b| {
        b.iter(|| drop(scheduler.enter(black_box(wish(1)))));
    });
    whole_turns(&mut group);
    decisions(&mut group);
    kinds(&mut group);
    let mut held: VecDeque<Ticket> =
        (0..SLOTS + 512).filter_map(|user| scheduler.enter(wish(user)).ok()).collect();
    assert_eq!(scheduler.waiting(), 512);
    group.bench_function("free and join the end, 512 waiting", |b| {
        b.iter(|| {
            // first come, first served: the oldest ticket is the one that is seated
            drop(held.pop_front());
            held.extend(scheduler.enter(black_box(wish(1_000_000))));
        });
    });
    group.finish();
}

/// A request's whole turn on an idle box, with all that is learnt from its answer, and the same with
/// counters alone: what the scheduler costs is the difference.
fn whole_turns(group: &mut BenchmarkGroup<'_, WallTime>) {
    let scheduler = scheduler();
    let message = |turn: usize| format!("{turn} {}", "a word or two ".repeat(30));
    let talk = |turns: usize| (0..turns).map(message).collect::<Vec<_>>();
    let prompts = (1..=20).map(|turns| Arc::new(Prompt::of_messages(&talk(turns))));
    let mut prompts = prompts.collect::<Vec<_>>().into_iter().cycle();
    let template = wish(1);
    let report = Report {
        prompt: Some(1000),
        completion: Some(100),
        prefill: Some(Duration::from_millis(500)),
        decode: Some(Duration::from_secs(2)),
        total: Some(Duration::from_millis(2510)),
        load: Some(Duration::from_millis(5)),
    };
    group.bench_function("a request's whole turn, idle", |b| {
        b.iter(|| {
            let Some(prompt) = prompts.next() else { return };
            let wish = Wish { prompt, ..template.clone() };
            let Ok(ticket) = scheduler.enter(black_box(wish)) else { return };
            let Some(mut seat) = ticket.seat().now_or_never() else { return };
            seat.report(Outcome::Answered);
            seat.account(report, 100);
            drop(black_box(seat));
        });
    });
    let counting = Counting::new();
    group.bench_function("a request's whole turn, counters alone", |b| {
        b.iter(|| {
            let wish = template.clone();
            let Some(model) = &wish.model else { return };
            drop(black_box(counting.take(black_box(model))));
        });
    });
}

/// The first form of a balance: where the fewest are in flight, of those that have the model and a
/// slot.
struct Counting(Mutex<Vec<Counted>>);

struct Counted {
    models: HashSet<ModelKey>,
    slots: u32,
    in_flight: u32,
}

impl Counting {
    fn new() -> Self {
        let config = config();
        let counted = posts(&config).into_iter().map(|post| Counted {
            models: post.facts.map(|facts| (*facts.models).clone()).unwrap_or_default(),
            slots: post.upstream.slots,
            in_flight: 0,
        });
        Self(Mutex::new(counted.collect()))
    }

    fn take(&self, model: &ModelKey) -> Option<Taken<'_>> {
        let mut all = self.0.lock();
        let able = all.iter_mut().enumerate();
        let able = able.filter(|(_, it)| it.in_flight < it.slots && it.models.contains(model));
        let (at, least) = able.min_by_key(|(_, it)| it.in_flight)?;
        least.in_flight += 1;
        Some(Taken { counting: self, at })
    }
}

/// One in flight.
struct Taken<'a> {
    counting: &'a Counting,
    at: usize,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if let Some(counted) = self.counting.0.lock().get_mut(self.at) {
            counted.in_flight -= 1;
        }
    }
}

/// What it costs to give a seat to the next of 10,000 requests of 1,000 users, and to take in the
/// one that comes instead: ten decisions, so that no lucky one is counted.
fn decisions(group: &mut BenchmarkGroup<'_, WallTime>) {
    let config = config();
    let mut core = Core::new(&config.balance);
    let now = std::time::Instant::now();
    core.reconfigure(
        posts(&config),
        &Balance { queue: 20_000, queue_per_user: 100, ..config.balance.clone() },
        now,
    );
    let mut held = VecDeque::new();
    for number in 0..10_008 {
        if let Ok(Admitted::Seated(_, claim)) = core.arrive(wish(number % 1000), now) {
            held.push_back(claim);
        }
    }
    assert_eq!((held.len(), core.waiting()), (8, 10_000));
    let ending = Ending { outcome: Outcome::Answered, ..Ending::nothing() };
    let mut user = 0;
    group.throughput(Throughput::Elements(10));
    group.bench_function("decide, 10,000 of 1,000 users waiting", |b| {
        b.iter(|| {
            for _ in 0..10 {
                let Some(claim) = held.pop_front() else { return };
                core.release(&claim, &ending, now);
                held.extend(core.given().into_iter().map(|(_, claim)| claim));
                user = (user + 1) % 1000;
                assert!(core.arrive(black_box(wish(user)), now).is_ok());
            }
        });
    });
    group.throughput(Throughput::Elements(1));
}

/// The same with as many who wait, each for a load with options of its own: nothing is in a line
/// behind anything else, and nobody but one can be served.
fn kinds(group: &mut BenchmarkGroup<'_, WallTime>) {
    let config = config();
    let mut core = Core::new(&config.balance);
    let now = std::time::Instant::now();
    core.reconfigure(posts(&config), &config.balance, now);
    let mut held = VecDeque::new();
    let odd = |at: i64| {
        let body = format!(r#"{{"model":"llama3.2","options":{{"num_ctx":{}}}}}"#, 2048 + at);
        let runner = payload::inspect(body.as_bytes()).map(|it| it.runner()).unwrap_or_default();
        Wish { runner, ..wish(at) }
    };
    for at in 0..8 {
        if let Ok(Admitted::Seated(_, claim)) = core.arrive(wish(at), now) {
            held.push_back(claim);
        }
    }
    let waiting = (0..512).filter(|at| core.arrive(odd(*at), now).is_ok()).count();
    assert_eq!((held.len(), waiting), (8, 512));
    let ending = Ending { outcome: Outcome::Answered, ..Ending::nothing() };
    group.bench_function("decide, 512 kinds of requests waiting", |b| {
        b.iter(|| {
            let Some(claim) = held.pop_front() else { return };
            assert!(core.arrive(black_box(wish(7)), now).is_ok());
            core.release(&claim, &ending, now);
            held.extend(core.given().into_iter().map(|(_, claim)| claim));
        });
    });
}

/// Slots of the two instances together.
const SLOTS: i64 = 8;

fn scheduler() -> Arc<Scheduler> {
    let config = config();
    let scheduler = Arc::new(Scheduler::new(&config.balance));
    scheduler.reconfigure(posts(&config), &config.balance);
    scheduler
}

fn posts(config: &Config) -> Vec<Post<'_>> {
    let models: HashSet<_> =
        ModelName::parse("llama3.2").iter().map(|name| name.key().clone()).collect();
    let models = Arc::new(models);
    let residents = Arc::clone(&models);
    let facts = Facts { up: true, answered: true, models, residents, ..Facts::default() };
    let posts = (0..).zip(&config.upstreams);
    posts.map(|(id, upstream)| Post { id, upstream, facts: Some(facts.clone()) }).collect()
}

fn wish(user: i64) -> Wish {
    let model = ModelName::parse("llama3.2").ok().map(|name| name.key().clone());
    Wish {
        model,
        surface: Surface::Ollama,
        runner: payload::Runner::default(),
        payer: Payer { user, key: None, end_user: 0, weight: 1 },
        concurrency: u32::MAX,
        key_concurrency: u32::MAX,
        prompt: Arc::default(),
        most_output: None,
        streams: true,
        unloads: false,
        // as OpenAI's SDKs have it
        deadline: Some(Duration::from_secs(600)),
        excluded: Vec::new(),
        number: None,
    }
}
