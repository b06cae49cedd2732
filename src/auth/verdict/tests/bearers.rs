//! Tokens and signatures: whom they speak of is asked of the store, like the holder of a key.

use http::header::AUTHORIZATION;
use serde_json::{Value, json};

use super::*;
use crate::auth::tests::{OTHER, SECRET, hs256, with};
use crate::auth::{KeyFault, Subject};

fn claims() -> Value {
    json!({ "iss": "usher", "aud": "usher", "sub": "1", "jti": "id", "exp": 2000, "ver": 3 })
}

fn ours() -> Holder {
    Holder::Token { user: 1, id: "id".into() }
}

impl Store {
    /// Somebody who has no key.
    fn know(&self, of: Holder, change: impl FnOnce(&mut crate::auth::User)) {
        let mut user = user("free");
        user.token_version = 3;
        change(&mut user);
        self.identities.lock().insert(of, Identity { user, key: None });
    }
}

async fn bearer(
    authenticator: &Authenticator,
    token: &str,
    auth: &str,
) -> Result<Principal, AuthError> {
    let headers =
        HeaderMap::from_iter([(AUTHORIZATION, format!("Bearer {token}").parse().unwrap())]);
    ask(authenticator, &headers, &believed(auth), at(1000)).await
}

fn token_fault(outcome: Result<Principal, AuthError>) -> (TokenFault, Option<i64>) {
    match outcome {
        Err(AuthError::InvalidToken { reason, user_id }) => (reason, user_id),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_token_is_its_users_as_long_as_nothing_has_changed() {
    let (_, store, authenticator) = usual();
    let token = hs256(SECRET, &claims());
    assert_eq!(token_fault(bearer(&authenticator, &token, "").await), (TokenFault::Ended, None));
    store.know(ours(), |_| ());
    authenticator.invalidate();
    let principal = bearer(&authenticator, &token, "").await.unwrap();
    assert_eq!(principal.method, Method::Jwt);
    assert_eq!((principal.user_id(), principal.key_id(), principal.tier()), (1, None, "free"));
    let ends = principal.token.unwrap();
    assert_eq!((&*ends.id, ends.expires_at, ends.tier), ("id", at(2000), None));
    for (change, expected) in [
        ((|user| user.token_version = 4) as fn(&mut crate::auth::User), TokenFault::Outdated),
        (|user| user.token_version = 2, TokenFault::Outdated),
        (|user| user.disabled = true, TokenFault::UserDisabled),
    ] {
        store.know(ours(), change);
        authenticator.invalidate();
        let refused = token_fault(bearer(&authenticator, &token, "").await);
        assert_eq!(refused, (expected, Some(1)), "and the log may say whose it is");
    }
}

#[tokio::test]
async fn a_wrong_token_never_reaches_the_store() {
    let (_, store, authenticator) = usual();
    for token in [
        hs256(OTHER, &claims()),
        hs256(SECRET, &with(&claims(), "exp", json!(1))),
        hs256(SECRET, &with(&claims(), "aud", json!("x"))),
        format!("{}.{}", hs256(SECRET, &claims()), "x".repeat(300)),
    ] {
        assert!(bearer(&authenticator, &token, "").await.is_err());
    }
    assert_eq!(store.asked(), 1, "the short one may be a key of an earlier system");
}

#[tokio::test]
async fn what_an_earlier_system_issued_as_a_key_may_look_like_a_token() {
    let (_, store, authenticator) = usual();
    let looks_like_one = "eyJhbGciOiJub25lIn0.eyJyb2xlIjoiYW5vbiJ9.c2lnbmF0dXJl";
    let refused = token_fault(bearer(&authenticator, looks_like_one, "").await);
    assert_eq!(refused, (TokenFault::Algorithm, None), "what it looks like is what is told");
    store.add(looks_like_one);
    authenticator.invalidate();
    let principal = bearer(&authenticator, looks_like_one, "").await.unwrap();
    assert_eq!(principal.method, Method::ApiKey);
    store.revoke(looks_like_one);
    authenticator.invalidate();
    assert_eq!(fault(bearer(&authenticator, looks_like_one, "").await), KeyFault::Revoked);
}

#[tokio::test]
async fn a_token_in_the_header_for_keys_is_no_key() {
    let (_, store, authenticator) = usual();
    store.know(ours(), |_| ());
    let refused = present(&authenticator, &hs256(SECRET, &claims())).await;
    assert!(matches!(refused, Err(AuthError::InvalidKey { .. })));
}

#[tokio::test]
async fn the_tier_of_another_issuers_user_is_the_mappings_unless_one_was_given() {
    let auth = format!(
        "issuers: [ {{ name: b, issuer: 'https://b', audience: a, secrets: ['{OTHER}'], \
         role_claim: r, roles: {{ gold: premium }}, default_tier: free }} ]"
    );
    let (_, store, authenticator) = usual();
    let foreign = json!({ "iss": "https://b", "aud": "a", "sub": "s", "exp": 2000, "r": "gold" });
    let token = hs256(OTHER, &foreign);
    let (signed, _) = token.rsplit_once('.').unwrap();
    let hash = ring::digest::digest(&ring::digest::SHA256, signed.as_bytes());
    let hex: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let subject = Holder::Subject(Arc::new(Subject {
        issuer: "https://b".to_owned(),
        issuer_name: "b".to_owned(),
        subject: "s".to_owned(),
        email: None,
        tier: "premium".into(),
        token: format!("sha256:{hex}").into(),
    }));
    store.know(subject.clone(), |user| user.token_version = 9);
    let principal = bearer(&authenticator, &token, &auth).await.unwrap();
    assert_eq!(principal.tier(), "premium", "no version is asked of it");
    assert_eq!(&*principal.token.unwrap().id, format!("sha256:{hex}"));
    store.know(subject, |user| {
        user.tier = "admin".to_owned();
        user.tier_given = true;
    });
    authenticator.invalidate();
    assert_eq!(bearer(&authenticator, &token, &auth).await.unwrap().tier(), "admin");
}

#[tokio::test]
async fn a_signature_is_of_whoever_registered_the_key() {
    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;
    use ring::signature::{Ed25519KeyPair, KeyPair};

    let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
    let blob = [b"\0\0\0\x0bssh-ed25519\0\0\0\x20".as_slice(), pair.public_key().as_ref()].concat();
    let public = BASE64_STANDARD.encode(blob);
    let made = BASE64_STANDARD.encode(pair.sign(b"GET,/api/tags?ts=1700000000"));
    let value = format!("{public}:{made}").parse().unwrap();
    let headers = HeaderMap::from_iter([(AUTHORIZATION, value)]);
    let (_, store, authenticator) = usual();
    let signed = async |second| {
        let config = believed("");
        ask(&authenticator, &headers, &config, at(second)).await
    };
    let fault = |outcome: Result<Principal, AuthError>| match outcome {
        Err(AuthError::InvalidSignature { reason, user_id }) => (reason, user_id),
        other => panic!("{other:?}"),
    };
    let now = 1_700_000_000;
    assert_eq!(fault(signed(now).await), (SignatureFault::Unknown, None));
    store.know(Holder::PublicKey(public.as_str().into()), |_| ());
    authenticator.invalidate();
    let principal = signed(now).await.unwrap();
    assert_eq!((principal.method, principal.key_id()), (Method::Signature, None));
    assert!(principal.token.is_none());
    assert_eq!(fault(signed(now + 61).await), (SignatureFault::Stale, None));
    for (reason, change) in [
        (SignatureFault::UserDisabled, (|user| user.disabled = true) as fn(&mut crate::auth::User)),
        // a signature says no tier, and what the user's last token said may be over
        (SignatureFault::TierUnknown, |user| user.issuer = Some("https://id.example".to_owned())),
    ] {
        store.know(Holder::PublicKey(public.as_str().into()), change);
        authenticator.invalidate();
        assert_eq!(fault(signed(now).await), (reason, Some(1)));
    }
    store.know(Holder::PublicKey(public.as_str().into()), |user| {
        user.issuer = Some("https://id.example".to_owned());
        user.tier_given = true;
    });
    authenticator.invalidate();
    assert!(signed(now).await.is_ok(), "an administrator gave the user a tier");
}
