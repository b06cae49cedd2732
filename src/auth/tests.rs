//! What the tests of this module share: people, configurations, and tokens made by hand.

use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jiff::Timestamp;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256,
    RsaKeyPair,
};
use ring::{hmac, signature};
use serde_json::{Value, json};

use super::*;
use crate::config::{Auth, Config};

/// What signs tokens in tests.
pub(super) const SECRET: &str = "Zm9yIHRlc3RzIGFsb25lLCBuZXZlciB1c2VkIGFueXdoZXJl";
/// Another one.
pub(super) const OTHER: &str = "YW5vdGhlciBvbmUsIGZvciB0ZXN0cyBhbG9uZSwgbm90IHVzZWQ";

pub(super) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// Somebody of this tier, whose id is 1.
pub(super) fn user(tier: &str) -> User {
    User {
        id: 1,
        username: "me".to_owned(),
        email: None,
        issuer: None,
        subject: None,
        tier: tier.to_owned(),
        tier_given: false,
        disabled: false,
        token_version: 0,
    }
}

/// `auth` as written, in flow style, and the tokens that are believed by it.
pub(super) fn believed(auth: &str) -> (Auth, Tokens) {
    let yaml = format!(
        "upstreams: [ {{ name: a, url: http://127.0.0.1:1 }} ]\nstate_dir: /nowhere\n\
         auth: {{ {auth} }}\n"
    );
    let env = |name: &str| (name == "JWT_SECRET").then(|| SECRET.to_owned());
    let config = Config::parse(&yaml, Path::new("f"), &env).unwrap_or_else(|bad| panic!("{bad}"));
    let tokens = Tokens::load(&config.auth, None).unwrap_or_else(|bad| panic!("{bad}"));
    (config.auth, tokens)
}

fn encode(part: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(part)
}

/// A token of these bytes as they are, signed with HS256.
pub(super) fn raw(secret: &str, header: &str, claims: &str) -> String {
    let signed = format!("{}.{}", encode(header), encode(claims));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let made = hmac::sign(&key, signed.as_bytes());
    format!("{signed}.{}", encode(made))
}

/// A token with these claims, signed with HS256.
pub(super) fn hs256(secret: &str, claims: &Value) -> String {
    raw(secret, r#"{"alg":"HS256","typ":"JWT"}"#, &claims.to_string())
}

/// `object` with one field changed; null takes it away.
pub(super) fn with(object: &Value, name: &str, value: Value) -> Value {
    let mut changed = object.clone();
    if value.is_null() {
        changed.as_object_mut().unwrap().remove(name);
    } else {
        changed[name] = value;
    }
    changed
}

/// Somebody else's key pair, of each kind that tokens are signed with.
pub(super) enum Pair {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

impl Pair {
    /// The only one that is not made anew: making one takes long.
    pub(super) fn rsa() -> Self {
        Self::Rsa(RsaKeyPair::from_pkcs8(include_bytes!("tests/rsa.pk8")).unwrap())
    }

    pub(super) fn ec() -> Self {
        let random = SystemRandom::new();
        let kind = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(kind, &random).unwrap();
        Self::Ec(EcdsaKeyPair::from_pkcs8(kind, pkcs8.as_ref(), &random).unwrap())
    }

    pub(super) fn ed() -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self::Ed(Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap())
    }

    pub(super) fn algorithm(&self) -> &'static str {
        match self {
            Self::Rsa(_) => "RS256",
            Self::Ec(_) => "ES256",
            Self::Ed(_) => "EdDSA",
        }
    }

    /// As an issuer publishes it.
    pub(super) fn public(&self, name: &str) -> Value {
        match self {
            Self::Rsa(pair) => {
                let parts: signature::RsaPublicKeyComponents<Vec<u8>> = pair.public().into();
                json!({ "kty": "RSA", "kid": name, "n": encode(parts.n), "e": encode(parts.e) })
            }
            Self::Ec(pair) => {
                let point = pair.public_key().as_ref();
                let (x, y) = (encode(&point[1..33]), encode(&point[33..]));
                json!({ "kty": "EC", "crv": "P-256", "kid": name, "x": x, "y": y })
            }
            Self::Ed(pair) => {
                let x = encode(pair.public_key());
                json!({ "kty": "OKP", "crv": "Ed25519", "kid": name, "x": x })
            }
        }
    }

    /// A token under a header of the test's own.
    pub(super) fn sign(&self, header: &Value, claims: &Value) -> String {
        let signed = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
        let random = SystemRandom::new();
        let made = match self {
            Self::Rsa(pair) => {
                let mut made = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, signed.as_bytes(), &mut made).unwrap();
                made
            }
            Self::Ec(pair) => pair.sign(&random, signed.as_bytes()).unwrap().as_ref().to_vec(),
            Self::Ed(pair) => pair.sign(signed.as_bytes()).as_ref().to_vec(),
        };
        format!("{signed}.{}", encode(made))
    }

    /// A token that names its key.
    pub(super) fn token(&self, key: &str, claims: &Value) -> String {
        self.sign(&json!({ "alg": self.algorithm(), "kid": key }), claims)
    }
}

