//! `${NAME}` and `${NAME:-default}`: values from the environment.
//!
//! Filled in after YAML is parsed, so that a value can never become structure.

use super::problems::Problem;
use super::tree::{Node, Scalar, Style, Value};

/// Where values come from.
pub(super) type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Fills every scalar in and reports what cannot be, and keys that stand twice in one map.
pub(super) fn fill(node: &mut Node, path: &str, env: Env<'_>, problems: &mut Vec<Problem>) {
    match &mut node.value {
        Value::Scalar(scalar) => {
            if let Err(text) = fill_scalar(scalar, env) {
                scalar.style = Style::Missing;
                problems.push(Problem::at(node.line, path, text));
            }
        }
        Value::List(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                fill(item, &format!("{path}[{index}]"), env, problems);
            }
        }
        Value::Map(entries) => {
            let mut first = std::collections::HashMap::new();
            for entry in entries {
                let path = join(path, &entry.key);
                if let Some(line) = first.insert(entry.key.clone(), entry.node.line) {
                    let text = format!("is already given in line {line}: keep one");
                    problems.push(Problem::at(entry.node.line, &path, text));
                }
                fill(&mut entry.node, &path, env, problems);
            }
        }
    }
}

/// `a` and `b` as `a.b`.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn fill_scalar(scalar: &mut Scalar, env: Env<'_>) -> Result<(), String> {
    if scalar.text.contains("${") {
        scalar.text = replace(&scalar.written, env)?;
        // quoted or not: inside `{ … }` YAML itself wants the quotes
        scalar.style = Style::Filled;
    }
    Ok(())
}

/// Replaces each `${…}`; `$${` is a literal `${`, any other dollar is a dollar.
fn replace(written: &str, env: Env<'_>) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = written;
    while let Some((before, after)) = rest.split_once("${") {
        if let Some(literal) = before.strip_suffix('$') {
            out.push_str(literal);
            out.push_str("${");
            rest = after;
            continue;
        }
        let (inside, after) = after
            .split_once('}')
            .ok_or("`${` without its `}`: close it, or write `$${` for a literal `${`")?;
        out.push_str(before);
        out.push_str(&look_up(inside, env)?);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

fn look_up(inside: &str, env: Env<'_>) -> Result<String, String> {
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    let sane = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !sane {
        return Err(format!(
            "`${{{inside}}}` is no variable: write ${{NAME}}, ${{NAME:-default}}, \
             or `$${{` for a literal `${{`"
        ));
    }
    match (env(name), default) {
        // as in a shell, `:-` stands in for an empty value too
        (Some(value), Some(default)) if value.is_empty() => Ok(default.to_owned()),
        (Some(value), _) => Ok(value),
        (None, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err(format!(
            "the environment has no {name}: set it, or give a default as in ${{{name}:-default}}"
        )),
    }
}
