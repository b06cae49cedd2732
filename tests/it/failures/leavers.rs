//! Clients that leave: by a close or a reset, in every state, one by one and by the thousand.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::crowd::{
    Dice, SOON, all_up, before, idle_after, ids_at, paced, question, stops_clean,
};
use crate::support::eventually;
use crate::support::gateway::Gateway;
use crate::support::http::{Request, Wire};
use crate::support::sim::{Sim, sim};

#[derive(Clone, Copy, Debug)]
enum Farewell {
    Close,
    Reset,
}

const BOTH: [Farewell; 2] = [Farewell::Close, Farewell::Reset];

#[test]
fn who_leaves_while_a_model_loads_frees_the_instance() {
    let sims = [sim().args(&["--load-base", "60s"]).start()];
    let gateway = before(&sims, 1).start();
    for farewell in BOTH {
        let id = format!("loading-{farewell:?}");
        let wire = ask(&gateway, &id).start();
        sims[0].wait_for("loading", 1);
        leaves(&gateway, &sims[0], wire, farewell, &id);
    }
    assert_eq!(sims[0].counter("aborted_loads"), 2, "the instance gave both up");
    stops_clean(gateway);
}

#[test]
fn who_leaves_while_its_prompt_is_read_frees_the_instance() {
    let sims = [paced(1000, 1, &[])];
    let gateway = before(&sims, 1).start();
    for farewell in BOTH {
        sims[0].turn(&json!({ "wedged": true }));
        let id = format!("prefill-{farewell:?}");
        let wire = ask(&gateway, &id).start();
        sims[0].wait_for("slots_in_use", 1);
        leaves(&gateway, &sims[0], wire, farewell, &id);
        sims[0].turn(&json!({ "wedged": false }));
        let next = ask(&gateway, &format!("after-{id}")).send();
        assert_eq!(next.status, 200, "the slot is free for the next one");
    }
    stops_clean(gateway);
}

#[test]
fn who_leaves_in_the_middle_of_a_stream_frees_the_instance() {
    let sims = [paced(50, 1, &[])];
    let gateway = before(&sims, 1).start();
    for farewell in BOTH {
        let id = format!("stream-{farewell:?}");
        let mut exchange = with_id(&gateway, &id, 100_000).open();
        assert_eq!(exchange.status, 200);
        exchange.chunk().expect("a first chunk");
        let left = Instant::now();
        match farewell {
            Farewell::Close => exchange.leave(),
            Farewell::Reset => exchange.reset(),
        }
        assert!(idle_after(&[&sims[0]], left) < SOON, "{id}");
        let line = gateway.access_line(&id);
        assert_eq!((&line["outcome"], &line["status"]), (&json!("client_gone"), &json!(200)));
        assert!(line["first_byte_ms"].is_number(), "{line}");
    }
    stops_clean(gateway);
}

#[test]
fn who_leaves_the_queue_never_reaches_an_instance() {
    let sims = [paced(1000, 1, &[])];
    let gateway = before(&sims, 1).config("balance: { queue: 1 }").user("bob", "hasty").start();
    for farewell in BOTH {
        sims[0].turn(&json!({ "wedged": true }));
        let holder = ask(&gateway, &format!("holder-{farewell:?}")).start();
        sims[0].wait_for("slots_in_use", 1);
        let (id, wire) = queued(&gateway, farewell);
        let left = Instant::now();
        say(farewell, wire);
        let line = gateway.access_line(&id);
        assert!(left.elapsed() < SOON, "{farewell:?}: {line}");
        assert_eq!(line["outcome"], "client_gone", "{line}");
        assert!(line["queue_ms"].is_number() && line["upstream"].is_null(), "{line}");
        sims[0].turn(&json!({ "wedged": false }));
        assert_eq!(holder.exchange("POST").rest().status, 200);
        idle_after(&[&sims[0]], left);
        assert!(!ids_at(&sims[0]).contains(&id), "it ran although nobody waits for it");
    }
    stops_clean(gateway);
}

#[test]
fn who_leaves_in_the_middle_of_an_upload_leaves_nothing_behind() {
    let sims = [paced(1000, 1, &[])];
    let gateway = before(&sims, 1).start();
    for farewell in BOTH {
        let id = format!("upload-{farewell:?}");
        let bytes = ask(&gateway, &id).body(vec![b' '; 200_000]).bytes();
        let mut wire = gateway.connect();
        wire.send(&bytes[..bytes.len() / 2]);
        // the lists are answered here, so this says nothing but that the gateway is alive
        assert_eq!(gateway.get("/api/tags").key(gateway.key("ann")).send().status, 200);
        let left = Instant::now();
        say(farewell, wire);
        let line = gateway.access_line(&id);
        assert!(left.elapsed() < SOON, "{farewell:?}: {line}");
        assert_eq!(line["outcome"], "client_gone", "{line}");
        assert!(line["queue_ms"].is_null() && line["upstream"].is_null(), "{line}");
        assert!(!ids_at(&sims[0]).contains(&id));
    }
    stops_clean(gateway);
}

