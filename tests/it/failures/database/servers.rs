//! A PostgreSQL server that stops, stalls, is replaced; and many who find it empty.

use std::process::Stdio;

use super::*;
use crate::support::eventually;
use crate::support::gateway::{Builder, gateway};
use crate::support::postgres::{self, own};
use crate::support::proxy::{Fault, Proxy};
use crate::support::sim::{Sim, sim};

/// The same on every gateway.
const SECRET: &str = "the same forty characters on all of them";

fn on(sim: &Sim, url: &str) -> Builder {
    let builder = gateway().upstream_with("gpu0", &sim.url(), "slots: 8").database(url);
    builder.env("JWT_SECRET", SECRET).config("auth: { max_stale: 1m }")
}

fn quick() -> Sim {
    sim().args(&["--speed", "1000"]).start()
}

fn degraded(gateway: &Gateway) -> bool {
    gateway.get("/ready").send().text().contains("database")
}

/// Within this time every process has seen a change. Until then whoever was known is asked for
/// again, at the latest when the database shows the change.
const SEEN: Duration = Duration::from_secs(1);

/// Asks with a known key all the while that `harm` is done.
fn nobody_known_notices(gateway: &Gateway, harm: impl FnOnce()) {
    let ask = || {
        let answer = tags(gateway, gateway.key("ann"));
        assert_eq!(answer.status, 200, "{}", answer.text());
        std::thread::sleep(Duration::from_millis(2));
    };
    let begun = Instant::now();
    while begun.elapsed() < SEEN {
        ask();
    }
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                ask();
            }
        });
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(harm));
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        done.expect("the harm was done");
    });
}

/// How long it takes until changes are made again, tried all the time.
fn until_changes(gateway: &Gateway, name: &str) -> Duration {
    let since = Instant::now();
    eventually("changes are made again", || {
        let answer = make_key(gateway, name);
        assert!(matches!(answer.status, 201 | 503), "{}", answer.text());
        answer.status == 201
    });
    since.elapsed()
}

#[test]
fn a_server_that_crashes_and_comes_back_is_used_again_at_once() {
    let (sim, mut server) = (quick(), own::server());
    let gateway = on(&sim, &server.url()).user("ann", "free").start();
    assert_eq!(tags(&gateway, gateway.key("ann")).status, 200);
    for round in 0..2 {
        // what was nobody's a moment ago is remembered
        let stranger = format!("a-key-that-nobody-asked-for-before-round-{round}");
        nobody_known_notices(&gateway, || {
            server.stop();
            eventually("it is missed", || degraded(&gateway));
            let unknown = tags(&gateway, &stranger);
            assert_eq!(unknown.status, 503, "never 401: {}", unknown.text());
            refused(&make_key(&gateway, "in vain"), Instant::now());
            server.start_again();
            let took = until_changes(&gateway, &format!("round {round}"));
            assert!(took < SOON, "{took:?}");
            eprintln!("used again after a crash: {} ms", took.as_millis());
            eventually("it is there again", || !degraded(&gateway));
        });
        assert_eq!(tags(&gateway, &stranger).status, 401);
    }
    assert_eq!(traces(&gateway, "in vain"), (0, 0));
}

#[test]
fn a_server_that_says_nothing_for_a_while_holds_up_nobody_and_is_used_again_at_once() {
    let (sim, server) = (quick(), own::server());
    let proxy = Proxy::before(server.address());
    let gateway = on(&sim, &server.url_at(proxy.address())).user("ann", "free").start();
    assert_eq!(tags(&gateway, gateway.key("ann")).status, 200);
    nobody_known_notices(&gateway, || {
        proxy.turn(Fault::Hold);
        let began = Instant::now();
        std::thread::scope(|scope| {
            // more than there are connections, and every one of them is held up
            for n in 0..16 {
                let gateway = &gateway;
                scope.spawn(move || {
                    let unknown = tags(gateway, &format!("a-key-of-nobody-number-{n}"));
                    assert_eq!(unknown.status, 503, "{}", unknown.text());
                });
            }
        });
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        assert!(degraded(&gateway));
        proxy.turn(Fault::None);
        let took = until_changes(&gateway, "after");
        assert!(took < SOON, "{took:?}");
        eprintln!("used again after a silence: {} ms", took.as_millis());
    });
}

