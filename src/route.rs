//! ROUTE: method and path to what is to be done.
//!
//! Default deny: Ollama routes on the percent-decoded, cleaned path, so a path is known only in
//! its one exact spelling, and what is sent upstream is the table's constant, never the client's
//! bytes.

mod table;

use std::borrow::Cow;

use http::Method;

use crate::config::{RouteClass, UpstreamKind};
use table::TABLE;

/// One path of the table.
#[derive(Debug, PartialEq, Eq)]
pub struct Route {
    /// The path as metrics, logs and `restrict` name it; a parameter stands in braces.
    pub path: &'static str,
    /// Its methods, as `Allow` lists them.
    pub methods: &'static str,
    /// Who may use it.
    pub class: Class,
    /// How its clients read errors.
    pub dialect: Dialect,
    /// What is done.
    pub action: Action,
}

/// Who may use a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Everybody, without a credential.
    Open,
    /// Those whose tiers allow this class.
    Guarded(RouteClass),
}

/// What a listener serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// `/admin`, and what helps to get there: the open routes and one's own account.
    Admin,
    /// Everything.
    Both,
    /// Everything but `/admin`.
    Data,
}

impl Door {
    fn leads_to(self, route: &Route) -> bool {
        let is_admin = route.class == Class::Guarded(RouteClass::Admin);
        let has_models = ["/api/", "/v1/"].iter().any(|root| route.path.starts_with(root));
        match self {
            Self::Admin => !has_models,
            Self::Both => true,
            Self::Data => !is_admin,
        }
    }
}

/// How a client reads errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `/api`: `error` is a string.
    Native,
    /// `/v1`: `error` is an object.
    OpenAi,
    /// `/v1/messages`: a typed envelope.
    Anthropic,
    /// `detail` alone.
    Plain,
}

/// What is done for a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Answer that this is Usher.
    Banner,
    /// Answer that the process is up.
    Health,
    /// Answer whether requests can be served.
    Ready,
    /// Answer the instances' version.
    Version,
    /// Answer the models of all instances, as Ollama does.
    Tags,
    /// Answer the loaded models of all instances, as Ollama does.
    Ps,
    /// Answer the models of all instances, as OpenAI does.
    Models,
    /// Answer one model, as OpenAI does.
    Model,
    /// Estimate the tokens of a message.
    CountTokens,
    /// Answer callers about themselves: the admin router does.
    Account,
    /// Administer Usher itself: the admin router answers.
    Admin,
    /// Give a token for a name and a password: the admin router does.
    Login,
    /// Ask an instance that has the model; takes no seat.
    Show,
    /// Ask an instance that has the model; takes a seat.
    Infer(Inference),
    /// Change the models of an instance.
    Manage(ManageOp),
}

/// What an inference route takes and gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inference {
    /// How its request is written.
    pub body: BodyKind,
    /// How its answer streams.
    pub stream: StreamFormat,
}

/// How a request body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyKind {
    /// JSON, whatever `Content-Type` says: Ollama does not look at it.
    Json,
    /// `multipart/form-data`.
    Multipart,
}

/// How an answer streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamFormat {
    /// Not at all.
    Never,
    /// A JSON object a line; Ollama streams so unless told `"stream":false`.
    Ndjson,
    /// OpenAI's chunks as server-sent events, `[DONE]` last; if told `"stream":true`.
    Chunks,
    /// OpenAI's Responses as server-sent events, without `[DONE]`; if told `"stream":true`.
    Responses,
    /// Anthropic's Messages as server-sent events; if told `"stream":true`.
    Messages,
}

impl StreamFormat {
    /// Whether the answer streams when the request does not say.
    pub fn is_default(self) -> bool {
        self == Self::Ndjson
    }
}

/// What is changed on an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ManageOp {
    /// Download a model.
    Pull,
    /// Upload a model.
    Push,
    /// Make a model from another or from blobs.
    Create,
    /// Give a model a second name.
    Copy,
    /// Delete a model.
    Delete,
    /// Upload a blob, or ask whether it is there.
    Blob,
}

impl Route {
    /// Whether the method is one of the route's; methods are case-sensitive (RFC 9110, 9.1).
    pub fn allows(&self, method: &Method) -> bool {
        self.methods == method.as_str()
            || self.methods.split(", ").any(|allowed| allowed == method.as_str())
    }

    /// Its place in the table.
    pub fn number(&self) -> Option<usize> {
        TABLE.iter().position(|line| std::ptr::eq(line, self))
    }

    /// Whether instances of this kind know the route.
    pub fn is_served_by(&self, kind: UpstreamKind) -> bool {
        match kind {
            UpstreamKind::Ollama => true,
            UpstreamKind::OpenAi => self.path.starts_with("/v1/"),
        }
    }

    fn around_parameter(&self) -> Option<(&'static str, &'static str)> {
        let (stem, rest) = self.path.split_once('{')?;
        Some((stem, rest.split_once('}')?.1))
    }

