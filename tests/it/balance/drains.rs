//! Instances that are drained and resumed while requests wait for them.

use serde_json::json;

use super::upstreams;
use crate::support::crowd::{all_up, before, ids_at, paced, question, stops_clean};
use crate::support::eventually;
use crate::support::gateway::Gateway;
use crate::support::http::Wire;

fn order(gateway: &Gateway, name: &str, what: &str) {
    let path = format!("/admin/upstreams/{name}/{what}");
    let answer = gateway.request("POST", &path).key(gateway.key("admin")).send();
    assert_eq!(answer.status, 200, "{}", answer.text());
}

fn asks(gateway: &Gateway, id: &str) -> Wire {
    let request = gateway.post("/api/chat", &question(1)).key(gateway.key("ann"));
    request.header("X-Request-Id", id).start()
}

fn wait_for_queue(gateway: &Gateway, length: usize) {
    eventually("they wait", || upstreams(gateway)["queue"]["waiting"] == length);
}

#[test]
fn who_waits_for_the_only_instance_is_kept_through_its_drain_and_served_when_it_is_resumed() {
    let sims = [paced(1000, 1, &[])];
    let gateway = before(&sims, 1).start();
    sims[0].turn(&json!({ "wedged": true }));
    let held = asks(&gateway, "held");
    sims[0].wait_for("slots_in_use", 1);
    let first = asks(&gateway, "first");
    wait_for_queue(&gateway, 1);
    let second = asks(&gateway, "second");
    wait_for_queue(&gateway, 2);
    order(&gateway, "gpu0", "drain");
    sims[0].turn(&json!({ "wedged": false }));
    assert_eq!(held.exchange("POST").rest().status, 200, "who was there is served to the end");
    eventually("it is empty", || upstreams(&gateway)["data"][0]["state"] == "drained");
    let queue = upstreams(&gateway)["queue"].clone();
    assert_eq!(queue["waiting"], 2, "nobody was sent away, nobody was let in: {queue}");
    assert_eq!(queue["requests"][0]["reason"], "no_instance", "{queue}");
    order(&gateway, "gpu0", "resume");
    for wire in [first, second] {
        assert_eq!(wire.exchange("POST").rest().status, 200);
    }
    assert_eq!(ids_at(&sims[0]), ["held", "first", "second"]);
    stops_clean(gateway);
}

#[test]
fn who_waits_goes_to_the_other_instance_when_one_is_drained() {
    let sims = [paced(1000, 1, &[]), paced(1000, 1, &[])];
    let gateway = before(&sims, 1).start();
    all_up(&gateway, 2);
    sims.iter().for_each(|sim| sim.turn(&json!({ "wedged": true })));
    let held = [asks(&gateway, "held-0"), asks(&gateway, "held-1")];
    sims.iter().for_each(|sim| sim.wait_for("slots_in_use", 1));
    let waits = asks(&gateway, "waits");
    wait_for_queue(&gateway, 1);
    order(&gateway, "gpu0", "drain");
    sims.iter().for_each(|sim| sim.turn(&json!({ "wedged": false })));
    for wire in held.into_iter().chain([waits]) {
        assert_eq!(wire.exchange("POST").rest().status, 200);
    }
    assert_eq!((ids_at(&sims[0]).len(), ids_at(&sims[1]).len()), (1, 2));
    assert_eq!(ids_at(&sims[1])[1], "waits");
    stops_clean(gateway);
}
