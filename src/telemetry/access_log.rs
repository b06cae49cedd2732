//! The access log: one line a request, whatever happened to it.
//!
//! A field that is absent did not apply: no `user_id` for a request without a valid credential,
//! no `upstream` for one that was answered here. Values that clients chose are escaped.

mod text;

use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;

use super::ACCESS;
use crate::config::AccessFormat;
use text::Fields;

/// What one line says.
#[derive(Debug)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct AccessLine<'a> {
    /// When the request was complete.
    #[cfg_attr(test, serde(serialize_with = "tests::time"))]
    pub time: Timestamp,
    /// The id that the client and the instance saw too.
    pub request_id: &'a str,
    /// Who connected.
    pub client: IpAddr,
    /// The account.
    #[cfg_attr(test, serde(skip_serializing_if = "Option::is_none"))]
    pub user_id: Option<i64>,
    /// The key.
    #[cfg_attr(test, serde(skip_serializing_if = "Option::is_none"))]
    pub key_id: Option<i64>,
    /// The user's tier.
    #[cfg_attr(test, serde(skip_serializing_if = "Option::is_none"))]
    pub tier: Option<&'a str>,
    /// As sent.
    pub method: &'a str,
    /// The route's own path, or `-` for a path that is no route: never what the client wrote.
    pub route: &'a str,
    /// As the client wrote it.
    #[cfg_attr(test, serde(skip_serializing_if = "Option::is_none"))]
    pub model: Option<&'a str>,
    /// The instance that answered, or failed to.
    #[cfg_attr(test, serde(skip_serializing_if = "Option::is_none"))]
    pub upstream: Option<&'a str>,
    /// Status sent; 0 if the client left before.
    pub status: u16,
    /// Body bytes sent to the client.
    pub bytes: usize,
    /// Tokens of the prompt.
    #[cfg_attr(test, serde(skip_serializing_if = "Option::is_none"))]
    pub tokens_in: Option<u64>,
    /// Tokens that were generated.
    #[cfg_attr(test, serde(skip_serializing_if = "Option::is_none"))]
    pub tokens_out: Option<u64>,
    /// Time to find out who is asking; `auth_ms`, in milliseconds, in the line.
    #[cfg_attr(test, serde(rename = "auth_ms", serialize_with = "tests::some_ms"))]
    #[cfg_attr(test, serde(skip_serializing_if = "Option::is_none"))]
    pub auth: Option<Duration>,
    /// Time in the queue; `queue_ms`.
    #[cfg_attr(test, serde(rename = "queue_ms", serialize_with = "tests::some_ms"))]
    #[cfg_attr(test, serde(skip_serializing_if = "Option::is_none"))]
    pub queue: Option<Duration>,
    /// The instances that could have had it, each with the seconds to the first token that were
    /// expected of it; `+load` where its model had to be loaded, `+wait` where no slot was free.
    #[cfg_attr(test, serde(skip_serializing_if = "Option::is_none"))]
    pub seats: Option<&'a str>,
    /// Time from the request's arrival to the first byte of the instance's answer;
    /// `first_byte_ms`.
    #[cfg_attr(test, serde(rename = "first_byte_ms", serialize_with = "tests::some_ms"))]
    #[cfg_attr(test, serde(skip_serializing_if = "Option::is_none"))]
    pub first_byte: Option<Duration>,
    /// Time in all; `total_ms`.
    #[cfg_attr(test, serde(rename = "total_ms", serialize_with = "tests::ms"))]
    pub total: Duration,
    /// `ok`, `client_gone`, `broken` (a stream that ended without its end), or why it was refused.
    pub outcome: &'a str,
    /// What lies behind a failure.
    #[cfg_attr(test, serde(skip_serializing_if = "Option::is_none"))]
    pub cause: Option<&'a str>,
}

