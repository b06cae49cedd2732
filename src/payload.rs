//! What a request body says: read once, nothing built, nothing big copied.
//!
//! Ollama decodes with Go's `encoding/json`, which matches names in any letter case and lets the
//! last of several win; a stricter reader would see another model in the same bytes. So a body in
//! which the two could differ is refused, and the bytes that were read are the bytes that travel.

mod edit;
mod estimate;
mod form;
mod prompt;
pub(crate) mod quote;
mod sound;
mod tame;
pub(crate) mod walk;

pub use estimate::estimate_tokens;
pub use form::inspect_form;
pub use prompt::{Prompt, Runner};
pub use tame::{Ready, prepare};

use edit::{Edit, End};
use tame::Spots;
use walk::Field;

/// Every top-level name that some step of Usher reads, in its one accepted spelling.
const READ: [&str; 18] = [
    "model",
    "name",
    "stream",
    "stream_options",
    "keep_alive",
    "options",
    "tools",
    "messages",
    "prompt",
    "input",
    "web_search_options",
    "source",
    "destination",
    "shift",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "_debug_render_only",
];

/// Each is looked into: eight million in a body took more than a second.
const MAX_TOOLS: usize = 4096;

/// Reads a JSON body: UTF-8, one object, nothing behind it, no name that two readers could
/// understand differently.
///
/// # Errors
///
/// Each is the client's fault, and its text names the field.
pub fn inspect(body: &[u8]) -> Result<Payload, BadPayload> {
    let text = walk::object(body)?;
    let mut payload = Payload::default();
    let mut empty = true;
    walk::each_field(text, |field| {
        walk::spelling(&field.name, &READ)?;
        empty = false;
        payload.spots.note(&field);
        payload.read(&field)
    })?;
    payload.spots.end = End::of(text, 0, empty);
    Ok(payload)
}

/// Reads the body of a request that makes a model: also from which one.
///
/// # Errors
///
/// As [`inspect`].
pub fn inspect_creation(body: &[u8]) -> Result<Payload, BadPayload> {
    let mut payload = inspect(body)?;
    walk::each_field(walk::object(body)?, |field| {
        walk::spelling(&field.name, &["from"])?;
        if field.name == "from" && field.value != "null" {
            payload.from = Some(string(&field)?).filter(|from| !from.is_empty());
        }
        Ok(())
    })?;
    Ok(payload)
}

/// What Usher wants to know of a request's body.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Payload {
    /// `model`, as written.
    pub model: Option<String>,
    /// `name`: the older word for `model` in `/api/show`, `/api/pull` and their like.
    pub name: Option<String>,
    /// `source` of `/api/copy`.
    pub source: Option<String>,
    /// `destination` of `/api/copy`.
    pub destination: Option<String>,
    /// `from` of `/api/create`, if it was [looked for](inspect_creation).
    pub from: Option<String>,
    /// `stream`; what its absence means depends on the route.
    pub stream: Option<bool>,
    /// Whether the client itself asked for usage at the end of its stream.
    pub include_usage: bool,
    /// Whether a tool would search the web, that is, leave the box.
    pub web_search: bool,
    /// Whether the prompt is to be shown instead of answered, the model's own part included.
    pub debug_render: bool,
    usage: Usage,
    spots: Spots,
    /// What the work is, for the scheduler.
    gist: prompt::Gist,
}

/// What `stream_options` say about usage.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum Usage {
    /// There are none.
    #[default]
    Unsaid,
    /// It is wanted.
    Asked,
    /// It would be, with this edit.
    Edit(Edit),
}

impl Payload {
    /// The prompt, for comparison with others; `tie` is what a header says of the conversation.
    #[must_use]
    pub fn prompt(&self, tie: Option<&str>) -> Prompt {
        self.gist.prompt(tie)
    }

    /// The options that a loaded model cannot change.
    #[must_use]
    pub fn runner(&self) -> Runner {
        self.gist.runner()
    }

    /// The same as members of a JSON object, without its braces.
    #[must_use]
    pub fn runner_options(&self) -> &str {
        &self.gist.runner_options
    }

    /// Whether the context may not be shifted, which a loaded model cannot change either.
    #[must_use]
    pub fn keeps_all(&self) -> bool {
        self.gist.keeps_all
    }

    /// Most tokens that the answer may have, if the body says.
    #[must_use]
    pub fn most_output(&self) -> Option<u64> {
        self.gist.most_output
    }

    /// The model on routes that still know `name`: Ollama takes `model` unless it is empty.
    #[must_use]
    pub fn model_or_name(&self) -> Option<&str> {
        [&self.model, &self.name]
            .into_iter()
            .flatten()
            .map(String::as_str)
            .find(|name| !name.is_empty())
    }

    fn read(&mut self, field: &Field<'_>) -> Result<(), BadPayload> {
        self.gist.read(field);
        match &*field.name {
            "model" => self.model = Some(string(field)?),
            "name" => self.name = Some(string(field)?),
            "source" => self.source = Some(string(field)?),
            "destination" => self.destination = Some(string(field)?),
            "stream" => self.stream = boolean(field)?,
            "stream_options" => self.read_stream_options(field)?,
            "tools" => self.web_search |= searches_the_web(field)?,
            "web_search_options" => self.web_search |= field.value != "null",
            "_debug_render_only" => self.debug_render = boolean(field)? == Some(true),
            _ => {}
        }
        Ok(())
    }

