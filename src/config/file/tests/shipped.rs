//! The files of `conf/`: each loads, and `usher.yaml` is complete and true.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::super::reader::{Context, Item};
use super::super::{fill, sections, tree};
use crate::config::Config;

/// A variable of any name is set.
fn env(name: &str) -> Option<String> {
    Some(format!("value-of-{name}"))
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("conf")
}

fn usher_yaml() -> String {
    fs::read_to_string(folder().join("usher.yaml")).unwrap()
}

fn parse(text: &str) -> Result<Config, Vec<String>> {
    Config::parse(text, Path::new("f"), &env).map_err(|e| e.lines().collect())
}

#[test]
fn every_file_loads() {
    let files: Vec<PathBuf> =
        fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    let files: Vec<_> = files.into_iter().filter(|file| file.is_file()).collect();
    assert!(files.len() >= 4, "{files:?}");
    for file in files {
        if let Err(problems) = Config::load(&file, &env) {
            panic!("{problems}");
        }
    }
}

#[test]
fn the_active_values_of_usher_yaml_are_the_defaults() {
    let least = "upstreams: [ { name: ollama, url: http://127.0.0.1:11434 } ]\nstate_dir: ../state";
    let shown = |text: &str| format!("{:#?}", parse(text).unwrap());
    assert_eq!(shown(&usher_yaml()), shown(least));
}

#[test]
fn what_is_in_force_is_shown_in_the_words_of_the_file() {
    let text = usher_yaml();
    let shown = crate::config::show(&parse(&text).unwrap());
    let compared = compare(&tree::parse(&text).unwrap(), &shown, "");
    assert!(compared > 40, "{compared}");
}

/// Fails where the two differ; returns how many values were compared.
fn compare(node: &tree::Node, shown: &serde_json::Value, path: &str) -> usize {
    // these are the machine's and the directory's
    if ["threads", "state_dir", "database"].contains(&path) {
        return 0;
    }
    match &node.value {
        tree::Value::Map(entries) => entries
            .iter()
            .map(|entry| compare(&entry.node, &shown[&entry.key], &fill::join(path, &entry.key)))
            .sum(),
        tree::Value::List(items) => (0..)
            .zip(items)
            .map(|(index, item)| compare(item, &shown[index], &format!("{path}[{index}]")))
            .sum(),
        tree::Value::Scalar(scalar) => {
            let same = match shown {
                serde_json::Value::Null => scalar.is_null(),
                serde_json::Value::String(text) => is_same(text, &scalar.text),
                other => {
                    let text = other.to_string();
                    text == scalar.text
                }
            };
            assert!(same, "{path}: {} is shown as {shown}", scalar.text);
            1
        }
    }
}

/// Whether two texts are alike, but for the case of a header's name, or the same duration.
fn is_same(one: &str, other: &str) -> bool {
    let time = |text: &str| crate::config::units::parse_duration(text).ok();
    let rate = |text: &str| text.parse::<crate::config::Rate>().ok();
    one.eq_ignore_ascii_case(other)
        || rate(one).is_some_and(|it| Some(it) == rate(other))
        || time(one).is_some_and(|duration| Some(duration) == time(other))
}

/// A key in a comment: `# key: value`, in the place where it would stand.
fn commented(line: &str) -> Option<String> {
    let (indent, rest) = line.split_once("# ")?;
    let (key, _) = rest.split_once(": ")?;
    let is_key = key.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    (indent.trim().is_empty() && is_key).then(|| format!("{indent}{rest}"))
}

#[test]
fn usher_yaml_has_every_key() {
    let all: Vec<String> = usher_yaml()
        .lines()
        .map(|line| commented(line).unwrap_or_else(|| line.to_owned()))
        .collect();
    let absent: Vec<String> =
        asked(&all.join("\n")).into_iter().filter(|(_, has)| !has).map(|(key, _)| key).collect();
    assert_eq!(absent, Vec::<String>::new());
}

/// Every key that is asked for while a document is read, and whether it is there.
fn asked(text: &str) -> BTreeMap<String, bool> {
    let mut root = tree::parse(text).unwrap();
    fill::fill(&mut root, "", &env, &mut Vec::new());
    let cx = Context::new(Path::new(""), Vec::new());
    Item { cx: &cx, node: &root, path: String::new() }.section(sections);
    let mut keys = BTreeMap::new();
    for (path, has) in cx.asked.into_inner() {
        *keys.entry(pattern(&path)).or_default() |= has;
    }
    keys
}

/// `tiers.free.allow` → `tiers.*.allow`, `listen[0].address` → `listen.[].address`.
fn pattern(path: &str) -> String {
    let path = path.replace("[0]", ".[]");
    match path.strip_prefix("tiers.").and_then(|rest| rest.split_once('.')) {
        Some((_, key)) => format!("tiers.*.{key}"),
        None => path,
    }
}

#[test]
fn restrict_may_name_the_routes_that_need_a_credential() {
    let mut guarded: Vec<_> =
        crate::route::paths().filter(|path| crate::route::known(path)).collect();
    guarded.sort_unstable();
    assert_eq!(super::super::ROUTES, guarded);
}