    /// Whether the path is this route's, and with which parameter.
    fn fit<'p>(&self, path: &'p str) -> Option<Option<Cow<'p, str>>> {
        // the braces of a parameter are no part of any path
        if self.path == path && !path.contains('{') {
            return Some(None);
        }
        let Some((stem, end)) = self.around_parameter() else {
            return (self.path == path).then_some(None);
        };
        let rest = path.strip_prefix(stem)?.strip_suffix(end)?;
        match self.action {
            Action::Model => model_id(rest).map(Some),
            Action::Admin if self.path.contains("{id}") => is_id(rest).then_some(Some(rest.into())),
            Action::Admin => is_name(rest).then_some(Some(rest.into())),
            _ => is_digest(rest).then_some(Some(rest.into())),
        }
    }
}

/// A request's route.
#[derive(Debug, PartialEq, Eq)]
pub struct Found<'p> {
    /// The line of the table.
    pub route: &'static Route,
    /// The validated digest of a blob, name of an instance or id of an entry, or the decoded id of
    /// a model.
    pub parameter: Option<Cow<'p, str>>,
}

impl Found<'_> {
    /// The path to send upstream: a constant, and a validated digest after it for blobs.
    pub fn upstream_path(&self) -> Cow<'static, str> {
        let Some(parameter) = &self.parameter else { return self.route.path.into() };
        match self.route.around_parameter() {
            Some((stem, end)) => format!("{stem}{parameter}{end}").into(),
            None => self.route.path.into(),
        }
    }
}

/// Why a request has no route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRoute {
    /// No route has this path.
    #[error("no such route")]
    NotFound(Dialect),
    /// The path is known, but not with this method.
    #[error("this route takes {allow}")]
    MethodNotAllowed {
        /// How the client reads errors.
        dialect: Dialect,
        /// The route's methods, for `Allow`.
        allow: &'static str,
    },
}

/// Finds the route of a request by its raw path, without the query.
///
/// # Errors
/// [`NoRoute`], with the dialect to say so in.
pub fn find<'p>(method: &Method, path: &'p [u8]) -> Result<Found<'p>, NoRoute> {
    find_at(Door::Both, method, path)
}

/// Finds the route of a request that came through this door; behind another it does not exist.
///
/// # Errors
/// [`NoRoute`], with the dialect to say so in.
pub fn find_at<'p>(door: Door, method: &Method, path: &'p [u8]) -> Result<Found<'p>, NoRoute> {
    let path = str::from_utf8(path).map_err(|_| NoRoute::NotFound(Dialect::Plain))?;
    let (route, parameter) = TABLE
        .iter()
        .filter(|route| door.leads_to(route))
        .find_map(|route| route.fit(path).map(|parameter| (route, parameter)))
        .ok_or_else(|| NoRoute::NotFound(dialect_of(path)))?;
    if route.allows(method) {
        return Ok(Found { route, parameter });
    }
    Err(NoRoute::MethodNotAllowed { dialect: route.dialect, allow: route.methods })
}

/// The paths of the table, in its order: what is counted by route is kept in this order.
pub fn paths() -> impl ExactSizeIterator<Item = &'static str> {
    TABLE.iter().map(|route| route.path)
}

/// Whether `restrict` may name this path: one of the table's that needs a credential.
pub fn known(path: &str) -> bool {
    TABLE.iter().any(|route| route.path == path && route.class != Class::Open)
}

/// Whoever asks for an unknown path is best answered in the dialect of its neighbours.
pub fn dialect_of(path: &str) -> Dialect {
    let under =
        |root| path.strip_prefix(root).is_some_and(|r: &str| r.is_empty() || r.starts_with('/'));
    if under("/api") {
        Dialect::Native
    } else if under("/v1/messages") {
        Dialect::Anthropic
    } else if under("/v1") {
        Dialect::OpenAi
    } else {
        Dialect::Plain
    }
}

/// A name that the configuration allows for an instance.
fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// A database id in its one spelling: other readers of numbers take `+1`, `01` and `1.0` too.
fn is_id(text: &str) -> bool {
    let digits = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    digits && text.parse::<i64>().is_ok()
}

/// A SHA-256 as Ollama names blobs, in the lower case that its clients write.
fn is_digest(text: &str) -> bool {
    let hex = text.strip_prefix("sha256:").or_else(|| text.strip_prefix("sha256-"));
    hex.is_some_and(|hex| {
        hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// The id in one path segment, where only `/` and `:` need to be written as `%2F` and `%3A`: the
/// route is answered here, so no other reader's decoding can differ from this one.
fn model_id(segment: &str) -> Option<Cow<'_, str>> {
    let plain =
        |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:@+".contains(&b));
    if matches!(segment, "" | "." | "..") {
        return None;
    }
    let mut pieces = segment.split('%');
    let first = pieces.next().filter(|text| plain(text))?;
    let mut id = Cow::Borrowed(first);
    for piece in pieces {
        let (code, text) = piece.split_at_checked(2)?;
        let decoded = match code {
            "2F" | "2f" => '/',
            "3A" | "3a" => ':',
            _ => return None,
        };
        if !plain(text) {
            return None;
        }
        id.to_mut().push(decoded);
        id.to_mut().push_str(text);
    }
    Some(id)
}

#[cfg(test)]
mod tests;
