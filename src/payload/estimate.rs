//! A guess at how many tokens a prompt has, for `POST /v1/messages/count_tokens`.

use std::fmt;

use serde::{
    Deserialize,
    de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{BadPayload, walk};

/// Bytes of UTF-8 to a token: four letters of English, one or two characters of most other scripts.
const BYTES_PER_TOKEN: u64 = 4;

/// Role and separators of a message.
const TOKENS_PER_MESSAGE: u64 = 4;

/// What Anthropic says a picture of the largest useful size costs; one figure for every picture
/// and file, whose bytes say little about it.
const TOKENS_PER_FILE: u64 = 1600;

/// Estimates the input tokens of an Anthropic `count_tokens` body. The rule:
///
/// - one token for every four bytes of text in `system` and `messages` (every string but those
///   under `type`, `role`, `id`, `tool_use_id`, `media_type`, `signature`) and of `tools` as written, rounded up;
/// - four tokens for every message;
/// - 1,600 for every picture or file, by value (`base64`) or by reference (`url`, `file`).
///
/// A real tokenizer lives only inside the instances, and differs by model.
///
/// # Errors
///
/// As [`inspect`](super::inspect), or if `messages` is missing.
pub fn estimate_tokens(body: &[u8]) -> Result<u64, BadPayload> {
    let text = walk::object(body)?;
    let mut tally = Tally::default();
    let mut messages = None;
    walk::each_field(text, |field| {
        walk::spelling(&field.name, &["model", "system", "messages", "tools"])?;
        match &*field.name {
            "system" => tally.add(field.value)?,
            "messages" => {
                field.starts_with('[', "an array")?;
                let mut count = 0;
                walk::each_element(field.value, |message| {
                    count += 1;
                    tally.add(message)
                })?;
                messages = Some(count);
            }
            "tools" if field.value != "null" => tally.bytes += field.value.len() as u64,
            _ => {}
        }
        Ok(())
    })?;
    let messages: u64 = messages.ok_or(BadPayload::Missing("messages"))?;
    Ok(tally.tokens() + messages * TOKENS_PER_MESSAGE)
}

#[derive(Default)]
struct Tally {
    bytes: u64,
    files: u64,
}

impl Tally {
    fn add(&mut self, json: &str) -> Result<(), BadPayload> {
        let mut json = serde_json::Deserializer::from_str(json);
        let added = Text(self).deserialize(&mut json);
        added.map_err(|error| BadPayload::NotJson(error.to_string()))
    }

    /// Ollama's pictures: a list of encoded ones beside a message's text.
    fn add_images(&mut self, json: &str) {
        // each is a string, which is all that has to be known of it
        let counted = walk::each_element(json, |_| {
            self.files += 1;
            Ok(())
        });
        if counted.is_err() {
            self.bytes += json.len() as u64;
        }
    }

    fn tokens(&self) -> u64 {
        self.bytes.div_ceil(BYTES_PER_TOKEN) + self.files * TOKENS_PER_FILE
    }
}

/// Adds up the text below one value.
struct Text<'t>(&'t mut Tally);

impl<'de> DeserializeSeed<'de> for Text<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Text<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        match text.starts_with("data:") && text.contains(";base64,") {
            true => self.0.files += 1,
            false => self.0.bytes += text.len() as u64,
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(Text(self.0))?.is_some() {}
        Ok(())
    }

    /// `data` is text or an encoded file; its sibling `type` tells, before it or behind it.
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut is_file = false;
        let mut data = Tally::default();
        while let Some(key) = map.next_key()? {
            match key {
                Key::Kind => {
                    let kind: &RawValue = map.next_value()?;
                    is_file |= matches!(kind.get(), r#""base64""# | r#""url""# | r#""file""#);
                }
                Key::Data => map.next_value_seed(Text(&mut data))?,
                Key::Images => {
                    let images: &RawValue = map.next_value()?;
                    self.0.add_images(images.get());
                }
                Key::Label => drop(map.next_value::<IgnoredAny>()?),
                Key::Other => map.next_value_seed(Text(self.0))?,
            }
        }
        if is_file {
            data = Tally { bytes: 0, files: 1 };
        }
        self.0.bytes += data.bytes;
        self.0.files += data.files;
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

#[derive(Deserialize)]
#[serde(field_identifier)]
enum Key {
    #[serde(rename = "type")]
    Kind,
    #[serde(rename = "data")]
    Data,
    #[serde(rename = "images")]
    Images,
    #[serde(
        rename = "role",
        alias = "id",
        alias = "tool_use_id",
        alias = "signature",
        alias = "media_type"
    )]
    Label,
    #[serde(other)]
    Other,
}