    fn read_stream_options(&mut self, field: &Field<'_>) -> Result<(), BadPayload> {
        if field.value == "null" {
            let edit = Edit::replace(edit::place(field, 0), r#"{"include_usage":true}"#);
            self.usage = Usage::Edit(edit);
            return Ok(());
        }
        field.starts_with('{', "an object")?;
        let mut asked = None;
        let mut empty = true;
        walk::each_field(field.value, |option| {
            walk::spelling(&option.name, &["include_usage"])?;
            empty = false;
            if option.name == "include_usage" {
                asked = Some((boolean(&option)?, edit::place(&option, field.start)));
            }
            Ok(())
        })
        .map_err(|flaw| flaw.inside("stream_options"))?;
        self.include_usage = matches!(asked, Some((Some(true), _)));
        self.usage = match asked {
            Some((Some(true), _)) => Usage::Asked,
            Some((_, at)) => Usage::Edit(Edit::replace(at, "true")),
            None => {
                let end = End::of(field.value, field.start, empty);
                Usage::Edit(Edit::append(end, r#""include_usage":true"#))
            }
        };
        Ok(())
    }
}

/// Why a body is refused; the text is fit for the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPayload {
    /// Nothing but whitespace. Ollama's own words.
    #[error("missing request body")]
    Empty,
    /// Go would replace the broken bytes and go on.
    #[error("request body is not valid UTF-8")]
    NotUtf8,
    /// Also for anything behind the object, which Go would not look at.
    #[error("request body is not valid JSON: {0}")]
    NotJson(String),
    /// JSON, or the beginning of it, but not an object.
    #[error("request body must be a JSON object")]
    NotObject,
    /// Deeper than anything that a client means.
    #[error("request body is nested deeper than {} levels", walk::MAX_DEPTH)]
    TooDeep,
    /// More names in an object than anything that a client means.
    #[error("request body has an object of more than {} fields", walk::MAX_FIELDS)]
    TooManyFields,
    /// The first of two would be read here, the last one there.
    #[error("field '{0}' appears twice")]
    Twice(String),
    /// A spelling that only some readers accept.
    #[error("field '{found}' must be spelt '{meant}'")]
    Spelling {
        /// As the client wrote it.
        found: String,
        /// As every reader reads it.
        meant: &'static str,
    },
    /// A value of another type.
    #[error("field '{field}' must be {meant}")]
    Type {
        /// Dotted path of the field.
        field: String,
        /// The type, with its article.
        meant: &'static str,
    },
    /// A field that cannot be done without.
    #[error("field '{0}' is missing")]
    Missing(&'static str),
    /// A form in which two readers could find different fields, or no form at all.
    #[error("request body is not a plain multipart/form-data form: {0}")]
    NotForm(&'static str),
}

impl BadPayload {
    /// The same flaw with the field's path made longer at its front.
    fn inside(self, outer: &str) -> Self {
        let longer = |field: String| format!("{outer}.{field}");
        match self {
            Self::Twice(field) => Self::Twice(longer(field)),
            Self::Spelling { found, meant } => Self::Spelling { found: longer(found), meant },
            Self::Type { field, meant } => Self::Type { field: longer(field), meant },
            other => other,
        }
    }
}

/// Anthropic's `web_search_20250305`, OpenAI's `web_search` and `web_search_preview`: the prefix
/// is Ollama's own rule.
fn searches_the_web(tools: &Field<'_>) -> Result<bool, BadPayload> {
    if tools.value == "null" {
        return Ok(false);
    }
    tools.starts_with('[', "an array")?;
    let mut found = false;
    let mut count = 0;
    walk::each_element(tools.value, |tool| {
        count += 1;
        if count > MAX_TOOLS {
            return Err(tools.must_be("an array of at most 4096 tools"));
        }
        if !tool.starts_with('{') {
            return Ok(());
        }
        walk::each_field(tool, |field| {
            walk::spelling(&field.name, &["type"])?;
            if field.name == "type" && field.value != "null" {
                found |= string(&field)?.starts_with("web_search");
            }
            Ok(())
        })
        .map_err(|flaw| flaw.inside("tools"))
    })?;
    Ok(found)
}

fn string(field: &Field<'_>) -> Result<String, BadPayload> {
    let inside = field.value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    if let Some(plain) = inside.filter(|text| !text.contains('\\')) {
        return Ok(plain.to_owned());
    }
    serde_json::from_str(field.value).map_err(|_| field.must_be("a string"))
}

/// `null` is nothing said, as in Go.
fn boolean(field: &Field<'_>) -> Result<Option<bool>, BadPayload> {
    match field.value {
        "true" => Ok(Some(true)),
        "false" => Ok(Some(false)),
        "null" => Ok(None),
        _ => Err(field.must_be("true or false")),
    }
}

#[cfg(test)]
mod tests;
