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
    format!("{table}\n\n{} of {} waiting", waiting.unwrap_or(0), capacity.unwrap_or(0))
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
