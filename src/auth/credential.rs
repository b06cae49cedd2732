//! What a request presents to prove who is asking.
//!
//! Only headers are read: never the query, never a cookie, where credentials end up in logs and
//! are sent by browsers unasked.

use std::fmt;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};
use zeroize::Zeroizing;

use super::{AuthError, signature};

/// What is wrong with two lines of `Authorization`.
pub const TWICE: &str = "more than one Authorization header";

/// The credentials of one request, best first.
#[derive(Debug, Default)]
pub struct Credentials<'h> {
    path: Option<Credential<'h>>,
    api_key_header: Option<Credential<'h>>,
    authorization: Option<Credential<'h>>,
}

impl<'h> IntoIterator for Credentials<'h> {
    type Item = Credential<'h>;
    type IntoIter = std::iter::Flatten<std::array::IntoIter<Option<Credential<'h>>, 3>>;

    fn into_iter(self) -> Self::IntoIter {
        [self.path, self.api_key_header, self.authorization].into_iter().flatten()
    }
}

/// A key that stood in a path: wiped when dropped; Debug shows nothing of it.
pub struct PathKey(Zeroizing<String>);

impl PathKey {
    /// Takes `/k/<key>` off a path: the key, and the path behind it. Keys with characters that a
    /// path would have to escape have to come in a header.
    pub fn strip(path: &[u8]) -> Option<(Self, &[u8])> {
        let rest = path.strip_prefix(b"/k/")?;
        let length = rest.iter().position(|byte| *byte == b'/')?;
        let (key, path) = rest.split_at_checked(length)?;
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
        let key = str::from_utf8(key).ok().filter(|key| key.bytes().all(|byte| plain(&byte)))?;
        (!key.is_empty()).then(|| (Self(Zeroizing::new(key.to_owned())), path))
    }

    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PathKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PathKey")
    }
}

/// One credential, by kind.
#[derive(Debug)]
pub enum Credential<'h> {
    /// What may be an API key; its form is not judged yet.
    ApiKey(Text<'h>),
    /// What may be an API key or a token.
    Bearer(Text<'h>),
    /// What may be a public key and a signature.
    Signature(Text<'h>),
    /// Something that is no credential of any known kind.
    Unreadable,
}

/// A credential in the clear: borrowed from the request, or decoded and then wiped from memory
/// when dropped. Debug shows nothing of it.
pub enum Text<'h> {
    /// As it stands in the header.
    Header(&'h str),
    /// As it was wrapped in base64.
    Decoded(Zeroizing<String>),
}

impl Text<'_> {
    pub(super) fn expose(&self) -> &str {
        match self {
            Self::Header(text) => text,
            Self::Decoded(text) => text,
        }
    }
}

impl fmt::Debug for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Text")
    }
}

/// Reads the key of the path, if there is one, then the API key header, then `Authorization` as
/// Bearer, Basic or a signature. Empty values present nothing.
///
/// # Errors
/// [`AuthError::Malformed`] if either header comes more than once: two parties may then have
/// meant different callers.
pub fn presented<'h>(
    headers: &'h HeaderMap,
    api_key_header: &HeaderName,
    path_key: Option<&'h str>,
) -> Result<Credentials<'h>, AuthError> {
    let key = single(headers, api_key_header, "more than one API key header")?;
    let authorization = single(headers, &AUTHORIZATION, TWICE)?;
    Ok(Credentials {
        path: path_key.and_then(api_key),
        api_key_header: key.and_then(|value| read(value, api_key)),
        authorization: authorization.and_then(|value| read(value, authorized)),
    })
}

fn single<'h>(
    headers: &'h HeaderMap,
    name: &HeaderName,
    complaint: &'static str,
) -> Result<Option<&'h HeaderValue>, AuthError> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        _ => Err(AuthError::Malformed(complaint)),
    }
}

fn read<'h>(
    value: &'h HeaderValue,
    as_credential: fn(&'h str) -> Option<Credential<'h>>,
) -> Option<Credential<'h>> {
    match value.to_str() {
        Ok(text) => as_credential(text.trim_matches([' ', '\t'])),
        Err(_) => Some(Credential::Unreadable),
    }
}

fn api_key(text: &str) -> Option<Credential<'_>> {
    (!text.is_empty()).then_some(Credential::ApiKey(Text::Header(text)))
}

