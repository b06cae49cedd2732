//! Clients that leave: whatever they were waiting for stops, and nothing stays behind.

use std::collections::HashSet;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::gateway::{Gateway, gateway};
use crate::support::http::{Request, Wire};
use crate::support::sim::{Sim, sim};
use crate::support::{chat, eventually};

/// What the contract grants, and a little for the test to notice.
const LIMIT: Duration = Duration::from_millis(250 + 100);

#[test]
fn a_client_that_leaves_the_queue_never_runs() {
    let (gateway, sim) = open(1);
    sim.turn(&json!({ "wedged": true }));
    let first = ask(&gateway, 0).start();
    eventually("the seat is taken", || ids(&sim).len() == 1);
    for (number, leave) in [(1, Wire::reset as fn(Wire)), (2, drop::<Wire>)] {
        let waiting = ask(&gateway, number).start();
        eventually("it was read", || waiting.is_read());
        let begun = Instant::now();
        leave(waiting);
        let line = gateway.access_line(&format!("client-{number}"));
        assert!(begun.elapsed() < LIMIT, "noticed after {:?}", begun.elapsed());
        assert_eq!((&line["outcome"], &line["status"]), (&json!("client_gone"), &json!(0)));
    }
    drop(first);
    sim.turn(&json!({ "wedged": false }));
    assert_eq!(ask(&gateway, 3).send().status, 200);
    let ran = ["client-1", "client-2"].map(|id| ids(&sim).contains(id));
    assert_eq!(ran, [false, false], "who left ran all the same");
    expect_nothing_left(gateway, &[sim]);
}

#[test]
fn a_client_that_leaves_before_the_first_byte_frees_the_instance() {
    for leave in [Wire::reset, drop::<Wire>] {
        let (gateway, sim) = open(1);
        sim.misbehave(&json!({ "path": "/api/chat", "kind": "hang" }));
        let wire = ask(&gateway, 0).start();
        eventually("the instance has it", || ids(&sim).len() == 1);
        let begun = Instant::now();
        leave(wire);
        eventually("the instance is free", || is_cancelled(&sim));
        assert!(begun.elapsed() < LIMIT, "after {:?}", begun.elapsed());
        expect_nothing_left(gateway, &[sim]);
    }
}

#[test]
fn a_client_that_leaves_a_stream_frees_the_instance() {
    for hard in [true, false] {
        let (gateway, sim) = open(1);
        let mut exchange = endless(&gateway).open();
        for _ in 0..3 {
            exchange.chunk().expect("a piece");
        }
        let begun = Instant::now();
        if hard {
            exchange.reset();
        } else {
            exchange.leave();
        }
        eventually("the instance is free", || is_cancelled(&sim));
        assert!(begun.elapsed() < LIMIT, "after {:?}", begun.elapsed());
        expect_nothing_left(gateway, &[sim]);
    }
}

#[test]
fn a_client_that_leaves_while_a_model_loads_frees_its_seat() {
    let (gateway, sim) = open(1);
    sim.turn(&json!({ "load_stall": true }));
    let wire = ask(&gateway, 0).start();
    eventually("the instance loads", || sim.counter("loading") == 1);
    let begun = Instant::now();
    drop(wire);
    gateway.access_line("client-0");
    assert!(begun.elapsed() < LIMIT, "after {:?}", begun.elapsed());
    sim.turn(&json!({ "load_stall": false }));
    assert_eq!(ask(&gateway, 1).send().status, 200);
    expect_nothing_left(gateway, &[sim]);
}

#[test]
fn a_client_that_leaves_in_its_own_body_frees_what_it_held() {
    let (gateway, sim) = open(1);
    let bytes = ask(&gateway, 0).bytes();
    for leave in [Wire::reset, drop::<Wire>] {
        let mut wire = gateway.connect();
        wire.send(&bytes[..bytes.len() - 1]);
        eventually("it was read", || wire.is_read());
        leave(wire);
    }
    eventually("both were noticed", || gateway.access_lines().len() >= 3);
    assert!(ids(&sim).is_empty());
    expect_nothing_left(gateway, &[sim]);
}

