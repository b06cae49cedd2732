//! Limits, as those meet them who reach them.

use serde_json::{Value, json};

use crate::support::crowd::{paced, question, whole};
use crate::support::eventually;
use crate::support::gateway::{Builder, Gateway, gateway};
use crate::support::http::{Answer, Request};
use crate::support::sim::{Sim, pieces};

const CHAT: &str = "/api/chat";

/// One stand-in, and a gateway before it with this tier `free` and a user of it.
fn house(free: &str) -> (Sim, Builder) {
    let sim = paced(1000, 4, &[]);
    let builder = gateway()
        .upstream_with("gpu0", &sim.url(), "slots: 4")
        .config(&format!("tiers: {{ free: {{ {free} }} }}"))
        .user("ann", "free");
    (sim, builder)
}

fn ask(gateway: &Gateway, key: &str) -> Answer {
    gateway.post(CHAT, &whole(2)).key(key).send()
}

/// Makes a key for a user of a running gateway.
fn another_key(gateway: &Gateway, user: &str, more: &[&str]) -> String {
    let arguments = [&["keys", "create", "--user", user, "--name", "another"], more].concat();
    let made = gateway.home().usher_json(&arguments);
    made["key"].as_str().expect("a new key is shown").to_owned()
}

fn left(answer: &Answer) -> u64 {
    number(answer, "x-ratelimit-remaining-requests")
}

fn number(answer: &Answer, header: &str) -> u64 {
    let value = answer.header(header);
    let value =
        value.unwrap_or_else(|| panic!("no {header} on {}: {:?}", answer.status, answer.headers));
    value.parse().expect("a number")
}

#[test]
fn a_users_limit_holds_over_all_of_their_keys_and_is_told_on_every_answer() {
    let (_sim, builder) = house("requests: 3/h");
    let gateway = builder.user("bob", "free").start();
    let (first, second) = (gateway.key("ann"), another_key(&gateway, "ann", &[]));
    for (key, remaining) in [(first, 2), (&*second, 1), (first, 0)] {
        let answer = ask(&gateway, key);
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.header("x-ratelimit-limit-requests"), Some("3"));
        assert_eq!(left(&answer), remaining);
        assert_eq!(answer.header("x-ratelimit-reset-requests"), Some("1h0m0s"));
        assert_eq!(answer.header("x-ratelimit-limit-tokens"), None, "there is no such limit");
    }
    for key in [first, &second] {
        let refused = ask(&gateway, key);
        assert_eq!((refused.status, left(&refused)), (429, 0));
        assert_eq!(refused.detail(), "Rate limit exceeded. Limit: 3/hour");
        assert_eq!(refused.json()["error"], "Rate limit exceeded. Limit: 3/hour");
        let wait = number(&refused, "retry-after");
        assert!((3000..=3600).contains(&wait), "{wait}");
        assert_eq!(refused.header("x-should-retry"), Some("false"), "an hour is too long to wait");
    }
    assert_eq!(ask(&gateway, gateway.key("bob")).status, 200, "others have their own");
}

#[test]
fn reads_are_counted_apart_and_what_is_open_to_everybody_not_at_all() {
    let (_sim, builder) = house("requests: 1/h");
    let gateway = builder.start();
    let key = gateway.key("ann");
    assert_eq!([ask(&gateway, key).status, ask(&gateway, key).status], [200, 429]);
    let read = gateway.get("/api/tags").key(key).send();
    assert_eq!(read.status, 200);
    assert_eq!(read.header("x-ratelimit-limit-requests"), Some("600"));
    assert_eq!(gateway.get("/health").send().header("x-ratelimit-limit-requests"), None);
}

