//! Usage: what was used is written down, and read by those whom it concerns.

use serde_json::{Value, json};
use sqlx::{Connection, Executor, SqliteConnection};

use crate::support::crowd::{paced, question, whole};
use crate::support::eventually;
use crate::support::gateway::{Builder, Gateway, gateway};
use crate::support::http::Answer;
use crate::support::postgres;
use crate::support::sim::Sim;

const CHAT: &str = "/api/chat";

fn house() -> (Sim, Builder) {
    let sim = paced(1000, 4, &[]);
    let builder = gateway().upstream_with("gpu0", &sim.url(), "slots: 4").user("ann", "free");
    (sim, builder)
}

fn ask(gateway: &Gateway, user: &str, id: &str, tokens: u32) -> Answer {
    let request = gateway.post(CHAT, &whole(tokens)).key(gateway.key(user));
    request.header("X-Request-Id", id).send()
}

/// What the command says, as the rows of its list.
fn usage(gateway: &Gateway, by: &str) -> Vec<Value> {
    list(gateway.home().usher_json(&["usage", "--by", by]))
}

fn list(mut answer: Value) -> Vec<Value> {
    match answer["data"].take() {
        Value::Array(rows) => rows,
        other => panic!("{other} is no list"),
    }
}

/// Waits until so many requests are written down.
fn wait_for(gateway: &Gateway, requests: i64) -> Vec<Value> {
    let mut rows = Vec::new();
    eventually(&format!("{requests} requests are written down"), || {
        rows = usage(gateway, "user");
        rows.iter().filter_map(|row| row["requests"].as_i64()).sum::<i64>() == requests
    });
    rows
}

/// Tokens of these requests, as the access log has them.
fn tokens(gateway: &Gateway, ids: &[&str]) -> (i64, i64) {
    let lines = ids.iter().map(|id| gateway.access_line(id));
    lines.fold((0, 0), |(prompt, output), line| {
        let number = |name: &str| line[name].as_i64().expect("counted");
        (prompt + number("tokens_in"), output + number("tokens_out"))
    })
}

#[test]
fn usage_adds_up_by_user_key_model_and_hour_wherever_it_is_read() {
    let (_sim, builder) = house();
    let gateway = builder.user("bob", "free").start();
    for id in ["a1", "a2", "a3"] {
        assert_eq!(ask(&gateway, "ann", id, 20).status, 200);
    }
    assert_eq!(ask(&gateway, "bob", "b1", 5).status, 200);
    let by_user = wait_for(&gateway, 4);
    let (prompt, output) = tokens(&gateway, &["a1", "a2", "a3"]);
    let ann = by_user.iter().find(|row| row["user"] == "ann").expect("she is there");
    assert_eq!((&ann["requests"], &ann["errors"]), (&json!(3), &json!(0)));
    assert_eq!(
        (&ann["prompt_tokens"], &ann["completion_tokens"]),
        (&json!(prompt), &json!(output))
    );
    let seconds = ann["gpu_seconds"].as_f64().expect("a number");
    assert!(seconds >= 0.05, "sixty tokens at a thousand a second: {seconds}");
    assert_eq!(by_user[0]["user"], "ann", "the busiest comes first");
    let admin = gateway.get("/admin/usage?by=user").key(gateway.key("admin")).send();
    assert_eq!(list(admin.json()), by_user, "one truth for commands and the API");
}

#[test]
fn usage_is_summed_by_key_by_model_and_by_hour_too() {
    let (_sim, builder) = house();
    let gateway = builder.user("bob", "free").start();
    assert_eq!(ask(&gateway, "ann", "a1", 20).status, 200);
    assert_eq!(ask(&gateway, "bob", "b1", 5).status, 200);
    wait_for(&gateway, 2);
    let by_key = usage(&gateway, "key");
    assert_eq!(by_key.len(), 2);
    assert_eq!((&by_key[0]["user"], &by_key[0]["name"]), (&json!("ann"), &json!("test-0")));
    assert!(gateway.key("ann").starts_with(by_key[0]["prefix"].as_str().expect("text")));
    let by_model = usage(&gateway, "model");
    assert_eq!((by_model.len(), &by_model[0]["model"]), (1, &json!("llama3.2:latest")));
    let hours = usage(&gateway, "hour");
    assert!((1..=2).contains(&hours.len()), "{hours:?}");
    assert!(hours[0]["hour"].as_str().is_some_and(|hour| hour.ends_with(":00:00Z")), "{hours:?}");

    let table = gateway.home().usher(&["usage", "--by", "model"]);
    let table = String::from_utf8(table.stdout).expect("text");
    assert!(table.starts_with("MODEL"), "{table}");
    let past = list(gateway.home().usher_json(&["usage", "--to", "2020-01-01"]));
    assert_eq!(past, Vec::<Value>::new());
}

