mod fairness;
mod sharing;
mod storm;
mod swaps;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::*;
use crate::config::{Upstream, UpstreamKind};
use crate::model::ModelName;
use crate::payload::Prompt;
use crate::scheduler::breaker::State;
use crate::scheduler::wish::{Nowhere, Surface};
use crate::scheduler::{Facts, Post};

const MODELS: [&str; 3] = ["a", "b", "c"];

fn key(name: &str) -> ModelKey {
    ModelName::parse(name).unwrap().key().clone()
}

fn keys(names: &[&str]) -> Arc<HashSet<ModelKey>> {
    Arc::new(names.iter().map(|name| key(name)).collect())
}

fn upstream(name: &str, slots: u32, kind: UpstreamKind) -> Upstream {
    Upstream {
        name: name.to_owned(),
        place: crate::config::Place::default(),
        kind,
        tls: false,
        host: "127.0.0.1".to_owned(),
        port: 1,
        slots,
        model_slots: BTreeMap::new(),
        gpu: None,
        api_key: None,
    }
}

fn balance(queue: usize, queue_per_user: usize) -> Balance {
    Balance { queue, queue_per_user, max_queue_wait: Duration::from_secs(1) }
}

fn core(slots: &[u32], queue: usize, queue_per_user: usize) -> Core {
    let upstreams: Vec<_> =
        slots.iter().map(|slots| upstream("u", *slots, UpstreamKind::Ollama)).collect();
    let mut core = configured(&upstreams, &balance(queue, queue_per_user));
    for index in 0..slots.len() {
        core.learn(index, &up(&MODELS, &[]), Instant::now());
    }
    core
}

fn configured(upstreams: &[Upstream], balance: &Balance) -> Core {
    let mut core = Core::new(balance);
    core.reconfigure(posts(&(0..).zip(upstreams).collect::<Vec<_>>()), balance, Instant::now());
    core
}

fn posts<'c>(upstreams: &[(usize, &'c Upstream)]) -> Vec<Post<'c>> {
    upstreams.iter().map(|&(id, upstream)| Post { id, upstream, facts: None }).collect()
}

/// Models of a gigabyte each.
fn up(models: &[&str], residents: &[&str]) -> Facts {
    let bytes = |names: &[&str]| names.iter().map(|name| (key(name), 1 << 30)).collect();
    Facts {
        up: true,
        answered: true,
        models: keys(models),
        remote: keys(&[]),
        residents: keys(residents),
        sizes: Arc::new(bytes(models)),
        memory: Arc::new(bytes(residents)),
    }
}

fn wish(user: i64, model: &str) -> Wish {
    Wish {
        model: Some(key(model)),
        surface: Surface::Ollama,
        runner: Runner::default(),
        payer: Payer { user, key: None, end_user: 0, weight: 1 },
        concurrency: 100,
        key_concurrency: u32::MAX,
        prompt: Arc::new(Prompt::default()),
        most_output: None,
        streams: true,
        unloads: false,
        deadline: None,
        excluded: Vec::new(),
        number: None,
    }
}

fn seated(admitted: Result<Admitted, Refused>) -> Claim {
    match admitted {
        Ok(Admitted::Seated(_, claim)) => claim,
        Ok(Admitted::Waiting(..)) => panic!("waits instead of sitting"),
        Err(refused) => panic!("{refused}"),
    }
}

fn waiting(admitted: Result<Admitted, Refused>) -> u64 {
    match admitted.unwrap() {
        Admitted::Waiting(number) => number,
        Admitted::Seated(..) => panic!("sits instead of waiting"),
    }
}

/// The one seat that was given since this was asked last.
fn given(core: &mut Core) -> Option<(u64, Claim)> {
    let mut given = core.given();
    assert!(given.len() < 2, "{given:?}");
    given.pop()
}

fn given_to(core: &mut Core, number: u64) -> Claim {
    let (given, claim) = given(core).expect("a seat was given");
    assert_eq!(given, number);
    claim
}

fn end(outcome: Outcome) -> Ending {
    Ending { outcome, ..Ending::nothing() }
}

fn release(core: &mut Core, claim: &Claim, outcome: Outcome, now: Instant) {
    core.release(claim, &end(outcome), now);
}

#[test]
fn a_resident_model_is_preferred_and_its_next_slot_to_a_load_that_takes_longer() {
    let now = Instant::now();
    let mut core = core(&[2, 4], 8, 8);
    core.learn(0, &up(&MODELS, &["a"]), now);
    let seats: Vec<_> = (0..2).map(|_| seated(core.arrive(wish(1, "a"), now))).collect();
    assert!(seats.iter().all(|seat| seat.instance == 0 && !seat.cold));
    let third = waiting(core.arrive(wish(1, "a"), now));
    let mut seat = |model: &str| seated(core.arrive(wish(1, model), now)).instance;
    assert_eq!([seat("b"), seat("b"), seat("b")], [1, 1, 1], "there is no other free slot");
    release(&mut core, &seats[0], Outcome::Answered, now);
    assert_eq!(given_to(&mut core, third).instance, 0);
}

