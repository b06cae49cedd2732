//! `usher status`: the instances and the queue of a running gateway.

use serde_json::Value;

use super::output::{self, Output};
use super::remote;

const HEAD: [&str; 8] =
    ["NAME", "STATE", "BREAKER", "IN FLIGHT", "SLOTS", "VERSION", "MODELS", "IN MEMORY"];

/// Prints what `GET /admin/upstreams` of the gateway at `url` answers.
pub(super) fn run(url: &str, output: Output) -> anyhow::Result<()> {
    let client = remote::client()?;
    let question = client.get(format!("{}/admin/upstreams", url.trim_end_matches('/')));
    let known = remote::block_on(remote::ask(question.bearer_auth(remote::key()?)))?;
    output.say(&known, &text(&known))
}

fn text(known: &Value) -> String {
    let mut rows = vec![HEAD.map(str::to_owned)];
    rows.extend(remote::list(known, "data").iter().map(row));
    let number = |name: &str| known.get("queue").and_then(|queue| queue.get(name)?.as_u64());
    let (waiting, capacity) = (number("waiting"), number("capacity"));
    let table = output::table(&rows);
    let lines = known.get("queue").map(|queue| remote::list(queue, "lines")).unwrap_or_default();
    let lines: String = lines.iter().map(line).collect();
    let (waiting, capacity) = (waiting.unwrap_or(0), capacity.unwrap_or(0));
    let requests = known.get("queue").map(|queue| remote::list(queue, "requests"));
    let requests = waiters(requests.unwrap_or_default());
    format!("{table}\n\n{waiting} of {capacity} waiting{lines}{requests}")
}

/// Those who have waited for longest, one by one.
fn waiters(requests: &[Value]) -> String {
    if requests.is_empty() {
        return String::new();
    }
    let row = |it: &Value| {
        let number = |name: &str| it.get(name).map_or_else(String::new, Value::to_string);
        let seconds = |name: &str| {
            let seconds = it.get(name).and_then(Value::as_f64).unwrap_or(0.0);
            format!("{seconds:.1} s")
        };
        [
            number("position"),
            number("user_id"),
            remote::text(it, "model").unwrap_or("any").to_owned(),
            seconds("waited_seconds"),
            seconds("expected_seconds"),
            why(remote::text(it, "reason").unwrap_or_default()).to_owned(),
        ]
    };
    let mut rows =
        vec![["PLACE", "USER", "MODEL", "WAITED", "EXPECTED", "WAITS BECAUSE"].map(str::to_owned)];
    rows.extend(requests.iter().map(row));
    format!("\n\n{}", output::table(&rows))
}

/// A reason in words.
fn why(reason: &str) -> &str {
    match reason {
        "no_slot" => "every slot for it is taken",
        "user_limit" => "its user holds all the seats that they may",
        "key_limit" => "its key holds all the seats that it may",
        "better_soon" => "a better seat than the free one is soon free",
        "no_load_now" => "its model cannot be loaded yet",
        "others_first" => "others are first",
        "no_instance" => "no instance that has its model is up",
        // of a later gateway
        other => other,
    }
}

/// Requests of one kind that wait, and what they wait for: each instance that could have the next
/// of them, with the seconds to its first token and what they are made of.
fn line(line: &Value) -> String {
    let seconds = |of: &Value, name: &str| of.get(name).and_then(Value::as_f64).unwrap_or(0.0);
    let place = |it: &Value| {
        let parts = ["wait", "load", "prefill"].into_iter().filter(|part| seconds(it, part) > 0.0);
        let parts: Vec<String> =
            parts.map(|part| format!("{part} {:.1}", seconds(it, part))).collect();
        let name = remote::text(it, "upstream").unwrap_or("?");
        format!("{name} {:.1} s ({})", seconds(it, "seconds"), parts.join(", "))
    };
    let places: Vec<String> = remote::list(line, "candidates").iter().map(place).collect();
    let places = if places.is_empty() { "nowhere now".to_owned() } else { places.join(", ") };
    let model = remote::text(line, "model").unwrap_or("any model");
    let waiting = line.get("waiting").map_or_else(String::new, Value::to_string);
    let oldest = seconds(line, "oldest_seconds");
    format!("\n  {model}: {waiting} for up to {oldest:.1} s; next to {places}")
}

fn row(instance: &Value) -> [String; 8] {
    let text = |name: &str| output::or_dash(remote::text(instance, name));
    let number = |name: &str| instance.get(name).map_or_else(String::new, Value::to_string);
    let residents = remote::list(instance, "residents").iter();
    let residents: Vec<&str> = residents.filter_map(Value::as_str).collect();
    [
        text("name"),
        text("state"),
        text("breaker"),
        number("in_flight"),
        number("slots"),
        text("version"),
        remote::list(instance, "models").len().to_string(),
        output::or_dash(Some(residents.join(" ").as_str()).filter(|names| !names.is_empty())),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn people_see_who_waits_and_what_for() {
        let known = json!({ "data": [], "queue": { "waiting": 4, "capacity": 512, "lines": [
            { "model": "qwen3:8b", "waiting": 3, "oldest_seconds": 4.21, "candidates": [
                { "upstream": "gpu0", "seconds": 1.3, "wait": 1.2, "load": 0.0, "prefill": 0.1 },
                { "upstream": "gpu1", "seconds": 8.1, "wait": 0.0, "load": 8.0, "prefill": 0.1 },
            ] },
            { "model": null, "waiting": 1, "oldest_seconds": 0.0, "candidates": [] },
        ], "requests": [
            { "position": 2, "user_id": 7, "model": "qwen3:8b", "waited_seconds": 4.21,
                "expected_seconds": 1.3, "reason": "no_slot" },
            { "position": 1, "user_id": 12, "model": null, "waited_seconds": 0.0,
                "expected_seconds": 0.5, "reason": "key_limit" },
        ] } });
        let told = text(&known);
        let (_, queue) = told.split_once("\n\n").unwrap();
        assert_eq!(
            queue,
            "4 of 512 waiting\n\
             \x20 qwen3:8b: 3 for up to 4.2 s; next to gpu0 1.3 s (wait 1.2, prefill 0.1), \
             gpu1 8.1 s (load 8.0, prefill 0.1)\n\
             \x20 any model: 1 for up to 0.0 s; next to nowhere now\n\
             \n\
             PLACE  USER  MODEL     WAITED  EXPECTED  WAITS BECAUSE\n\
             2      7     qwen3:8b  4.2 s   1.3 s     every slot for it is taken\n\
             1      12    any       0.0 s   0.5 s     its key holds all the seats that it may"
        );
    }

    #[test]
    fn people_get_a_table_and_the_length_of_the_queue() {
        let known = json!({
            "data": [{
                "name": "gpu0", "kind": "ollama", "state": "up", "breaker": "closed",
                "version": "0.33.0", "slots": 4, "in_flight": 1,
                "models": ["a:latest", "b:latest"], "residents": ["a:latest"],
            }],
            "queue": { "waiting": 3, "capacity": 512 },
        });
        assert_eq!(
            text(&known),
            "NAME  STATE  BREAKER  IN FLIGHT  SLOTS  VERSION  MODELS  IN MEMORY\n\
             gpu0  up     closed   1          4      0.33.0   2       a:latest\n\
             \n\
             3 of 512 waiting"
        );
    }
}