/// RFC 9110, 11.4: a scheme in any case, spaces, and what the scheme wants.
fn authorized(text: &str) -> Option<Credential<'_>> {
    let (scheme, rest) = text.split_once(' ').unwrap_or((text, ""));
    let rest = rest.trim_start_matches(' ');
    if scheme.eq_ignore_ascii_case("bearer") {
        (!rest.is_empty()).then_some(Credential::Bearer(Text::Header(rest)))
    } else if scheme.eq_ignore_ascii_case("basic") {
        basic(rest)
    } else if signature::looks_like_one(text) {
        Some(Credential::Signature(Text::Header(text)))
    } else {
        (!text.is_empty()).then_some(Credential::Unreadable)
    }
}

/// RFC 7617. The key is the password; tools that ask for one name only send it as the user.
fn basic(encoded: &str) -> Option<Credential<'_>> {
    if encoded.is_empty() {
        return None;
    }
    let Some((user, password)) = user_and_password(encoded) else {
        return Some(Credential::Unreadable);
    };
    let key = if password.is_empty() { user } else { password };
    (!key.is_empty()).then_some(Credential::ApiKey(Text::Decoded(key)))
}

fn user_and_password(encoded: &str) -> Option<(Zeroizing<String>, Zeroizing<String>)> {
    // far more than the longest key and a user name; longer ones are refused undecoded
    let mut place = Zeroizing::new([0_u8; 1024]);
    let length = BASE64.decode_slice(encoded, place.as_mut_slice()).ok()?;
    let decoded = str::from_utf8(place.get(..length)?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    Some((Zeroizing::new(user.to_owned()), Zeroizing::new(password.to_owned())))
}

/// Clients differ in whether they pad.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::{STANDARD as PADDED, STANDARD_NO_PAD as BARE};
    use proptest::prelude::*;

    const KEY_HEADER: HeaderName = HeaderName::from_static("x-api-key");

    fn headers(lines: &[(&'static str, &[u8])]) -> HeaderMap {
        let value = |bytes: &[u8]| HeaderValue::from_bytes(bytes).unwrap();
        lines.iter().map(|(name, v)| (HeaderName::from_static(name), value(v))).collect()
    }

    /// Everything presented, `None` for what cannot be read.
    fn read_all(lines: &[(&'static str, &[u8])]) -> Vec<Option<String>> {
        let headers = headers(lines);
        let exposed = |credential| match credential {
            Credential::ApiKey(text) | Credential::Bearer(text) | Credential::Signature(text) => {
                Some(text.expose().to_owned())
            }
            Credential::Unreadable => None,
        };
        presented(&headers, &KEY_HEADER, None).unwrap().into_iter().map(exposed).collect()
    }

    fn authorization(value: &str) -> Vec<Option<String>> {
        read_all(&[("authorization", value.as_bytes())])
    }

    fn key(text: &str) -> Vec<Option<String>> {
        vec![Some(text.to_owned())]
    }

    #[test]
    fn the_key_header_comes_before_authorization() {
        let both = read_all(&[("authorization", b"Bearer two"), ("x-api-key", b"one")]);
        assert_eq!(both, [Some("one".to_owned()), Some("two".to_owned())]);
    }

    #[test]
    fn a_key_in_the_path_comes_before_all_headers() {
        let headers = headers(&[("x-api-key", b"two"), ("authorization", b"Bearer three")]);
        let read = presented(&headers, &KEY_HEADER, Some("one")).unwrap();
        let exposed = read.into_iter().map(|credential| match credential {
            Credential::ApiKey(text) => format!("key {}", text.expose()),
            Credential::Bearer(text) => format!("bearer {}", text.expose()),
            other => panic!("{other:?}"),
        });
        assert_eq!(exposed.collect::<Vec<_>>(), ["key one", "key two", "bearer three"]);
        let empty = HeaderMap::new();
        let none = presented(&empty, &KEY_HEADER, Some("")).unwrap();
        assert_eq!(none.into_iter().count(), 0);
    }

    #[test]
    fn a_key_is_taken_off_a_path_that_begins_with_one() {
        let strip = |path: &'static str| {
            PathKey::strip(path.as_bytes())
                .map(|(key, rest)| (key.expose().to_owned(), str::from_utf8(rest).unwrap()))
        };
        let taken = |key: &str, rest| Some((key.to_owned(), rest));
        assert_eq!(strip("/k/usk_a_b/api/chat"), taken("usk_a_b", "/api/chat"));
        assert_eq!(strip("/k/a.b-c~d/"), taken("a.b-c~d", "/"));
        assert_eq!(strip("/k/a//api"), taken("a", "//api"));
        for path in ["/k/", "/k//api", "/k/a", "/K/a/", "/x/k/a/", "/k/a%62/", "/k/a b/", "k/a/"] {
            assert_eq!(strip(path), None, "{path}");
        }
        assert!(PathKey::strip(b"/k/\xff/").is_none());
        let (key, _) = PathKey::strip(b"/k/hidden/").unwrap();
        assert_eq!(format!("{key:?}"), "PathKey");
    }

    #[test]
    fn a_signature_stands_without_a_scheme() {
        let value = format!("AAAAC3NzaC1lZDI1NTE5{}:{}", "A".repeat(48), "B".repeat(88));
        let headers = headers(&[("authorization", value.as_bytes())]);
        let read = presented(&headers, &KEY_HEADER, None).unwrap().into_iter().next();
        assert!(matches!(read, Some(Credential::Signature(text)) if text.expose() == value));
    }

    #[test]
    fn the_scheme_is_read_in_any_case_and_after_any_number_of_spaces() {
        for value in ["Bearer k", "bearer k", "BEARER   k", "bEaReR k  "] {
            assert_eq!(authorization(value), key("k"), "{value}");
        }
    }

    #[test]
    fn basic_carries_the_key_as_password_or_as_user_alone() {
        for (pair, expected) in [("me:secret", "secret"), ("secret:", "secret"), (":a:b", "a:b")] {
            for encoded in [PADDED.encode(pair), BARE.encode(pair)] {
                assert_eq!(authorization(&format!("Basic {encoded}")), key(expected), "{pair}");
            }
        }
    }

    #[test]
    fn what_is_empty_presents_nothing() {
        let colon = format!("Basic {}", PADDED.encode(":"));
        for value in ["", " ", "Bearer", "Bearer ", "Basic", &colon] {
            assert_eq!(authorization(value), [], "{value:?}");
        }
        assert_eq!(read_all(&[("x-api-key", b"")]), []);
        assert_eq!(read_all(&[("cookie", b"x-api-key=k"), ("x-other", b"k")]), []);
    }

    #[test]
    fn what_cannot_be_read_is_presented_all_the_same() {
        let no_colon = format!("Basic {}", PADDED.encode("secret"));
        let not_text = format!("Basic {}", PADDED.encode(b"a:\xff"));
        let huge = format!("Basic {}", PADDED.encode(format!(":{}", "k".repeat(2000))));
        let half_a_signature = "AAAAC3NzaC1lZDI1NTE5";
        for value in ["Digest k", "k", "Bearer\tk", "user:k", half_a_signature, "Basic !!"] {
            assert_eq!(authorization(value), [None], "{value}");
        }
        for value in [&no_colon, &not_text, &huge] {
            assert_eq!(authorization(value), [None], "{value}");
        }
        assert_eq!(read_all(&[("authorization", b"Bearer \xff")]), [None]);
        assert_eq!(read_all(&[("x-api-key", "schlüssel".as_bytes())]), [None]);
    }

    #[test]
    fn a_repeated_header_is_malformed_even_beside_a_good_one() {
        for lines in [
            [("authorization", b"Bearer a".as_slice()), ("authorization", b"Bearer a")],
            [("x-api-key", b"a"), ("x-api-key", b"a")],
        ] {
            let headers = headers(&lines);
            let refused = presented(&headers, &KEY_HEADER, None);
            assert!(matches!(refused, Err(AuthError::Malformed(_))));
        }
    }

    #[test]
    fn debug_shows_nothing_of_a_credential() {
        let encoded = format!("Basic {}", PADDED.encode("user:hidden-1"));
        let headers = headers(&[("authorization", encoded.as_bytes()), ("x-api-key", b"hidden-2")]);
        let shown = format!("{:?}", presented(&headers, &KEY_HEADER, Some("hidden-3")).unwrap());
        assert!(!shown.contains("hidden"), "{shown}");
        assert_eq!(shown.matches("ApiKey(Text)").count(), 3, "{shown}");
    }

    proptest! {
        #[test]
        fn no_header_value_makes_it_panic(bytes in any::<Vec<u8>>(), encoded in "[A-Za-z0-9+/=]*") {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let headers = HeaderMap::from_iter([(AUTHORIZATION, value)]);
                prop_assert!(presented(&headers, &KEY_HEADER, None).is_ok());
            }
            let basic = format!("Basic {encoded}");
            prop_assert!(authorization(&basic).len() < 2);
        }
    }
}
