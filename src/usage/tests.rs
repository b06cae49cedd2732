use proptest::{collection::vec, prelude::*};

use super::*;

mod whole;

/// Runs a stream through a meter, cut at the given places.
fn pass(format: Format, strip: bool, stream: &[u8], cuts: &[usize]) -> (Vec<u8>, Counts) {
    let mut meter = Meter::new(format, strip);
    let mut out = Vec::new();
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (stream.len() + 1)).collect();
    cuts.extend([0, stream.len()]);
    cuts.sort_unstable();
    for ends in cuts.windows(2) {
        out.extend(meter.push(Bytes::copy_from_slice(&stream[ends[0]..ends[1]])));
    }
    out.extend(meter.finish().unwrap_or_default());
    (out, *meter.counts())
}

fn counts(format: Format, stream: &str) -> Counts {
    let (out, whole) = pass(format, false, stream.as_bytes(), &[]);
    assert_eq!(out, stream.as_bytes());
    let every_byte: Vec<usize> = (0..stream.len()).collect();
    let (out, bytewise) = pass(format, false, stream.as_bytes(), &every_byte);
    assert_eq!(out, stream.as_bytes());
    assert_eq!(whole, bytewise, "chunk edges change nothing");
    whole
}

fn tokens(prompt: u64, completion: u64, finished: bool) -> Counts {
    Counts { prompt: Some(prompt), completion: Some(completion), finished, ..Counts::default() }
}

const NDJSON: &str = concat!(
    r#"{"model":"m","created_at":"2026","message":{"role":"assistant","content":"\"eval_count\":9,\"done\":true}"},"done":false}"#,
    "\n",
    r#"{"model":"m","response":"true","context":[1,2,[3]],"done":true,"done_reason":"stop","total_duration":9,"load_duration":1,"#,
    r#""prompt_eval_count":26,"prompt_eval_duration":2,"eval_count":259,"eval_duration":3}"#,
    "\n",
);

const FINAL: &str = r#"data: {"id":"c","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}"#;

#[test]
fn ollamas_last_line_is_read() {
    let expected = Counts {
        load_ns: Some(1),
        prompt_eval_ns: Some(2),
        eval_ns: Some(3),
        total_ns: Some(9),
        ..tokens(26, 259, true)
    };
    assert_eq!(counts(Format::Ndjson, NDJSON), expected);
    assert_eq!(counts(Format::Ndjson, NDJSON.trim_end()), expected);
    assert_eq!(counts(Format::Ndjson, &NDJSON.replace(':', ": ").replace('\n', "\r\n")), expected);
}

#[test]
fn pieces_of_a_stream_are_counted_as_they_pass() {
    let line = "{\"response\":\"a\",\"done\":false}\n";
    let event = "data: {\"choices\":[]}\n\n";
    let named = "event: content_block_delta\ndata: {}\n\n";
    for (format, piece, expected) in [
        (Format::Ndjson, line, 5),
        (Format::SseOpenAi, event, 5),
        (Format::SseAnthropic, named, 5),
        (Format::SseResponses, named, 5),
        (Format::OllamaJson, line, 0),
    ] {
        let mut meter = Meter::new(format, false);
        for byte in piece.repeat(5).bytes() {
            let passed = meter.push(Bytes::copy_from_slice(&[byte]));
            assert_eq!(*passed, [byte]);
        }
        assert_eq!(meter.pieces(), expected, "{format:?}");
    }
}

#[test]
fn a_stream_that_breaks_off_is_not_finished() {
    let first = NDJSON.split_inclusive('\n').next().expect("a line");
    assert_eq!(counts(Format::Ndjson, first), Counts::default());
    let error = format!("{first}{{\"error\":\"model runner has unexpectedly stopped\"}}\n");
    assert_eq!(counts(Format::Ndjson, &error), Counts { errored: true, ..Counts::default() });
}

#[test]
fn a_last_line_longer_than_any_buffer_is_read() {
    let context = vec!["128000"; 100_000].join(",");
    let line = NDJSON.replace("1,2,[3]", &context);
    assert_eq!(
        pass(Format::Ndjson, false, line.as_bytes(), &[10, 70_000, 140_001]).1.completion,
        Some(259)
    );
}

