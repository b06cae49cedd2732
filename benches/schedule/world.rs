//! One box in virtual time: clients, somebody who chooses, and instances.

mod choosing;
mod probes;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use usher::scheduler::core::{Claim, Ending};
use usher::scheduler::{Outcome, Report};

use crate::gateway::{Peer, Policy, Usher};
use crate::instance::{Happened, Instance, Job, Make};
use crate::work::{Client, Habit, Mind, Request};
use probes::Probe;

/// Everything that a run is made of.
#[derive(Clone, Debug)]
pub struct Scene {
    pub instances: Vec<Make>,
    pub models: usize,
    pub clients: Vec<Client>,
    pub faults: Vec<(f64, Fault)>,
    /// Seconds in which clients ask; what they asked is answered after.
    pub horizon: f64,
    pub queue_per_user: usize,
}

/// Something that goes wrong, or is right again.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    Refuses(usize),
    Hangs(usize),
    Dies(usize),
    Returns(usize),
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Answered,
    /// The client left.
    Left,
    /// The client was told to come again.
    Refused,
    /// The client saw an instance fail.
    Failed,
    /// Nothing had come of it when the run ended.
    Open,
}

/// What became of a request.
#[derive(Clone, Debug)]
pub struct Fate {
    pub request: Request,
    pub end: End,
    pub sent: Option<f64>,
    pub first: Option<f64>,
    pub done: Option<f64>,
    /// When its client left, if it did, and when the instance held nothing of it any more.
    pub left: Option<f64>,
    pub freed: Option<f64>,
    /// Tokens of its prompt that were read.
    pub read: u64,
    at: Option<usize>,
    claim: Option<Claim>,
    number: Option<u64>,
    tried: Vec<usize>,
    connects: u32,
    resends: u32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Event {
    at: f64,
    order: u64,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum What {
    Ask(usize),
    Inside { instance: usize, version: u64 },
    Leave(usize),
    Patience(usize),
    Probe { instance: usize, version: u64 },
    Fault(usize),
}

impl Eq for Event {}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Event {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.total_cmp(&other.at).then(self.order.cmp(&other.order))
    }
}

/// Jobs that only load have numbers above all others.
const WARMS: usize = 1 << 40;
/// As `balance.max_queue_wait` is by default.
const MAX_WAIT: f64 = 120.0;
/// What is not answered so long after the last question is left open.
const AFTERWARDS: f64 = 600.0;

/// The run.
pub struct World {
    pub instances: Vec<Instance>,
    pub fates: Vec<Fate>,
    /// Requests that were sent to each instance, and when one that came back got its first.
    pub sent_to: Vec<usize>,
    pub back_at_work: Vec<(f64, f64)>,
    scene: Scene,
    now: f64,
    events: BinaryHeap<Reverse<Event>>,
    order: u64,
    versions: Vec<u64>,
    minds: Vec<Mind>,
    chooser: Chooser,
    loads: HashMap<u64, usize>,
    probes: Vec<Probe>,
    returned: Vec<Option<f64>>,
}

enum Chooser {
    Usher(Box<Usher>),
    Peer(Peer),
}

/// Runs a scene.
pub fn run(scene: &Scene, policy: Policy, seed: u64) -> World {
    let mut world = World::new(scene.clone(), policy, seed);
    world.begin();
    while let Some(Reverse(event)) = world.events.pop() {
        if event.at > scene.horizon + AFTERWARDS {
            break;
        }
        world.now = event.at;
        world.happen(event.what);
        let asked = world.now > scene.horizon;
        if asked && world.fates.iter().all(|fate| fate.end != End::Open) {
            break;
        }
    }
    world
}

impl World {
    fn new(scene: Scene, policy: Policy, seed: u64) -> Self {
        let slots: Vec<usize> = scene.instances.iter().map(|make| make.slots).collect();
        let count = slots.len();
        let size = 4_000_000_000;
        let chooser = match policy {
            Policy::Usher => Chooser::Usher(Box::new(Usher::new(
                &slots,
                scene.models,
                size,
                scene.queue_per_user,
            ))),
            peer => Chooser::Peer(Peer::new(peer, count, seed)),
        };
        let minds = scene.clients.iter().cloned().enumerate();
        Self {
            instances: scene.instances.iter().cloned().map(Instance::new).collect(),
            fates: Vec::new(),
            sent_to: vec![0; count],
            back_at_work: Vec::new(),
            now: 0.0,
            events: BinaryHeap::new(),
            order: 0,
            versions: vec![0; count],
            minds: minds.map(|(at, client)| Mind::new(client, at, seed)).collect(),
            chooser,
            loads: HashMap::new(),
            probes: vec![Probe::default(); count],
            returned: vec![None; count],
            scene,
        }
    }

