//! What health probes do not see: a model that does nothing, and a queue inside an instance.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::crowd::{all_up, before, ids_at, paced, question, seen, stops_clean, whole};
use crate::support::eventually;
use crate::support::gateway::Gateway;
use crate::support::http::Wire;
use crate::support::sim::Sim;

/// Silence is slowness for so long at least.
const SILENCE: Duration = Duration::from_secs(30);

fn asks(gateway: &Gateway, id: &str, body: &Value) -> Wire {
    let request = gateway.post("/api/chat", body).key(gateway.key("ann"));
    request.header("X-Request-Id", id).start()
}

fn count(gateway: &Gateway, text: &str) -> usize {
    gateway.log().iter().filter(|line| line.contains(text)).count()
}

fn breaker(gateway: &Gateway, place: usize) -> Value {
    let answer = gateway.get("/admin/upstreams").key(gateway.key("admin")).send();
    let instance = answer.json()["data"][place].clone();
    assert_eq!(instance["state"], "up", "its probes succeed: {instance}");
    instance["learnt"][0]["breaker"].clone()
}

#[test]
fn a_model_that_says_nothing_while_others_answer_is_left_alone_there_and_comes_back_by_a_trial() {
    let sims = [paced(1000, 2, &[]), paced(1000, 2, &[])];
    for sim in &sims {
        assert_eq!(sim.post("/api/chat", &whole(1)).send().status, 200, "both hold the model");
        sim.reset();
    }
    let gateway = before(&sims, 2).start();
    all_up(&gateway, 2);
    sims[0].turn(&json!({ "wedged": true }));
    let begun = Instant::now();
    // as many as there are slots: one half of them hangs, the other is answered
    let mut wires: Vec<Wire> =
        (0..4).map(|at| asks(&gateway, &format!("early-{at}"), &question(2))).collect();
    sims[0].wait_for("slots_in_use", 2);
    eventually("the others are answered", || ids_at(&sims[1]).len() == 2);
    let ask = |id: &str| asks(&gateway, id, &whole(1)).exchange("POST").rest().status;
    let mut asked = 0;
    eventually("it has been silent for long", || {
        let passed = begun.elapsed();
        if passed.as_secs() > asked && passed < SILENCE {
            asked = passed.as_secs();
            assert_eq!(breaker(&gateway, 0), "closed", "it may be slow");
            assert_eq!(ask("meanwhile"), 200);
        }
        passed > SILENCE - Duration::from_secs(2)
    });
    let told = "upstream gpu0: llama3.2:latest has said nothing for";
    eventually("it is taken out", || count(&gateway, told) == 1);
    assert_ne!(breaker(&gateway, 0), "closed");
    // one of its requests gives up: there is a slot there, and nobody is given it but for a trial
    drop(wires.remove(0));
    sims[0].turn(&json!({ "wedged": false }));
    eventually("it serves again", || {
        assert_eq!(ask("later"), 200);
        ids_at(&sims[0]).contains(&"later".to_owned())
    });
    eventually("and is trusted", || breaker(&gateway, 0) == "closed");
    for wire in wires {
        assert_eq!(wire.exchange("POST").rest().status, 200, "slow answers are answers");
    }
    assert_eq!(count(&gateway, told), 1, "it was said once of all of them");
    stops_clean(gateway);
}

/// Eight requests at once, and their answers.
fn crowd(gateway: &Gateway) {
    let wires: Vec<Wire> =
        (0..8).map(|at| asks(gateway, &format!("crowd-{at}"), &question(30))).collect();
    for wire in wires {
        assert_eq!(wire.exchange("POST").rest().status, 200);
    }
}

#[test]
fn slots_that_are_too_many_are_said_once() {
    const TOLD: &str = "upstream gpu0: requests wait inside of it";
    let one_at_a_time = || -> [Sim; 1] { [paced(60, 1, &[])] };
    let sims = one_at_a_time();
    let gateway = before(&sims, 4).start();
    crowd(&gateway);
    eventually("it is said", || count(&gateway, TOLD) == 1);
    crowd(&gateway);
    assert_eq!(seen(&sims[0]), 16);
    assert_eq!(count(&gateway, TOLD), 1, "and not again");
    stops_clean(gateway);

    let sims = one_at_a_time();
    let gateway = before(&sims, 1).start();
    crowd(&gateway);
    let log = gateway.stop();
    assert!(!log.iter().any(|line| line.contains(TOLD)), "who waits here does not wait there");
}