#[test]
fn connections_that_lead_nowhere_any_more_are_thrown_away() {
    let (sim, server) = (quick(), own::server());
    let proxy = Proxy::before(server.address());
    let gateway = on(&sim, &server.url_at(proxy.address())).user("ann", "free").start();
    // whatever is open stays open and silent, as behind a router that has forgotten it
    proxy.strand();
    let took = until_changes(&gateway, "after");
    eprintln!("used again when connections led nowhere: {} ms", took.as_millis());
    assert!(took < Duration::from_secs(10), "{took:?}");
    for n in 0..20 {
        assert_eq!(tags(&gateway, &format!("a-key-of-nobody-number-{n}")).status, 401);
    }
}

#[test]
fn after_a_failover_nothing_that_was_confirmed_is_lost_and_changes_go_on() {
    let (sim, mut primary) = (quick(), own::server());
    let standby = primary.standby();
    let proxy = Proxy::before(primary.address());
    let gateway = on(&sim, &primary.url_at(proxy.address())).user("ann", "free").start();
    let key = key_in(&make_key(&gateway, "before"));
    assert_eq!(tags(&gateway, &key).status, 200);
    repeated(&primary, &standby);
    nobody_known_notices(&gateway, || {
        primary.stop();
        proxy.lead_to(standby.address());
        // it repeats a server that is gone: not believed, for it may be behind
        assert_eq!(tags(&gateway, "a-key-that-nobody-has-asked-for-yet").status, 503);
        standby.promote();
        let took = until_changes(&gateway, "after");
        assert!(took < SOON, "{took:?}");
        eprintln!("used again after a fail-over: {} ms", took.as_millis());
    });
    assert_eq!(tags(&gateway, &key).status, 200);
    eventually("all of it is there", || {
        (traces(&gateway, "before"), traces(&gateway, "after")) == ((1, 1), (1, 1))
    });
}

#[test]
fn connections_to_a_server_that_may_not_be_written_any_more_are_made_anew() {
    let (sim, primary) = (quick(), own::server());
    let standby = primary.standby();
    let proxy = Proxy::before(primary.address());
    let gateway = on(&sim, &primary.url_at(proxy.address())).user("ann", "free").start();
    assert_eq!(tags(&gateway, gateway.key("ann")).status, 200);
    repeated(&primary, &standby);
    nobody_known_notices(&gateway, || {
        // the old primary stays, with all its connections, and refuses every change
        primary.forbid_writing(true);
        standby.promote();
        proxy.lead_to(standby.address());
        let took = until_changes(&gateway, "after");
        assert!(took < SOON, "{took:?}");
        eprintln!("used again after a change of roles: {} ms", took.as_millis());
    });
    // a connection to the old primary is found out when it shows an older revision
    eventually("only the new primary is asked", || traces(&gateway, "after") == (1, 1));
}

/// Waits until the standby has all that the primary has now.
fn repeated(primary: &own::Postgres, standby: &own::Postgres) {
    primary.say("CREATE TABLE marker ()");
    eventually("the standby has caught up", || standby.has_table("marker"));
}

/// A fresh database on the PostgreSQL server of the tests.
fn empty() -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(postgres::fresh_database())
}

#[test]
fn gateways_that_start_at_once_on_an_empty_database_make_one_schema() {
    let (sim, url) = (quick(), empty());
    let gateways: Vec<Gateway> = std::thread::scope(|scope| {
        let starting: Vec<_> =
            (0..4).map(|_| scope.spawn(|| on(&sim, &url).without_accounts().start())).collect();
        starting.into_iter().map(|start| start.join().expect("it came up")).collect()
    });
    let home = gateways[0].home();
    home.usher_json(&["users", "create", "ann"]);
    let made = home.usher_json(&["keys", "create", "--user", "ann", "--name", "one"]);
    let key = made["key"].as_str().expect("a key");
    for gateway in &gateways {
        assert_eq!(tags(gateway, key).status, 200, "they share one database");
    }
}

#[test]
fn of_many_who_initialise_at_once_one_is_shown_the_first_key() {
    let (sim, url) = (quick(), empty());
    let homes: Vec<_> = (0..4).map(|_| on(&sim, &url).home()).collect();
    let running: Vec<_> = homes
        .iter()
        .map(|home| {
            let mut init = home.command(&["init", "--json"]);
            init.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs")
        })
        .collect();
    let mut keys = Vec::new();
    for init in running {
        let output = init.wait_with_output().expect("a child can be waited for");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        keys.extend(said["key"].as_str().map(str::to_owned));
    }
    assert_eq!(keys.len(), 1, "there is one first admin");
    let users = homes[0].usher_json(&["users", "list"]);
    assert_eq!(users["data"].as_array().map(Vec::len), Some(1), "{users}");
}