    fn begin(&mut self) {
        for instance in 0..self.instances.len() {
            self.probe(instance);
        }
        for at in 0..self.scene.faults.len() {
            let when = self.scene.faults.get(at).map_or(0.0, |(when, _)| *when);
            self.at(when, What::Fault(at));
        }
        for client in 0..self.minds.len() {
            let pause = self.minds.get_mut(client).map_or(0.0, |mind| match mind.client.habit {
                Habit::Burst(_, every) => every * mind.dice.unit(),
                _ => mind.pause(),
            });
            self.at(pause, What::Ask(client));
        }
    }

    fn at(&mut self, at: f64, what: What) {
        self.order += 1;
        self.events.push(Reverse(Event { at, order: self.order, what }));
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Ask(client) => self.ask(client),
            What::Inside { instance, version } => {
                if self.versions.get(instance) == Some(&version) {
                    let now = self.now;
                    self.inside(instance, |it| it.run(now));
                }
            }
            What::Leave(id) => self.leave(id, End::Left),
            What::Patience(id) => {
                let waits = self
                    .fates
                    .get(id)
                    .is_some_and(|fate| fate.at.is_none() && fate.end == End::Open);
                if waits {
                    self.leave(id, End::Refused);
                }
            }
            What::Probe { instance, version } => self.probed(instance, version),
            What::Fault(at) => self.fault(at),
        }
    }

    /// Does something in an instance, and sees to what came of it.
    fn inside(&mut self, instance: usize, act: impl FnOnce(&mut Instance) -> Vec<Happened>) {
        let Some(it) = self.instances.get_mut(instance) else { return };
        let happened = act(it);
        let next = it.next();
        if let Some(version) = self.versions.get_mut(instance) {
            *version += 1;
            let version = *version;
            if let Some(next) = next {
                self.at(next, What::Inside { instance, version });
            }
        }
        for one in happened {
            self.note(one);
        }
    }

    fn note(&mut self, happened: Happened) {
        match happened {
            Happened::Loaded(_) => {}
            Happened::Freed(id) => {
                let now = self.now;
                self.fates.get_mut(id).into_iter().for_each(|fate| fate.freed = Some(now));
            }
            Happened::Warm(id) => self.load_ended((id - WARMS) as u64, true),
            Happened::First(id) => {
                let Some(fate) = self.fates.get_mut(id) else { return };
                fate.first = Some(self.now);
                let claim = fate.claim.clone();
                self.answered(claim.as_ref());
            }
            Happened::Done { id, prefill, decode, read } => {
                let Some(fate) = self.fates.get_mut(id) else { return };
                fate.read = read;
                fate.done = Some(self.now);
                let total = self.now - fate.sent.unwrap_or(self.now);
                let report = report(&fate.request, (prefill, decode, total), fate.claim.as_ref());
                let ending = Ending { outcome: Outcome::Answered, report, pieces: 0 };
                self.end(id, End::Answered, &ending);
            }
        }
    }