#[test]
fn whole_answers_are_read_whatever_their_size() {
    let embed = format!(
        r#"{{"model":"m","embeddings":[[{}0.5]],"total_duration":5,"prompt_eval_count":8}}"#,
        "-0.0123,".repeat(1000)
    );
    let expected =
        Counts { prompt: Some(8), total_ns: Some(5), finished: true, ..Counts::default() };
    assert_eq!(counts(Format::OllamaJson, &embed), expected);
    let broken = embed.strip_suffix('}').expect("a brace");
    assert!(!counts(Format::OllamaJson, broken).finished);
    let chat = "{\n \"choices\": [{\"message\": {\"content\": \"\\\\\"}, \"usage\": {\"prompt_tokens\": 99}}],\n \"usage\": {\n  \"prompt_tokens\": 7,\n  \"completion_tokens\": 3\n }\n}\n";
    assert_eq!(counts(Format::OpenAiJson, chat), tokens(7, 3, true));
    let responses = r#"{"object":"response","error":null,"output":[],"usage":{"input_tokens":7,"input_tokens_details":{"cached_tokens":1},"output_tokens":3}}"#;
    assert_eq!(counts(Format::ResponsesJson, responses), tokens(7, 3, true));
    let anthropic = r#"{"type":"message","content":[{"type":"text","text":"x"}],"usage":{"input_tokens":7,"output_tokens":3}}"#;
    assert_eq!(counts(Format::AnthropicJson, anthropic), tokens(7, 3, true));
    assert!(counts(Format::AnthropicJson, r#"{"type":"error","error":{"type":"x"}}"#).errored);
    assert!(counts(Format::OpenAiJson, r#"{"error":{"message":"x"}}"#).errored);
}

#[test]
fn openai_events_are_read() {
    let stream = format!(
        ": hi\n\ndata: {{\"choices\":[{{\"text\":\"a\"}}],\"usage\":{{\"prompt_tokens\":0,\"completion_tokens\":0}}}}\n\n{FINAL}\n\ndata: [DONE]\n\n"
    );
    assert_eq!(counts(Format::SseOpenAi, &stream), tokens(7, 3, true));
    assert_eq!(counts(Format::SseOpenAi, &stream.replace('\n', "\r\n")), tokens(7, 3, true));
    assert_eq!(counts(Format::SseOpenAi, &stream.replace("data: ", "data:")), tokens(7, 3, true));
    assert_eq!(counts(Format::SseOpenAi, stream.trim_end()), tokens(7, 3, true));
    assert_eq!(
        counts(Format::SseOpenAi, &stream.replace("[DONE]", "[DONE]x")),
        tokens(7, 3, false)
    );
    let error = "data: {\"error\":{\"message\":\"x\"}}\n\n";
    assert_eq!(counts(Format::SseOpenAi, error), Counts { errored: true, ..Counts::default() });
    let split = FINAL.replace("\"usage\"", "\ndata: \"usage\"") + "\n\n";
    assert_eq!(counts(Format::SseOpenAi, &split), tokens(7, 3, false), "data lines are joined");
}

#[test]
fn anthropic_events_are_read() {
    let start = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"type\":\"message\",\"usage\":{\"input_tokens\":5,\"output_tokens\":0}}}\n\n";
    let delta = "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"input_tokens\":7,\"output_tokens\":3}}\n\n";
    let stop = "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
    let estimate = Counts { prompt: Some(5), ..Counts::default() };
    assert_eq!(counts(Format::SseAnthropic, start), estimate);
    assert_eq!(counts(Format::SseAnthropic, &[start, delta, stop].concat()), tokens(7, 3, true));
    let without_input = delta.replace("\"input_tokens\":7,", "");
    assert_eq!(
        counts(Format::SseAnthropic, &[start, &without_input, stop].concat()),
        tokens(5, 3, true)
    );
    let error = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"api_error\",\"message\":\"x\"}}\n\n";
    assert_eq!(
        counts(Format::SseAnthropic, &[start, error].concat()),
        Counts { errored: true, ..estimate }
    );
}

#[test]
fn responses_events_are_read() {
    let created = "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"error\":null,\"usage\":null}}\n\n";
    let delta = "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"response.completed\"}\n\n";
    let text = "x".repeat(200_000);
    let completed = format!(
        "event: response.completed\ndata: {{\"type\":\"response.completed\",\"response\":{{\"output\":[\"{text}\"],\"usage\":{{\"input_tokens\":7,\"output_tokens\":3}}}}}}\n\n"
    );
    assert_eq!(counts(Format::SseResponses, &[created, delta].concat()), Counts::default());
    assert_eq!(
        counts(Format::SseResponses, &[created, delta, &completed].concat()),
        tokens(7, 3, true)
    );
    assert!(counts(Format::SseResponses, &completed.replace("completed", "incomplete")).finished);
    let failed = counts(Format::SseResponses, &completed.replace("completed", "failed"));
    assert!(failed.errored && !failed.finished);
    assert!(
        counts(Format::SseResponses, "data: {\"type\":\"error\",\"message\":\"x\"}\n\n").errored
    );
}

fn stripped(stream: &str) -> String {
    let (out, _) = pass(Format::SseOpenAi, true, stream.as_bytes(), &[]);
    String::from_utf8(out).expect("text")
}

#[test]
fn usage_that_usher_asked_for_is_cut_out() {
    for (from, to) in [
        (format!("{FINAL}\n\ndata: [DONE]\n\n"), "data: [DONE]\n\n"),
        (
            format!("data: 1\r\n\r\n{FINAL}\r\n\r\ndata: [DONE]\r\n\r\n"),
            "data: 1\r\n\r\ndata: [DONE]\r\n\r\n",
        ),
        (format!("id: 1\n{FINAL}\n\n"), ""),
        (format!(": hi\n{FINAL}\n\n"), ": hi\n"),
        (FINAL.to_owned(), ""),
        ("data:{ \"choices\" : [ ] , \"usage\" : { } }\n\n".to_owned(), ""),
        ("data: {\"choices\":[],\"usage\":null}\n\n".to_owned(), "data: {\"choices\":[]}\n\n"),
        (
            "data: {\"choices\":[1],\"usage\":{\"a\":0}}\n\n".to_owned(),
            "data: {\"choices\":[1]}\n\n",
        ),
        (
            "data: {\"a\": 1, \"usage\": null, \"b\": 2}\n\n".to_owned(),
            "data: {\"a\": 1, \"b\": 2}\n\n",
        ),
        ("data: {\"usage\":{} , \"b\":2}\n\n".to_owned(), "data: { \"b\":2}\n\n"),
        ("data: {\"usage\":{}}\n\n".to_owned(), "data: {}\n\n"),
    ] {
        assert_eq!(stripped(&from), to, "{from}");
    }
}

#[test]
fn what_is_not_usage_passes_the_cutter() {
    for stream in [
        "data: {\"choices\":[]}\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"\\\"usage\\\":{}\"}}]}\n\n",
        "data: {\"choices\":[{\"usage\":1}]}\n\n",
        "data: {\"choices\":[],\"usage\":\n\n",
        "data: [{\"usage\":1}]\n\n",
        "data: {\"choices\":[],\ndata: \"usage\":{}}\n\n",
        "event: x\n\n\n\n: comment \"usage\"\n\nretry: 3\n\ndata: [DONE]\n\n",
    ] {
        assert_eq!(stripped(stream), stream);
    }
}

#[test]
fn a_heartbeat_is_not_held_back() {
    let mut meter = Meter::new(Format::SseOpenAi, true);
    assert_eq!(meter.push(Bytes::from_static(b": queu")), "");
    assert_eq!(meter.push(Bytes::from_static(b"ed\n")), ": queued\n");
    assert_eq!(meter.push(Bytes::from_static(b"\n")), "\n");
    assert_eq!(meter.push(Bytes::from_static(b": two\ndata: 1")), ": two\n");
    assert_eq!(meter.push(Bytes::from_static(b"\n\n")), "data: 1\n\n");
}

#[test]
fn an_event_too_long_to_hold_passes_and_the_next_is_cut_again() {
    let mut meter = Meter::new(Format::SseOpenAi, true);
    let long = format!("data: {{\"choices\":[],\"usage\":{{\"x\":\"{}", "x".repeat(64 * 1024));
    assert_eq!(meter.push(Bytes::from(long.clone())), long);
    assert_eq!(meter.push(Bytes::from_static(b"more\"}}\n")), "more\"}}\n");
    let rest = format!("\n{FINAL}\n\ndata: [DONE]\n\n");
    assert_eq!(meter.push(Bytes::from(rest)), "\ndata: [DONE]\n\n");
    assert_eq!(*meter.counts(), tokens(7, 3, true));
}

#[test]
fn ten_thousand_chunks_pass_without_a_copy() {
    for (format, strip, chunk, last) in [
        (
            Format::Ndjson,
            false,
            r#"{"message":{"content":"x"},"done":false}"#.to_owned() + "\n",
            NDJSON.to_owned(),
        ),
        (
            Format::SseOpenAi,
            false,
            "data: {\"choices\":[{}]}\n\n".to_owned(),
            FINAL.to_owned() + "\n\n",
        ),
        (
            Format::SseOpenAi,
            true,
            "data: {\"choices\":[{}]}\n\n".to_owned(),
            "data: [DONE]\n\n".to_owned(),
        ),
        (Format::SseAnthropic, false, "data: {}\n\n".to_owned(), "data: {}\n\n".to_owned()),
        (Format::OpenAiJson, false, " ".to_owned(), "{}".to_owned()),
        (Format::None, true, "\n".to_owned(), "{".to_owned()),
    ] {
        let mut meter = Meter::new(format, strip);
        let chunk = Bytes::from(chunk);
        let last = Bytes::from(last);
        for _ in 0..10_000 {
            let passed = meter.push(chunk.clone());
            assert_eq!((passed.as_ptr(), passed.len()), (chunk.as_ptr(), chunk.len()));
        }
        assert_eq!(meter.push(last.clone()).as_ptr(), last.as_ptr());
        assert_eq!(meter.finish(), None);
    }
}

const FORMATS: [Format; 9] = [
    Format::Ndjson,
    Format::OllamaJson,
    Format::SseOpenAi,
    Format::SseResponses,
    Format::SseAnthropic,
    Format::OpenAiJson,
    Format::ResponsesJson,
    Format::AnthropicJson,
    Format::None,
];

/// Events as they come with `include_usage`, beside what they are without; the last column is
/// the counts they tell.
fn event() -> impl Strategy<Value = (String, String)> {
    let content = "[a-z \\n\"\\\\{}\\[\\]é漢]{0,12}";
    prop_oneof![
        4 => content.prop_map(|text| {
            let text = serde_json::to_string(&text).expect("text");
            let event = format!(r#"data: {{"choices":[{{"delta":{{"content":{text}}}}}]}}"#);
            (event.clone(), event)
        }),
        2 => (content, any::<bool>()).prop_map(|(text, null)| {
            let text = serde_json::to_string(&text).expect("text");
            let usage = if null { "null" } else { r#"{"prompt_tokens":0,"completion_tokens":0}"# };
            (
                format!(r#"data:{{"choices":[{{"text":{text}}}],"usage":{usage},"z":1}}"#),
                format!(r#"data:{{"choices":[{{"text":{text}}}],"z":1}}"#),
            )
        }),
        1 => Just((FINAL.to_owned(), String::new())),
        1 => Just(("event: ping".to_owned(), "event: ping".to_owned())),
        1 => Just((String::new(), String::new())),
    ]
}

proptest! {
    #[test]
    fn the_client_sees_the_stream_without_usage_however_it_is_chunked(
        events in vec(event(), 0..12), crlf: bool, cuts in vec(any::<usize>(), 0..40),
    ) {
        let end = if crlf { "\r\n" } else { "\n" };
        let mut sent = String::new();
        let mut seen = String::new();
        for (with, without) in events.iter().filter(|(with, _)| !with.is_empty()) {
            sent += &format!("{with}{end}{end}");
            if !without.is_empty() {
                seen += &format!("{without}{end}{end}");
            }
        }
        sent += &format!("data: [DONE]{end}{end}");
        seen += &format!("data: [DONE]{end}{end}");
        let (out, counts) = pass(Format::SseOpenAi, true, sent.as_bytes(), &cuts);
        prop_assert_eq!(String::from_utf8(out).expect("text"), seen);
        let told = events.iter().any(|(with, _)| with == FINAL);
        let expected = Counts {
            prompt: told.then_some(7),
            completion: told.then_some(3),
            finished: true,
            ..Counts::default()
        };
        prop_assert_eq!(counts, expected);
    }

    #[test]
    fn any_bytes_pass_as_they_are_and_are_cut_the_same_however_they_are_chunked(
        stream in vec(prop_oneof![
            prop::sample::select(vec![
                "data:", " ", "\n", "\r\n", "\n\n", "{", "}", "[", "]", "\"", "\\", ",", ":", "7",
                "\"usage\":", "\"input_tokens\":", "\"message\":", "\"type\":", "\"done\":", "true",
                "null", "\"error\"", "[DONE]", "\"message_stop\"", "data: [DONE]\n",
            ]).prop_map(|text| text.as_bytes().to_vec()),
            vec(any::<u8>(), 0..3),
        ], 0..40),
        cuts in vec(any::<usize>(), 0..20),
        format in prop::sample::select(FORMATS.to_vec()),
    ) {
        let stream = stream.concat();
        let (out, _) = pass(format, false, &stream, &cuts);
        prop_assert_eq!(&out, &stream);
        let (whole, _) = pass(Format::SseOpenAi, true, &stream, &[]);
        let (chunked, _) = pass(Format::SseOpenAi, true, &stream, &cuts);
        prop_assert_eq!(whole, chunked);
    }

    #[test]
    fn recorded_streams_are_counted_the_same_however_they_are_chunked(
        cuts in vec(any::<usize>(), 0..40),
    ) {
        let (out, counts) = pass(Format::Ndjson, false, NDJSON.as_bytes(), &cuts);
        prop_assert_eq!(out, NDJSON.as_bytes());
        prop_assert_eq!(counts, pass(Format::Ndjson, false, NDJSON.as_bytes(), &[]).1);
    }
}
