//! What names one request, for the client, the instance and the log alike.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::ops::Deref;
use std::time::Instant;

use http::HeaderValue;

/// 1 to 64 letters, digits and hyphens, kept as the value of a header, which is how it travels.
#[derive(Clone, Debug)]
pub(super) struct RequestId(HeaderValue);

impl RequestId {
    /// The client's own if it is harmless, else a new one.
    pub(super) fn of(given: Option<&HeaderValue>) -> Self {
        let given = given.filter(|value| is_harmless(value.as_bytes()));
        given.map_or_else(Self::new, |value| Self(value.clone()))
    }

    /// 16 random hexadecimal digits: unique enough to find a request in a log; nothing rests on it
    /// being secret.
    pub(super) fn new() -> Self {
        let mut bits = RandomState::new().hash_one(Instant::now());
        let digits = [(); 16].map(|()| {
            bits = bits.rotate_left(4);
            // a number below 16 always has a digit
            char::from_digit((bits & 15) as u32, 16).map_or(b'0', |digit| digit as u8)
        });
        Self(HeaderValue::from_bytes(&digits).unwrap_or(Self::NONE.0))
    }

    /// That of a request whose head was not looked at yet.
    pub(super) const NONE: Self = Self(HeaderValue::from_static("-"));

    /// As headers carry it.
    pub(super) fn value(&self) -> &HeaderValue {
        &self.0
    }
}

impl Deref for RequestId {
    type Target = str;

    fn deref(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

fn is_harmless(id: &[u8]) -> bool {
    (1..=64).contains(&id.len())
        && id.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_may_name_its_request_in_letters_digits_and_hyphens() {
        let given = |text| RequestId::of(HeaderValue::from_bytes(text).ok().as_ref()).to_string();
        assert_eq!(given(b"Abc-123"), "Abc-123");
        for other in [&b""[..], b"a b", b"a\"b", b"caf\xe9", &[b'x'; 65]] {
            let id = given(other);
            assert!(id.len() == 16 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
        }
        assert_ne!(*RequestId::new(), *RequestId::new());
    }
}
