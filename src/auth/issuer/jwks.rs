//! The keys that an issuer publishes (RFC 7517), as far as they verify tokens here.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::{Map, Value};

use crate::auth::jwt::{LONGEST_KEY_ID, strict_object};

/// Keys of the largest set.
const MOST: usize = 64;
/// Bits of an RSA key: fewer can be broken, more take long to verify.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// A key, and the one algorithm that it is for.
pub(super) struct PublicKey {
    pub name: Option<String>,
    pub algorithm: Algorithm,
    pub key: DecodingKey,
}

/// Why a set is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadSet {
    #[error("not a set of keys")]
    Malformed,
    #[error("more than {MOST} keys")]
    TooMany,
    #[error("two keys of one name")]
    Twice,
    #[error("a private or secret key in public: it must be replaced")]
    Private,
    #[error("no key for RS256, ES256 or EdDSA")]
    Useless,
}

/// Reads a set. Keys for other purposes or algorithms are passed over.
pub(super) fn read(bytes: &[u8]) -> Result<Vec<PublicKey>, BadSet> {
    let set = strict_object(bytes).ok_or(BadSet::Malformed)?;
    let keys = set.get("keys").and_then(Value::as_array).ok_or(BadSet::Malformed)?;
    if keys.len() > MOST {
        return Err(BadSet::TooMany);
    }
    let mut names = std::collections::BTreeSet::new();
    let mut found = Vec::new();
    for key in keys {
        let key = key.as_object().ok_or(BadSet::Malformed)?;
        if ["d", "p", "q", "dp", "dq", "qi", "oth", "k"].iter().any(|part| key.contains_key(*part))
        {
            return Err(BadSet::Private);
        }
        if let Some(name) = text(key, "kid")
            && !names.insert(name)
        {
            return Err(BadSet::Twice);
        }
        found.extend(public_key(key));
    }
    if found.is_empty() { Err(BadSet::Useless) } else { Ok(found) }
}

/// A key that can verify tokens; `None` for any other.
fn public_key(key: &Map<String, Value>) -> Option<PublicKey> {
    let signs = key.get("use").is_none_or(|purpose| purpose == "sig");
    let verifies = match key.get("key_ops") {
        None => true,
        Some(acts) => acts.as_array()?.iter().any(|act| act == "verify"),
    };
    let name = match key.get("kid") {
        None => None,
        Some(name) => Some(name.as_str().filter(|name| name.len() <= LONGEST_KEY_ID)?.to_owned()),
    };
    if !signs || !verifies {
        return None;
    }
    let is = |names: &[&str]| key.get("alg").is_none_or(|alg| names.iter().any(|name| alg == name));
    let (algorithm, key) = match (text(key, "kty")?, text(key, "crv")) {
        ("RSA", _) if is(&["RS256"]) => (Algorithm::RS256, rsa(key)?),
        ("EC", Some("P-256")) if is(&["ES256"]) => (Algorithm::ES256, ec(key)?),
        ("OKP", Some("Ed25519")) if is(&["EdDSA", "Ed25519"]) => (Algorithm::EdDSA, ed(key)?),
        _ => return None,
    };
    Some(PublicKey { name, algorithm, key })
}

fn rsa(key: &Map<String, Value>) -> Option<DecodingKey> {
    let (modulus, exponent) = (text(key, "n")?, text(key, "e")?);
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(modulus).ok()?;
    let leading = bytes.iter().take_while(|byte| **byte == 0).count();
    let first = bytes.get(leading)?;
    let bits = (bytes.len() - leading) * 8 - first.leading_zeros() as usize;
    let long_enough = RSA_BITS.contains(&bits);
    long_enough.then(|| DecodingKey::from_rsa_components(modulus, exponent).ok()).flatten()
}

fn ec(key: &Map<String, Value>) -> Option<DecodingKey> {
    let (x, y) = (coordinate(key, "x")?, coordinate(key, "y")?);
    DecodingKey::from_ec_components(x, y).ok()
}

fn ed(key: &Map<String, Value>) -> Option<DecodingKey> {
    DecodingKey::from_ed_components(coordinate(key, "x")?).ok()
}

/// 32 bytes, on either of these curves.
fn coordinate<'k>(key: &'k Map<String, Value>, name: &str) -> Option<&'k str> {
    let coordinate = text(key, name)?;
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(coordinate).ok()?;
    (bytes.len() == 32).then_some(coordinate)
}

