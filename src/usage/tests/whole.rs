//! Whole answers, compared with what a reader finds who builds them first.

use serde_json::{Map, Value, json};

use super::*;

type Members = Map<String, Value>;

/// Members as answers have them and as they might have them, with any kind of value.
fn members(depth: u32) -> BoxedStrategy<Members> {
    let leaf = prop_oneof![
        any::<u64>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        Just(Value::Null),
        prop::sample::select(vec!["message_stop", "error", "x"]).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        Just(json!([{ "eval_count": 3 }, "]", [1]])),
    ];
    let value = match depth.checked_sub(1) {
        None => leaf.boxed(),
        Some(depth) => prop_oneof![leaf, members(depth).prop_map(Value::from)].boxed(),
    };
    let name = prop::sample::select(vec![
        "usage",
        "message",
        "response",
        "prompt_tokens",
        "completion_tokens",
        "input_tokens",
        "output_tokens",
        "prompt_eval_count",
        "eval_count",
        "load_duration",
        "done",
        "type",
        "error",
        "usage ",
        "eval_count and more than what is kept of a name",
        "con\"tent",
        "",
    ]);
    vec((name.prop_map(str::to_owned), value), 0..8)
        .prop_map(|all| all.into_iter().collect::<Members>())
        .boxed()
}

/// Reads counts as somebody does who has built the whole answer first.
fn read(members: &Members, path: &mut Vec<String>, counts: &mut Counts) {
    for (name, value) in members {
        path.push(name.clone());
        let number = value.as_u64().filter(|number| *number > 0);
        match path.join(".").as_str() {
            "prompt_eval_count"
            | "usage.prompt_tokens"
            | "usage.input_tokens"
            | "message.usage.input_tokens"
            | "response.usage.input_tokens" => {
                counts.prompt = number.or(counts.prompt);
            }
            "eval_count"
            | "usage.completion_tokens"
            | "usage.output_tokens"
            | "message.usage.output_tokens"
            | "response.usage.output_tokens" => {
                counts.completion = number.or(counts.completion);
            }
            "load_duration" => counts.load_ns = number.or(counts.load_ns),
            "error" => counts.errored |= !value.is_null(),
            "type" => counts.errored |= value == "error",
            _ => {}
        }
        let opened = matches!(name.as_str(), "usage" | "message" | "response") && path.len() < 3;
        if let (true, Some(inner)) = (opened, value.as_object()) {
            read(inner, path, counts);
        }
        path.pop();
    }
}

proptest! {
    #[test]
    fn whole_answers_are_read_as_if_they_were_built(
        answer in members(3), cuts in vec(any::<usize>(), 0..10),
    ) {
        let mut expected = Counts { finished: true, ..Counts::default() };
        read(&answer, &mut Vec::new(), &mut expected);
        let text = serde_json::to_string_pretty(&answer).expect("JSON");
        let (_, counts) = pass(Format::OllamaJson, false, text.as_bytes(), &cuts);
        prop_assert_eq!(counts, expected);
        let text = serde_json::to_string(&answer).expect("JSON");
        let (_, counts) = pass(Format::OllamaJson, false, text.as_bytes(), &[]);
        prop_assert_eq!(counts, expected);
    }
}
