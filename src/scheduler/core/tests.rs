use std::collections::HashSet;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;

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
        kind,
        tls: false,
        host: "127.0.0.1".to_owned(),
        port: 1,
        slots,
        model_slots: BTreeMap::new(),
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
        core.learn(index, up(&MODELS, &[]), Instant::now());
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

fn up(models: &[&str], residents: &[&str]) -> Facts {
    Facts { up: true, answered: true, models: keys(models), residents: keys(residents) }
}

fn wish(user: i64, model: &str) -> Wish {
    Wish {
        model: Some(key(model)),
        surface: Surface::Ollama,
        user,
        concurrency: 100,
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

fn waiting(admitted: Result<Admitted, Refused>) -> (u64, oneshot::Receiver<Claim>) {
    match admitted {
        Ok(Admitted::Waiting(number, receiver)) => (number, receiver),
        Ok(Admitted::Seated(..)) => panic!("sits instead of waiting"),
        Err(refused) => panic!("{refused}"),
    }
}

#[test]
fn a_resident_model_is_preferred_then_the_fewest_in_flight_per_slot() {
    let now = Instant::now();
    let mut core = core(&[2, 4], 8, 8);
    core.learn(0, up(&MODELS, &["a"]), now);
    let mut seat = |model: &str| seated(core.arrive(wish(1, model), now)).instance;
    assert_eq!([seat("a"), seat("a")], [0, 0], "it is resident on the first");
    assert_eq!(seat("a"), 1, "the first is full: a cold start beats waiting for ever");
    assert_eq!([seat("b"), seat("b"), seat("b")], [1, 1, 1]);
}

#[test]
fn equals_take_turns() {
    let now = Instant::now();
    let mut core = core(&[1, 1, 1], 8, 8);
    let mut seen = HashSet::new();
    for _ in 0..3 {
        let claim = seated(core.arrive(wish(1, "a"), now));
        seen.insert(claim.instance);
        core.release(&claim, Outcome::Answered, now);
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
    let (_, mut next) = waiting(core.arrive(wish(1, "a"), now));
    assert!(core.set_drained(0, false, now));
    assert_eq!(next.try_recv().unwrap().instance, 0);
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
    core.release(&first, Outcome::Answered, now);
    core.release(&beside, Outcome::Answered, now);
    let third = seated(core.arrive(wish(1, "a"), now));
    assert!(!third.cold, "the probe has not seen it yet");
    core.release(&third, Outcome::Answered, now);
    core.learn(0, up(&MODELS, &["b"]), now);
    assert!(!seated(core.arrive(wish(1, "b"), now)).cold);
    assert!(seated(core.arrive(wish(1, "a"), now)).cold, "it was evicted");
}

#[test]
fn who_waits_first_is_seated_first_and_a_full_user_does_not_block_others() {
    let now = Instant::now();
    let mut core = core(&[2], 8, 8);
    let modest = |user| Wish { concurrency: 1, ..wish(user, "a") };
    let first = seated(core.arrive(modest(1), now));
    let (_, mut second_of_one) = waiting(core.arrive(modest(1), now));
    let of_two = seated(core.arrive(modest(2), now));
    let (_, mut of_three) = waiting(core.arrive(modest(3), now));
    core.release(&of_two, Outcome::Answered, now);
    assert!(of_three.try_recv().is_ok(), "user 1 holds all that they may");
    assert!(second_of_one.try_recv().is_err());
    core.release(&first, Outcome::Answered, now);
    assert!(second_of_one.try_recv().is_ok());
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
    core.learn(1, up(&["b"], &[]), now);
    core.learn(0, Facts { up: false, ..up(&["a"], &[]) }, now);
    assert_eq!(refused(&mut core, "a"), Some(Nowhere::NoInstance), "the one that has it is down");
    assert_eq!(refused(&mut core, "nobody-has-it"), Some(Nowhere::NoModel));
    core.learn(1, Facts { up: false, ..up(&["b"], &[]) }, now);
    assert_eq!(refused(&mut core, "nobody-has-it"), Some(Nowhere::NoInstance));
}

#[test]
fn openai_servers_are_asked_on_v1_alone() {
    let now = Instant::now();
    let upstreams = [upstream("vllm", 1, UpstreamKind::OpenAi)];
    let mut core = configured(&upstreams, &balance(4, 4));
    core.learn(0, up(&["a"], &[]), now);
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
    core.learn(0, up(&MODELS, &[]), now);
    let _one = seated(core.arrive(wish(1, "a"), now));
    let _waits = waiting(core.arrive(wish(1, "A:latest"), now));
    let _other = seated(core.arrive(wish(1, "b"), now));
}

#[test]
fn an_instance_that_failed_gets_nobody_until_it_has_answered_a_probe() {
    let now = Instant::now();
    let mut core = core(&[1], 8, 8);
    let claim = seated(core.arrive(wish(1, "a"), now));
    let (_, mut next) = waiting(core.arrive(wish(2, "a"), now));
    core.release(&claim, Outcome::Failed, now);
    assert!(next.try_recv().is_err(), "it may be dying");
    core.learn(0, Facts { answered: false, ..up(&MODELS, &[]) }, now);
    assert!(next.try_recv().is_err(), "a probe failed, and one failure does not take it down");
    core.learn(0, up(&MODELS, &[]), now);
    assert!(next.try_recv().is_ok());
}

#[test]
fn an_instance_that_fails_three_times_rests_until_a_probe_and_then_gets_one_trial() {
    let start = Instant::now();
    let mut core = core(&[4], 8, 8);
    for _ in 0..3 {
        let claim = seated(core.arrive(wish(1, "a"), start));
        core.release(&claim, Outcome::Failed, start);
        core.learn(0, up(&MODELS, &[]), start);
    }
    let (_, mut first) = waiting(core.arrive(wish(1, "a"), start));
    let (_, mut second) = waiting(core.arrive(wish(1, "a"), start));
    core.learn(0, up(&MODELS, &[]), start + Duration::from_secs(1));
    let trial = first.try_recv().expect("the trial");
    assert!(second.try_recv().is_err(), "one at a time");
    core.answered(&trial, start);
    assert!(second.try_recv().is_ok());
}

#[test]
fn a_removed_instance_keeps_whom_it_has_and_is_gone_with_the_last() {
    let now = Instant::now();
    let mut core = core(&[2, 1], 8, 8);
    let (first, second) =
        (seated(core.arrive(wish(1, "a"), now)), seated(core.arrive(wish(1, "a"), now)));
    let third = seated(core.arrive(wish(1, "a"), now));
    let (_, mut waits) = waiting(core.arrive(wish(1, "a"), now));
    let other = upstream("u", 1, UpstreamKind::Ollama);
    core.reconfigure(posts(&[(1, &other)]), &balance(8, 8), now);
    for claim in [first, second, third].into_iter().filter(|claim| claim.instance == 0) {
        assert!(core.knows(0));
        core.release(&claim, Outcome::Answered, now);
        assert!(waits.try_recv().is_err(), "what it frees is for nobody");
    }
    assert!(!core.knows(0));
    assert_eq!(core.views().iter().map(|view| view.id).collect::<Vec<_>>(), [1]);
}

#[test]
fn who_waits_is_seated_by_an_instance_that_is_added() {
    let now = Instant::now();
    let mut core = core(&[1], 8, 8);
    let _seat = seated(core.arrive(wish(1, "a"), now));
    let (_, mut waits) = waiting(core.arrive(wish(1, "a"), now));
    let (old, new) =
        (upstream("u", 1, UpstreamKind::Ollama), upstream("v", 1, UpstreamKind::Ollama));
    let facts = Some(up(&MODELS, &[]));
    let posts =
        vec![Post { id: 0, upstream: &old, facts: None }, Post { id: 7, upstream: &new, facts }];
    core.reconfigure(posts, &balance(8, 8), now);
    assert_eq!(waits.try_recv().unwrap().instance, 7);
}

#[test]
fn an_instance_that_returns_before_its_last_seat_is_free_counts_it_still() {
    let now = Instant::now();
    let mut core = core(&[1], 8, 8);
    let seat = seated(core.arrive(wish(1, "a"), now));
    core.reconfigure(Vec::new(), &balance(8, 8), now);
    let same = upstream("u", 1, UpstreamKind::Ollama);
    core.reconfigure(posts(&[(0, &same)]), &balance(8, 8), now);
    let (_, mut waits) = waiting(core.arrive(wish(1, "a"), now));
    core.release(&seat, Outcome::Answered, now);
    assert!(waits.try_recv().is_ok());
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Arrive {
        user: i64,
        model: usize,
        concurrency: u32,
    },
    Leave(usize),
    Release(usize, bool),
    Learn {
        instance: usize,
        up: bool,
    },
    /// Slots of each instance; 0 is one that is not configured.
    Reconfigure([u32; 3]),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..4_i64, 0..3_usize, 1..4_u32)
            .prop_map(|(user, model, concurrency)| Step::Arrive { user, model, concurrency }),
        2 => any::<usize>().prop_map(Step::Leave),
        4 => (any::<usize>(), any::<bool>()).prop_map(|(i, failed)| Step::Release(i, failed)),
        1 => (0..3_usize, any::<bool>()).prop_map(|(instance, up)| Step::Learn { instance, up }),
        1 => [0..4_u32, 0..4_u32, 0..4_u32].prop_map(Step::Reconfigure),
    ]
}

/// The world outside the core: tickets that wait and claims that are held.
#[derive(Default)]
struct Outside {
    waiting: Vec<(u64, oneshot::Receiver<Claim>)>,
    held: Vec<Claim>,
}

impl Outside {
    fn collect(&mut self) {
        self.waiting.retain_mut(|(_, receiver)| match receiver.try_recv() {
            Ok(claim) => {
                self.held.push(claim);
                false
            }
            Err(_) => true,
        });
    }

    fn take(&mut self, core: &mut Core, step: Step, now: Instant) {
        match step {
            Step::Arrive { user, model, concurrency } => {
                match core.arrive(Wish { concurrency, ..wish(user, MODELS[model]) }, now) {
                    Ok(Admitted::Seated(_, claim)) => self.held.push(claim),
                    Ok(Admitted::Waiting(number, receiver)) => {
                        self.waiting.push((number, receiver))
                    }
                    Err(_) => {}
                }
            }
            Step::Leave(index) if !self.waiting.is_empty() => {
                let (number, _) = self.waiting.remove(index % self.waiting.len());
                assert!(core.leave(number), "who waits is in the queue");
            }
            Step::Release(index, failed) if !self.held.is_empty() => {
                let claim = self.held.remove(index % self.held.len());
                let outcome = if failed { Outcome::Failed } else { Outcome::Answered };
                core.release(&claim, outcome, now);
            }
            Step::Learn { instance, up } => {
                core.learn(instance, Facts { up, ..self::up(&MODELS, &[]) }, now);
            }
            Step::Reconfigure(slots) => reconfigure(core, slots, now),
            Step::Leave(_) | Step::Release(..) => {}
        }
        self.collect();
    }
}

fn reconfigure(core: &mut Core, slots: [u32; 3], now: Instant) {
    let upstreams = slots.map(|slots| upstream("u", slots, UpstreamKind::Ollama));
    let posts = (0..).zip(&upstreams).filter(|(_, upstream)| upstream.slots > 0);
    let facts = Some(up(&MODELS, &[]));
    let posts = posts.map(|(id, upstream)| Post { id, upstream, facts: facts.clone() }).collect();
    core.reconfigure(posts, &balance(16, 6), now);
}

/// Requests in flight on each instance, configured or not.
fn loads(core: &Core) -> [u32; 3] {
    [0, 1, 2].map(|id| core.stations.get(&id).map_or(0, |station| station.in_flight))
}

proptest! {
    #[test]
    fn no_storm_loses_a_seat_or_overfills_an_instance(
        steps in prop::collection::vec(step(), 0..200)
    ) {
        let mut slots = [1, 2, 3];
        let mut core = core(&slots, 16, 6);
        let mut outside = Outside::default();
        let mut now = Instant::now();
        for step in steps {
            now += Duration::from_millis(50);
            if let Step::Reconfigure(new) = step {
                slots = new;
            }
            let before = loads(&core);
            outside.take(&mut core, step, now);
            for ((after, before), slots) in loads(&core).into_iter().zip(before).zip(slots) {
                // fewer slots than requests cut nobody off, but let nobody in
                prop_assert!(after <= slots.max(before));
            }
            prop_assert_eq!(core.taken() as usize, outside.held.len());
            for (id, station) in &core.stations {
                prop_assert!(!station.is_gone());
                prop_assert_eq!(station.retired, slots[*id] == 0);
            }
            prop_assert_eq!(core.waiting(), outside.waiting.len());
            prop_assert!(core.waiting() <= 16);
            // work conserving: whoever waits could not be served now
            for waiting in core.queue.values() {
                let held_up = !core.may_hold_more(&waiting.wish);
                prop_assert!(held_up || core.place(&waiting.wish).is_none());
            }
        }
        for (number, _) in outside.waiting.drain(..) {
            prop_assert!(core.leave(number));
        }
        for claim in outside.held.drain(..) {
            core.release(&claim, Outcome::Neutral, now);
        }
        prop_assert!(core.held_by.is_empty() && core.waiting_of.is_empty());
        prop_assert!(core.stations.values().all(|s| s.in_flight == 0 && s.per_model.is_empty()));
    }
}