fn text<'k>(key: &'k Map<String, Value>, name: &str) -> Option<&'k str> {
    key.get(name).and_then(Value::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn b64(bytes: usize) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(vec![0xc5; bytes])
    }

    fn rsa_key(name: &str, bytes: usize) -> Value {
        json!({ "kty": "RSA", "kid": name, "n": b64(bytes), "e": "AQAB", "use": "sig" })
    }

    fn ec_key(name: &str) -> Value {
        json!({ "kty": "EC", "crv": "P-256", "kid": name, "x": b64(32), "y": b64(32) })
    }

    fn ed_key(name: &str) -> Value {
        json!({ "kty": "OKP", "crv": "Ed25519", "kid": name, "x": b64(32), "alg": "EdDSA" })
    }

    fn with(mut key: Value, name: &str, value: Value) -> Value {
        key[name] = value;
        key
    }

    fn set(keys: &[Value]) -> Result<Vec<(Option<String>, Algorithm)>, BadSet> {
        let keys = read(json!({ "keys": keys }).to_string().as_bytes())?;
        Ok(keys.into_iter().map(|key| (key.name, key.algorithm)).collect())
    }

    #[test]
    fn each_kind_of_key_is_for_its_own_algorithm() {
        let nameless = json!({ "kty": "RSA", "n": b64(256), "e": "AQAB" });
        let read = set(&[rsa_key("r", 256), ec_key("e"), ed_key("d"), nameless]).unwrap();
        let expected = [
            (Some("r"), Algorithm::RS256),
            (Some("e"), Algorithm::ES256),
            (Some("d"), Algorithm::EdDSA),
            (None, Algorithm::RS256),
        ];
        assert_eq!(read, expected.map(|(name, algorithm)| (name.map(str::to_owned), algorithm)));
    }

    #[test]
    fn a_set_with_something_private_or_ambiguous_is_not_taken_at_all() {
        let good = || ec_key("a");
        for part in ["d", "p", "q", "dp", "dq", "qi", "oth", "k"] {
            let private = with(ec_key("b"), part, json!("AQAB"));
            assert_eq!(set(&[good(), private]), Err(BadSet::Private), "{part}");
        }
        let secret = json!({ "kty": "oct", "k": b64(32) });
        assert_eq!(set(&[good(), secret]), Err(BadSet::Private));
        assert_eq!(set(&[good(), rsa_key("a", 256)]), Err(BadSet::Twice));
        let many: Vec<Value> = (0..65).map(|number| ec_key(&number.to_string())).collect();
        assert_eq!(set(&many), Err(BadSet::TooMany));
        assert!(set(&many[1..]).is_ok());
        assert_eq!(set(&[good(), json!("x")]), Err(BadSet::Malformed));
    }

    #[test]
    fn what_is_no_set_is_not_taken() {
        for text in ["", "[]", "{}", "null", r#"{"keys":{}}"#, r#"{"keys":[],"keys":[]}"#] {
            assert_eq!(read(text.as_bytes()).err(), Some(BadSet::Malformed), "{text}");
        }
        assert_eq!(read(br#"{"keys":[]}"#).err(), Some(BadSet::Useless));
    }

    #[test]
    fn keys_for_other_purposes_or_too_weak_ones_are_passed_over() {
        for other in [
            with(rsa_key("x", 256), "use", json!("enc")),
            with(rsa_key("x", 256), "key_ops", json!(["encrypt"])),
            with(rsa_key("x", 256), "key_ops", json!("verify")),
            with(rsa_key("x", 256), "alg", json!("RS512")),
            with(rsa_key("x", 256), "alg", json!("HS256")),
            with(rsa_key("x", 256), "kid", json!(7)),
            with(rsa_key("x", 256), "kid", json!("x".repeat(129))),
            with(rsa_key("x", 256), "n", json!("!")),
            with(rsa_key("x", 256), "n", json!("")),
            rsa_key("x", 255),
            rsa_key("x", 1025),
            with(ec_key("x"), "crv", json!("P-384")),
            with(ec_key("x"), "alg", json!("ES384")),
            with(ec_key("x"), "x", json!(b64(31))),
            with(ec_key("x"), "y", json!(b64(33))),
            with(ed_key("x"), "crv", json!("Ed448")),
            with(ed_key("x"), "alg", json!("ES256")),
            json!({ "kty": "AKP", "kid": "x" }),
        ] {
            assert_eq!(set(std::slice::from_ref(&other)), Err(BadSet::Useless), "{other}");
            assert_eq!(set(&[ec_key("good"), other]).unwrap().len(), 1);
        }
        for good in [
            with(ec_key("x"), "key_ops", json!(["verify"])),
            with(ec_key("x"), "alg", json!("ES256")),
            with(ed_key("x"), "alg", json!("Ed25519")),
            with(rsa_key("x", 256), "alg", json!("RS256")),
            with(rsa_key("x".repeat(128).as_str(), 256), "use", json!("sig")),
        ] {
            assert!(set(std::slice::from_ref(&good)).is_ok(), "{good}");
        }
        let padded = BASE64_URL_SAFE_NO_PAD.encode([vec![0; 300], vec![0x7f; 256]].concat());
        let leading_zeros = with(rsa_key("x", 256), "n", json!(padded));
        assert_eq!(set(&[leading_zeros]), Err(BadSet::Useless), "2047 bits");
    }
}