#[test]
fn csv_is_for_spreadsheets_and_the_same_from_command_and_api() {
    let (_sim, builder) = house();
    let gateway = builder.start();
    assert_eq!(ask(&gateway, "ann", "one", 5).status, 200);
    wait_for(&gateway, 1);
    let printed = gateway.home().usher(&["usage", "--by", "model", "--csv"]);
    let printed = String::from_utf8(printed.stdout).expect("text");
    let head =
        "model,requests,prompt_tokens,completion_tokens,gpu_seconds,errors\r\nllama3.2:latest,1,";
    assert!(printed.starts_with(head), "{printed:?}");
    let path = "/admin/usage?by=model&format=csv&from=2026-01-01";
    let answered = gateway.get(path).key(gateway.key("admin")).send();
    assert_eq!(answered.header("content-type"), Some("text/csv; charset=utf-8"));
    assert_eq!(answered.text(), printed);
}

#[test]
fn everybody_sees_their_own_usage_and_admins_alone_that_of_others() {
    let (_sim, builder) = house();
    let gateway = builder.user("bob", "premium").start();
    assert_eq!(ask(&gateway, "ann", "a1", 5).status, 200);
    assert_eq!(ask(&gateway, "bob", "b1", 7).status, 200);
    wait_for(&gateway, 2);
    let own = |user: &str| gateway.get("/auth/usage").key(gateway.key(user)).send();
    for (user, output) in [("ann", 5), ("bob", 7)] {
        let answer = own(user);
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        let rows = list(answer.json());
        assert_eq!(rows.len(), 1, "{rows:?}");
        assert_eq!(rows[0]["completion_tokens"], output);
        assert_eq!(rows[0]["model"], "llama3.2:latest");
        assert!(rows[0]["hour"].is_string() && rows[0]["user"].is_null(), "{rows:?}");
    }
    assert_eq!(list(own("admin").json()), Vec::<Value>::new());
    assert_eq!(gateway.get("/auth/usage").send().status, 401);
    for user in ["ann", "bob"] {
        let refused = gateway.get("/admin/usage").key(gateway.key(user)).send();
        assert_eq!(refused.status, 403, "{}", refused.text());
    }
    for query in ["by=tier", "format=xml", "from=yesterday", "user=ann", "by=key&by=user"] {
        let path = format!("/admin/usage?{query}");
        let refused = gateway.get(&path).key(gateway.key("admin")).send();
        assert_eq!(refused.status, 400, "{query}: {}", refused.text());
    }
}

#[test]
fn failures_are_counted_and_what_no_instance_was_given_is_not() {
    let (sim, builder) = house();
    let gateway = builder.config("tiers: { free: { requests: 3/h } }").start();
    assert_eq!(ask(&gateway, "ann", "served", 5).status, 200);
    sim.misbehave(&json!({ "path": CHAT, "kind": "cut_after", "after": 5 }));
    let broken = gateway.post(CHAT, &question(50)).key(gateway.key("ann")).send();
    assert_eq!(broken.status, 200);
    sim.behave();
    let unknown = json!({ "model": "no-such-model" });
    assert_eq!(gateway.post(CHAT, &unknown).key(gateway.key("ann")).send().status, 404);
    eventually("the instance is trusted again", || ask(&gateway, "ann", "again", 5).status == 200);
    assert_eq!(ask(&gateway, "ann", "limited", 5).status, 429);
    let mut rows = Vec::new();
    eventually("what an instance was given is written down", || {
        rows = usage(&gateway, "user");
        let number = |name: &str| rows.first().and_then(|row| row[name].as_i64()).unwrap_or(0);
        // it may have failed more than once before it was trusted again
        number("errors") >= 1 && number("requests") - number("errors") == 2
    });
    let output = rows[0]["completion_tokens"].as_i64().expect("a number");
    assert!(output > 10, "what was seen of the broken one counts too: {output}");
}