#[test]
fn every_dialect_says_that_a_limit_is_reached() {
    let (_sim, builder) = house("requests: 1/d");
    let gateway = builder.start();
    let key = gateway.key("ann");
    assert_eq!(ask(&gateway, key).status, 200);
    let text = "Rate limit exceeded. Limit: 1/day";
    let refused = |path: &str| {
        let answer = gateway.post(path, &whole(2)).key(key).send();
        assert_eq!((answer.status, answer.detail()), (429, text.to_owned()), "{path}");
        answer.json()["error"].clone()
    };
    assert_eq!(refused("/api/generate"), text);
    let openai = refused("/v1/chat/completions");
    assert_eq!(
        (&openai["message"], &openai["code"]),
        (&json!(text), &json!("rate_limit_exceeded"))
    );
    let anthropic = refused("/v1/messages");
    assert_eq!(
        (&anthropic["message"], &anthropic["type"]),
        (&json!(text), &json!("rate_limit_error"))
    );
}

#[test]
fn reads_have_a_limit_of_their_own_and_a_short_wait_is_worth_waiting() {
    let (_sim, builder) = house("reads: 2/min");
    let gateway = builder.start();
    let key = gateway.key("ann");
    let read = |path: &str| gateway.get(path).key(key).send();
    assert_eq!(left(&read("/api/tags")), 1);
    assert_eq!(left(&read("/v1/models")), 0);
    let refused = read("/api/version");
    assert_eq!(
        (refused.status, refused.detail()),
        (429, "Rate limit exceeded. Limit: 2/minute".to_owned())
    );
    assert!((1..=60).contains(&number(&refused, "retry-after")));
    assert_eq!(refused.header("x-should-retry"), None);
    assert_eq!(ask(&gateway, key).status, 200, "requests are counted apart");
    assert_eq!(gateway.get("/ready").send().status, 200);
}

#[test]
fn what_is_refused_costs_nothing() {
    let (sim, builder) = house("requests: 2/h, models: ['llama3*', 'no-such-model']");
    let gateway = builder.start();
    let key = gateway.key("ann");
    let post = |body: &str| gateway.request("POST", CHAT).key(key).body(body).send();
    let with_model = |model: &str| gateway.post(CHAT, &json!({ "model": model })).key(key);
    let encoded = gateway.post(CHAT, &whole(1)).header("Content-Encoding", "gzip").key(key);
    for (answer, status) in [
        (post("{"), 400),
        (post(""), 400),
        (with_model("no-such-model").send(), 404),
        (with_model("qwen3:8b").send(), 403),
        (encoded.send(), 415),
    ] {
        assert_eq!((answer.status, left(&answer)), (status, 2), "{}", answer.text());
    }
    sim.misbehave(&json!({ "path": CHAT, "kind": "close" }));
    let failed = ask(&gateway, key);
    assert_eq!((failed.status, left(&failed)), (502, 2), "{}", failed.text());
    sim.behave();
    eventually("the instance is trusted again", || ask(&gateway, key).status == 200);
    let mut answers = (0..2).map(|_| ask(&gateway, key).status);
    assert_eq!((answers.next(), answers.next()), (Some(200), Some(429)), "two, and no more");
}

#[test]
fn who_leaves_the_queue_has_used_nothing() {
    let sim = paced(1000, 1, &[]);
    let gateway = gateway()
        .upstream("gpu0", &sim.url())
        .config("tiers: { free: { requests: 3/h } }")
        .user("ann", "free")
        .start();
    let key = gateway.key("ann");
    assert_eq!(ask(&gateway, key).status, 200, "the model is loaded");
    sim.turn(&json!({ "wedged": true }));
    let served = gateway.post(CHAT, &question(2)).key(key).header("X-Request-Id", "served").start();
    // the gateway's own count: to the stand-in a probe is a request like any other
    let known = || gateway.get("/admin/upstreams").key(gateway.key("admin")).send().json();
    eventually("it has the seat", || known()["data"][0]["in_flight"] == 1);
    let queued = gateway.post(CHAT, &question(2)).key(key).header("X-Request-Id", "queued").start();
    eventually("one waits", || known()["queue"]["waiting"] == 1);
    assert_eq!(ask(&gateway, key).status, 429, "who waits has taken the last of three");
    queued.reset();
    gateway.access_line("queued");
    sim.turn(&json!({ "wedged": false }));
    let served = served.exchange("POST").rest();
    assert_eq!((served.status, left(&served)), (200, 1));
    let last = ask(&gateway, key);
    assert_eq!((last.status, left(&last)), (200, 0), "its place in the hour came back");
    assert_eq!(ask(&gateway, key).status, 429);
}