#[test]
fn nobody_waits_longer_for_a_better_seat_than_it_was_to_save() {
    let now = Instant::now();
    let mut core = core(&[1, 1], 8, 8);
    core.learn(0, &up(&MODELS, &["a"]), now);
    let _seat = seated(core.arrive(wish(1, "a"), now));
    let next = waiting(core.arrive(wish(1, "a"), now));
    core.learn(0, &up(&MODELS, &["a"]), now + Duration::from_secs(1));
    assert!(given(&mut core).is_none());
    core.learn(0, &up(&MODELS, &["a"]), now + Duration::from_secs(4));
    let claim = given_to(&mut core, next);
    assert!(claim.instance == 1 && claim.cold, "it takes the cold one after all");
}

#[test]
fn a_long_queue_of_one_user_leaves_no_instance_idle() {
    let now = Instant::now();
    let mut core = core(&[1, 1], 50, 50);
    core.learn(0, &up(&MODELS, &["a"]), now);
    let _seat = seated(core.arrive(wish(1, "a"), now));
    let first = waiting(core.arrive(wish(1, "a"), now));
    for _ in 1..8 {
        waiting(core.arrive(wish(1, "a"), now));
    }
    assert!(given(&mut core).is_none(), "they wait for the one that has the model");
    waiting(core.arrive(wish(1, "a"), now));
    let claim = given_to(&mut core, first);
    assert!(claim.instance == 1 && claim.cold, "too many for one to do");
}

#[test]
fn the_next_goes_where_the_fewest_are_in_flight_for_each_slot() {
    let now = Instant::now();
    let mut core = core(&[1, 3], 8, 8);
    (0..2).for_each(|id| core.learn(id, &up(&MODELS, &["a"]), now));
    let mut seat = || seated(core.arrive(wish(1, "a"), now)).instance;
    let mut seats = [seat(), seat(), seat(), seat()];
    seats.sort_unstable();
    assert_eq!(seats, [0, 1, 1, 1]);
}

#[test]
fn equals_take_turns() {
    let now = Instant::now();
    let mut core = core(&[1, 1, 1], 8, 8);
    (0..3).for_each(|id| core.learn(id, &up(&MODELS, &["a"]), now));
    let mut seen = HashSet::new();
    for _ in 0..3 {
        let claim = seated(core.arrive(wish(1, "a"), now));
        seen.insert(claim.instance);
        release(&mut core, &claim, Outcome::Answered, now);
    }
    assert_eq!(seen.len(), 3);
}

#[test]
fn a_drained_instance_gets_nobody_until_it_is_resumed_and_then_whoever_waits() {
    let now = Instant::now();
    let mut core = core(&[1, 1], 8, 8);
    assert!(core.set_drained(0, true, now));
    assert!(!core.set_drained(0, true, now), "it is so already");
    assert!(!core.set_drained(7, true, now), "it is none");
    assert_eq!(seated(core.arrive(wish(1, "a"), now)).instance, 1);
    let next = waiting(core.arrive(wish(1, "a"), now));
    assert!(core.set_drained(0, false, now));
    assert_eq!(given_to(&mut core, next).instance, 0);
    core.set_drained(0, true, now);
    core.set_drained(1, true, now);
    let refused = core.arrive(wish(1, "a"), now).map(drop).unwrap_err();
    assert_eq!(refused, Refused::Nowhere(Nowhere::NoInstance), "there is nobody to wait for");
}

#[test]
fn a_load_is_counted_once_until_probes_say_what_is_in_memory() {
    let now = Instant::now();
    let mut core = core(&[2], 8, 8);
    let first = seated(core.arrive(wish(1, "a"), now));
    let beside = seated(core.arrive(wish(1, "a"), now));
    assert!(first.cold && !beside.cold, "it is on its way for the first");
    release(&mut core, &first, Outcome::Answered, now);
    release(&mut core, &beside, Outcome::Answered, now);
    let third = seated(core.arrive(wish(1, "a"), now));
    assert!(!third.cold, "the probe has not seen it yet");
    release(&mut core, &third, Outcome::Answered, now);
    let later = now + Duration::from_secs(2);
    core.learn(0, &up(&MODELS, &["b"]), later);
    assert!(!seated(core.arrive(wish(1, "b"), later)).cold);
    assert!(seated(core.arrive(wish(1, "a"), later)).cold, "it was evicted");
}

