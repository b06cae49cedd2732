//! What administrators send: JSON bodies and queries, read to the letter.
//!
//! A field that is not known, a field twice, a list where an object belongs: each is a mistake
//! that is named, because what is silently dropped would be taken for done.

use std::fmt;
use std::marker::PhantomData;
use std::num::NonZeroU32;
use std::time::Duration;

use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use serde::de::value::{MapAccessDeserializer, MapDeserializer};
use serde::de::{DeserializeOwned, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::Fault;
use crate::config::{Rate, units};
use crate::store::{LimitsPatch, Span};

/// More than the gateway lets through.
const LARGEST: usize = 1 << 20;
/// Entries of a page, unless the caller says otherwise.
const PAGE: u32 = 100;
/// Entries of a page at most.
const LARGEST_PAGE: i64 = 1000;

/// A JSON object that must be there.
pub(super) struct Body<T>(pub(super) T);

/// A JSON object that may be left out.
pub(super) struct MaybeBody<T>(pub(super) T);

/// The query.
pub(super) struct Query<T>(pub(super) T);

/// The body of a request that says all by its path.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Fault;

    async fn from_request(request: Request, _: &S) -> Result<Self, Fault> {
        let bytes = json_bytes(request).await?;
        parse(&bytes).map(Body)
    }
}

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for MaybeBody<T> {
    type Rejection = Fault;

    async fn from_request(request: Request, _: &S) -> Result<Self, Fault> {
        let bytes = json_bytes(request).await?;
        if bytes.is_empty() {
            return Ok(Self(T::default()));
        }
        parse(&bytes).map(MaybeBody)
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Fault> {
        let query = parts.uri.query().unwrap_or_default();
        let mut pairs: Vec<(String, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if pairs.iter().any(|(known, _)| *known == name) {
                return Err(Fault::bad(format!("query field '{name}' is given twice")));
            }
            pairs.push((name.into_owned(), value.into_owned()));
        }
        let pairs = MapDeserializer::<_, serde::de::value::Error>::new(pairs.into_iter());
        let read = serde_path_to_error::deserialize(pairs);
        read.map(Query).map_err(|error| Fault::bad(format!("query {}", located(&error))))
    }
}

/// The bytes of a body, which must say that it is JSON: a page of another site can send without
/// asking anything else that a form could.
async fn json_bytes(request: Request) -> Result<Vec<u8>, Fault> {
    let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let essence = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim();
    let is_json = essence.eq_ignore_ascii_case("application/json");
    let bytes = axum::body::to_bytes(request.into_body(), LARGEST).await;
    let bytes = bytes.map_err(|error| Fault::bad(error.to_string()))?;
    if !bytes.is_empty() && !is_json {
        return Err(Fault {
            status: StatusCode::UNSUPPORTED_MEDIA_TYPE,
            reason: "content_type",
            detail: "The body must be JSON: send Content-Type: application/json".to_owned(),
            ..Fault::bad(String::new())
        });
    }
    Ok(bytes.into())
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Fault> {
    if bytes.is_empty() {
        return Err(Fault::bad("A JSON object is expected as the body".to_owned()));
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let read: Result<Object<T>, _> = serde_path_to_error::deserialize(&mut json);
    let Object(value) = read.map_err(|error| Fault::bad(located(&error)))?;
    json.end().map_err(|error| Fault::bad(format!("after the object: {error}")))?;
    Ok(value)
}

/// What is wrong, and with which field.
fn located<E: fmt::Display>(error: &serde_path_to_error::Error<E>) -> String {
    match error.path().to_string().as_str() {
        "." => error.inner().to_string(),
        path => format!("field '{path}': {}", error.inner()),
    }
}

/// A JSON object and nothing else. Derived readers of structs also take a list of the fields'
/// values in their order, which no caller of this API means.
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        deserializer.deserialize_map(Fields(PhantomData))
    }
}

/// A key's own limits, as they are given and as they are changed: what is left out stays, what is
/// null is lifted.
#[derive(Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LimitsInput {
    /// Inference requests, as a rate such as `500/h`.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    requests: Option<Option<RateText>>,
    /// Tokens, as a rate such as `1M/d`.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    tokens: Option<Option<RateText>>,
    /// Seats held at once.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<u32>, minimum = 1)]
    concurrency: Option<Option<NonZeroU32>>,
}