#[test]
fn a_hundred_at_once_get_exactly_what_there_is() {
    let (_sim, builder) = house("requests: 10/h, concurrency: 100");
    let gateway = builder.start();
    let second = another_key(&gateway, "ann", &[]);
    let request = |key: &str| gateway.post(CHAT, &whole(1)).key(key);
    let requests: Vec<Request> =
        (0..50).flat_map(|_| [request(gateway.key("ann")), request(&second)]).collect();
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let clients: Vec<_> =
            requests.iter().map(|request| scope.spawn(|| request.send().status)).collect();
        clients.into_iter().map(|client| client.join().expect("an answer")).collect()
    });
    let count = |status| statuses.iter().filter(|each| **each == status).count();
    assert_eq!((count(200), count(429)), (10, 90), "{statuses:?}");
}

#[test]
fn a_key_has_limits_of_its_own_besides() {
    let (_sim, builder) = house("requests: 4/h }, tight: { requests: 2/h");
    let gateway = builder.start();
    let own = another_key(&gateway, "ann", &["--requests", "1/d"]);
    let tiered = another_key(&gateway, "ann", &["--tier", "tight"]);
    let first = ask(&gateway, &own);
    assert_eq!((first.status, first.header("x-ratelimit-limit-requests")), (200, Some("1")));
    assert_eq!(ask(&gateway, &own).detail(), "Rate limit exceeded. Limit: 1/day");
    let others = ask(&gateway, gateway.key("ann"));
    assert_eq!((others.status, left(&others)), (200, 2), "the user's other keys go on");
    assert_eq!(left(&ask(&gateway, &tiered)), 1, "of four and of two, that which has less left");
    assert_eq!(left(&ask(&gateway, &tiered)), 0);
    assert_eq!(ask(&gateway, &tiered).detail(), "Rate limit exceeded. Limit: 2/hour");
    let last = ask(&gateway, gateway.key("ann"));
    assert_eq!(last.detail(), "Rate limit exceeded. Limit: 4/hour", "all keys count for the user");
    let wrong =
        gateway.home().usher(&["keys", "create", "--user", "ann", "--name", "x", "--tokens", "5"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("expected a rate such as 5/min"));
}

#[test]
fn a_reload_changes_limits_and_forgets_nothing() {
    let (_sim, builder) = house("requests: 5/h, reads: 1111/min");
    let gateway = builder.start();
    let key = gateway.key("ann");
    for remaining in [4, 3, 2] {
        assert_eq!(left(&ask(&gateway, key)), remaining);
    }
    let file = gateway.home().path().join("usher.yaml");
    let before = std::fs::read_to_string(&file).expect("it is there");
    let reload = |rate: &str, reads: &str| {
        let changed = before.replace("5/h", rate).replace("1111/min", &format!("{reads}/min"));
        std::fs::write(&file, changed).expect("it is ours");
        gateway.signal("HUP");
        eventually("the file is in force", || {
            let read = gateway.get("/api/tags").key(key).send();
            read.header("x-ratelimit-limit-requests") == Some(reads)
        });
    };
    reload("2/h", "2222");
    assert_eq!(ask(&gateway, key).detail(), "Rate limit exceeded. Limit: 2/hour");
    reload("4/d", "3333");
    let answer = ask(&gateway, key);
    assert_eq!((answer.status, left(&answer)), (200, 0), "three of four were used before");
    assert_eq!(ask(&gateway, key).detail(), "Rate limit exceeded. Limit: 4/day");
}

#[test]
fn tokens_are_set_aside_settled_and_refused() {
    let (_sim, builder) = house("tokens: 400/h");
    let gateway = builder.start();
    let key = gateway.key("ann");
    let ask = |id: &str, path: &str, body: &Value| {
        let request = gateway.post(path, body).key(key).header("X-Request-Id", id);
        request.send()
    };
    let spent = |id: &str| {
        let line = gateway.access_line(id);
        let tokens = |name: &str| line[name].as_u64().expect("counted");
        tokens("tokens_in") + tokens("tokens_out")
    };
    let mut used = 0;
    for (number, path) in [CHAT, "/v1/chat/completions", "/v1/messages"].iter().enumerate() {
        let id = format!("tokens-{number}");
        let answer = ask(&id, path, &question(20));
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.header("x-ratelimit-limit-tokens"), Some("400"));
        let remaining = number_of_tokens(&answer);
        assert!(remaining < 400 - used, "something is set aside: {remaining} with {used} used");
        assert!(remaining + 100 > 400 - used, "and no more than it may need: {remaining}");
        used += spent(&id);
    }
    assert!((60..400).contains(&used), "{used}");
    let mut last = None;
    for number in 3..30 {
        let id = format!("tokens-{number}");
        let answer = ask(&id, CHAT, &question(20));
        if answer.status == 429 {
            last = Some(answer);
            break;
        }
        assert_eq!(answer.status, 200, "{}", answer.text());
        used += spent(&id);
    }
    let refused = last.expect("there is an end to it");
    assert_eq!(refused.detail(), "Rate limit exceeded. Limit: 400/hour");
    assert_eq!(refused.header("x-should-retry"), Some("false"));
    assert!(used <= 400 + 100, "exceeded by no more than was in flight: {used}");
    assert!(used > 300, "and used up: {used}");
}

