use std::time::Duration;

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::payload::tests::{any_json, object_of, space};
use crate::route;

const BOUND: Taming = Taming {
    num_ctx: Context::Max(8192),
    runner_options: false,
    keep_alive: KeepAlive::Max(Duration::from_secs(1800)),
    max_output: None,
    unloading: false,
};

const PATHS: [&str; 9] = [
    "/api/chat",
    "/api/generate",
    "/api/embed",
    "/api/embeddings",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/messages",
];

fn try_tame(path: &'static str, taming: &Taming, body: &str) -> Result<Ready, BadPayload> {
    let found = route::find(&http::Method::POST, path.as_bytes()).expect("a route");
    let route::Action::Infer(inference) = found.route.action else { panic!("{path}") };
    prepare(body.as_bytes(), path, inference, taming)
}

fn ready(path: &'static str, taming: &Taming, body: &str) -> Ready {
    try_tame(path, taming, body).unwrap_or_else(|flaw| panic!("{flaw}: {body}"))
}

/// What travels.
fn tamed(path: &'static str, taming: &Taming, body: &str) -> String {
    match ready(path, taming, body).rewritten {
        Some(bytes) => String::from_utf8(bytes.to_vec()).expect("still text"),
        None => body.to_owned(),
    }
}

#[test]
fn what_is_bound_is_changed_in_place_and_nothing_else_is() {
    let cases: &[(&str, &str)] = &[
        (r#"{"model":"m"}"#, r#"{"model":"m"}"#),
        (r#"{"options":{}}"#, r#"{"options":{}}"#),
        (r#"{"options":null,"keep_alive":null}"#, r#"{"options":null,"keep_alive":null}"#),
        (
            " { \"options\" : {\n\"num_ctx\" : 1000000 , \"temperature\": 0.10 } , \"x\":\"\\u00e9\" } ",
            " { \"options\" : {\n\"num_ctx\" : 8192 , \"temperature\": 0.10 } , \"x\":\"\\u00e9\" } ",
        ),
        (r#"{"options":{"num_ctx":8192}}"#, r#"{"options":{"num_ctx":8192}}"#),
        (r#"{"options":{"num_ctx":8.193e3}}"#, r#"{"options":{"num_ctx":8192}}"#),
        (r#"{"options":{"num\u005fctx":9999}}"#, r#"{"options":{"num\u005fctx":8192}}"#),
        (r#"{"options":{"num_ctx":null}}"#, r#"{"options":{"num_ctx":null}}"#),
        (
            r#"{"options":{"num_gpu":0,"seed":1,"use_mmap":false,"num_thread":null}}"#,
            r#"{"options":{"num_gpu":null,"seed":1,"use_mmap":null,"num_thread":null}}"#,
        ),
        (r#"{"shift":false}"#, r#"{"shift":null}"#),
        (r#"{"keep_alive":"10m"}"#, r#"{"keep_alive":"10m"}"#),
        (r#"{"keep_alive":-1}"#, r#"{"keep_alive":"1800s"}"#),
        (r#"{"keep_alive":"-1ns"}"#, r#"{"keep_alive":"1800s"}"#),
        (r#"{"keep_alive":"24h"}"#, r#"{"keep_alive":"1800s"}"#),
        (r#"{"keep_alive":1e300}"#, r#"{"keep_alive":"1800s"}"#),
        (r#"{"keep_alive":0}"#, r#"{"keep_alive":null}"#),
        (r#"{"keep_alive":"1s"}"#, r#"{"keep_alive":null}"#),
    ];
    for (body, expected) in cases {
        assert_eq!(&tamed("/api/chat", &BOUND, body), expected);
    }
}

#[test]
fn a_pinned_context_is_in_every_native_request() {
    let pinned = Taming { num_ctx: Context::Pin(4096), ..BOUND };
    for (body, expected) in [
        ("{}", r#"{"options":{"num_ctx":4096}}"#),
        (r#"{"a":1}"#, r#"{"a":1,"options":{"num_ctx":4096}}"#),
        (r#"{"options":null,"a":1}"#, r#"{"options":{"num_ctx":4096},"a":1}"#),
        (r#"{"options":{ }}"#, r#"{"options":{ "num_ctx":4096}}"#),
        (r#"{"options":{"top_k":1}}"#, r#"{"options":{"top_k":1,"num_ctx":4096}}"#),
        (r#"{"options":{"num_ctx":null}}"#, r#"{"options":{"num_ctx":4096}}"#),
        (r#"{"options":{"num_ctx":"all"}}"#, r#"{"options":{"num_ctx":4096}}"#),
        (r#"{"options":{"num_ctx":4096}}"#, r#"{"options":{"num_ctx":4096}}"#),
    ] {
        for path in ["/api/chat", "/api/generate", "/api/embed", "/api/embeddings"] {
            assert_eq!(tamed(path, &pinned, body), expected);
        }
    }
    assert_eq!(tamed("/v1/messages", &pinned, "{}"), "{}", "it cannot say so");
}

#[test]
fn the_length_of_an_answer_is_bound_in_the_words_of_each_route() {
    let capped = Taming { max_output: Some(100), ..Taming::NONE };
    for (path, body, expected) in [
        ("/api/chat", "{}", r#"{"options":{"num_predict":100}}"#),
        (
            "/api/generate",
            r#"{"options":{"num_predict":-1}}"#,
            r#"{"options":{"num_predict":100}}"#,
        ),
        ("/api/chat", r#"{"options":{"num_predict":0}}"#, r#"{"options":{"num_predict":100}}"#),
        ("/api/chat", r#"{"options":{"num_predict":0.5}}"#, r#"{"options":{"num_predict":100}}"#),
        ("/api/chat", r#"{"options":{"num_predict":null}}"#, r#"{"options":{"num_predict":100}}"#),
        ("/api/chat", r#"{"options":{"num_predict":7}}"#, r#"{"options":{"num_predict":7}}"#),
        ("/api/embed", "{}", "{}"),
        ("/v1/embeddings", "{}", "{}"),
        ("/v1/completions", "{}", r#"{"max_tokens":100}"#),
        ("/v1/messages", r#"{"max_tokens":4096}"#, r#"{"max_tokens":100}"#),
        ("/v1/messages", r#"{"max_tokens":64}"#, r#"{"max_tokens":64}"#),
        ("/v1/messages", r#"{"max_tokens":-1}"#, r#"{"max_tokens":100}"#),
        ("/v1/responses", r#"{"max_tokens":9}"#, r#"{"max_tokens":9,"max_output_tokens":100}"#),
        ("/v1/responses", r#"{"max_output_tokens":null}"#, r#"{"max_output_tokens":100}"#),
        (
            "/v1/chat/completions",
            r#"{"max_completion_tokens":64}"#,
            r#"{"max_completion_tokens":64,"max_tokens":64}"#,
        ),
        (
            "/v1/chat/completions",
            r#"{"max_completion_tokens":640,"max_tokens":null}"#,
            r#"{"max_completion_tokens":100,"max_tokens":100}"#,
        ),
        (
            "/v1/chat/completions",
            r#"{"stream":true}"#,
            r#"{"stream":true,"max_tokens":100,"stream_options":{"include_usage":true}}"#,
        ),
    ] {
        assert_eq!(tamed(path, &capped, body), expected);
    }
    let pinned = Taming { num_ctx: Context::Pin(5), ..capped };
    assert_eq!(tamed("/api/chat", &pinned, "{}"), r#"{"options":{"num_ctx":5,"num_predict":100}}"#);
}

#[test]
fn what_cannot_be_changed_safely_is_refused_with_its_name() {
    let capped = Taming { max_output: Some(100), ..BOUND };
    for (path, body, text) in [
        ("/api/chat", r#"{"options":[]}"#, "field 'options' must be an object"),
        (
            "/api/chat",
            r#"{"options":{"num_ctx":1,"num_ctx":2}}"#,
            "field 'options.num_ctx' appears twice",
        ),
        (
            "/api/chat",
            r#"{"options":{"Num_GPU":1}}"#,
            "field 'options.Num_GPU' must be spelt 'num_gpu'",
        ),
        ("/api/chat", r#"{"options":{"num_ctx":"1"}}"#, "field 'options.num_ctx' must be a number"),
        (
            "/api/chat",
            r#"{"options":{"num_predict":[]}}"#,
            "field 'options.num_predict' must be a number",
        ),
        (
            "/api/chat",
            r#"{"keep_alive":"soon"}"#,
            "field 'keep_alive' must be a number of seconds, or a duration such as \"5m\"",
        ),
        ("/api/chat", r#"{"Shift":false}"#, "field 'Shift' must be spelt 'shift'"),
        ("/v1/messages", r#"{"max_tokens":"9"}"#, "field 'max_tokens' must be a number"),
        ("/v1/messages", r#"{"Max_Tokens":9}"#, "field 'Max_Tokens' must be spelt 'max_tokens'"),
        (
            "/v1/responses",
            r#"{"max_output_tokens":{}}"#,
            "field 'max_output_tokens' must be a number",
        ),
    ] {
        assert_eq!(try_tame(path, &capped, body).expect_err(body).to_string(), text);
    }
    for body in [
        r#"{"options":{"num_ctx":"1","num_predict":[]},"keep_alive":"soon"}"#,
        r#"{"options":{"num_gpu":"all"}}"#,
    ] {
        assert_eq!(tamed("/api/chat", &Taming::NONE, body), body, "the instance may say so");
    }
}

#[test]
fn a_request_for_nothing_that_ends_a_models_stay_is_seen_by_everybody() {
    let unloads = |path, body| ready(path, &Taming::NONE, body).unloads;
    for (path, body) in [
        ("/api/generate", r#"{"keep_alive":0}"#),
        ("/api/generate", r#"{"prompt":"","keep_alive":"0s"}"#),
        ("/api/generate", r#"{"prompt":null,"images":["x"],"keep_alive":1e-12}"#),
        ("/api/chat", r#"{"keep_alive":-0}"#),
        ("/api/chat", r#"{"messages":[ ],"keep_alive":"0"}"#),
        ("/api/chat", r#"{"messages":null,"prompt":"x","keep_alive":"0h"}"#),
    ] {
        assert!(unloads(path, body), "{path} {body}");
        assert!(ready(path, &Taming::NONE, body).frees, "{path} {body}");
        let bound = ready(path, &BOUND, body);
        assert!(bound.unloads && !bound.frees, "{path} {body}: it stays for as long as usual");
        let dropped = Taming { keep_alive: KeepAlive::Drop, ..BOUND };
        assert!(ready(path, &dropped, body).unloads, "{path} {body}");
    }
    for (path, body) in [
        ("/api/generate", r#"{"prompt":" ","keep_alive":0}"#),
        ("/api/generate", r#"{"messages":[],"keep_alive":"5m"}"#),
        ("/api/generate", r#"{"keep_alive":null}"#),
        ("/api/generate", "{}"),
        ("/api/chat", r#"{"messages":[null],"keep_alive":0}"#),
        ("/api/chat", r#"{"messages":[],"keep_alive":-1}"#),
        ("/api/embed", r#"{"keep_alive":0}"#),
        ("/v1/chat/completions", r#"{"keep_alive":0}"#),
    ] {
        assert!(!unloads(path, body), "{path} {body}");
    }
}

#[test]
fn what_is_planned_with_is_what_travels() {
    let plan = |path, taming: &Taming, body| ready(path, taming, body).payload;
    let pinned = Taming { num_ctx: Context::Pin(4096), max_output: Some(50), ..BOUND };
    let wild = r#"{"options":{"num_ctx":9999,"num_gpu":1,"num_predict":900},"shift":false}"#;
    let said = plan("/api/chat", &pinned, wild);
    assert_eq!(said.runner_options(), r#""num_ctx":4096"#);
    assert_eq!(said.most_output(), Some(50));
    for (path, body) in [("/api/chat", "{}"), ("/v1/messages", r#"{"max_tokens":9}"#)] {
        assert_eq!(plan(path, &pinned, body).runner(), said.runner(), "{path}");
    }
    assert_ne!(plan("/api/chat", &Taming::NONE, wild).runner(), said.runner());
}

#[test]
fn what_a_route_does_not_hear_is_not_planned_with() {
    let plan = |path, taming: &Taming, body| ready(path, taming, body).payload;
    let wild = r#"{"options":{"num_ctx":4096,"num_gpu":1},"shift":false}"#;
    for path in PATHS.into_iter().filter(|path| path.starts_with("/v1/")) {
        let free = plan(path, &Taming::NONE, wild);
        assert_eq!(free.runner(), plan(path, &Taming::NONE, "{}").runner(), "{path}");
        assert_eq!((free.runner_options(), free.keeps_all()), ("", false), "{path}");
        let pinned = Taming { num_ctx: Context::Pin(4096), ..Taming::NONE };
        let said = plan(path, &pinned, wild);
        assert_eq!(said.runner(), plan(path, &pinned, "{}").runner(), "{path}");
        assert_eq!(said.runner_options(), r#""num_ctx":4096"#, "{path}");
    }
    for path in ["/api/embed", "/api/embeddings"] {
        let said = plan(path, &Taming::NONE, r#"{"shift":false}"#);
        assert_eq!(said.runner(), plan(path, &Taming::NONE, "{}").runner(), "{path}");
    }
    let chat = plan("/api/chat", &Taming::NONE, r#"{"shift":false}"#);
    assert!(chat.keeps_all());
    assert_ne!(chat.runner(), plan("/api/chat", &Taming::NONE, "{}").runner());
}

fn any_number() -> impl Strategy<Value = String> {
    prop_oneof!["-?[0-9]", "[1-9][0-9]{1,6}", "[1-9]e[0-9]", "[0-9]\\.[0-9]", "null"]
}

fn any_options() -> impl Strategy<Value = String> {
    let bound = prop::sample::subsequence(OPTIONS.to_vec(), 0..OPTIONS.len());
    let bound = bound.prop_flat_map(|names| {
        let count = names.len();
        prop::collection::vec((any_number(), space()), count).prop_map(move |values| {
            let members = names.iter().zip(values);
            let members = members.map(|(name, (value, s))| format!("\"{name}\"{s}:{value}{s}"));
            members.collect::<Vec<_>>()
        })
    });
    (bound, object_of(any_json()), space()).prop_map(|(mut members, other, s)| {
        let other = other.get(1..other.len() - 1).expect("braces").trim();
        if !other.is_empty() {
            members.insert(members.len() / 2, other.to_owned());
        }
        format!("{{{s}{}{s}}}", members.join(&format!("{s},")))
    })
}

fn any_request() -> impl Strategy<Value = String> {
    let stay = prop_oneof!["null", "-?(0|[1-9][0-9]{0,4})", "\"[1-9][0-9]{0,3}(s|m|h)\""];
    let flag = prop::sample::select(vec!["null", "true", "false"]).prop_map(str::to_owned);
    let member = |name: &'static str, value: BoxedStrategy<String>| {
        let value = prop::option::of((space(), value));
        value.prop_map(move |said| said.map(|(s, value)| format!("{s}\"{name}\"{s}:{s}{value}")))
    };
    let members = (
        member("options", any_options().boxed()),
        member("keep_alive", stay.boxed()),
        member("shift", flag.boxed()),
        member("max_tokens", any_number().boxed()),
        member("max_completion_tokens", any_number().boxed()),
        member("max_output_tokens", any_number().boxed()),
        object_of(any_json()),
        any::<bool>(),
    );
    members.prop_map(|(a, b, c, d, e, f, other, turned)| {
        let other = other.get(1..other.len() - 1).expect("braces").trim().to_owned();
        let other = Some(other).filter(|other| !other.is_empty());
        let mut all: Vec<String> = [a, b, c, other, d, e, f].into_iter().flatten().collect();
        if turned {
            all.reverse();
        }
        format!("{{{}}}", all.join(","))
    })
}

fn any_taming() -> impl Strategy<Value = Taming> {
    let num_ctx = prop_oneof![
        Just(Context::Allow),
        (1_u32..9999).prop_map(Context::Max),
        (1_u32..9999).prop_map(Context::Pin),
    ];
    let keep_alive = prop_oneof![
        Just(KeepAlive::Allow),
        Just(KeepAlive::Drop),
        (1_u64..9999).prop_map(|n| KeepAlive::Max(Duration::from_secs(n))),
    ];
    (num_ctx, any::<bool>(), keep_alive, prop::option::of(1_u32..9999)).prop_map(
        |(num_ctx, runner_options, keep_alive, max_output)| Taming {
            num_ctx,
            runner_options,
            keep_alive,
            max_output,
            unloading: false,
        },
    )
}

/// Nothing said and null are one to Go.
fn said<'v>(value: &'v Value, name: &str) -> Option<&'v Value> {
    value.get(name).filter(|value| !value.is_null())
}

proptest! {
    #[test]
    fn whatever_is_asked_and_however_the_bounds_hold_and_the_rest_stays(
        path in prop::sample::select(PATHS.to_vec()),
        taming in any_taming(),
        body in any_request(),
    ) {
        let after = tamed(path, &taming, &body);
        let (before, value): (Value, Value) =
            (serde_json::from_str(&body).unwrap(), serde_json::from_str(&after).unwrap());
        let native = path.starts_with("/api/");
        let bound = ["options", "keep_alive", "shift", "max_tokens", "max_completion_tokens", "max_output_tokens"];
        let rest = |value: &Value| {
            let mut rest = value.as_object().unwrap().clone();
            bound.iter().for_each(|name| drop(rest.remove(*name)));
            rest
        };
        prop_assert_eq!(rest(&before), rest(&value));
        let (was, is) = (&before["options"], &value["options"]);
        let others = |options: &Value| {
            let mut others = options.as_object().cloned().unwrap_or_default();
            others.retain(|name, _| !OPTIONS.contains(&name.as_str()));
            others
        };
        prop_assert_eq!(others(was), others(is));
        for name in OPTIONS.iter().filter(|name| !name.starts_with("num_ctx") && **name != "num_predict") {
            let expected = said(was, name).filter(|_| taming.runner_options);
            prop_assert_eq!(said(is, name), expected);
        }
        prop_assert_eq!(said(&value, "shift"), said(&before, "shift").filter(|_| taming.runner_options));
        let (asked, given) = (said(was, "num_ctx"), said(is, "num_ctx"));
        match taming.num_ctx {
            Context::Allow => prop_assert_eq!(asked, given),
            Context::Max(most) => match asked.and_then(Value::as_f64) {
                Some(asked) if asked > f64::from(most) => prop_assert_eq!(given, Some(&Value::from(most))),
                _ => prop_assert_eq!(asked, given),
            },
            Context::Pin(tokens) if native => prop_assert_eq!(given, Some(&Value::from(tokens))),
            Context::Pin(tokens) => prop_assert!(given.is_none_or(|given| *given == tokens)),
        }
        let output = match path {
            "/api/chat" | "/api/generate" => Some((said(was, "num_predict"), said(is, "num_predict"))),
            "/v1/responses" => Some((said(&before, "max_output_tokens"), said(&value, "max_output_tokens"))),
            _ if path.contains("embed") => None,
            _ => Some((said(&before, "max_tokens"), said(&value, "max_tokens"))),
        };
        if let Some((asked, given)) = output {
            match taming.max_output {
                None => prop_assert_eq!(asked, given),
                Some(most) => {
                    let given = given.and_then(Value::as_f64).unwrap();
                    prop_assert!((1.0..=f64::from(most)).contains(&given), "{given}");
                    let fine = asked.and_then(Value::as_f64).filter(|asked| (1.0..=f64::from(most)).contains(asked));
                    prop_assert!(fine.is_none_or(|fine| fine == given), "it was fine");
                }
            }
        }
        let stay = |value: &Value| said(value, "keep_alive").map(|stay| Stay::read(&stay.to_string()).unwrap());
        match taming.keep_alive {
            KeepAlive::Allow => prop_assert_eq!(said(&before, "keep_alive"), said(&value, "keep_alive")),
            KeepAlive::Drop => prop_assert_eq!(stay(&value), None),
            KeepAlive::Max(most) => {
                prop_assert!(stay(&value).is_none_or(|stay| !stay.is_longer_than(most)));
                prop_assert!(stay(&value).is_none_or(|given| stay(&before) == Some(given) || given == Stay::For(most.as_secs_f64() * 1e9)));
            }
        }
        prop_assert_eq!(tamed(path, &taming, &after), after, "once is enough");
    }

    #[test]
    fn without_bounds_not_a_byte_changes(
        path in prop::sample::select(PATHS.to_vec()), body in any_request(),
    ) {
        prop_assert!(ready(path, &Taming::NONE, &body).rewritten.is_none());
    }
}
