//! Stand-ins, questions and clients for tests in which many things happen at once.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::eventually;
use super::gateway::{Builder, Gateway, gateway};
use super::sim::{self, Sim, sim};

/// A model that every stand-in has unless it is told otherwise.
pub const MODEL: &str = "llama3.2";

/// A tier that is bounded by the instances alone, one that waits for nothing, one with one seat.
pub const TIERS: &str = "
tiers:
  wide: { concurrency: 1000, requests: null, reads: null }
  hasty: { max_queue_wait: 20ms, requests: null, reads: null }
  narrow: { concurrency: 1, requests: null, reads: null }
";

/// How soon an instance must be free of a client that left. The contract says 250 ms; the rest is
/// for machines that run other tests meanwhile, and for asking the stand-in over HTTP.
pub const SOON: Duration = Duration::from_secs(1);

/// A stand-in that loads and reads within moments and writes at this pace to each request.
pub fn paced(tokens_per_second: u32, slots: u32, more: &[&str]) -> Sim {
    quick_builder(tokens_per_second, slots).args(more).start()
}

/// Another such stand-in in the place of one that was killed, where it was.
pub fn restarted(killed: &Sim, tokens_per_second: u32, slots: u32) -> Sim {
    quick_builder(tokens_per_second, slots).in_the_place_of(killed).start()
}

fn quick_builder(tokens_per_second: u32, slots: u32) -> sim::Builder {
    let (rate, slots) = (tokens_per_second.to_string(), slots.to_string());
    sim().args(&["--load-base", "0s", "--load-rate", "1024GiB", "--vram-recovery", "0s"]).args(&[
        "--prefill-rate",
        "1000000",
        "--decode-sharing",
        "0",
        "--decode-rate",
        &rate,
        "--slots",
        &slots,
    ])
}

/// A gateway before these stand-ins, named `gpu0`, `gpu1` and so on, with as many slots each.
pub fn before(sims: &[Sim], slots: u32) -> Builder {
    let settings = format!("slots: {slots}");
    let builder = gateway().config(TIERS).user("ann", "wide");
    sims.iter().enumerate().fold(builder, |builder, (index, sim)| {
        builder.upstream_with(&format!("gpu{index}"), &sim.url(), &settings)
    })
}

/// Waits until each of `count` instances was found to be up.
pub fn all_up(gateway: &Gateway, count: usize) {
    eventually("all instances are up", || {
        gateway.log().iter().filter(|line| line.contains(" is up: ")).count() >= count
    });
}

/// A question whose answer is a stream of about this many tokens, in every dialect.
pub fn question(tokens: u32) -> Value {
    json!({
        "model": MODEL,
        "messages": [{ "role": "user", "content": "Why is the sky blue?" }],
        "max_tokens": tokens,
        "options": { "num_predict": tokens },
        "stream": true,
    })
}

/// The same question for an answer in one piece.
pub fn whole(tokens: u32) -> Value {
    with(question(tokens), "stream", json!(false))
}

/// `object` with this member.
pub fn with(mut object: Value, name: &str, value: Value) -> Value {
    object[name] = value;
    object
}

/// The ids of the requests that an instance has seen.
pub fn ids_at(sim: &Sim) -> Vec<String> {
    let id = |entry: &Value| {
        let headers = entry["headers"].as_array().expect("headers");
        let header = headers.iter().find(|header| header[0] == "x-request-id")?;
        Some(header[1].as_str().expect("text").to_owned())
    };
    sim.requests().iter().filter_map(id).collect()
}

/// Requests for an answer that an instance has seen.
pub fn seen(sim: &Sim) -> usize {
    ids_at(sim).len()
}

/// Waits until these instances work on nothing, and says how long that took.
pub fn idle_after(sims: &[&Sim], since: Instant) -> Duration {
    eventually("the instances are idle", || {
        sims.iter().all(|sim| {
            let counters = sim.counters();
            ["inflight", "queued", "slots_in_use", "waiting_slot"]
                .iter()
                .all(|name| counters[name] == 0)
        })
    });
    since.elapsed()
}

/// Stops the gateway and makes sure that nothing was left behind in it.
pub fn stops_clean(gateway: Gateway) {
    let log = gateway.stop();
    let last = log.last().expect("a log");
    assert!(
        last.ends_with("stopped: in_flight=0 seats=0 waiting=0 body_bytes=0"),
        "{}",
        log.join("\n")
    );
}

/// Numbers that look random and are the same on every run (splitmix64).
pub struct Dice(pub u64);

impl Dice {
    /// A number below `bound`.
    pub fn roll(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}