impl From<LimitsInput> for LimitsPatch {
    fn from(input: LimitsInput) -> Self {
        let text =
            |rate: Option<Option<RateText>>| rate.map(|rate| rate.map(|RateText(text)| text));
        Self {
            requests: text(input.requests),
            tokens: text(input.tokens),
            concurrency: input.concurrency.map(|seats| seats.map(NonZeroU32::get)),
        }
    }
}

/// Tells a field that is null from one that is not there.
pub(super) fn given<'de, D, T>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::deserialize(deserializer).map(Some)
}

/// A field that may be left out, but not null: that would be taken for an act.
pub(super) fn not_null<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}

/// A rate that is one, as it was written.
struct RateText(String);

impl<'de> Deserialize<'de> for RateText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse::<Rate>().map_err(D::Error::custom)?;
        Ok(Self(text))
    }
}

/// A duration as the configuration writes it.
#[derive(Clone, Copy)]
pub(super) struct Time(pub(super) Duration);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        units::parse_duration(&text).map(Self).map_err(D::Error::custom)
    }
}

/// Which part of a list, in a query.
pub(super) fn span(after: Option<i64>, limit: Option<u32>) -> Span {
    // one more than is shown: whether there is more
    Span { after, limit: Some(limit.unwrap_or(PAGE) + 1) }
}

/// How many entries of it are shown.
pub(super) fn shown(span: Span) -> usize {
    span.limit.map_or(usize::MAX, |rows| rows.saturating_sub(1) as usize)
}

/// A text of a query. No entry holds a zero byte, and PostgreSQL takes no text that does.
pub(super) fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.contains('\0') {
        return Err(D::Error::custom("holds a zero byte"));
    }
    Ok(Some(text))
}

/// `true` or `false` in a query.
pub(super) fn truth<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<bool>, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(|_| D::Error::custom("expected true or false"))
}

/// An id in a query.
pub(super) fn id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    let text = String::deserialize(deserializer)?;
    whole(&text).map(Some).ok_or_else(|| D::Error::custom("expected the id of an entry"))
}

/// The size of a page in a query.
pub(super) fn limit<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let number = whole(&text).filter(|number| *number <= LARGEST_PAGE);
    let number = number.and_then(|number| u32::try_from(number).ok());
    number.map(Some).ok_or_else(|| D::Error::custom(format!("expected 1 to {LARGEST_PAGE}")))
}

/// A number from 1 up in the one way of writing it.
fn whole(text: &str) -> Option<i64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    if plain { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(json: &str) -> Result<LimitsPatch, String> {
        parse::<LimitsInput>(json.as_bytes()).map(Into::into).map_err(|fault| fault.detail)
    }

    #[test]
    fn what_is_null_is_told_from_what_is_not_there() {
        let patch = limits(r#"{"requests":null,"concurrency":3}"#).unwrap();
        assert_eq!(patch.requests, Some(None));
        assert_eq!((patch.tokens, patch.concurrency), (None, Some(Some(3))));
    }

    #[test]
    fn a_mistake_is_named_with_its_field() {
        for (json, told) in [
            ("", "A JSON object is expected as the body"),
            ("[null, null, 3]", "invalid type: sequence, expected an object"),
            (r#""x""#, "invalid type: string \"x\", expected an object"),
            (r#"{"request":"5/h"}"#, "field 'request': unknown field `request`"),
            (r#"{"Requests":"5/h"}"#, "field 'Requests': unknown field `Requests`"),
            (r#"{"requests":"5/m"}"#, "field 'requests': minutes of a rate are written `min`"),
            (r#"{"concurrency":0}"#, "field 'concurrency': invalid value: integer `0`"),
            (r#"{"concurrency":1,"concurrency":2}"#, "duplicate field `concurrency`"),
            ("{} {}", "after the object: trailing characters"),
            ("{", "EOF while parsing"),
        ] {
            let error = limits(json).unwrap_err();
            assert!(error.contains(told), "{json}: {error}");
        }
    }

    #[test]
    fn a_number_is_written_in_one_way() {
        for (text, number) in [("1", Some(1)), ("9223372036854775807", Some(i64::MAX))] {
            assert_eq!(whole(text), number);
        }
        for odd in [
            "",
            "0",
            "01",
            "-1",
            "+1",
            " 1",
            "1 ",
            "1.0",
            "1e3",
            "0x1",
            "９",
            "9223372036854775808",
        ] {
            assert_eq!(whole(odd), None, "{odd}");
        }
    }
}
