//! The access log: one line a request, whatever happened to it.
//!
//! A field that is absent did not apply: no `user_id` for a request without a valid credential,
//! no `upstream` for one that was answered here. Values that clients chose are escaped.

use std::net::IpAddr;

use jiff::Timestamp;
use serde::Serialize;

use super::ACCESS;
use crate::config::AccessFormat;

/// What one line says. Durations are in milliseconds.
#[derive(Debug, Serialize)]
pub struct AccessLine<'a> {
    /// When the request was complete.
    #[serde(serialize_with = "milliseconds")]
    pub time: Timestamp,
    /// The id that the client and the instance saw too.
    pub request_id: &'a str,
    /// Who connected.
    pub client: IpAddr,
    /// The account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<i64>,
    /// The key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_id: Option<i64>,
    /// The user's tier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tier: Option<&'a str>,
    /// As sent.
    pub method: &'a str,
    /// The route's own path, or `-` for a path that is no route: never what the client wrote.
    pub route: &'a str,
    /// As the client wrote it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<&'a str>,
    /// The instance that answered, or failed to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<&'a str>,
    /// Status sent; 0 if the client left before.
    pub status: u16,
    /// Body bytes sent to the client.
    pub bytes: usize,
    /// Tokens of the prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_in: Option<u64>,
    /// Tokens that were generated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_out: Option<u64>,
    /// Time to find out who is asking.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth_ms: Option<f64>,
    /// Time in the queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_ms: Option<f64>,
    /// The instances that could have had it, each with the seconds to the first token that were
    /// expected of it; `+load` where its model had to be loaded, `+wait` where no slot was free.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seats: Option<String>,
    /// Time from the request's arrival to the first byte of the instance's answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_byte_ms: Option<f64>,
    /// Time in all.
    pub total_ms: f64,
    /// `ok`, `client_gone`, `broken` (a stream that ended without its end), or why it was refused.
    pub outcome: &'a str,
    /// What lies behind a failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<&'a str>,
}

impl AccessLine<'_> {
    /// Writes the line.
    pub fn write(&self, format: AccessFormat) {
        match format {
            AccessFormat::Off => {}
            AccessFormat::Json => {
                log::info!(target: ACCESS, "{}", serde_json::to_string(self).unwrap_or_default());
            }
            AccessFormat::Text => log::info!(target: ACCESS, "{}", self.to_text()),
        }
    }

    /// `key=value` pairs, the same fields in the same order; values with anything but plain
    /// characters are quoted as in JSON.
    fn to_text(&self) -> String {
        let Ok(serde_json::Value::Object(fields)) = serde_json::to_value(self) else {
            return String::new();
        };
        let mut line = String::with_capacity(256);
        for (name, value) in &fields {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(name);
            line.push('=');
            match value.as_str() {
                Some(text) if !text.is_empty() && text.bytes().all(is_plain) => line.push_str(text),
                _ => line.push_str(&value.to_string()),
            }
        }
        line
    }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.:/+@".contains(&byte)
}

fn milliseconds<S: serde::Serializer>(time: &Timestamp, out: S) -> Result<S::Ok, S::Error> {
    out.collect_str(&format_args!("{time:.3}"))
}

/// Milliseconds, to the microsecond.
pub fn ms(duration: std::time::Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

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
            auth_ms: Some(0.012),
            queue_ms: None,
            seats: None,
            first_byte_ms: None,
            total_ms: 1.5,
            outcome: "ok",
            cause: None,
        }
    }

    #[test]
    fn a_line_is_one_json_object_and_escapes_what_clients_wrote() {
        let text = serde_json::to_string(&line()).unwrap();
        assert_eq!(
            text,
            r#"{"time":"2023-11-14T22:13:20.123Z","request_id":"r-1","client":"127.0.0.1","user_id":7,"tier":"free","method":"POST","route":"/api/chat","model":"a\"b\nc","status":200,"bytes":12,"tokens_out":3,"auth_ms":0.012,"total_ms":1.5,"outcome":"ok"}"#
        );
    }

    #[test]
    fn the_text_form_quotes_what_is_not_plain() {
        let text = line().to_text();
        assert!(text.contains(r#"model="a\"b\nc""#), "{text}");
        assert!(text.contains("route=/api/chat") && !text.contains('\n'), "{text}");
    }
}