    /// A request is over: its seat is free, and its client may go on.
    fn end(&mut self, id: usize, end: End, ending: &Ending) {
        let Some(fate) = self.fates.get_mut(id) else { return };
        fate.end = end;
        let (at, claim, client) = (fate.at.take(), fate.claim.take(), fate.request.client);
        self.free(at, claim.as_ref(), ending);
        let closed = self.minds.get_mut(client).and_then(|mind| match mind.client.habit {
            Habit::Closed(0.0) => Some(0.0),
            Habit::Closed(_) => Some(mind.pause()),
            _ => None,
        });
        if let Some(pause) = closed {
            // whoever was refused tries again a moment later
            let pause = if end == End::Answered { pause } else { pause.max(1.0) };
            self.at(self.now + pause, What::Ask(client));
        }
    }

    fn ask(&mut self, client: usize) {
        let now = self.now;
        let Some(mind) = self.minds.get_mut(client) else { return };
        if now > self.scene.horizon.min(mind.client.until) {
            return;
        }
        let (count, next) = match mind.client.habit {
            Habit::Poisson(_) => (1, Some(mind.pause())),
            Habit::Closed(_) => (1, None),
            Habit::Burst(count, _) => (count, Some(mind.pause())),
        };
        let requests: Vec<Request> = (0..count).map(|_| mind.ask(now)).collect();
        if let Some(next) = next {
            self.at(now + next, What::Ask(client));
        }
        for request in requests {
            let id = self.fates.len();
            if let Some(after) = request.leaves_after {
                self.at(now + after, What::Leave(id));
            }
            self.fates.push(Fate {
                request,
                end: End::Open,
                sent: None,
                first: None,
                done: None,
                left: None,
                freed: None,
                read: 0,
                at: None,
                claim: None,
                number: None,
                tried: Vec::new(),
                connects: 0,
                resends: 0,
            });
            self.arrive(id);
        }
    }

    fn leave(&mut self, id: usize, end: End) {
        let now = self.now;
        let fate = self.fates.get_mut(id).filter(|fate| fate.end == End::Open);
        let Some(fate) = fate else { return };
        fate.left = Some(now);
        let (at, number) = (fate.at, fate.number);
        let nothing = Ending::nothing();
        match at {
            Some(instance) => self.inside(instance, |it| it.drop_job(id, now)),
            None => self.leave_queue(number),
        }
        // a job may have been done at this very moment
        if self.fates.get(id).is_some_and(|fate| fate.end == End::Open) {
            self.end(id, end, &nothing);
        }
    }

    fn fault(&mut self, at: usize) {
        let Some((_, fault)) = self.scene.faults.get(at).copied() else { return };
        let now = self.now;
        match fault {
            Fault::Refuses(instance) => {
                self.instances.get_mut(instance).into_iter().for_each(|it| it.refuses = true);
            }
            Fault::Hangs(instance) => {
                self.inside(instance, |it| {
                    let happened = it.run(now);
                    it.hangs = true;
                    happened
                });
            }
            Fault::Returns(instance) => {
                if let Some(it) = self.instances.get_mut(instance) {
                    (it.dead, it.hangs, it.refuses) = (false, false, false);
                }
                if let Some(returned) = self.returned.get_mut(instance) {
                    *returned = Some(now);
                }
            }
            Fault::Dies(instance) => {
                let Some(it) = self.instances.get_mut(instance) else { return };
                for id in it.die(now) {
                    match id.checked_sub(WARMS) {
                        Some(claim) => self.load_ended(claim as u64, false),
                        None => self.broke(id, instance),
                    }
                }
            }
        }
    }
}

/// What an Ollama says in its last chunk.
fn report(
    request: &Request,
    (prefill, decode, total): (f64, f64, f64),
    claim: Option<&Claim>,
) -> Report {
    let time = |seconds: f64| Some(std::time::Duration::from_secs_f64(seconds.max(0.0)));
    let load = claim.filter(|claim| claim.cold).and_then(|_| time(total - prefill - decode));
    Report {
        prompt: Some(request.prompt),
        completion: Some(request.output),
        load,
        prefill: time(prefill),
        decode: time(decode),
        total: time(total),
    }
}

fn job(id: usize, request: &Request) -> Job {
    Job {
        id,
        model: request.model,
        topic: request.topic,
        prompt: request.prompt,
        output: request.output,
        warms: false,
    }
}