#[test]
fn a_thousand_clients_that_leave_in_random_states_leave_nothing_behind() {
    const CLIENTS: usize = 1000;
    let sims: Vec<_> = (0..3).map(|_| start()).collect();
    let each = sims.iter().enumerate();
    let described = each.fold(gateway(), |it, (index, sim)| {
        it.upstream_with(&format!("sim{index}"), &sim.url(), "slots: 2")
    });
    let gateway = described.config("balance: { queue: 2000, queue_per_user: 2000 }").start();
    let mut random = Random(0x5eed);
    let moods: Vec<_> = (0..CLIENTS).map(|_| (random.below(6), random.below(40))).collect();
    thread::scope(|scope| {
        for (worker, moods) in moods.chunks(CLIENTS / 50).enumerate() {
            let gateway = &gateway;
            scope.spawn(move || {
                for (index, mood) in moods.iter().enumerate() {
                    come_and_leave(gateway, worker * 100 + index, *mood);
                }
            });
        }
    });
    let begun = Instant::now();
    eventually("no instance works", || sims.iter().all(|sim| sim.counter("slots_in_use") == 0));
    assert!(begun.elapsed() < Duration::from_secs(2), "after {:?}", begun.elapsed());
    for user in 0..3 {
        assert_eq!(ask(&gateway, 90_000 + user).send().status, 200, "the seats are there again");
    }
    expect_nothing_left(gateway, &sims);
}

/// One client: what it sends of its request, and how and when it leaves.
fn come_and_leave(gateway: &Gateway, number: usize, (kind, patience): (u64, u64)) {
    let bytes = endless(gateway).header("X-Request-Id", &format!("client-{number}")).bytes();
    let mut wire = gateway.connect();
    let sent = match kind {
        0 => &bytes[..bytes.len() / 3],
        1 => &bytes[..bytes.len() - 1],
        _ => &bytes[..],
    };
    wire.try_send(sent).ok();
    wire.drain(Duration::from_millis(patience));
    if kind % 2 == 0 {
        wire.reset();
    }
}

/// A small generator, so that a failure can be repeated (Knuth's MMIX constants).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

fn open(slots: u32) -> (Gateway, Sim) {
    let sim = start();
    let settings = format!("slots: {slots}");
    let gateway = gateway().upstream_with("only", &sim.url(), &settings).start();
    (gateway, sim)
}

fn start() -> Sim {
    sim().args(&["--speed", "20", "--slots", "16", "--load-base", "1ms"]).start()
}

fn ask(gateway: &Gateway, number: usize) -> Request {
    let id = format!("client-{number}");
    gateway
        .post("/api/chat", &chat("llama3.2"))
        .key(gateway.key("admin"))
        .header("X-Request-Id", &id)
}

/// A question whose answer goes on for minutes.
fn endless(gateway: &Gateway) -> Request {
    let mut body = chat("llama3.2");
    body["stream"] = json!(true);
    body["options"] = json!({ "num_predict": 1_000_000 });
    gateway.post("/api/chat", &body).key(gateway.key("admin"))
}

/// The request ids that an instance was asked with.
fn ids(sim: &Sim) -> HashSet<String> {
    let id = |request: &Value| {
        let headers = request["headers"].as_array()?;
        let pair = headers.iter().find(|pair| pair[0] == "x-request-id")?;
        pair[1].as_str().map(Into::into)
    };
    sim.requests().iter().filter(|request| request["method"] == "POST").filter_map(id).collect()
}

fn is_cancelled(sim: &Sim) -> bool {
    let requests = sim.requests();
    let mut posts = requests.iter().filter(|request| request["method"] == "POST");
    posts.all(|request| request["outcome"] != "open")
}

/// Stops the gateway, which must hold nothing any more.
fn expect_nothing_left(gateway: Gateway, sims: &[Sim]) {
    for sim in sims {
        sim.wait_for("slots_in_use", 0);
    }
    let log = gateway.stop();
    let last = log.iter().rev().find(|line| line.contains("stopped:")).expect("a last line");
    assert!(last.ends_with("in_flight=0 seats=0 waiting=0 body_bytes=0"), "{last}");
}