#[test]
fn a_thousand_clients_that_leave_at_random_leave_nothing_behind() {
    const SLOTS: u32 = 4;
    let sims: Vec<Sim> = (0..3).map(|_| paced(200, SLOTS, &[])).collect();
    let gateway = before(&sims, SLOTS).config("balance: { queue_per_user: 512 }").start();
    all_up(&gateway, sims.len());
    let places = sims.len() * SLOTS as usize;

    // with every slot taken: these wait, and leave
    let holders = hold_every_slot(&gateway, &sims, SLOTS, "before");
    wave(&gateway, 0..250, |_| State::Whole);
    eventually("those who left are out of the queue", || gone(&gateway).len() == 250);
    release(&sims);
    for holder in holders {
        assert_eq!(holder.exchange("POST").rest().status, 200);
    }
    assert!(sims.iter().all(|sim| ids_at(sim).iter().all(|id| !id.starts_with("leaver"))));

    // with the instances at work: whatever state they are in, they leave
    wave(&gateway, 250..1000, |dice| match dice.roll(8) {
        0 => State::Head,
        1 => State::Body,
        2..5 => State::Whole,
        _ => State::Stream,
    });
    let all: Vec<&Sim> = sims.iter().collect();
    idle_after(&all, Instant::now());
    for sim in &sims {
        assert!(sim.counter("max_concurrent") <= u64::from(SLOTS));
    }
    let ran: Vec<String> = sims.iter().flat_map(ids_at).collect();
    for line in gone(&gateway) {
        if line["upstream"].is_null() {
            let id = line["request_id"].as_str().expect("an id").to_owned();
            assert!(!ran.contains(&id), "{id} ran although it had left the queue");
        }
    }

    // and no seat was lost
    let holders = hold_every_slot(&gateway, &sims, SLOTS, "after");
    assert_eq!(holders.len(), places);
    release(&sims);
    for holder in holders {
        assert_eq!(holder.exchange("POST").rest().status, 200);
    }
    stops_clean(gateway);
}

/// How far a client goes before it leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    Body,
    Whole,
    Stream,
}

/// The clients with these numbers, many at a time, each in a state that the dice choose.
fn wave(gateway: &Gateway, numbers: std::ops::Range<u64>, choose: fn(&mut Dice) -> State) {
    const CLIENTS: u64 = 50;
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let numbers = numbers.clone().filter(move |number| number % CLIENTS == client);
            scope.spawn(move || {
                for number in numbers {
                    let mut dice = Dice(number);
                    let state = choose(&mut dice);
                    leaver(gateway, number, state, &mut dice);
                }
            });
        }
    });
}

fn leaver(gateway: &Gateway, number: u64, state: State, dice: &mut Dice) {
    let request = with_id(gateway, &format!("leaver-{number}"), 40);
    let bytes = request.bytes();
    let head = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a head") + 4;
    let farewell = BOTH[usize::from(dice.roll(2) == 0)];
    let whole = bytes.len();
    let (from, until) = match state {
        State::Head => (1, head - 1),
        State::Body => (head, whole - 1),
        State::Whole | State::Stream => (whole, whole + 1),
    };
    let sent = from + usize::try_from(dice.roll((until - from) as u64)).expect("small");
    let mut wire = gateway.connect();
    wire.send(&bytes[..sent]);
    if state == State::Stream {
        let mut exchange = wire.exchange("POST");
        for _ in 0..=dice.roll(4) {
            exchange.chunk();
        }
        match farewell {
            Farewell::Close => exchange.leave(),
            Farewell::Reset => exchange.reset(),
        }
    } else {
        // a client's patience: none of what is proven rests on its length
        wire.drain(Duration::from_millis(40 + dice.roll(60)));
        say(farewell, wire);
    }
}

/// Requests that occupy every slot of every instance until [`release`].
fn hold_every_slot(gateway: &Gateway, sims: &[Sim], slots: u32, name: &str) -> Vec<Wire> {
    sims.iter().for_each(|sim| sim.turn(&json!({ "wedged": true })));
    let count = sims.len() * slots as usize;
    let holders = (0..count).map(|n| ask(gateway, &format!("{name}-{n}")).start()).collect();
    sims.iter().for_each(|sim| sim.wait_for("slots_in_use", slots.into()));
    holders
}

fn release(sims: &[Sim]) {
    sims.iter().for_each(|sim| sim.turn(&json!({ "wedged": false })));
}

/// The access lines of leavers.
fn gone(gateway: &Gateway) -> Vec<serde_json::Value> {
    let mut lines = gateway.access_lines();
    lines.retain(|line| {
        line["request_id"].as_str().is_some_and(|id| id.starts_with("leaver"))
            && line["outcome"] == "client_gone"
    });
    lines
}

fn ask(gateway: &Gateway, id: &str) -> Request {
    with_id(gateway, id, 3)
}

fn with_id(gateway: &Gateway, id: &str, tokens: u32) -> Request {
    gateway.post("/api/chat", &question(tokens)).key(gateway.key("ann")).header("X-Request-Id", id)
}

/// A request that waits in a queue of one place: it is full for others.
fn queued(gateway: &Gateway, farewell: Farewell) -> (String, Wire) {
    let mut attempt = 0;
    let mut found = None;
    eventually("a request waits", || {
        attempt += 1;
        let id = format!("queued-{farewell:?}-{attempt}");
        let wire = ask(gateway, &id).start();
        let other = gateway.post("/api/chat", &question(1)).key(gateway.key("bob")).send();
        found = (other.detail() == "The queue is full").then_some((id, wire));
        found.is_some()
    });
    found.expect("found a moment ago")
}

fn say(farewell: Farewell, wire: Wire) {
    match farewell {
        Farewell::Close => drop(wire),
        Farewell::Reset => wire.reset(),
    }
}

fn leaves(gateway: &Gateway, sim: &Sim, wire: Wire, farewell: Farewell, id: &str) {
    let left = Instant::now();
    say(farewell, wire);
    let took = idle_after(&[sim], left);
    assert!(took < SOON, "{id}: {took:?}");
    let line = gateway.access_line(id);
    assert_eq!(line["outcome"], "client_gone", "{line}");
    assert_eq!(line["upstream"], "gpu0", "{line}");
}
