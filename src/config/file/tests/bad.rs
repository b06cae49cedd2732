//! Mistakes, and what is said about them.

use proptest::prelude::*;

use super::{FILE, UPSTREAM, parse, wrong, wrong_with};

#[test]
fn two_wrong_keys_are_both_named_with_line_and_remedy() {
    let text = "timeuots: {}\nbalance:\n  queue: 10\n  max_que_wait: 1s\nupstreams:\n  - name: a\n    url: http://127.0.0.1:1\n";
    let problems = parse(text).unwrap_err().to_string();
    let expected = "\
        /etc/usher/usher.yaml:1: timeuots: unknown key: did you mean `timeouts`?\n\
        /etc/usher/usher.yaml:4: balance.max_que_wait: unknown key: did you mean `max_queue_wait`?";
    assert_eq!(problems, expected);
}

#[test]
fn every_mistake_has_its_line_its_key_and_its_remedy() {
    let lines =
        include_str!("mistakes.txt").lines().filter(|l| !l.is_empty() && !l.starts_with('#'));
    let mut cases: Vec<(String, Vec<String>)> = Vec::new();
    for line in lines {
        match (line.strip_prefix("    "), cases.last_mut()) {
            (Some(mistake), Some((_, expected))) => expected.push(format!(":{mistake}")),
            _ => cases.push((line.replace("\\n", "\n"), Vec::new())),
        }
    }
    assert!(cases.len() > 80, "{}", cases.len());
    for (text, expected) in cases {
        let found = if text.starts_with("upstreams") { wrong(&text) } else { wrong_with(&text) };
        assert_eq!(found, expected, "{text}");
    }
}

#[test]
fn instances_are_needed_and_differ() {
    let example = "name an instance, such as { name: gpu0, url: http://127.0.0.1:11434 }";
    for text in ["", "threads: 1", "upstreams:", "# nothing"] {
        assert_eq!(wrong(text), [format!(":1: upstreams: is missing: {example}")], "{text}");
    }
    assert_eq!(wrong("upstreams: []"), [format!(":1: upstreams: is empty: {example}")]);
    let text = "upstreams:\n  - { name: a, url: http://b:1 }\n  - { name: a, url: http://c:1 }\n  - { name: d, url: http://B:1/ }\n";
    assert_eq!(
        wrong(text),
        [
            ":3: upstreams[1]: the name `a` is taken: give each instance its own",
            ":4: upstreams[2]: `a` has that address too: its slots would count twice: keep one",
        ]
    );
}

#[test]
fn a_secret_is_never_repeated() {
    for text in [
        "database: mysql://u:hunter2@h",
        "database: [hunter2]",
        "api_key:hunter2",
        "upstreams:\n  - api_key:hunter2",
        "redis: http://u:hunter2@h",
        "redis_secret: hunter2",
        "upstreams: [ { name: a, url: http://u:hunter2@h } ]",
        "upstreams: [ { name: a, url: http://h, api_key: 'hunter2 hunter2' } ]",
        "upstreams: [ { name: a, url: http://h, api_key: [hunter2] } ]",
    ] {
        let problems = wrong(text).join("\n");
        assert!(!problems.contains("hunter2"), "{problems}");
    }
}

#[test]
fn what_tiers_say_of_models_and_tokens_is_validated() {
    assert_eq!(
        wrong_with("tiers: { free: { num_ctx: most 8192 } }"),
        [
            ":2: tiers.free.num_ctx: expected `allow` or `max 32768` or `pin 32768`, found `most 8192`"
        ]
    );
    assert_eq!(
        wrong_with("tiers:\n  lab:\n    tokens: 5/m"),
        [":4: tiers.lab.tokens: minutes of a rate are written `min`: 5/min, found `5/m`"]
    );
}

