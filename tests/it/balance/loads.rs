//! Loads of models: who begins them, who ends them, and who hears why.

use serde_json::{Value, json};

use super::{ask, ask_as, upstreams};
use crate::support::crowd::{all_up, before, ids_at, paced, question, stops_clean, whole};
use crate::support::eventually;
use crate::support::gateway::Gateway;
use crate::support::http::Wire;
use crate::support::sim::{Sim, sim};

fn waiting(gateway: &Gateway, user: &str, id: &str) -> Wire {
    let request = gateway.post("/api/chat", &question(1)).key(gateway.key(user));
    request.header("X-Request-Id", id).start()
}

fn queue(gateway: &Gateway) -> Value {
    upstreams(gateway)["queue"].clone()
}

fn wait_for_queue(gateway: &Gateway, length: u64) {
    eventually("they wait", || queue(gateway)["waiting"] == length);
}

#[test]
fn a_load_goes_on_without_the_client_for_whom_it_began_while_somebody_waits_for_it() {
    let sims = [sim().args(&["--load-base", "3s"]).start()];
    let gateway = before(&sims, 1).start();
    let first = waiting(&gateway, "ann", "first");
    sims[0].wait_for("loading", 1);
    let second = waiting(&gateway, "ann", "second");
    wait_for_queue(&gateway, 1);
    first.reset();
    assert_eq!(second.exchange("POST").rest().status, 200);
    assert_eq!((sims[0].counter("aborted_loads"), sims[0].counter("loads")), (0, 1));
    assert_eq!(gateway.access_line("first")["outcome"], "client_gone");
    stops_clean(gateway);
}

#[test]
fn why_a_request_sat_where_it_sat_is_in_its_access_line() {
    let sims: Vec<Sim> = (0..2).map(|_| paced(1000, 2, &[])).collect();
    let gateway = before(&sims, 2).start();
    all_up(&gateway, 2);
    assert_eq!(ask_as(&gateway, "ann", "cold", &whole(1)).status, 200);
    let seats = gateway.access_line("cold")["seats"].clone();
    let seats = seats.as_str().expect("the candidates");
    assert!(seats.contains("gpu0=") && seats.contains("gpu1="), "{seats}");
    assert_eq!(seats.matches("+load").count(), 2, "{seats}");
    assert_eq!(ask_as(&gateway, "ann", "warm", &whole(1)).status, 200);
    let seats = gateway.access_line("warm")["seats"].clone();
    let seats = seats.as_str().expect("the candidates");
    assert_eq!(seats.matches("+load").count(), 1, "one of them has the model: {seats}");
    stops_clean(gateway);
}

#[test]
fn the_queue_is_shown_line_by_line_with_where_the_next_could_go() {
    let sims = [paced(1000, 1, &[])];
    let gateway = before(&sims, 1).start();
    assert_eq!(ask(&gateway, &whole(1)).status, 200);
    sims[0].turn(&json!({ "wedged": true }));
    let held = waiting(&gateway, "ann", "held");
    sims[0].wait_for("slots_in_use", 1);
    let next = waiting(&gateway, "ann", "next");
    wait_for_queue(&gateway, 1);
    let lines = queue(&gateway)["lines"].clone();
    assert_eq!(lines[0]["model"], "llama3.2:latest");
    assert_eq!((&lines[0]["waiting"], &lines[1]), (&json!(1), &Value::Null));
    let place = &lines[0]["candidates"][0];
    assert_eq!((&place["upstream"], &place["free"]), (&json!("gpu0"), &json!(false)));
    assert!(place["seconds"].as_f64() >= place["wait"].as_f64(), "{place}");
    let requests = queue(&gateway)["requests"].clone();
    assert_eq!((&requests[0]["position"], &requests[1]), (&json!(1), &Value::Null));
    assert_eq!(
        (&requests[0]["model"], &requests[0]["reason"]),
        (&json!("llama3.2:latest"), &json!("no_slot"))
    );
    let seconds = |name: &str| requests[0][name].as_f64().expect("a number");
    assert!(seconds("waited_seconds") >= 0.0 && seconds("expected_seconds") > 0.0, "{requests}");
    sims[0].turn(&json!({ "wedged": false }));
    for wire in [held, next] {
        assert_eq!(wire.exchange("POST").rest().status, 200);
    }
    stops_clean(gateway);
}

#[test]
fn a_client_that_would_be_gone_before_its_turn_hears_so_at_once() {
    let sims = [paced(1000, 1, &[])];
    let gateway = before(&sims, 1).start();
    sims[0].turn(&json!({ "wedged": true }));
    let held = waiting(&gateway, "ann", "held");
    sims[0].wait_for("slots_in_use", 1);
    let hasty = gateway.post("/api/chat", &question(1)).key(gateway.key("ann"));
    let hasty = hasty.header("X-Stainless-Read-Timeout", "0.001").header("X-Request-Id", "hasty");
    let refused = hasty.send();
    assert_eq!(refused.status, 503, "{}", refused.text());
    super::retry_after(&refused);
    assert_eq!(gateway.access_line("hasty")["outcome"], "too_late");
    assert!(!ids_at(&sims[0]).contains(&"hasty".to_owned()), "the instance never saw it");
    // what OpenAI's SDKs send unless they are told otherwise
    let patient = gateway.post("/api/chat", &question(1)).key(gateway.key("ann"));
    let patient = patient.header("X-Stainless-Read-Timeout", "600").start();
    wait_for_queue(&gateway, 1);
    sims[0].turn(&json!({ "wedged": false }));
    for wire in [held, patient] {
        assert_eq!(wire.exchange("POST").rest().status, 200);
    }
    stops_clean(gateway);
}

#[test]
fn end_users_of_a_delegating_key_take_turns() {
    let sims = [paced(1000, 1, &[])];
    let gateway = before(&sims, 1).user("webui", "wide").key("webui", &["--delegating"]).start();
    sims[0].turn(&json!({ "wedged": true }));
    let held = waiting(&gateway, "ann", "held");
    sims[0].wait_for("slots_in_use", 1);
    let asks = |end_user: &str, id: &str| {
        let request = gateway.post("/api/chat", &question(1)).key(gateway.key("webui"));
        request.header("X-OpenWebUI-User-Id", end_user).header("X-Request-Id", id).start()
    };
    let mut wires = vec![held];
    for (number, (end_user, id)) in
        [("u-1", "one-1"), ("u-1", "one-2"), ("u-1", "one-3"), ("u-2", "two-1")]
            .into_iter()
            .enumerate()
    {
        wires.push(asks(end_user, id));
        wait_for_queue(&gateway, number as u64 + 1);
    }
    sims[0].turn(&json!({ "wedged": false }));
    for wire in wires {
        assert_eq!(wire.exchange("POST").rest().status, 200);
    }
    let order = ids_at(&sims[0]);
    let place = |id: &str| order.iter().position(|other| other == id).expect("it was served");
    assert!(place("two-1") < place("one-2"), "{order:?}");
    stops_clean(gateway);
}
