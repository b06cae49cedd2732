//! Random arrivals, cancels, failures, reloads and drains, and what must hold after each.

use proptest::prelude::*;

use super::*;
use crate::scheduler::core::dispatch::PATIENT;
use crate::scheduler::placement::{Look, Verdict};

#[derive(Clone, Copy, Debug)]
enum Step {
    Arrive {
        user: i64,
        end_user: u64,
        model: usize,
        /// Its key, and the seats that may be held through it.
        key: (Option<i64>, u32),
        topic: usize,
    },
    Leave(usize),
    Answered(usize),
    Release(usize, Outcome),
    Detach(usize),
    LoadEnded(usize, bool),
    Learn {
        instance: usize,
        up: bool,
        residents: usize,
    },
    Drain {
        instance: usize,
        drained: bool,
    },
    /// Slots of each instance; 0 is one that is not configured.
    Reconfigure([u32; 3]),
    Later(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let outcome = prop_oneof![
        6 => Just(Outcome::Answered), 1 => Just(Outcome::Failed), 2 => Just(Outcome::Neutral)
    ];
    prop_oneof![
        8 => (0..4_i64, 0..2_u64, 0..3_usize, key(), 0..4_usize).prop_map(
            |(user, end_user, model, key, topic)| Step::Arrive {
                user, end_user, model, key, topic
            }
        ),
        2 => any::<usize>().prop_map(Step::Leave),
        2 => any::<usize>().prop_map(Step::Answered),
        6 => (any::<usize>(), outcome).prop_map(|(i, outcome)| Step::Release(i, outcome)),
        1 => any::<usize>().prop_map(Step::Detach),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(i, worked)| Step::LoadEnded(i, worked)),
        2 => (0..3_usize, prop::bool::weighted(0.9), 0..8_usize)
            .prop_map(|(instance, up, residents)| Step::Learn { instance, up, residents }),
        1 => (0..3_usize, any::<bool>())
            .prop_map(|(instance, drained)| Step::Drain { instance, drained }),
        1 => [0..4_u32, 0..4_u32, 0..4_u32].prop_map(Step::Reconfigure),
        2 => (1..20_000_u64).prop_map(Step::Later),
    ]
}

/// Seats that a user may hold.
fn seats_of(user: i64) -> u32 {
    1 + user as u32 % 3
}

fn key() -> impl Strategy<Value = (Option<i64>, u32)> {
    prop_oneof![Just((None, u32::MAX)), (1..3_i64, 1..4_u32).prop_map(|(key, n)| (Some(key), n))]
}

/// The world outside the core: numbers that wait, claims that are held, loads that go on.
#[derive(Default)]
struct Outside {
    waiting: Vec<u64>,
    held: Vec<Claim>,
    loads: Vec<u64>,
}

impl Outside {
    fn take(&mut self, core: &mut Core, step: Step, now: Instant) {
        match step {
            Step::Arrive { user, end_user, model, key: (key, seats), topic } => {
                let text = format!("topic {topic} {}", "word ".repeat(topic * 1000));
                let wish = Wish {
                    concurrency: seats_of(user),
                    key_concurrency: seats,
                    payer: Payer { user, key, end_user, weight: 1 + user as u32 },
                    prompt: Arc::new(Prompt::of_messages(&[text])),
                    ..wish(user, MODELS[model])
                };
                match core.arrive(wish, now) {
                    Ok(Admitted::Seated(_, claim)) => self.held.push(claim),
                    Ok(Admitted::Waiting(number)) => self.waiting.push(number),
                    Err(_) => {}
                }
            }
            Step::Leave(index) if !self.waiting.is_empty() => {
                let number = self.waiting.remove(index % self.waiting.len());
                assert!(core.leave(number, now), "who waits is in the queue");
                assert!(!core.leave(number, now), "and only once");
            }
            Step::Answered(index) if !self.held.is_empty() => {
                core.answered(&self.held[index % self.held.len()], now);
            }
            Step::Release(index, outcome) if !self.held.is_empty() => {
                let claim = self.held.remove(index % self.held.len());
                release(core, &claim, outcome, now);
            }
            Step::Detach(index) if !self.held.is_empty() => {
                let claim = self.held[index % self.held.len()].id;
                if core.detach_load(claim) {
                    self.loads.push(claim);
                }
            }
            Step::LoadEnded(index, worked) if !self.loads.is_empty() => {
                let load = self.loads.remove(index % self.loads.len());
                core.load_ended(load, worked, now);
            }
            Step::Learn { instance, up, residents } => {
                let names = MODELS.iter().enumerate();
                let names: Vec<_> =
                    names.filter(|(bit, _)| residents >> bit & 1 == 1).map(|(_, it)| *it).collect();
                core.learn(instance, &Facts { up, ..self::up(&MODELS, &names) }, now);
            }
            Step::Drain { instance, drained } => {
                core.set_drained(instance, drained, now);
            }
            Step::Reconfigure(slots) => reconfigure(core, slots, now),
            // as a probe would, soon
            Step::Later(_) => core.dispatch(now),
            _ => {}
        }
        for (number, claim) in core.given() {
            let (seats, through_key) = core.queue.held_by(claim.payer);
            assert!(seats <= seats_of(claim.payer.user) && through_key <= 3);
            let at = self.waiting.iter().position(|other| *other == number);
            self.waiting.remove(at.expect("who is given a seat was waiting for one"));
            self.held.push(claim);
        }
    }
}

/// Two of the instances share a card.
fn configuration(slots: [u32; 3]) -> [Upstream; 3] {
    let mut upstreams = slots.map(|slots| upstream("u", slots, UpstreamKind::Ollama));
    upstreams.iter_mut().take(2).for_each(|upstream| upstream.gpu = Some(0));
    upstreams
}