#[test]
fn what_is_not_one_plain_document_is_refused() {
    for (text, expected) in [
        ("a: b\n---\nc: d", ":2: a second document (`---`): keep one"),
        ("a: !!str b", ":1: tags (`!…`) mean nothing here: remove it"),
        ("\n? [a]\n: b", ":2: a list or map where a key belongs"),
        ("a: &x [ *x ]", ":1: an alias (`*…`) inside its own anchor"),
        ("[1]", ":1: expected a map, found a list"),
    ] {
        assert_eq!(wrong(text).first().map(String::as_str), Some(expected), "{text}");
    }
    for (text, line, remedy) in [
        ("a: 'b\n", 1, "close the quotes, or write '…' if it holds a backslash"),
        ("a:\n\tb: c", 2, "indent with spaces"),
        ("models: [*]", 1, "put text that starts with `*` or `&` in quotes"),
        ("a: b: c", 1, "check the indentation, and put text that holds `: ` in quotes"),
        ("- a\nb", 2, "write `key: value`, with a space after the colon"),
        ("a: [1, 2", 1, "close the `[`"),
        ("a: @b", 1, "put unusual text in quotes"),
    ] {
        let [found] = &wrong(text)[..] else { panic!("one mistake in {text}") };
        assert!(found.starts_with(&format!(":{line}: is not YAML (")), "{found}");
        assert!(found.ends_with(&format!("): {remedy}")), "{found}");
    }
}

#[test]
fn a_file_that_would_be_expensive_is_refused() {
    let deep = wrong(&"[".repeat(100));
    assert_eq!(deep, [":1: nested more than 32 levels deep"]);
    assert_eq!(wrong(&"- ".repeat(200_000)), deep);

    let mut laughs = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
    for n in 1..12 {
        laughs += &format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 9].join(", "));
    }
    let [line] = &wrong(&laughs)[..] else { panic!("one mistake") };
    assert!(line.ends_with(": too many values, or aliases (`*…`) that multiply"), "{line}");

    let many = "{ name: a, url: http://a }, ".repeat(10_000);
    let many = wrong(&format!("upstreams: [ {many} ]"));
    assert_eq!(many, [":1: upstreams: has 10000 items: at most 1000"]);
    let many: String = (0..10_000).map(|n| format!("key{n}: 1\n")).collect();
    assert_eq!(wrong(&many).first().unwrap(), ":1: has 10000 keys: at most 1000");

    let large = parse(&" ".repeat(10 << 20)).unwrap_err().to_string();
    assert_eq!(
        large,
        format!("{FILE}: is larger than 1MiB: no configuration is; is it the right file?")
    );
}

#[test]
fn a_terminal_is_not_at_the_mercy_of_a_file() {
    let found = wrong_with("\"\\e[31m\": 1").join("");
    assert!(found.contains("\u{fffd}[31m: unknown key"), "{found:?}");
}

/// Is this one mistake in the form that was promised?
fn is_located(line: &str) -> bool {
    let rest = line.strip_prefix(FILE).and_then(|rest| rest.strip_prefix(':'));
    let number = rest.and_then(|rest| rest.split_once(": ")).map(|(number, _)| number);
    !line.contains('\n') && number.is_some_and(|n| n.parse::<usize>().is_ok_and(|n| n > 0))
}

fn judge(text: &str) -> Result<(), TestCaseError> {
    if let Err(problems) = parse(text) {
        prop_assert!(problems.lines().count() > 0);
        for line in problems.lines() {
            prop_assert!(is_located(&line), "{line:?}");
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_text_is_a_configuration_or_located_mistakes(text in "(?s).{0,200}") {
        judge(&text)?;
    }

    #[test]
    fn anything_like_yaml_is_a_configuration_or_located_mistakes(
        words in prop::collection::vec(prop::sample::select(WORDS), 0..60)
    ) {
        judge(&words.concat())?;
    }

    #[test]
    fn any_byte_changed_in_a_good_file_gives_a_configuration_or_located_mistakes(
        at in 0usize..6_000, byte in 0u8..128
    ) {
        let mut text = include_bytes!("../../../../conf/usher.yaml").to_vec();
        let at = at % text.len();
        text[at] = byte;
        judge(&String::from_utf8_lossy(&text))?;
    }
}

const WORDS: &[&str] = &[
    "\n",
    "\n  ",
    "\n    - ",
    ": ",
    ", ",
    "{ ",
    " }",
    "[",
    "]",
    "'",
    "\"",
    "&a ",
    "*a",
    "!!x ",
    "---",
    "...",
    "|\n",
    ">-\n",
    "? ",
    "- ",
    "#",
    "${PORT}",
    "${X:-1}",
    "${",
    "null",
    "true",
    "1s",
    "64KiB",
    "%YAML",
    "listen",
    "address",
    "127.0.0.1:1",
    "tiers",
    "free",
    "allow",
    "read",
    "upstreams",
    "name",
    "url",
    "\t",
    "\r",
    "http://a:1",
    "slots",
    "7",
    "auth",
    "api_keys",
    "header",
    "restrict",
    "/api/pull",
    "admin",
    UPSTREAM,
];
