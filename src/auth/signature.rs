//! The one way in which the stock `ollama` command can say who it is: under `OLLAMA_AUTH=1` it
//! signs each request with `~/.ollama/id_ed25519`.
//!
//! It sends `Authorization: <public key>:<signature>` without a scheme, and signs
//! `METHOD,PATH?ts=SECONDS`, where `ts` also stands in the query and the path is without the prefix
//! of `OLLAMA_HOST` (api/client.go, auth/auth.go). Neither host nor body are signed, and two equal
//! requests in one second carry equal signatures: so a signature counts for a minute, and only
//! where nobody can listen.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use ring::signature;

use super::ssh_key::PublicKey;

/// Seconds that the clock of a client may be off, in either direction.
const WINDOW: i64 = 60;

/// The request that a signature is of.
#[derive(Clone, Copy, Debug)]
pub struct Signed<'r> {
    /// As sent.
    pub method: &'r str,
    /// As sent, without any prefix that holds a key.
    pub path: &'r str,
    /// As sent.
    pub query: &'r str,
    /// Whether nobody can listen: TLS, or the machine's own network.
    pub private: bool,
}

/// Why a signature is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureFault {
    /// Not a public key and a signature.
    #[error("malformed signature")]
    Malformed,
    /// Sent where others can listen.
    #[error("signature sent without TLS")]
    Open,
    /// Made too long ago, or too far ahead.
    #[error("signature of another time")]
    Stale,
    /// Its user's tier is what another issuer's tokens say.
    #[error("no administrator gave the user a tier")]
    TierUnknown,
    /// Of a key that nobody has registered.
    #[error("unknown public key")]
    Unknown,
    /// Its user is disabled.
    #[error("user disabled")]
    UserDisabled,
    /// Not of this request, or not by this key.
    #[error("wrong signature")]
    Wrong,
}

impl SignatureFault {
    /// One word for metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::UserDisabled => "user_disabled",
            _ => "signature",
        }
    }
}

/// Whether this may be such a credential, by its look.
pub(super) fn looks_like_one(text: &str) -> bool {
    PublicKey::looks_like_one(text) && text.contains(':')
}

/// The public key that signed the request, as its base64.
pub(super) fn check<'a>(
    text: &'a str,
    signed: &Signed<'_>,
    now: Timestamp,
) -> Result<&'a str, SignatureFault> {
    let (public, made) = text.split_once(':').ok_or(SignatureFault::Malformed)?;
    let key = PublicKey::from_base64(public).map_err(|_| SignatureFault::Malformed)?;
    let made = BASE64_STANDARD.decode(made).map_err(|_| SignatureFault::Malformed)?;
    if !signed.private {
        return Err(SignatureFault::Open);
    }
    let at = time_in(signed.query).ok_or(SignatureFault::Malformed)?;
    let seconds: i64 = at.parse().map_err(|_| SignatureFault::Malformed)?;
    if now.as_second().abs_diff(seconds) > WINDOW.unsigned_abs() {
        return Err(SignatureFault::Stale);
    }
    let message = format!("{},{}?ts={at}", signed.method, signed.path);
    let key = signature::UnparsedPublicKey::new(&signature::ED25519, key.bytes());
    match key.verify(message.as_bytes(), &made) {
        Ok(()) => Ok(public),
        Err(_) => Err(SignatureFault::Wrong),
    }
}

/// The one `ts` of the query: digits.
fn time_in(query: &str) -> Option<&str> {
    let mut times = query.split('&').filter_map(|pair| pair.strip_prefix("ts="));
    let time = times.next().filter(|time| time.bytes().all(|byte| byte.is_ascii_digit()))?;
    times.next().is_none().then_some(time)
}

#[cfg(test)]
mod tests {
    use ring::signature::{Ed25519KeyPair, KeyPair};

    use super::*;

    /// Signs as the `ollama` command does.
    struct Client(Ed25519KeyPair);

    impl Client {
        fn new(seed: u8) -> Self {
            Self(Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap())
        }

        fn public(&self) -> String {
            let kind = b"\0\0\0\x0bssh-ed25519\0\0\0\x20".as_slice();
            BASE64_STANDARD.encode([kind, self.0.public_key().as_ref()].concat())
        }

        fn sign(&self, message: &str) -> String {
            let made = self.0.sign(message.as_bytes());
            format!("{}:{}", self.public(), BASE64_STANDARD.encode(made))
        }
    }

    const TAGS: Signed<'static> =
        Signed { method: "GET", path: "/api/tags", query: "ts=1700000000", private: true };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn now() -> Timestamp {
        at(1_700_000_000)
    }

    #[test]
    fn a_request_is_signed_by_whoever_has_the_private_half() {
        let client = Client::new(1);
        let text = client.sign("GET,/api/tags?ts=1700000000");
        assert!(looks_like_one(&text));
        assert_eq!(check(&text, &TAGS, now()), Ok(client.public().as_str()));
        let (_, made) = text.split_once(':').unwrap();
        let other = format!("{}:{made}", Client::new(2).public());
        assert_eq!(check(&other, &TAGS, now()), Err(SignatureFault::Wrong));
    }

    #[test]
    fn a_signature_is_of_one_method_path_and_time() {
        let text = Client::new(1).sign("GET,/api/tags?ts=1700000000");
        for other in [
            Signed { method: "POST", ..TAGS },
            Signed { method: "get", ..TAGS },
            Signed { path: "/api/ps", ..TAGS },
            Signed { path: "/k/x/api/tags", ..TAGS },
            Signed { query: "ts=1700000001", ..TAGS },
            Signed { query: "ts=01700000000", ..TAGS },
        ] {
            assert_eq!(check(&text, &other, now()), Err(SignatureFault::Wrong), "{other:?}");
        }
        let more = Signed { query: "a=b&ts=1700000000", ..TAGS };
        assert!(check(&text, &more, now()).is_ok(), "what else is in the query is not signed");
    }

    #[test]
    fn it_counts_for_a_minute_and_only_where_nobody_listens() {
        let text = Client::new(1).sign("GET,/api/tags?ts=1700000000");
        for (off, outcome) in [(-61, false), (-60, true), (60, true), (61, false)] {
            let judged = check(&text, &TAGS, at(1_700_000_000 + off));
            assert_eq!(judged.is_ok(), outcome, "{off}");
            assert_eq!(judged.err(), (!outcome).then_some(SignatureFault::Stale));
        }
        let open = Signed { private: false, ..TAGS };
        assert_eq!(check(&text, &open, now()), Err(SignatureFault::Open));
    }

    #[test]
    fn what_is_no_signature_is_malformed() {
        let client = Client::new(1);
        let good = client.sign("GET,/api/tags?ts=1700000000");
        let public = client.public();
        for text in [
            "",
            &public,
            &format!("{public}:!"),
            &format!("x{good}"),
            &good.replacen("AAAAC3", "AAAAC4", 1),
            &format!("{}:{}", "A".repeat(68), "A".repeat(88)),
        ] {
            assert_eq!(check(text, &TAGS, now()), Err(SignatureFault::Malformed), "{text}");
        }
        assert_eq!(check(&format!("{public}:AAAA"), &TAGS, now()), Err(SignatureFault::Wrong));
        for query in ["", "ts=", "ts=x", "ts=-1", "ts=1&ts=1", "t=1", "ts=99999999999999999999"] {
            let signed = Signed { query, ..TAGS };
            assert_eq!(check(&good, &signed, now()), Err(SignatureFault::Malformed), "{query}");
        }
    }
}
