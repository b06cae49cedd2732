//! Taming: what would hurt everybody who shares a model is taken out of a request, or made smaller.
//!
//! Ollama keeps one runner a model. Another `num_ctx`, or another of its Runner options, reloads it;
//! the last request's `keep_alive` decides for all how long it stays; and nothing bounds an answer.
//! Values are replaced where they stand, by `null` (nothing said, to Go) where they are to go, so
//! that every other byte is the client's.

mod time;

use std::ops::Range;

use bytes::Bytes;

use super::edit::{self, Edit, Edits, End};
use super::walk::{self, Field};
use super::{BadPayload, Payload, Usage, inspect};
use crate::config::Taming;
use crate::config::taming::{Context, KeepAlive};
use crate::route::{Inference, StreamFormat};
use time::Stay;

/// Every option that is read here, in its one accepted spelling: two with rules of their own, then
/// those beside `num_ctx` whose change reloads a model, Ollama's `Runner` group, and those that
/// older versions had in it and newer ones ignore.
const OPTIONS: [&str; 16] = [
    "num_ctx",
    "num_predict",
    "num_batch",
    "num_gpu",
    "main_gpu",
    "use_mmap",
    "num_thread",
    "draft_num_predict",
    "use_mlock",
    "low_vram",
    "f16_kv",
    "logits_all",
    "vocab_only",
    "numa",
    "rope_frequency_base",
    "rope_frequency_scale",
];

/// A request's body, made ready to travel.
#[derive(Debug)]
pub struct Ready {
    /// What it says, as it travels.
    pub payload: Payload,
    /// What it travels as, if that differs.
    pub rewritten: Option<Bytes>,
    /// Whether the answer is asked for as a stream.
    pub streams: bool,
    /// Whether usage was asked for here, and not by the client.
    pub asks_usage: bool,
    /// Whether it would unload its model.
    pub unloads: bool,
    /// Whether it still does, as it travels.
    pub frees: bool,
}

impl Ready {
    /// A body that travels as it is.
    #[must_use]
    pub fn untouched(payload: Payload, inference: Inference) -> Self {
        let streams = payload.stream.unwrap_or_else(|| inference.stream.is_default());
        let (unloads, frees) = (false, false);
        Self { payload, rewritten: None, streams, asks_usage: false, unloads, frees }
    }
}

/// Reads a JSON body, and changes it as a tier's bounds and the accounting of tokens want it.
/// `path` is the route's.
///
/// # Errors
///
/// As [`inspect`]; also if something that has to be changed is not of a type that can be.
pub fn prepare(
    body: &[u8],
    path: &str,
    inference: Inference,
    taming: &Taming,
) -> Result<Ready, BadPayload> {
    let ready = Ready::untouched(inspect(body)?, inference);
    let payload = &ready.payload;
    let asks = inference.stream == StreamFormat::Chunks && ready.streams;
    let asks_usage = asks && !payload.include_usage;
    let route = Terms::of(path);
    let mut tamer = Tamer { body, spots: &payload.spots, taming, edits: Edits::default() };
    tamer.options(&route)?;
    let unloads = tamer.keep_alive()? && route.is_idle(&payload.spots);
    tamer.output(&route)?;
    let mut edits = tamer.edits;
    let tamed = !edits.is_empty();
    if asks_usage {
        ask_for_usage(&mut edits, &payload.usage);
    }
    let rewritten = edits.apply(body, payload.spots.end);
    // whoever plans with the request plans with what the instance will see
    let mut payload = match &rewritten {
        Some(body) if tamed => inspect(body)?,
        _ => ready.payload,
    };
    if !route.native {
        // whatever such a request says of them, the instance does not listen
        payload.gist.forget_runner();
        if let Context::Pin(tokens) = taming.num_ctx {
            payload.gist.assume_context(tokens);
        }
    }
    if matches!(route.question, Question::Other) {
        payload.gist.keeps_all = false;
    }
    let frees = unloads && taming.keep_alive == KeepAlive::Allow;
    Ok(Ready { payload, rewritten, asks_usage, unloads, frees, ..ready })
}