fn reconfigure(core: &mut Core, slots: [u32; 3], now: Instant) {
    let upstreams = configuration(slots);
    let posts = (0..).zip(&upstreams).filter(|(_, upstream)| upstream.slots > 0);
    let facts = Some(up(&MODELS, &[]));
    let posts = posts.map(|(id, upstream)| Post { id, upstream, facts: facts.clone() }).collect();
    core.reconfigure(posts, &balance(64, 40), now);
}

/// Requests in flight on each instance, configured or not.
fn loads(core: &Core) -> [u32; 3] {
    [0, 1, 2].map(|id| core.stations.get(&id).map_or(0, |station| station.in_flight))
}

/// Nobody waits whom placement would seat now: neither one of those who may wait for a better
/// seat, nor, behind them, anybody who may not.
fn conserves_work(core: &Core, now: Instant) -> bool {
    core.queue.lines().all(|(class, _)| {
        // the first of each user, by clock, whose user and whose key may hold more
        let able = core.queue.firsts(class, |wish| core.may_hold_more(wish).is_ok());
        able.iter().take(PATIENT).enumerate().all(|(ahead, it)| {
            let patient = able.len() <= PATIENT;
            let look = Look { ahead, patient, declined: it.declined, now };
            !matches!(core.judge(&it.wish, look), Verdict::Seat { .. })
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]
    #[test]
    fn no_storm_loses_a_seat_or_a_turn_or_overfills_an_instance(
        steps in prop::collection::vec(step(), 0..250)
    ) {
        let mut slots = [1, 2, 3];
        let mut core = core(&slots, 64, 40);
        let mut outside = Outside::default();
        let mut now = Instant::now();
        reconfigure(&mut core, slots, now);
        for step in steps {
            match step {
                Step::Reconfigure(new) => slots = new,
                Step::Later(ms) => now += Duration::from_millis(ms),
                _ => {}
            }
            let before = loads(&core);
            outside.take(&mut core, step, now);
            for ((after, before), slots) in loads(&core).into_iter().zip(before).zip(slots) {
                // fewer slots than requests cut nobody off, but let nobody in
                prop_assert!(after <= slots.max(before));
            }
            prop_assert_eq!(core.taken() as usize, outside.held.len());
            prop_assert_eq!(core.seats.len(), outside.held.len());
            for (id, station) in &core.stations {
                prop_assert!(!station.is_gone());
                prop_assert_eq!(station.retired, slots[*id] == 0);
            }
            let on_card = |id: &usize| *id < 2;
            let loading = core.stations.iter().filter(|(id, it)| on_card(id) && it.loading.is_some());
            prop_assert!(loading.count() < 2, "one card loads one model at a time");
            prop_assert_eq!(core.waiting(), outside.waiting.len());
            prop_assert!(core.waiting() <= 64);
            prop_assert!(conserves_work(&core, now));
            prop_assert!(core.queue.clocks_agree());
        }
        for number in outside.waiting.drain(..) {
            // a leaver may make room for another
            core.leave(number, now);
        }
        let late = core.given().into_iter().map(|(_, claim)| claim);
        for claim in outside.held.drain(..).chain(late) {
            release(&mut core, &claim, Outcome::Neutral, now);
        }
        prop_assert!(core.given().is_empty());
        for load in outside.loads.drain(..) {
            core.load_ended(load, true, now);
        }
        prop_assert!(core.queue.is_settled() && core.seats.is_empty());
        let settled = core.stations.values().all(|station| {
            station.in_flight == 0
                && station.loading.is_none()
                && station.models.values().all(|model| model.in_flight == 0)
        });
        prop_assert!(settled);
    }

    /// However users, models and costs are mixed, nobody who waits is passed by for ever: with
    /// all of a fixed crowd waiting all the time, everybody is served within a bounded number of
    /// turns, which grows with the crowd and the residencies, and with nothing else.
    #[test]
    fn nobody_starves(
        models in prop::collection::vec(0..3_usize, 2..12),
        holds in prop::collection::vec(1..20_u64, 8),
        slots in 1..3_u32,
    ) {
        let mut now = Instant::now();
        let mut core = core(&[slots], 1000, 1000);
        let mut users = HashMap::new();
        let mut held = Vec::new();
        let mut last: HashMap<i64, Instant> = HashMap::new();
        let arrive = |core: &mut Core, user: i64, now: Instant| {
            core.arrive(wish(user, MODELS[models[user as usize]]), now).unwrap()
        };
        for user in 0..models.len() as i64 {
            for _ in 0..2 {
                match arrive(&mut core, user, now) {
                    Admitted::Seated(_, claim) => held.push((user, claim)),
                    Admitted::Waiting(number) => drop(users.insert(number, user)),
                }
            }
            last.insert(user, now);
        }
        for turn in 0..400 {
            now += Duration::from_secs(holds[turn % holds.len()]);
            let (user, claim) = held.remove(0);
            release(&mut core, &claim, Outcome::Answered, now);
            match arrive(&mut core, user, now) {
                Admitted::Seated(_, claim) => held.push((user, claim)),
                Admitted::Waiting(number) => drop(users.insert(number, user)),
            }
            for (number, claim) in core.given() {
                let user = users.remove(&number).expect("it waited");
                last.insert(user, now);
                held.push((user, claim));
            }
            // a turn of everybody, twice over, and a residency of each model between them
            let bound = Duration::from_secs(20 * 2 * (models.len() as u64 + 2) + 3 * 60);
            for at in last.values() {
                prop_assert!(now.saturating_duration_since(*at) <= bound);
            }
        }
    }
}
