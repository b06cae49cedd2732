//! Forms, as `/v1/audio/transcriptions` takes them (RFC 7578), read in place and strictly.
//!
//! Go's reader also takes line feeds alone, folded headers, quoted-printable parts, names in
//! RFC 2231's notation, and text before the first boundary. No SDK writes any of these, and each
//! would let a form hide its model from one of two readers: all are refused.

use memchr::memmem::{self, Finder};

use super::{BadPayload, Payload, walk};

/// OpenAI's form has a dozen fields.
const MAX_PARTS: usize = 64;

/// Bytes of headers that a part may have.
const MAX_HEAD: usize = 4096;

const READ: [&str; 2] = ["model", "stream"];

/// Reads a form's `model` and `stream`.
///
/// # Errors
///
/// If it is not such a form, has no `model`, or has a field that is read here twice, in another
/// spelling, or as a file.
pub fn inspect_form(body: &[u8], content_type: &str) -> Result<Payload, BadPayload> {
    if body.is_empty() {
        return Err(BadPayload::Empty);
    }
    let boundary = boundary(content_type)?;
    let mut payload = Payload::default();
    for part in split(body, &boundary)? {
        let (head, value) = halves(part)?;
        let Disposition { name, file } = disposition(head)?;
        walk::spelling(&name, &READ)?;
        let Some(&field) = READ.iter().find(|read| **read == name) else {
            continue;
        };
        let text = std::str::from_utf8(value).map_err(|_| BadPayload::NotUtf8)?;
        let twice = match field {
            "model" => payload.model.replace(text.to_owned()).is_some(),
            _ => payload.stream.replace(boolean(text)?).is_some(),
        };
        if twice {
            return Err(BadPayload::Twice(name));
        }
        if file {
            return Err(BadPayload::Type { field: name, meant: "a value, not a file" });
        }
    }
    match payload.model {
        Some(_) => Ok(payload),
        None => Err(BadPayload::Missing("model")),
    }
}

fn boolean(text: &str) -> Result<bool, BadPayload> {
    let is = |word: &str| text.eq_ignore_ascii_case(word);
    match (is("true"), is("false")) {
        (false, false) => {
            Err(BadPayload::Type { field: "stream".to_owned(), meant: "true or false" })
        }
        (yes, _) => Ok(yes),
    }
}

/// The boundary that the `Content-Type` names, of RFC 2046's characters.
fn boundary(content_type: &str) -> Result<String, BadPayload> {
    let header = Parameters::read(content_type)?;
    if !header.kind.eq_ignore_ascii_case("multipart/form-data") {
        return Err(BadPayload::NotForm("Content-Type is another"));
    }
    if header.has(|name| name.contains('*')) {
        return Err(BadPayload::NotForm("Content-Type has an extended parameter"));
    }
    let boundary = header.sole("boundary")?;
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(&b);
    let fits = (1..=70).contains(&boundary.len()) && !boundary.ends_with(' ');
    match fits && boundary.bytes().all(allowed) {
        true => Ok(boundary.to_owned()),
        false => Err(BadPayload::NotForm("boundary is malformed")),
    }
}

/// The parts between boundaries. The boundary's text may stand nowhere else: not in a preamble, not
/// in a part, not behind the end.
fn split<'a>(body: &'a [u8], boundary: &str) -> Result<Vec<&'a [u8]>, BadPayload> {
    let delimiter = format!("--{boundary}");
    let delimiter = delimiter.as_bytes();
    let finder = Finder::new(delimiter);
    let mut parts = Vec::new();
    let mut rest = body
        .strip_prefix(delimiter)
        .ok_or(BadPayload::NotForm("it does not begin with its boundary"))?;
    loop {
        if let Some(behind) = rest.strip_prefix(b"--") {
            let clean = behind.trim_ascii().is_empty();
            return clean.then_some(parts).ok_or(BadPayload::NotForm("text behind its end"));
        }
        let inner = rest
            .strip_prefix(b"\r\n")
            .ok_or(BadPayload::NotForm("a boundary's line is malformed"))?;
        let at =
            finder.find(inner).ok_or(BadPayload::NotForm("its closing boundary is missing"))?;
        let (part, behind) = inner.split_at(at);
        let part = part
            .strip_suffix(b"\r\n")
            .ok_or(BadPayload::NotForm("its boundary appears inside a part"))?;
        if parts.len() == MAX_PARTS {
            return Err(BadPayload::NotForm("it has more than 64 parts"));
        }
        parts.push(part);
        rest = behind.strip_prefix(delimiter).unwrap_or_default();
    }
}