/// Without it a `/v1` stream says nothing about its tokens; what it brings, the client never sees.
pub(super) fn ask_for_usage(edits: &mut Edits, usage: &Usage) {
    match usage {
        Usage::Asked => {}
        Usage::Unsaid => edits.add(r#""stream_options":{"include_usage":true}"#),
        Usage::Edit(edit) => edits.push(edit.clone()),
    }
}

/// What taming looks at, as [`inspect`] found it on its way through the body.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Spots {
    options: Option<Range<usize>>,
    keep_alive: Option<Range<usize>>,
    shift: Option<Range<usize>>,
    max_tokens: Option<Range<usize>>,
    max_completion_tokens: Option<Range<usize>>,
    max_output_tokens: Option<Range<usize>>,
    /// There is a prompt with something in it.
    prompt: bool,
    /// There are messages.
    messages: bool,
    /// Where the body ends.
    pub(super) end: End,
}

impl Spots {
    /// Notes a member of the body.
    pub(super) fn note(&mut self, field: &Field<'_>) {
        let place = || Some(edit::place(field, 0));
        match &*field.name {
            "options" => self.options = place(),
            "keep_alive" => self.keep_alive = place(),
            "shift" => self.shift = place(),
            "max_tokens" => self.max_tokens = place(),
            "max_completion_tokens" => self.max_completion_tokens = place(),
            "max_output_tokens" => self.max_output_tokens = place(),
            "prompt" => self.prompt = !matches!(field.value, r#""""# | "null"),
            "messages" => {
                self.messages = field.value != "null" && !walk::is_empty_array(field.value);
            }
            _ => {}
        }
    }
}

/// How a route's requests say what is tamed. `/v1` takes neither options nor `keep_alive`: there
/// they are tamed if they are said, in case that some server listens, but never added.
struct Terms {
    /// Whether `options` are heard.
    native: bool,
    output: Output,
    /// What a request for an answer has.
    question: Question,
}

/// Where a request says how long its answer may be.
#[derive(PartialEq)]
enum Output {
    Nowhere,
    /// `options.num_predict`.
    Option,
    /// `max_tokens`; Ollama ignores `max_completion_tokens`, other servers prefer it.
    MaxTokens,
    MaxOutputTokens,
}

enum Question {
    Prompt,
    Messages,
    Other,
}

impl Terms {
    fn of(path: &str) -> Self {
        let native = path.starts_with("/api/");
        let (output, question) = match path {
            "/api/chat" => (Output::Option, Question::Messages),
            "/api/generate" => (Output::Option, Question::Prompt),
            "/v1/chat/completions" | "/v1/completions" | "/v1/messages" => {
                (Output::MaxTokens, Question::Other)
            }
            "/v1/responses" => (Output::MaxOutputTokens, Question::Other),
            _ => (Output::Nowhere, Question::Other),
        };
        Self { native, output, question }
    }

    /// Whether the request asks for nothing, so that it only loads or unloads its model.
    fn is_idle(&self, spots: &Spots) -> bool {
        match self.question {
            Question::Prompt => !spots.prompt,
            Question::Messages => !spots.messages,
            Question::Other => false,
        }
    }
}

struct Tamer<'a> {
    body: &'a [u8],
    spots: &'a Spots,
    taming: &'a Taming,
    edits: Edits,
}

