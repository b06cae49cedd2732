//! What is read off a run.

use crate::instance::Make;
use crate::world::{End, Fate, World};

/// Nobody has a model in memory at first; what comes of that is not what is compared.
const WARM_UP: f64 = 60.0;

/// Seconds to the first token of those who got one and of whom this holds, in order.
pub fn first_tokens(world: &World, of: impl Fn(&Fate) -> bool) -> Vec<f64> {
    let later = world.fates.iter().filter(|fate| fate.request.arrives >= WARM_UP);
    let answered = later.filter(|fate| of(fate));
    let mut times: Vec<f64> =
        answered.filter_map(|fate| Some(fate.first? - fate.request.arrives)).collect();
    times.sort_unstable_by(f64::total_cmp);
    times
}

/// The value below which this share of the (ordered) values is.
pub fn percentile(values: &[f64], share: f64) -> f64 {
    let at = (values.len() as f64 * share).ceil() as usize;
    values.get(at.saturating_sub(1)).or_else(|| values.last()).copied().unwrap_or(f64::NAN)
}

pub fn count(world: &World, end: End) -> usize {
    world.fates.iter().filter(|fate| fate.end == end).count()
}

/// Tokens that a user was served: those of the prompt, and twice those of the answer.
pub fn served(world: &World, user: usize, until: f64) -> f64 {
    let done = world
        .fates
        .iter()
        .filter(|fate| fate.request.user == user && fate.done.is_some_and(|done| done <= until));
    done.map(|fate| (fate.request.prompt + 2 * fate.request.output) as f64).sum()
}

/// Seconds that an instance still works on a request of a user's, at a moment of chance: the mean.
pub fn residual(world: &World, user: usize) -> f64 {
    let times = world.fates.iter().filter(|fate| fate.request.user == user);
    let times: Vec<f64> = times.filter_map(|fate| Some(fate.done? - fate.sent?)).collect();
    let total: f64 = times.iter().sum();
    times.iter().map(|time| time * time).sum::<f64>() / (2.0 * total)
}

/// The soonest first tokens of those of whom this holds, if any order would do that takes nobody off
/// and does not know beforehand who will come: at the next end of anybody's after their coming,
/// with the rest of the box at work.
pub fn soonest(world: &World, make: &Make, of: impl Fn(&Fate) -> bool) -> Vec<f64> {
    let mut ends: Vec<f64> = world.fates.iter().filter_map(|fate| fate.done).collect();
    ends.sort_unstable_by(f64::total_cmp);
    let slowed = 1.0 + make.sharing * make.slots.saturating_sub(1) as f64;
    let later = world.fates.iter().filter(|fate| fate.request.arrives >= WARM_UP && of(fate));
    let mut times: Vec<f64> = later
        .filter_map(|fate| {
            let came = fate.request.arrives;
            let next = ends.get(ends.partition_point(|end| *end < came))?;
            Some(next - came + fate.request.prompt as f64 / make.prefill * slowed)
        })
        .collect();
    times.sort_unstable_by(f64::total_cmp);
    times
}

/// Seconds from a client's leaving to its slot's being free in the instance, of those that were
/// worked on, in order.
pub fn freed(world: &World) -> Vec<f64> {
    let left = world.fates.iter().filter(|fate| fate.sent.is_some());
    let mut times: Vec<f64> = left.filter_map(|fate| Some(fate.freed? - fate.left?)).collect();
    times.sort_unstable_by(f64::total_cmp);
    times
}

pub fn loads(world: &World) -> usize {
    world.instances.iter().map(|it| it.loads).sum()
}

/// Tokens of prompts that their conversations had sent before and that were read again.
pub fn read_again(world: &World) -> u64 {
    let done = world.fates.iter().filter(|fate| fate.end == End::Answered);
    done.map(|fate| {
        let new = fate.request.prompt.saturating_sub(fate.request.repeated);
        fate.read.saturating_sub(new)
    })
    .sum()
}

pub fn repeated(world: &World) -> u64 {
    let done = world.fates.iter().filter(|fate| fate.end == End::Answered);
    done.map(|fate| fate.request.repeated.min(fate.request.prompt)).sum()
}

/// Requests of clients who left before an instance had them.
pub fn left_in_queue(world: &World) -> usize {
    let left = world.fates.iter().filter(|fate| fate.end == End::Left);
    left.filter(|fate| fate.sent.is_none()).count()
}