#[test]
fn a_stop_writes_everything_down_first() {
    let (_sim, builder) = house();
    let mut gateway = builder.start();
    for number in 0..5 {
        assert_eq!(ask(&gateway, "ann", &format!("r{number}"), 2).status, 200);
    }
    gateway.signal("TERM");
    eventually("it ends", || gateway.ended().is_some());
    let rows = usage(&gateway, "user");
    assert_eq!(rows[0]["requests"], 5, "{rows:?}");
}

#[test]
fn a_killed_gateway_has_lost_nothing_but_its_last_second() {
    let (_sim, builder) = house();
    let mut gateway = builder.start();
    for number in 0..3 {
        assert_eq!(ask(&gateway, "ann", &format!("r{number}"), 2).status, 200);
    }
    let before = wait_for(&gateway, 3);
    gateway.signal("KILL");
    eventually("it is gone", || gateway.ended().is_some());
    assert_eq!(usage(&gateway, "user"), before);
}

#[test]
fn two_gateways_on_one_database_add_up() {
    let runtime = tokio::runtime::Runtime::new().expect("threads can be had");
    let url = runtime.block_on(postgres::fresh_database());
    let (sim, builder) = house();
    let secret = "a secret of these two gateways, long enough to be one";
    let first = builder.database(&url).env("JWT_SECRET", secret).start();
    let second = gateway()
        .upstream_with("gpu0", &sim.url(), "slots: 4")
        .database(&url)
        .env("JWT_SECRET", secret)
        .joins(&first)
        .start();
    std::thread::scope(|scope| {
        for gateway in [&first, &second] {
            scope.spawn(move || {
                for number in 0..8 {
                    let id = format!("r{number}");
                    assert_eq!(ask(gateway, "ann", &id, 3).status, 200);
                }
            });
        }
    });
    let rows = wait_for(&first, 16);
    assert_eq!((rows.len(), &rows[0]["completion_tokens"]), (1, &json!(48)));
    assert_eq!(usage(&second, "user"), rows);
}

#[test]
fn usage_waits_for_a_database_that_is_away() {
    let (_sim, builder) = house();
    let gateway = builder.start();
    assert_eq!(ask(&gateway, "ann", "before", 2).status, 200);
    wait_for(&gateway, 1);
    let runtime = tokio::runtime::Runtime::new().expect("threads can be had");
    let url = format!("sqlite://{}/state/usher.db", gateway.home().path().display());
    let mut lock = runtime.block_on(SqliteConnection::connect(&url)).expect("it opens");
    runtime.block_on(lock.execute("BEGIN IMMEDIATE")).expect("it is locked");
    for number in 0..3 {
        let answer = ask(&gateway, "ann", &format!("during-{number}"), 2);
        assert_eq!(answer.status, 200, "nobody waits for the books: {}", answer.text());
    }
    let said = |words: &str| gateway.log().iter().filter(|line| line.contains(words)).count();
    eventually("it is said", || said("usage waits in memory") == 1);
    assert_eq!(ask(&gateway, "ann", "during-3", 2).status, 200);
    runtime.block_on(lock.execute("ROLLBACK")).expect("it is free");
    let rows = wait_for(&gateway, 5);
    assert_eq!(rows[0]["completion_tokens"], 10, "{rows:?}");
    eventually("that, too", || said("usage is written down again") == 1);
    assert_eq!(said("usage waits in memory"), 1, "once");
}

#[test]
fn a_key_tells_when_it_was_used_last_and_nobody_has_to_look_again_for_that() {
    let (_sim, builder) = house();
    let gateway = builder.start();
    let show = || {
        let keys = gateway.home().usher_json(&["keys", "list", "--user", "ann"]);
        keys["data"][0]["last_used_at"].clone()
    };
    assert_eq!(show(), Value::Null);
    assert_eq!(gateway.get("/api/tags").key(gateway.key("ann")).send().status, 200);
    eventually("the use is written down", || show().is_string());
}