fn number_of_tokens(answer: &Answer) -> u64 {
    number(answer, "x-ratelimit-remaining-tokens")
}

#[test]
fn a_stream_that_is_left_or_breaks_costs_what_was_seen_of_it() {
    let sim = paced(200, 4, &[]);
    let gateway = gateway()
        .upstream_with("gpu0", &sim.url(), "slots: 4")
        .config("tiers: { free: { tokens: 100k/h } }")
        .user("ann", "free")
        .start();
    let key = gateway.key("ann");
    let probe = || {
        let body = json!({ "model": "nomic-embed-text", "input": "a" });
        number_of_tokens(&gateway.post("/api/embed", &body).key(key).send())
    };
    let before = probe();
    let mut left =
        gateway.post(CHAT, &question(50_000)).key(key).header("X-Request-Id", "left").open();
    assert_eq!(pieces(&mut left, 10).len(), 10);
    left.reset();
    gateway.access_line("left");
    let after = probe();
    let cost = before - after;
    assert!((10..5_000).contains(&cost), "ten pieces were seen and some more sent: {cost}");
    sim.misbehave(&json!({ "path": CHAT, "kind": "cut_after", "after": 20 }));
    let broken =
        gateway.post(CHAT, &question(50_000)).key(key).header("X-Request-Id", "broken").send();
    assert_eq!(broken.status, 200);
    gateway.access_line("broken");
    let cost = after - probe();
    assert!((10..5_000).contains(&cost), "twenty pieces, and the prompt: {cost}");
}

#[test]
fn refusals_are_counted_by_the_limit_that_was_reached() {
    let (_sim, builder) = house("requests: 1/h, reads: 1/h");
    let gateway = builder.config("metrics: { address: 127.0.0.1:0 }").start();
    let key = gateway.key("ann");
    for status in [200, 429, 429] {
        assert_eq!(ask(&gateway, key).status, status);
    }
    for status in [200, 429] {
        assert_eq!(gateway.get("/api/tags").key(key).send().status, status);
    }
    let place = || {
        gateway.log().iter().find_map(|line| {
            line.split_once("metrics on http://")?.1.strip_suffix("/metrics")?.parse().ok()
        })
    };
    eventually("metrics are announced", || place().is_some());
    let place = place().expect("announced a moment ago");
    let mut reading = String::new();
    eventually("refusals are counted", || {
        reading = Request::new(place, "GET", "/metrics").send().text();
        reading.contains(r#"usher_limited_total{limit="requests"} 2"#)
            && reading.contains(r#"usher_limited_total{limit="reads"} 1"#)
    });
    let security = || gateway.security_lines().iter().filter(|it| it.contains("limited")).count();
    eventually("they are in the security log", || security() == 3);
}