#[test]
fn who_waits_first_is_seated_first_and_a_full_user_does_not_block_others() {
    let now = Instant::now();
    let mut core = core(&[2], 8, 8);
    let modest = |user| Wish { concurrency: 1, ..wish(user, "a") };
    let first = seated(core.arrive(modest(1), now));
    let second_of_one = waiting(core.arrive(modest(1), now));
    let of_two = seated(core.arrive(modest(2), now));
    let of_three = waiting(core.arrive(modest(3), now));
    release(&mut core, &of_two, Outcome::Answered, now);
    // user 1 holds all that they may
    given_to(&mut core, of_three);
    release(&mut core, &first, Outcome::Answered, now);
    given_to(&mut core, second_of_one);
}

/// Through a key that may hold one seat, of a user who may hold many.
fn through(key: i64, user: i64) -> Wish {
    let payer = Payer { key: Some(key), ..wish(user, "a").payer };
    Wish { payer, key_concurrency: 1, ..wish(user, "a") }
}

#[test]
fn a_key_with_a_limit_of_its_own_holds_up_itself_alone() {
    let now = Instant::now();
    let mut core = core(&[4], 8, 8);
    let first = seated(core.arrive(through(7, 1), now));
    let second = waiting(core.arrive(through(7, 1), now));
    let _other = seated(core.arrive(wish(1, "a"), now));
    let _third = seated(core.arrive(through(8, 1), now));
    assert!(given(&mut core).is_none(), "there is a seat, and none for this key");
    release(&mut core, &first, Outcome::Answered, now);
    given_to(&mut core, second);
}

#[test]
fn what_other_keys_hold_is_no_matter_to_a_keys_own_limit() {
    let now = Instant::now();
    let mut core = core(&[4], 8, 8);
    let _others = [(); 3].map(|()| seated(core.arrive(wish(1, "a"), now)));
    seated(core.arrive(through(7, 1), now));
}

#[test]
fn keys_of_one_user_are_served_in_the_order_in_which_they_came() {
    let now = Instant::now();
    let mut core = core(&[1], 8, 8);
    let mut seat = seated(core.arrive(wish(2, "a"), now));
    let came = [through(8, 1), wish(1, "a"), through(7, 1), through(8, 1)];
    for number in came.map(|wish| waiting(core.arrive(wish, now))) {
        release(&mut core, &seat, Outcome::Neutral, now);
        seat = given_to(&mut core, number);
    }
}

#[test]
fn the_queue_is_bounded_in_all_and_per_user() {
    let now = Instant::now();
    let mut core = core(&[1], 3, 2);
    let _seat = seated(core.arrive(wish(1, "a"), now));
    let _first = waiting(core.arrive(wish(1, "a"), now));
    let _second = waiting(core.arrive(wish(1, "a"), now));
    let refused = |core: &mut Core, user| core.arrive(wish(user, "a"), now).err();
    assert_eq!(refused(&mut core, 1), Some(Refused::Full(Full::User)));
    let _third = waiting(core.arrive(wish(2, "a"), now));
    assert_eq!(refused(&mut core, 3), Some(Refused::Full(Full::Box)));
}

#[test]
fn unknown_models_and_absent_instances_are_told_apart() {
    let now = Instant::now();
    let mut core = core(&[1, 1], 3, 2);
    let refused = |core: &mut Core, model: &str| match core.arrive(wish(1, model), now) {
        Err(Refused::Nowhere(nowhere)) => Some(nowhere),
        _ => None,
    };
    assert_eq!(refused(&mut core, "nobody-has-it"), Some(Nowhere::NoModel));
    core.learn(1, &up(&["b"], &[]), now);
    core.learn(0, &Facts { up: false, ..up(&["a"], &[]) }, now);
    assert_eq!(refused(&mut core, "a"), Some(Nowhere::NoInstance), "the one that has it is down");
    assert_eq!(refused(&mut core, "nobody-has-it"), Some(Nowhere::NoModel));
    core.learn(1, &Facts { up: false, ..up(&["b"], &[]) }, now);
    assert_eq!(refused(&mut core, "nobody-has-it"), Some(Nowhere::NoInstance));
}

#[test]
fn openai_servers_are_asked_on_v1_alone() {
    let now = Instant::now();
    let upstreams = [upstream("vllm", 1, UpstreamKind::OpenAi)];
    let mut core = configured(&upstreams, &balance(4, 4));
    core.learn(0, &up(&["a"], &[]), now);
    assert!(matches!(core.arrive(wish(1, "a"), now), Err(Refused::Nowhere(_))));
    let on_v1 = Wish { surface: Surface::V1, ..wish(1, "a") };
    assert_eq!(seated(core.arrive(on_v1, now)).instance, 0);
}