/// A part's headers and its value.
fn halves(part: &[u8]) -> Result<(&str, &[u8]), BadPayload> {
    let end = memmem::find(part, b"\r\n\r\n").filter(|end| *end <= MAX_HEAD);
    let (head, value) = end
        .and_then(|end| part.split_at_checked(end))
        .ok_or(BadPayload::NotForm("a part has no headers, or too many"))?;
    let head = std::str::from_utf8(head).map_err(|_| BadPayload::NotUtf8)?;
    Ok((head, value.get(4..).unwrap_or_default()))
}

struct Disposition {
    name: String,
    file: bool,
}

fn disposition(head: &str) -> Result<Disposition, BadPayload> {
    let mut found = None;
    for line in head.split("\r\n") {
        let (name, value) = header(line)?;
        if name.eq_ignore_ascii_case("content-disposition") {
            if found.replace(value).is_some() {
                return Err(BadPayload::NotForm("a part has two Content-Disposition headers"));
            }
        } else if name.eq_ignore_ascii_case("content-transfer-encoding") {
            let as_is =
                ["7bit", "8bit", "binary"].iter().any(|as_is| as_is.eq_ignore_ascii_case(value));
            if !as_is {
                return Err(BadPayload::NotForm("a part has a transfer encoding"));
            }
        }
    }
    let found = found.ok_or(BadPayload::NotForm("a part has no Content-Disposition header"))?;
    let header = Parameters::read(found)?;
    let extended = |name: &str| name.contains('*') && name != "filename*";
    if header.kind != "form-data" || header.has(extended) {
        return Err(BadPayload::NotForm("a part's Content-Disposition is malformed"));
    }
    let name = header.sole("name")?.to_owned();
    let file = header.has(|name| name.starts_with("filename"));
    Ok(Disposition { name, file })
}

fn header(line: &str) -> Result<(&str, &str), BadPayload> {
    let flaw = BadPayload::NotForm("a part has a malformed header");
    let (name, value) = line.split_once(':').ok_or_else(|| flaw.clone())?;
    let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let broken = |c: char| c.is_control() && c != '\t';
    match plain && !value.contains(broken) {
        true => Ok((name, value.trim_ascii())),
        false => Err(flaw),
    }
}

/// `kind; name=value; name="value"`.
struct Parameters<'a> {
    kind: &'a str,
    /// Names in lower case, values with their backslashes.
    named: Vec<(String, &'a str)>,
}

impl<'a> Parameters<'a> {
    fn read(header: &'a str) -> Result<Self, BadPayload> {
        let flaw = || BadPayload::NotForm("a header's parameters are malformed");
        let (kind, mut rest) = header.split_once(';').unwrap_or((header, ""));
        let mut named = Vec::new();
        while !rest.trim_ascii().is_empty() {
            let (name, after) = rest.trim_ascii_start().split_once('=').ok_or_else(flaw)?;
            let (value, after) = value(after).filter(|_| is_token(name)).ok_or_else(flaw)?;
            named.push((name.to_ascii_lowercase(), value));
            rest = match after.trim_ascii_start() {
                "" => "",
                more => more.strip_prefix(';').ok_or_else(flaw)?,
            };
        }
        let kind = kind.trim_ascii();
        Ok(Self { kind, named })
    }

    fn has(&self, is: impl Fn(&str) -> bool) -> bool {
        self.named.iter().any(|(name, _)| is(name))
    }

    /// The one value of a parameter that must be there, in plain notation.
    fn sole(&self, wanted: &str) -> Result<&'a str, BadPayload> {
        let mut values = self.named.iter().filter(|(name, _)| name == wanted);
        match (values.next(), values.next()) {
            (Some((_, value)), None) if !value.contains('\\') => Ok(value),
            _ => Err(BadPayload::NotForm("a header's name or boundary is missing or malformed")),
        }
    }
}

/// A parameter's value, a token or quoted, and what follows it.
fn value(text: &str) -> Option<(&str, &str)> {
    if let Some(quoted) = text.strip_prefix('"') {
        let (value, after) = quoted.split_at_checked(closing_quote(quoted)?)?;
        return Some((value, after.strip_prefix('"')?));
    }
    let (value, after) = text.split_at_checked(text.find(';').unwrap_or(text.len()))?;
    let value = value.trim_ascii_end();
    is_token(value).then_some((value, after))
}

fn closing_quote(quoted: &str) -> Option<usize> {
    let mut escaped = false;
    quoted.bytes().position(|byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    })
}

/// RFC 9110's token.
fn is_token(text: &str) -> bool {
    let separator = |b: u8| b"()<>@,;:\\\"/[]?={}".contains(&b);
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && !separator(b))
}
