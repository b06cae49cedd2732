//! YAML as a tree that remembers its lines, built from the parser's events.
//!
//! What a configuration never needs is refused here, so that no file can be expensive to read:
//! several documents, tags, keys that are not plain words, deep nesting, aliases that multiply.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle};

use super::problems::Problem;

/// A value and the line it starts at.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub line: usize,
    pub value: Value,
}

/// A YAML value.
#[derive(Clone, Debug)]
pub(super) enum Value {
    List(Vec<Node>),
    Map(Vec<Entry>),
    Scalar(Scalar),
}

/// A key of a map and its value, whose line is the key's; a map keeps the file's order, and
/// duplicates.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub key: String,
    pub node: Node,
}

/// A single value as text.
#[derive(Clone, Debug)]
pub(super) struct Scalar {
    /// As the file has it: what messages may show.
    pub written: String,
    /// With the environment filled in; may be a secret.
    pub text: String,
    pub style: Style,
}

/// How a scalar came to be, which decides what it may mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// Filled from the environment: text, number, boolean or null, as the key wants it.
    Filled,
    /// Its variable is not in the environment, which has been noted already.
    Missing,
    /// Unquoted: a number, boolean or null if it looks like one.
    Plain,
    /// Quoted or a block: text.
    Quoted,
}

/// Nesting that is accepted; the schema needs six levels.
const MAX_DEPTH: usize = 32;
/// What the tree may weigh with all aliases expanded: bytes of text, and [`NODE`] for each value.
const MAX_WEIGHT: usize = 4 << 20;
const NODE: usize = 16;

/// Reads one YAML document; an empty one is an empty map.
///
/// # Errors
/// The first thing that is not YAML, or not the YAML of a configuration.
pub(super) fn parse(text: &str) -> Result<Node, Problem> {
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|e| not_yaml(e.marker().line(), e.info(), text))?;
        builder.take(event, span.start.line())?;
    }
    Ok(builder.root.unwrap_or(Node { line: 1, value: Value::Map(Vec::new()) }))
}

/// What the parser stumbled over, and what usually causes it.
fn not_yaml(line: usize, info: &str, text: &str) -> Problem {
    const CAUSES: [(&str, &str); 8] = [
        ("tabs", "indent with spaces"),
        ("quoted scalar", "close the quotes, or write '…' if it holds a backslash"),
        ("alias", "put text that starts with `*` or `&` in quotes"),
        ("mapping values", "check the indentation, and put text that holds `: ` in quotes"),
        ("simple key", "write `key: value`, with a space after the colon"),
        ("flow sequence", "close the `[`"),
        ("flow mapping", "close the `{`"),
        ("node content", "close the `{` or `[`, and put text that holds brackets in quotes"),
    ];
    let cause = CAUSES.iter().find(|(word, _)| info.contains(word));
    let remedy = cause.map_or("put unusual text in quotes", |(_, remedy)| remedy);
    // the end of the text counts as one line more
    let line = line.clamp(1, text.lines().count().max(1));
    Problem::at(line, "", format!("is not YAML ({info}): {remedy}"))
}

#[derive(Default)]
struct Builder {
    documents: usize,
    /// The collections that are still open, outermost first.
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    weight: usize,
    root: Option<Node>,
}

/// A collection whose end has not come yet.
struct Open {
    line: usize,
    anchor: usize,
    items: Items,
}

enum Items {
    List(Vec<Node>),
    Map(Vec<Entry>, Option<(String, usize)>),
}

