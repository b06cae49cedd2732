//! Where threads meet: every order of a few of them, as far as chance finds them.

use std::time::Duration;

use shuttle::{future, sync as shuttled, thread};

use super::*;
use crate::model::ModelName;
use crate::payload::{Prompt, Runner};

/// A mutex at which shuttle decides who goes on.
struct Tried(shuttled::Mutex<Desk>);

impl Lock for Tried {
    fn before(desk: Desk) -> Self {
        Self(shuttled::Mutex::new(desk))
    }

    fn with<T>(&self, act: impl FnOnce(&mut Desk) -> T) -> T {
        act(&mut self.0.lock().unwrap())
    }
}

fn key() -> ModelKey {
    ModelName::parse("a").unwrap().key().clone()
}

/// One instance of one slot, with its model in memory.
fn one_slot() -> Arc<Scheduler<Tried>> {
    let upstream = Upstream {
        name: "u".to_owned(),
        place: crate::config::Place::default(),
        kind: crate::config::UpstreamKind::Ollama,
        tls: false,
        host: "127.0.0.1".to_owned(),
        port: 1,
        slots: 1,
        model_slots: std::collections::BTreeMap::new(),
        gpu: None,
        api_key: None,
    };
    let balance = Balance { queue: 9, queue_per_user: 9, max_queue_wait: Duration::from_secs(1) };
    let models = Arc::new(HashSet::from([key()]));
    let residents = Arc::clone(&models);
    let facts = Facts { up: true, answered: true, models, residents, ..Facts::default() };
    let scheduler = Arc::new(Scheduler::with_lock(&balance));
    scheduler.reconfigure(vec![Post { id: 0, upstream: &upstream, facts: Some(facts) }], &balance);
    scheduler
}

fn wish(user: i64) -> Wish {
    Wish {
        model: Some(key()),
        surface: Surface::Ollama,
        runner: Runner::default(),
        payer: Payer { user, key: None, end_user: 0, weight: 1 },
        concurrency: 9,
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

/// Waits for a seat, holds it for a moment, and gives it back.
fn comes_and_goes(scheduler: &Arc<Scheduler<Tried>>, user: i64) {
    let ticket = scheduler.enter(wish(user)).unwrap();
    let seat = future::block_on(ticket.seat());
    thread::yield_now();
    drop(seat);
}

/// Gives up at once, whether it waits or sits.
fn comes_and_leaves(scheduler: &Arc<Scheduler<Tried>>, user: i64) {
    let ticket = scheduler.enter(wish(user)).unwrap();
    thread::yield_now();
    drop(ticket);
}

/// What a thread does, as the user with this number.
type Person = fn(&Arc<Scheduler<Tried>>, i64);

fn in_every_order(people: &'static [Person]) {
    let story = move || {
        let scheduler = one_slot();
        let threads = people.iter().zip(1..).map(|(person, user)| {
            let scheduler = Arc::clone(&scheduler);
            thread::spawn(move || person(&scheduler, user))
        });
        threads.collect::<Vec<_>>().into_iter().for_each(|it| it.join().unwrap());
        assert_eq!((scheduler.taken(), scheduler.waiting()), (0, 0));
        scheduler.desk.with(|desk| assert!(desk.waiting.is_empty() && desk.loads.is_empty()));
    };
    shuttle::check_random(story, 2000);
    shuttle::check_pct(story, 2000, 3);
}

#[test]
fn nobody_is_left_asleep_and_no_seat_is_lost_while_some_leave() {
    in_every_order(&[comes_and_goes, comes_and_goes, comes_and_leaves, comes_and_leaves]);
}

#[test]
fn drains_and_failures_lose_nobody() {
    in_every_order(&[
        |scheduler, user| {
            // somebody may find the only instance drained
            let Ok(ticket) = scheduler.enter(wish(user)) else { return };
            drop(future::block_on(ticket.seat()));
        },
        |scheduler, _| {
            scheduler.set_drained(0, true);
            scheduler.set_drained(0, false);
        },
        |scheduler, user| {
            let Ok(ticket) = scheduler.enter(wish(user)) else { return };
            let mut seat = future::block_on(ticket.seat());
            seat.report(Outcome::Answered);
            seat.report(Outcome::Neutral);
        },
    ]);
}
