//! Instances that share a card, and those that do not.

use serde_json::{Value, json};

use super::{ask, upstreams};
use crate::support::crowd::{TIERS, all_up, paced, stops_clean, whole, with};
use crate::support::eventually;
use crate::support::gateway::{Gateway, gateway};
use crate::support::http::Wire;
use crate::support::sim::Sim;

const TWO: &str = "one=size:1GiB,vram:1GiB;other=size:1GiB,vram:1GiB";

/// Two instances on these cards; each of them has both models, and neither is in memory.
fn on_cards(cards: [u32; 2]) -> ([Sim; 2], Gateway) {
    let sims = [(); 2].map(|()| paced(1000, 2, &["--models", TWO]));
    let builder = gateway().config(TIERS).user("ann", "wide");
    let gateway = sims.iter().zip(cards).enumerate().fold(builder, |builder, (at, (sim, card))| {
        builder.upstream_with(&format!("gpu{at}"), &sim.url(), &format!("slots: 2, gpu: {card}"))
    });
    let gateway = gateway.start();
    all_up(&gateway, 2);
    (sims, gateway)
}

fn about(model: &str) -> Value {
    with(whole(1), "model", json!(model))
}

fn loading(sims: &[Sim]) -> u64 {
    sims.iter().map(|sim| sim.counter("loading")).sum()
}

fn wants(gateway: &Gateway, model: &str) -> Wire {
    gateway.post("/api/chat", &about(model)).key(gateway.key("ann")).start()
}

#[test]
fn two_instances_on_one_card_never_load_at_once() {
    let (sims, gateway) = on_cards([0, 0]);
    sims.iter().for_each(|sim| sim.turn(&json!({ "load_stall": true })));
    let first = wants(&gateway, "one");
    eventually("one of them loads", || loading(&sims) == 1);
    let second = wants(&gateway, "other");
    eventually("the other model's request waits", || upstreams(&gateway)["queue"]["waiting"] == 1);
    let queue = upstreams(&gateway)["queue"].clone();
    assert_eq!(queue["requests"][0]["reason"], "no_load_now", "{queue}");
    assert_eq!(loading(&sims), 1, "and nothing else is loaded meanwhile");
    sims.iter().for_each(|sim| sim.turn(&json!({ "load_stall": false })));
    for wire in [first, second] {
        assert_eq!(wire.exchange("POST").rest().status, 200);
    }
    assert_eq!(sims.iter().map(|sim| sim.counter("loads")).sum::<u64>(), 2);
    // both are in memory now, and neither waits for the other's
    assert_eq!(ask(&gateway, &about("one")).status, 200);
    assert_eq!(ask(&gateway, &about("other")).status, 200);
    stops_clean(gateway);
}

#[test]
fn instances_on_cards_of_their_own_load_beside_each_other() {
    let (sims, gateway) = on_cards([0, 1]);
    sims.iter().for_each(|sim| sim.turn(&json!({ "load_stall": true })));
    let wires = [wants(&gateway, "one"), wants(&gateway, "other")];
    eventually("both load", || loading(&sims) == 2);
    sims.iter().for_each(|sim| sim.turn(&json!({ "load_stall": false })));
    for wire in wires {
        assert_eq!(wire.exchange("POST").rest().status, 200);
    }
    stops_clean(gateway);
}