impl Builder {
    fn take(&mut self, event: Event<'_>, line: usize) -> Result<(), Problem> {
        match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(Problem::at(line, "", "a second document (`---`): keep one"));
                }
            }
            Event::Scalar(.., Some(_))
            | Event::SequenceStart(_, Some(_))
            | Event::MappingStart(_, Some(_)) => {
                return Err(Problem::at(line, "", "tags (`!…`) mean nothing here: remove it"));
            }
            Event::Scalar(text, style, anchor, None) => {
                self.place(scalar(&text, style, line), anchor)?;
            }
            Event::SequenceStart(anchor, None) => self.begin(Items::List(vec![]), anchor, line)?,
            Event::MappingStart(anchor, None) => {
                self.begin(Items::Map(vec![], None), anchor, line)?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.end()?,
            Event::Alias(anchor) => {
                let recursive = || Problem::at(line, "", "an alias (`*…`) inside its own anchor");
                let node = self.anchors.get(&anchor).ok_or_else(recursive)?;
                // weighed before it is copied, else the copying is the attack
                let weight = weigh(node);
                self.charge(weight, line)?;
                if let Some(node) = self.anchors.get(&anchor).cloned() {
                    self.attach(node)?;
                }
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
        }
        Ok(())
    }

    fn begin(&mut self, items: Items, anchor: usize, line: usize) -> Result<(), Problem> {
        if self.open.len() >= MAX_DEPTH {
            let text = format!("nested more than {MAX_DEPTH} levels deep");
            return Err(Problem::at(line, "", text));
        }
        self.open.push(Open { line, anchor, items });
        Ok(())
    }

    fn end(&mut self) -> Result<(), Problem> {
        let Some(Open { line, anchor, items }) = self.open.pop() else { return Ok(()) };
        let value = match items {
            Items::List(items) => Value::List(items),
            Items::Map(entries, _) => Value::Map(entries),
        };
        self.place(Node { line, value }, anchor)
    }

    /// A complete value: remembered under its anchor, then put where it belongs.
    fn place(&mut self, node: Node, anchor: usize) -> Result<(), Problem> {
        self.charge(weigh_alone(&node), node.line)?;
        if anchor != 0 {
            self.charge(weigh(&node), node.line)?;
            self.anchors.insert(anchor, node.clone());
        }
        self.attach(node)
    }

    fn attach(&mut self, node: Node) -> Result<(), Problem> {
        match self.open.last_mut().map(|open| &mut open.items) {
            None => self.root = Some(node),
            Some(Items::List(items)) => items.push(node),
            Some(Items::Map(entries, pending)) => match (pending.take(), node) {
                (Some((key, line)), node) => {
                    entries.push(Entry { key, node: Node { line, ..node } });
                }
                (None, Node { line, value: Value::Scalar(Scalar { text, .. }) }) => {
                    *pending = Some((text, line));
                }
                (None, Node { line, .. }) => {
                    return Err(Problem::at(line, "", "a list or map where a key belongs"));
                }
            },
        }
        Ok(())
    }

    fn charge(&mut self, weight: usize, line: usize) -> Result<(), Problem> {
        self.weight = self.weight.saturating_add(weight);
        if self.weight > MAX_WEIGHT {
            return Err(Problem::at(line, "", "too many values, or aliases (`*…`) that multiply"));
        }
        Ok(())
    }
}

fn scalar(text: &str, style: ScalarStyle, line: usize) -> Node {
    let style = if style == ScalarStyle::Plain { Style::Plain } else { Style::Quoted };
    let scalar = Scalar { written: text.to_owned(), text: text.to_owned(), style };
    Node { line, value: Value::Scalar(scalar) }
}

fn weigh(node: &Node) -> usize {
    let children: usize = match &node.value {
        Value::Scalar(_) => 0,
        Value::List(items) => items.iter().map(weigh).sum(),
        Value::Map(entries) => {
            entries.iter().map(|entry| entry.key.len() + weigh(&entry.node)).sum()
        }
    };
    weigh_alone(node).saturating_add(children)
}

/// The weight of a value without what is inside it.
fn weigh_alone(node: &Node) -> usize {
    match &node.value {
        Value::Scalar(scalar) => NODE + scalar.text.len(),
        Value::List(_) | Value::Map(_) => NODE,
    }
}