#[test]
fn a_principal_is_the_account_and_the_key_that_were_found() {
    let key = Key {
        id: 9,
        public_id: Some("0Aa1Bb2Cc3Dd".to_owned()),
        tier: None,
        models: None,
        concurrency: None,
        requests: None,
        tokens: None,
        delegating: false,
        expires_at: None,
        revoked_at: None,
    };
    let of = |key: Option<Key>, method| {
        let user = User { id: 7, ..user("free") };
        Principal { identity: Arc::new(Identity { user, key }), method, token: None }
    };
    let keyed = of(Some(key.clone()), Method::ApiKey);
    assert_eq!((keyed.user_id(), keyed.key_id()), (7, Some(9)));
    assert_eq!((keyed.public_id(), keyed.tier()), (Some("0Aa1Bb2Cc3Dd"), "free"));
    let imported = of(Some(Key { public_id: None, ..key }), Method::ApiKey);
    assert_eq!((imported.key_id(), imported.public_id()), (Some(9), None));
    let signed = of(None, Method::Signature);
    assert_eq!((signed.user_id(), signed.key_id(), signed.public_id()), (7, None, None));
}

#[test]
fn every_fault_has_a_word_for_metrics() {
    for (error, word) in [
        (AuthError::Missing, "missing"),
        (AuthError::Malformed("x"), "malformed"),
        (AuthError::Unavailable(Unavailable(String::new())), "unavailable"),
        (TokenFault::Expired.into(), "token_expired"),
        (TokenFault::Ended.into(), "token_ended"),
        (TokenFault::Outdated.into(), "token_ended"),
        (TokenFault::Malformed.into(), "token_malformed"),
        (TokenFault::Header("crit").into(), "token_malformed"),
        (TokenFault::Key.into(), "token_signature"),
        (TokenFault::Algorithm.into(), "token_signature"),
        (TokenFault::Signature.into(), "token_signature"),
        (TokenFault::Audience.into(), "token_claims"),
        (TokenFault::Claim("sub").into(), "token_claims"),
        (TokenFault::Issuer.into(), "token_claims"),
        (TokenFault::NotYet.into(), "token_claims"),
        (TokenFault::Role.into(), "token_claims"),
        (TokenFault::UserDisabled.into(), "user_disabled"),
        (SignatureFault::Wrong.into(), "signature"),
        (SignatureFault::UserDisabled.into(), "user_disabled"),
    ] {
        assert_eq!(error.word(), word, "{error}");
    }
    for (reason, word) in [
        (KeyFault::Expired, "key_expired"),
        (KeyFault::Malformed, "key_malformed"),
        (KeyFault::Revoked, "key_revoked"),
        (KeyFault::TierUnknown, "key_tier_unknown"),
        (KeyFault::Unknown, "key_unknown"),
        (KeyFault::UserDisabled, "user_disabled"),
    ] {
        assert_eq!(AuthError::InvalidKey { reason, public_id: None }.word(), word);
    }
    let words = [Method::ApiKey, Method::Jwt, Method::Signature].map(Method::word);
    assert_eq!(words, ["api_key", "jwt", "signature"]);
}
