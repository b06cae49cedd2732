//! The workloads.

use crate::instance::Make;
use crate::work::{Client, Habit};
use crate::world::{Fault, Scene};

/// A card as people have them: one request at a time, as Ollama has it by default.
pub fn make(slots: usize, room: usize) -> Make {
    Make { slots, room, cache: slots + 6, prefill: 2000.0, decode: 50.0, sharing: 0.25, load: 5.0 }
}

fn scene(instances: Vec<Make>, clients: Vec<Client>, horizon: f64) -> Scene {
    Scene { instances, models: 1, clients, faults: Vec::new(), horizon, queue_per_user: 100_000 }
}

const HEAVY: usize = 0;
const LIGHT: usize = 9;

/// One client with ten times as many requests under way as each of nine others, all of them
/// always asking for more.
pub fn greedy() -> Scene {
    let client = |user| Client::new(user, Habit::Closed(0.0));
    let mut clients: Vec<_> = (0..40).map(|_| client(HEAVY)).collect();
    clients.extend((1..=LIGHT).flat_map(|user| (0..4).map(move |_| client(user))));
    scene(vec![make(2, 1); 2], clients, 900.0)
}

/// Nine clients who ask now and then; `beset`, a tenth who always wants more than there is.
pub fn light(beset: bool) -> Scene {
    let mut clients: Vec<_> =
        (1..=LIGHT).map(|user| Client::new(user, Habit::Poisson(60.0))).collect();
    if beset {
        clients.extend((0..40).map(|_| Client::new(HEAVY, Habit::Closed(0.0))));
    }
    scene(vec![make(2, 1); 2], clients, 1800.0)
}

/// Five models of unequal fame on three instances with room for one each.
pub fn mixed() -> Scene {
    let fame = [(0, 0.4), (1, 0.25), (2, 0.2), (3, 0.1), (4, 0.05)];
    let client = |user| Client { models: fame.to_vec(), ..Client::new(user, Habit::Poisson(20.0)) };
    let clients = (0..8).map(client).collect();
    Scene { models: 5, ..scene(vec![make(2, 1); 3], clients, 3600.0) }
}

/// Three models on two instances with room for one each.
pub fn three_on_two() -> Scene {
    let client =
        |user| Client { models: vec![(user % 3, 1.0)], ..Client::new(user, Habit::Poisson(24.0)) };
    let clients = (0..6).map(client).collect();
    Scene { models: 3, ..scene(vec![make(2, 1); 2], clients, 3600.0) }
}

/// Requests that have nothing to do with each other, for one model on three instances of one slot,
/// most answers short and some very long, at 80 % load; `in_order`, all of them one user's, who are
/// served first come, first served.
pub fn strangers(in_order: bool) -> Scene {
    // a request takes 0.2 s to read and 3 s to write on average
    let mean = 400.0 / 2000.0 + 150.0 / 50.0;
    let clients = 12;
    let every = mean * clients as f64 / (3.0 * 0.8);
    let client = |user| Client {
        output: (150.0, 1.6),
        ..Client::new(if in_order { 0 } else { user }, Habit::Poisson(every))
    };
    scene(vec![make(1, 1); 3], (0..clients).map(client).collect(), 7200.0)
}

/// People in conversations with two models on three instances with room for one each, at 80 % of
/// what the box can do if nothing is loaded or read twice.
pub fn eighty() -> Scene {
    // 0.2 s to read what is new, 2.4 s to write, two at once at four fifths of the speed each
    let (new, written) = (400.0, 120.0);
    let alone = new / 2000.0 + written / 50.0;
    let capacity = 6.0 / (alone * 1.25);
    let clients = 12;
    let client = |user: usize| Client {
        models: vec![(usize::from(user.is_multiple_of(3)), 1.0)],
        prompt: (new, 0.6),
        output: (written, 0.8),
        turns: Some(8),
        ..Client::new(user, Habit::Poisson(clients as f64 / (capacity * 0.8)))
    };
    Scene { models: 2, ..scene(vec![make(2, 1); 3], (0..clients).map(client).collect(), 3600.0) }
}

/// Twelve conversations of twelve turns, each with a long beginning, on three instances.
pub fn chats() -> Scene {
    let client = |user| Client {
        prompt: (600.0, 0.5),
        output: (120.0, 0.5),
        turns: Some(12),
        ..Client::new(user, Habit::Closed(8.0))
    };
    scene(vec![make(2, 1); 3], (0..12).map(client).collect(), 1800.0)
}

/// Bursts of embeddings beside people who chat.
pub fn bursts() -> Scene {
    let mut clients: Vec<_> = (1..=6)
        .map(|user| Client { models: vec![(0, 1.0)], ..Client::new(user, Habit::Poisson(20.0)) })
        .collect();
    clients.push(Client {
        models: vec![(1, 1.0)],
        prompt: (600.0, 0.4),
        output: (0.0, 0.0),
        ..Client::new(0, Habit::Burst(200, 60.0))
    });
    Scene { models: 2, ..scene(vec![make(2, 2); 2], clients, 1800.0) }
}

/// Prompts far larger than usual, some of them, in a crowd.
pub fn large_prompts() -> Scene {
    let client = |user: usize| Client {
        prompt: if user == 0 { (12_000.0, 0.4) } else { (300.0, 0.6) },
        ..Client::new(user, Habit::Poisson(if user == 0 { 12.0 } else { 20.0 }))
    };
    scene(vec![make(2, 1); 3], (0..9).map(client).collect(), 3600.0)
}

/// Short questions, as many in a second.
fn usual(in_a_second: f64) -> Vec<Client> {
    let clients = 10;
    let client = |user| Client {
        output: (40.0, 0.6),
        ..Client::new(user, Habit::Poisson(clients as f64 / in_a_second))
    };
    (0..clients).map(client).collect()
}

/// One of three instances answers 503 at once, all the time.
pub fn refusing() -> Scene {
    Scene {
        faults: vec![(0.0, Fault::Refuses(1))],
        ..scene(vec![make(2, 1); 3], usual(2.5), 1800.0)
    }
}

/// When the killed instance dies, and when it is back.
pub const DEATH: (f64, f64) = (300.0, 330.0);

/// One of three instances is killed under load, and comes back after half a minute; `in_order`, all
/// clients are one user, and served first come, first served.
pub fn killed(in_order: bool) -> Scene {
    let faults = vec![(DEATH.0, Fault::Dies(1)), (DEATH.1, Fault::Returns(1))];
    let mut clients = usual(4.0);
    if in_order {
        clients.iter_mut().for_each(|client| client.user = 0);
    }
    Scene { faults, ..scene(vec![make(2, 1); 3], clients, 900.0) }
}

/// One of three instances hangs for good: its probes succeed, its requests say nothing.
pub fn hung() -> Scene {
    Scene {
        faults: vec![(300.0, Fault::Hangs(1))],
        ..scene(vec![make(2, 1); 3], usual(2.5), 1800.0)
    }
}

/// More is asked than there is, and a third of the clients leave after some seconds.
pub fn leavers() -> Scene {
    let client =
        |user| Client { leaves: Some((0.33, 6.0)), ..Client::new(user, Habit::Poisson(9.0)) };
    scene(vec![make(2, 1); 2], (0..10).map(client).collect(), 1800.0)
}
