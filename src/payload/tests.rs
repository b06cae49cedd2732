use proptest::{collection::vec, prelude::*};
use serde_json::Value;

use super::*;

fn refusal(body: &str) -> String {
    inspect(body.as_bytes()).expect_err(body).to_string()
}

fn read(body: &str) -> Payload {
    inspect(body.as_bytes()).unwrap_or_else(|flaw| panic!("{flaw}: {body}"))
}

/// The body as it asks for usage, if it does not already.
fn edited(body: &str) -> Option<String> {
    let payload = read(body);
    let mut edits = edit::Edits::default();
    tame::ask_for_usage(&mut edits, &payload.usage);
    let edited = edits.apply(body.as_bytes(), payload.spots.end)?;
    Some(String::from_utf8(edited.to_vec()).expect("still text"))
}

#[test]
fn what_a_body_says_is_read() {
    let payload = read(
        r#" {"model":"qwen3:8b","stream":true,"stream_options":{"include_usage":true},
            "messages":[{"role":"user","content":"\"model\": {"}],"name":"n","source":"a","destination":"b"}
        "#,
    );
    assert_eq!(payload.model.as_deref(), Some("qwen3:8b"));
    assert_eq!(payload.name.as_deref(), Some("n"));
    assert_eq!(payload.source.as_deref(), Some("a"));
    assert_eq!(payload.destination.as_deref(), Some("b"));
    assert_eq!(payload.stream, Some(true));
    assert!(payload.include_usage);
    assert!(!payload.web_search);
    assert_eq!(read(r#"{"\u006dodel":"a\u0062"}"#).model.as_deref(), Some("ab"));
    let nothing = read(r#"{"stream":null,"tools":null,"stream_options":null}"#);
    assert_eq!((nothing.stream, nothing.include_usage, nothing.web_search), (None, false, false));
}

#[test]
fn model_wins_over_name_unless_it_is_empty() {
    let chosen = |body| read(body).model_or_name().map(str::to_owned);
    assert_eq!(chosen(r#"{"model":"m","name":"n"}"#).as_deref(), Some("m"));
    assert_eq!(chosen(r#"{"model":"","name":"n"}"#).as_deref(), Some("n"));
    assert_eq!(chosen(r#"{"name":""}"#), None);
}

#[test]
fn refusals_name_the_field() {
    for (body, text) in [
        ("", "missing request body"),
        (" \r\n", "missing request body"),
        ("[]", "request body must be a JSON object"),
        ("\u{feff}{}", "request body must be a JSON object"),
        ("{} {}", "request body is not valid JSON: trailing characters at line 1 column 4"),
        ("{}\0", "request body is not valid JSON: trailing characters at line 1 column 3"),
        (r#"{"model":}"#, "request body is not valid JSON: expected value at line 1 column 10"),
        (r#"{"model":"a","model":"a"}"#, "field 'model' appears twice"),
        (r#"{"model":"a","\u006dodel":"b"}"#, "field 'model' appears twice"),
        (r#"{"x":1,"x":1}"#, "field 'x' appears twice"),
        (r#"{"model":"a","MODEL":"b"}"#, "field 'MODEL' must be spelt 'model'"),
        (r#"{"\u004dodel":"b"}"#, "field 'Model' must be spelt 'model'"),
        (r#"{"meſſages":[]}"#, "field 'meſſages' must be spelt 'messages'"),
        (r#"{"\u017ftream":true}"#, "field 'ſtream' must be spelt 'stream'"),
        ("{\"\u{212a}eep_alive\":0}", "field '\u{212a}eep_alive' must be spelt 'keep_alive'"),
        (r#"{"model":null}"#, "field 'model' must be a string"),
        (r#"{"name":["a"]}"#, "field 'name' must be a string"),
        (r#"{"stream":"true"}"#, "field 'stream' must be true or false"),
        (r#"{"stream_options":[]}"#, "field 'stream_options' must be an object"),
        (
            r#"{"stream_options":{"include_usage":1}}"#,
            "field 'stream_options.include_usage' must be true or false",
        ),
        (
            r#"{"stream_options":{"Include_Usage":true}}"#,
            "field 'stream_options.Include_Usage' must be spelt 'include_usage'",
        ),
        (
            r#"{"stream_options":{"include_usage":true,"include_usage":false}}"#,
            "field 'stream_options.include_usage' appears twice",
        ),
        (r#"{"tools":{}}"#, "field 'tools' must be an array"),
        (
            r#"{"tools":[{"type":"function","type":"web_search"}]}"#,
            "field 'tools.type' appears twice",
        ),
        (r#"{"tools":[{"tYpe":"web_search"}]}"#, "field 'tools.tYpe' must be spelt 'type'"),
        (r#"{"tools":[{"type":7}]}"#, "field 'tools.type' must be a string"),
    ] {
        assert_eq!(refusal(body), text);
    }
    assert_eq!(inspect(b"{\"model\":\"\xff\"}"), Err(BadPayload::NotUtf8));
}

#[test]
fn a_field_of_another_letter_case_that_nobody_reads_passes() {
    assert_eq!(read(r#"{"Temperature":1,"models":[],"MODELS":[]}"#).model, None);
}

#[test]
fn a_long_or_wild_name_is_shown_short_and_escaped() {
    let name = "\u{1}".repeat(3) + &"a".repeat(100_000);
    let escaped = name.replace('\u{1}', "\\u0001");
    let text = refusal(&format!(r#"{{"{escaped}":1,"{escaped}":2}}"#));
    assert!(text.starts_with(r"field '\u{1}\u{1}\u{1}aaaa") && text.len() < 200, "{text}");
}

#[test]
fn depth_and_breadth_are_bounded() {
    let nested =
        |depth: usize| format!(r#"{{"a":{}{}}}"#, "[".repeat(depth - 1), "]".repeat(depth - 1));
    assert!(inspect(nested(walk::MAX_DEPTH).as_bytes()).is_ok());
    assert!(serde_json::from_str::<Value>(&nested(walk::MAX_DEPTH)).is_ok());
    assert_eq!(inspect(nested(walk::MAX_DEPTH + 1).as_bytes()), Err(BadPayload::TooDeep));
    let quoted = format!(r#"{{"a":"\"{}"}}"#, "[".repeat(1000));
    assert!(inspect(quoted.as_bytes()).is_ok());
    let broad: Vec<String> = (0..=walk::MAX_FIELDS).map(|n| format!(r#""{n}":0"#)).collect();
    let broad = format!("{{{}}}", broad.join(","));
    assert_eq!(inspect(broad.as_bytes()), Err(BadPayload::TooManyFields));
}

#[test]
fn tools_are_bounded() {
    let many = |count| format!(r#"{{"tools":[{}]}}"#, vec!["{}"; count].join(","));
    assert!(!read(&many(MAX_TOOLS)).web_search);
    let text = "field 'tools' must be an array of at most 4096 tools";
    assert_eq!(refusal(&many(MAX_TOOLS + 1)), text);
}

#[test]
fn tools_that_search_the_web_are_seen() {
    for body in [
        r#"{"tools":[{"type":"function"},{"type":"web_search_20250305","name":"web_search"}]}"#,
        r#"{"tools":[{"type":"web_search"}]}"#,
        r#"{"tools":[{"\u0074ype":"web_\u0073earch_preview"}]}"#,
        r#"{"web_search_options":{}}"#,
    ] {
        assert!(read(body).web_search, "{body}");
    }
    for body in [
        r#"{"tools":[{"type":"function","function":{"name":"web_search"}}]}"#,
        r#"{"tools":[null,{"type":null}],"web_search_options":null}"#,
    ] {
        assert!(!read(body).web_search, "{body}");
    }
}

#[test]
fn usage_is_asked_for_and_nothing_else_changes() {
    for (body, expected) in [
        ("{}", r#"{"stream_options":{"include_usage":true}}"#),
        ("{\"a\":[ ] }\n ", "{\"a\":[ ] ,\"stream_options\":{\"include_usage\":true}}\n "),
        (r#"{"stream_options":null}"#, r#"{"stream_options":{"include_usage":true}}"#),
        (r#"{"stream_options": { } }"#, r#"{"stream_options": { "include_usage":true} }"#),
        (
            r#"{"stream_options":{"x":1},"b":2}"#,
            r#"{"stream_options":{"x":1,"include_usage":true},"b":2}"#,
        ),
        (
            r#"{"stream_options":{"include_usage": false ,"x":1}}"#,
            r#"{"stream_options":{"include_usage": true ,"x":1}}"#,
        ),
        (
            r#"{"stream_options":{"include_usage":null}}"#,
            r#"{"stream_options":{"include_usage":true}}"#,
        ),
    ] {
        assert_eq!(edited(body).as_deref(), Some(expected));
    }
}

#[test]
fn a_body_that_asks_already_is_not_copied() {
    assert_eq!(edited(r#"{"stream_options":{"include_usage": true}}"#), None);
}

/// JSON text in all its freedom: whitespace, escapes, any order of names.
pub(super) fn any_json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        "null|true|false|-?(0|[1-9][0-9]{0,8})|[1-9]\\.[0-9]{1,3}e-?[0-9]".prop_map(String::from),
        any_text(),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        let array = (vec(inner.clone(), 0..4), space())
            .prop_map(|(items, s)| format!("[{s}{}{s}]", items.join(&format!("{s},"))));
        prop_oneof![array, object_of(inner)]
    })
}

fn any_text() -> impl Strategy<Value = String> {
    let character = prop_oneof![
        4 => "[ -!#-\\[\\]-~é漢🙂{}:,]",
        1 => prop::sample::select(vec!["\\n", "\\\"", "\\\\", "\\u00e9", "\\ud83d\\ude42", "\\/"])
            .prop_map(String::from),
    ];
    vec(character, 0..8).prop_map(|parts| format!("\"{}\"", parts.concat()))
}

pub(super) fn space() -> impl Strategy<Value = String> {
    "[ \t\r\n]{0,2}"
}

pub(super) fn object_of(value: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    let member = (any_text(), space(), value, space());
    (vec(member, 0..4), space()).prop_map(|(members, s)| {
        let mut seen = std::collections::HashSet::new();
        let members: Vec<String> = members
            .into_iter()
            .filter(|(name, ..)| seen.insert(serde_json::from_str::<String>(name).expect("text")))
            .map(|(name, a, value, b)| format!("{a}{name}{b}:{a}{value}{b}"))
            .collect();
        format!("{{{s}{}}}", members.join(","))
    })
}

fn stream_options() -> impl Strategy<Value = Option<String>> {
    let asked = (space(), prop::sample::select(vec!["true", "false", "null"]), any_json())
        .prop_map(|(s, asked, other)| {
            format!(r#"{{{s}"other":{other}{s},{s}"include\u005fusage"{s}:{s}{asked}{s}}}"#)
        });
    prop_oneof![
        Just(None),
        Just(Some("null".to_owned())),
        object_of(any_json()).prop_map(Some),
        asked.prop_map(Some),
    ]
}

/// A request: some object, with `model` before it and `stream_options` somewhere.
fn any_request() -> impl Strategy<Value = String> {
    (object_of(any_json()), space(), stream_options(), any::<bool>()).prop_map(
        |(object, s, options, first)| {
            let inner = object.get(1..object.len() - 1).expect("braces").trim().to_owned();
            let options = options.map(|o| format!("\"stream_options\"{s}:{s}{o}"));
            let model = Some(r#""model":"m""#.to_owned());
            let inner = Some(inner).filter(|inner| !inner.is_empty());
            let mut members: Vec<String> = [model, inner, options].into_iter().flatten().collect();
            if first {
                members.reverse();
            }
            format!("{s}{{{s}{}{s}}}{s}", members.join(&format!("{s},{s}")))
        },
    )
}

proptest! {
    #[test]
    fn the_edited_body_differs_in_the_one_value_only(body in any_request()) {
        let mut expected: Value = serde_json::from_str(&body).expect("generated JSON");
        let payload = read(&body);
        prop_assert_eq!(payload.model.as_deref(), Some("m"));
        prop_assert_eq!(payload.include_usage, expected["stream_options"]["include_usage"] == true);
        let result = edited(&body).unwrap_or_else(|| body.clone());
        expected["stream_options"]["include_usage"] = Value::Bool(true);
        prop_assert_eq!(serde_json::from_str::<Value>(&result).expect("still JSON"), expected);
        let same = |pair: &(u8, u8)| pair.0 == pair.1;
        let before = body.bytes().zip(result.bytes()).take_while(same).count();
        let behind = body.bytes().rev().zip(result.bytes().rev()).take_while(same).count();
        prop_assert!(before + behind + "false".len() >= body.len(), "{body} became {result}");
        prop_assert!(read(&result).include_usage);
    }

    #[test]
    fn what_is_accepted_is_json_and_its_model_is_the_only_one(
        body in any_request(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let mut body = body.into_bytes();
        let at = at.index(body.len());
        body[at] = byte;
        let Ok(payload) = inspect(&body) else {
            return Ok(());
        };
        match serde_json::from_slice::<Value>(&body) {
            Ok(value) => prop_assert_eq!(payload.model.as_deref(), value["model"].as_str()),
            // what Go replaces or refuses by itself, in values that nobody reads here
            Err(error) => {
                let text = error.to_string();
                let known = text.contains("hex escape") || text.contains("number out of range");
                prop_assert!(known, "{text}");
            }
        }
    }

    #[test]
    fn any_bytes_are_answered(body: Vec<u8>) {
        let object = body.trim_ascii_start().starts_with(b"{");
        prop_assert!(inspect(&body).is_err() || object);
        prop_assert!(estimate_tokens(&body).is_err());
    }
}

const FORM: &str = "multipart/form-data; boundary=----b7";

/// `@` stands for the boundary's line.
fn form(body: &str) -> Result<Payload, BadPayload> {
    let body = body.replace('\n', "\r\n").replace('@', "------b7");
    inspect_form(body.as_bytes(), FORM)
}

fn field(name: &str, value: &str) -> String {
    format!("@\nContent-Disposition: form-data; name=\"{name}\"\n\n{value}\n")
}

#[test]
fn a_form_says_its_model() {
    let file = "@\nContent-Disposition: form-data; name=\"file\"; filename=\"a;b \\\"c.wav\"\nContent-Type: audio/wav\n\n\0\x01--\n\n--\n";
    let payload =
        form(&format!("{file}{}{}@--\n", field("model", "whisper"), field("stream", "True")))
            .expect("a plain form");
    assert_eq!(payload.model.as_deref(), Some("whisper"));
    assert_eq!(payload.stream, Some(true));
    let bare = form("@\ncontent-disposition:form-data;name=model\n\n\n@--").expect("token, empty");
    assert_eq!(bare.model.as_deref(), Some(""));
    let repeated =
        field("include[]", "a") + &field("include[]", "b") + &field("model", "m") + "@--";
    assert!(form(&repeated).is_ok());
}

#[test]
fn a_form_that_two_readers_could_read_differently_is_refused() {
    let model = field("model", "m");
    for (body, word) in [
        (String::new(), "missing request body"),
        ("@--".to_owned(), "field 'model' is missing"),
        (format!("{model}{model}@--"), "appears twice"),
        (format!("{model}{}@--", field("Model", "x")), "must be spelt 'model'"),
        (format!("{model}{}@--", field("stream", "1")), "must be true or false"),
        (format!("preamble\n{model}@--"), "begin with its boundary"),
        (format!("{model}@--\n{model}"), "behind its end"),
        (field("model", "m"), "closing boundary"),
        (field("model", "m@x") + "@--", "inside a part"),
        (field("model", "m\n@ ") + "@--", "line is malformed"),
        ("@\nContent-Disposition: form-data; name=\"model\"; filename=\"x\"\n\nm\n@--".to_owned(), "not a file"),
        ("@\nContent-Disposition: form-data; name*=utf-8''model\n\nm\n@--".to_owned(), "malformed"),
        ("@\nContent-Disposition: form-data; name=\"a\"; name=\"model\"\n\nm\n@--".to_owned(), "malformed"),
        ("@\nContent-Disposition: form-data; name=\"mo\\del\"\n\nm\n@--".to_owned(), "malformed"),
        ("@\nContent-Disposition: attachment; name=\"model\"\n\nm\n@--".to_owned(), "malformed"),
        ("@\nContent-Disposition: form-data;\n name=\"model\"\n\nm\n@--".to_owned(), "malformed"),
        ("@\nContent-Disposition: form-data; name=\"model\"\nContent-Transfer-Encoding: quoted-printable\n\n=6D\n@--".to_owned(), "encoding"),
        ("@\n\nm\n@--".to_owned(), "no headers"),
        (field("x", "").repeat(65) + "@--", "more than 64"),
    ] {
        let flaw = form(&body).expect_err(&body).to_string();
        assert!(flaw.contains(word), "{flaw:?} for {body:?}");
    }
    let lf = "------b7\nContent-Disposition: form-data; name=\"model\"\n\nm\n------b7--";
    assert!(inspect_form(lf.as_bytes(), FORM).is_err());
}

#[test]
fn only_a_plain_content_type_names_a_boundary() {
    let body = b"--a b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nm\r\n--a b--\r\n";
    assert!(inspect_form(body, "Multipart/Form-Data; charset=utf-8; Boundary=\"a b\"").is_ok());
    for wrong in [
        "multipart/form-data",
        "multipart/mixed; boundary=\"a b\"",
        "multipart/form-data; boundary=a b",
        "multipart/form-data; boundary=\"a b\"; boundary=\"a b\"",
        "multipart/form-data; boundary*=utf-8''a%20b",
        "multipart/form-data; boundary*0=\"a \"; boundary*1=\"b\"",
        "multipart/form-data; boundary=\"a\\ b\"",
        "multipart/form-data; boundary=\"a b",
        "multipart/form-data; boundary=\"a b\" x",
        "multipart/form-data; boundary=\"\"",
        "application/json",
    ] {
        assert!(inspect_form(body, wrong).is_err(), "{wrong}");
    }
}

proptest! {
    #[test]
    fn a_form_carries_any_value(model in "[^\\x00]{0,20}", file: Vec<u8>) {
        let mut body = b"------b7\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\n".to_vec();
        body.extend(&file);
        body.extend(b"\r\n------b7\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n");
        body.extend(model.as_bytes());
        body.extend(b"\r\n------b7--\r\n");
        prop_assert_eq!(inspect_form(&body, FORM).expect("plain").model, Some(model));
    }

    #[test]
    fn any_form_and_content_type_are_answered(body: Vec<u8>, content_type: String) {
        prop_assert!(inspect_form(&body, FORM).is_err());
        prop_assert!(inspect_form(&body, &content_type).is_err());
    }
}

#[test]
fn tokens_are_estimated_by_the_documented_rule() {
    let count = |body: &str| estimate_tokens(body.as_bytes());
    assert_eq!(count(r#"{"messages":[]}"#), Ok(0));
    let twelve = r#"{"model":"m","system":"four","messages":[{"role":"user","content":"12345"}]}"#;
    assert_eq!(count(twelve), Ok(3 + 4));
    let blocks = r#"{"messages":[{"role":"user","content":[{"type":"text","text":"\u0031234"},
        {"type":"tool_use","id":"toolu_1","name":"find","input":{"q":"1234","n":3,"deep":[true,null,1.5,-1]}}]}]}"#;
    assert_eq!(count(blocks), Ok(3 + 4));
    let tools = r#"{"messages":[],"tools":[{"name":"f"}]}"#;
    assert_eq!(count(tools), Ok(4));
    let flaw = |body| count(body).expect_err(body).to_string();
    assert_eq!(flaw(r#"{"model":"m"}"#), "field 'messages' is missing");
    assert_eq!(flaw(r#"{"messages":"x"}"#), "field 'messages' must be an array");
    assert_eq!(flaw(r#"{"Messages":[]}"#), "field 'Messages' must be spelt 'messages'");
}

#[test]
fn a_picture_costs_the_same_however_large_and_text_documents_their_text() {
    let with = |source: &str| {
        let body =
            format!(r#"{{"messages":[{{"content":[{{"type":"image","source":{source}}}]}}]}}"#);
        estimate_tokens(body.as_bytes()).expect("valid")
    };
    let data = "A".repeat(100_000);
    assert_eq!(
        with(&format!(r#"{{"type":"base64","media_type":"image/png","data":"{data}"}}"#)),
        1604
    );
    assert_eq!(with(&format!(r#"{{"data":"{data}","type":"base64"}}"#)), 1604);
    assert_eq!(with(r#"{"type":"url","url":"http"}"#), 1605);
    assert_eq!(with(r#"{"type":"text","media_type":"text/plain","data":"12345678"}"#), 6);
}