impl AccessLine<'_> {
    /// Writes the line.
    pub fn write(&self, format: AccessFormat) {
        let line = match format {
            AccessFormat::Off => return,
            AccessFormat::Json => self.fill(Fields::json()),
            AccessFormat::Text => self.fill(Fields::pairs()),
        };
        log::info!(target: ACCESS, "{line}");
    }

    /// By hand: every request pays for it, and this costs a fifth of what `serde_json` takes.
    fn fill(&self, mut out: Fields) -> String {
        out.time("time", self.time);
        out.text("request_id", self.request_id);
        out.address("client", self.client);
        out.some(self.user_id, |out, id| out.signed("user_id", id));
        out.some(self.key_id, |out, id| out.signed("key_id", id));
        out.some(self.tier, |out, tier| out.text("tier", tier));
        out.text("method", self.method);
        out.text("route", self.route);
        out.some(self.model, |out, model| out.text("model", model));
        out.some(self.upstream, |out, name| out.text("upstream", name));
        out.number("status", self.status.into());
        out.number("bytes", self.bytes as u64);
        out.some(self.tokens_in, |out, count| out.number("tokens_in", count));
        out.some(self.tokens_out, |out, count| out.number("tokens_out", count));
        out.some(self.auth, |out, took| out.milliseconds("auth_ms", took));
        out.some(self.queue, |out, took| out.milliseconds("queue_ms", took));
        out.some(self.seats, |out, seats| out.text("seats", seats));
        out.some(self.first_byte, |out, took| out.milliseconds("first_byte_ms", took));
        out.milliseconds("total_ms", self.total);
        out.text("outcome", self.outcome);
        out.some(self.cause, |out, cause| out.text("cause", cause));
        out.finish()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::option::of;
    use proptest::prelude::*;
    use serde::Serializer;

    use super::*;

    pub(super) fn time<S: Serializer>(time: &Timestamp, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(&format_args!("{time:.3}"))
    }

    /// To the microsecond.
    pub(super) fn ms<S: Serializer>(took: &Duration, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_f64(took.as_micros() as f64 / 1e3)
    }

    pub(super) fn some_ms<S: Serializer>(
        took: &Option<Duration>,
        out: S,
    ) -> Result<S::Ok, S::Error> {
        ms(&took.unwrap_or_default(), out)
    }

    fn line() -> AccessLine<'static> {
        AccessLine {
            time: Timestamp::from_millisecond(1_700_000_000_123).unwrap(),
            request_id: "r-1",
            client: IpAddr::from([127, 0, 0, 1]),
            user_id: Some(7),
            key_id: None,
            tier: Some("free"),
            method: "POST",
            route: "/api/chat",
            model: Some("a\"b\nc"),
            upstream: None,
            status: 200,
            bytes: 12,
            tokens_in: None,
            tokens_out: Some(3),
            auth: Some(Duration::from_micros(12)),
            queue: None,
            seats: None,
            first_byte: None,
            total: Duration::from_micros(1500),
            outcome: "ok",
            cause: None,
        }
    }

    #[test]
    fn a_line_is_one_json_object_and_escapes_what_clients_wrote() {
        assert_eq!(
            line().fill(Fields::json()),
            r#"{"time":"2023-11-14T22:13:20.123Z","request_id":"r-1","client":"127.0.0.1","user_id":7,"tier":"free","method":"POST","route":"/api/chat","model":"a\"b\nc","status":200,"bytes":12,"tokens_out":3,"auth_ms":0.012,"total_ms":1.5,"outcome":"ok"}"#
        );
    }

    #[test]
    fn the_text_form_quotes_what_is_not_plain() {
        let line = AccessLine { request_id: "", ..line() };
        assert_eq!(
            line.fill(Fields::pairs()),
            r#"time=2023-11-14T22:13:20.123Z request_id="" client=127.0.0.1 user_id=7 tier=free method=POST route=/api/chat model="a\"b\nc" status=200 bytes=12 tokens_out=3 auth_ms=0.012 total_ms=1.5 outcome=ok"#
        );
    }

    fn addresses() -> impl Strategy<Value = IpAddr> {
        let v6 = any::<u128>().prop_map(|bits| Ipv6Addr::from_bits(bits).into());
        let v4 = any::<u32>().prop_map(|bits| Ipv4Addr::from_bits(bits).into());
        prop_oneof![v4, v6]
    }

    /// Up to 31 years: beyond, a double does not tell every microsecond.
    fn durations() -> impl Strategy<Value = Duration> {
        prop_oneof![0..10_u64, 0..10_000_000_u64, 0..1_000_000_000_000_000_u64]
            .prop_map(Duration::from_micros)
    }

    proptest! {
        #[test]
        fn a_line_is_what_serde_json_would_write(
            (ms, client, status) in (-62_000_000_000_000_i64..253_000_000_000_000, addresses(), any::<u16>()),
            words in (any::<String>(), any::<String>(), of(any::<String>()), of(any::<String>())),
            ids in (of(any::<i64>()), of(any::<i64>())),
            counts in (any::<usize>(), of(any::<u64>()), of(any::<u64>())),
            times in (of(durations()), of(durations()), of(durations()), durations()),
        ) {
            let line = AccessLine {
                time: Timestamp::from_millisecond(ms).unwrap(),
                request_id: &words.0,
                client,
                user_id: ids.0,
                key_id: ids.1,
                tier: words.2.as_deref(),
                model: words.3.as_deref(),
                cause: Some(&words.1),
                status,
                bytes: counts.0,
                tokens_in: counts.1,
                tokens_out: counts.2,
                auth: times.0,
                queue: times.1,
                first_byte: times.2,
                total: times.3,
                ..line()
            };
            prop_assert_eq!(line.fill(Fields::json()), serde_json::to_string(&line).unwrap());
        }
    }
}