#[test]
fn slots_of_a_model_bound_that_model_alone() {
    let now = Instant::now();
    let mut config = upstream("u", 4, UpstreamKind::Ollama);
    config.model_slots.insert("a".to_owned(), 1);
    let mut core = configured(&[config], &balance(4, 4));
    core.learn(0, &up(&MODELS, &[]), now);
    let one = seated(core.arrive(wish(1, "a"), now));
    core.answered(&one, now);
    let _waits = waiting(core.arrive(wish(1, "A:latest"), now));
    let _other = seated(core.arrive(wish(1, "b"), now));
}

#[test]
fn an_instance_that_failed_gets_nobody_until_it_has_answered_a_probe() {
    let now = Instant::now();
    let mut core = core(&[1], 8, 8);
    let claim = seated(core.arrive(wish(1, "a"), now));
    let next = waiting(core.arrive(wish(2, "a"), now));
    release(&mut core, &claim, Outcome::Failed, now);
    assert!(given(&mut core).is_none(), "it may be dying");
    core.learn(0, &Facts { answered: false, ..up(&MODELS, &[]) }, now);
    assert!(given(&mut core).is_none(), "a probe failed, and one failure does not take it down");
    core.learn(0, &up(&MODELS, &[]), now);
    given_to(&mut core, next);
}

#[test]
fn an_instance_that_fails_three_times_rests_until_a_probe_and_then_gets_one_trial() {
    let start = Instant::now();
    let mut core = core(&[4], 8, 8);
    for _ in 0..3 {
        let claim = seated(core.arrive(wish(1, "a"), start));
        release(&mut core, &claim, Outcome::Failed, start);
        core.learn(0, &up(&MODELS, &[]), start);
    }
    let first = waiting(core.arrive(wish(1, "a"), start));
    let second = waiting(core.arrive(wish(1, "a"), start));
    core.learn(0, &up(&MODELS, &[]), start + Duration::from_secs(1));
    let trial = given_to(&mut core, first);
    assert!(given(&mut core).is_none(), "one at a time");
    core.answered(&trial, start);
    given_to(&mut core, second);
}

#[test]
fn a_removed_instance_keeps_whom_it_has_and_is_gone_with_the_last() {
    let now = Instant::now();
    let mut core = core(&[2, 1], 8, 8);
    let (first, second) =
        (seated(core.arrive(wish(1, "a"), now)), seated(core.arrive(wish(1, "a"), now)));
    let third = seated(core.arrive(wish(1, "a"), now));
    let _waits = waiting(core.arrive(wish(1, "a"), now));
    let other = upstream("u", 1, UpstreamKind::Ollama);
    core.reconfigure(posts(&[(1, &other)]), &balance(8, 8), now);
    for claim in [first, second, third].into_iter().filter(|claim| claim.instance == 0) {
        assert!(core.knows(0));
        release(&mut core, &claim, Outcome::Answered, now);
        assert!(given(&mut core).is_none(), "what it frees is for nobody");
    }
    assert!(!core.knows(0));
    assert_eq!(core.views().iter().map(|view| view.id).collect::<Vec<_>>(), [1]);
}

#[test]
fn who_waits_is_seated_by_an_instance_that_is_added() {
    let now = Instant::now();
    let mut core = core(&[1], 8, 8);
    let _seat = seated(core.arrive(wish(1, "a"), now));
    let waits = waiting(core.arrive(wish(1, "a"), now));
    let (old, new) =
        (upstream("u", 1, UpstreamKind::Ollama), upstream("v", 1, UpstreamKind::Ollama));
    let facts = Some(up(&MODELS, &[]));
    let posts =
        vec![Post { id: 0, upstream: &old, facts: None }, Post { id: 7, upstream: &new, facts }];
    core.reconfigure(posts, &balance(8, 8), now);
    assert_eq!(given_to(&mut core, waits).instance, 7);
}

#[test]
fn an_instance_that_returns_before_its_last_seat_is_free_counts_it_still() {
    let now = Instant::now();
    let mut core = core(&[1], 8, 8);
    let seat = seated(core.arrive(wish(1, "a"), now));
    core.reconfigure(Vec::new(), &balance(8, 8), now);
    let same = upstream("u", 1, UpstreamKind::Ollama);
    core.reconfigure(posts(&[(0, &same)]), &balance(8, 8), now);
    let waits = waiting(core.arrive(wish(1, "a"), now));
    release(&mut core, &seat, Outcome::Answered, now);
    given_to(&mut core, waits);
}