impl Tamer<'_> {
    fn text(&self, at: &Range<usize>) -> &str {
        let bytes = self.body.get(at.clone()).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }

    /// `options` and `shift`.
    fn options(&mut self, route: &Terms) -> Result<(), BadPayload> {
        let mut read = Options::new(self.taming, route);
        let spot = self.spots.options.clone();
        match &spot {
            Some(at) if self.text(at) != "null" => read.walk(self.text(at), at.start)?,
            _ => {}
        }
        let missing = read.missing.members();
        match (spot, read.end) {
            _ if missing.is_empty() => {}
            (Some(_), Some(end)) => read.edits.push(Edit::append(end, &missing)),
            (Some(null), None) => read.edits.push(Edit::replace(null, format!("{{{missing}}}"))),
            (None, _) => self.edits.add(&format!(r#""options":{{{missing}}}"#)),
        }
        read.edits.into_iter().for_each(|edit| self.edits.push(edit));
        match &self.spots.shift {
            Some(at) if !self.taming.runner_options && self.text(at) != "null" => {
                self.null(at.clone());
            }
            _ => {}
        }
        Ok(())
    }

    /// Nothing is said any more.
    fn null(&mut self, at: Range<usize>) {
        self.edits.push(Edit::replace(at, "null"));
    }

    /// Returns whether the client wanted its model gone at once.
    fn keep_alive(&mut self) -> Result<bool, BadPayload> {
        let Some(at) = self.spots.keep_alive.clone() else { return Ok(false) };
        let stay = Stay::read(self.text(&at));
        let gone = stay == Ok(Stay::NONE);
        match self.taming.keep_alive {
            _ if stay == Ok(Stay::Unsaid) => {}
            KeepAlive::Allow => {}
            KeepAlive::Drop => self.null(at),
            KeepAlive::Max(most) => match stay? {
                stay if stay.is_longer_than(most) => {
                    self.edits.push(Edit::replace(at, time::written(most)));
                }
                stay if stay.is_early(most) => self.null(at),
                _ => {}
            },
        }
        Ok(gone)
    }

    /// The bound of an answer's length, where a member of the body says it.
    fn output(&mut self, route: &Terms) -> Result<(), BadPayload> {
        let Some(most) = self.taming.max_output else { return Ok(()) };
        let spots = self.spots;
        match route.output {
            Output::MaxTokens => {
                let (plain, newer) =
                    (spots.max_tokens.clone(), spots.max_completion_tokens.clone());
                let newer = self.bound("max_completion_tokens", newer, most)?;
                // who knows the newer name alone is still heard
                self.insist("max_tokens", plain, most, newer.unwrap_or(most))
            }
            Output::MaxOutputTokens => {
                let spot = spots.max_output_tokens.clone();
                self.insist("max_output_tokens", spot, most, most)
            }
            Output::Nowhere | Output::Option => Ok(()),
        }
    }

    /// The number at a place, made at most `most`; none if nothing is said there.
    fn bound(
        &mut self,
        name: &'static str,
        at: Option<Range<usize>>,
        most: u32,
    ) -> Result<Option<u32>, BadPayload> {
        let Some(at) = at else { return Ok(None) };
        let Some(asked) = number(name, self.text(&at))? else { return Ok(None) };
        if is_within(asked, most) {
            return Ok(Some(whole(asked)));
        }
        self.edits.push(Edit::replace(at, most.to_string()));
        Ok(Some(most))
    }

    /// The same, but `otherwise` is said where nothing is.
    fn insist(
        &mut self,
        name: &'static str,
        at: Option<Range<usize>>,
        most: u32,
        otherwise: u32,
    ) -> Result<(), BadPayload> {
        if self.bound(name, at.clone(), most)?.is_some() {
            return Ok(());
        }
        match at {
            Some(null) => self.edits.push(Edit::replace(null, otherwise.to_string())),
            None => self.edits.add(&format!(r#""{name}":{otherwise}"#)),
        }
        Ok(())
    }
}

/// The object of options, on a walk through it.
struct Options<'t> {
    taming: &'t Taming,
    missing: Missing,
    edits: Vec<Edit>,
    end: Option<End>,
}

/// What the options must say, as long as they have not.
struct Missing {
    num_ctx: Option<u32>,
    num_predict: Option<u32>,
}

impl Missing {
    fn members(&self) -> String {
        let named = [("num_ctx", self.num_ctx), ("num_predict", self.num_predict)];
        let said = named.into_iter().filter_map(|(name, number)| Some((name, number?)));
        said.map(|(name, number)| format!(r#""{name}":{number}"#)).collect::<Vec<_>>().join(",")
    }
}

impl<'t> Options<'t> {
    fn new(taming: &'t Taming, route: &Terms) -> Self {
        let num_ctx = match taming.num_ctx {
            Context::Pin(tokens) if route.native => Some(tokens),
            _ => None,
        };
        let num_predict = taming.max_output.filter(|_| route.output == Output::Option);
        let missing = Missing { num_ctx, num_predict };
        Self { taming, missing, edits: Vec::new(), end: None }
    }

    fn walk(&mut self, text: &str, start: usize) -> Result<(), BadPayload> {
        if !text.starts_with('{') {
            return Err(BadPayload::Type { field: "options".to_owned(), meant: "an object" });
        }
        let mut empty = true;
        walk::each_field(text, |option| {
            empty = false;
            walk::spelling(&option.name, &OPTIONS)?;
            let at = edit::place(&option, start);
            match &*option.name {
                "num_ctx" => self.num_ctx(&option, at),
                "num_predict" => self.num_predict(&option, at),
                name => {
                    if OPTIONS.contains(&name) {
                        self.runner(&option, at);
                    }
                    Ok(())
                }
            }
        })
        .map_err(|flaw| flaw.inside("options"))?;
        self.end = Some(End::of(text, start, empty));
        Ok(())
    }

    fn num_ctx(&mut self, option: &Field<'_>, at: Range<usize>) -> Result<(), BadPayload> {
        let bound = match self.taming.num_ctx {
            // what is wrong with it is for the instance to say
            Context::Allow => None,
            Context::Max(most) => {
                let asked = number("num_ctx", option.value)?;
                asked.filter(|asked| *asked > f64::from(most)).map(|_| most)
            }
            Context::Pin(tokens) => Some(tokens),
        };
        self.missing.num_ctx = None;
        if let Some(tokens) = bound.map(|tokens| tokens.to_string())
            && tokens != option.value
        {
            self.edits.push(Edit::replace(at, tokens));
        }
        Ok(())
    }

    fn num_predict(&mut self, option: &Field<'_>, at: Range<usize>) -> Result<(), BadPayload> {
        let Some(most) = self.missing.num_predict.take() else { return Ok(()) };
        let asked = number("num_predict", option.value)?;
        if !asked.is_some_and(|asked| is_within(asked, most)) {
            self.edits.push(Edit::replace(at, most.to_string()));
        }
        Ok(())
    }

    fn runner(&mut self, option: &Field<'_>, at: Range<usize>) {
        if !self.taming.runner_options && option.value != "null" {
            self.edits.push(Edit::replace(at, "null"));
        }
    }
}

/// A number, or nothing said.
fn number(name: &str, value: &str) -> Result<Option<f64>, BadPayload> {
    match value.parse::<f64>() {
        _ if value == "null" => Ok(None),
        // what JSON takes for a number, Rust does too; and only that begins so
        Ok(number) if value.starts_with(|c: char| c == '-' || c.is_ascii_digit()) => {
            Ok(Some(number))
        }
        _ => Err(BadPayload::Type { field: name.to_owned(), meant: "a number" }),
    }
}

/// Whether so many tokens are a bound, and no wider one: none or less is no bound to Ollama.
fn is_within(asked: f64, most: u32) -> bool {
    (1.0..=f64::from(most)).contains(&asked)
}

/// A number of tokens as Go makes it whole; saturates.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
fn whole(number: f64) -> u32 {
    number as u32
}

#[cfg(test)]
mod tests;
