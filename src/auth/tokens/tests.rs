mod secrets;

use std::fs;

use serde_json::{Value, json};

use super::*;
use crate::auth::tests::{OTHER, Pair, SECRET, at, believed, hs256, raw, user, with};

/// One issuer with two shared secrets, one of which is the key of the others' tests.
const SHARED: &str = "issuers: [ { name: base, issuer: 'https://base.example/auth/v1', \
     audience: authenticated, secrets: ['YW5vdGhlciBvbmUsIGZvciB0ZXN0cyBhbG9uZSwgbm90IHVzZWQ', \
     'a-third-one-0123456789-0123456789-0123456789'], role_claim: app_metadata.role, \
     roles: { free: free, gold: premium }, default_tier: free } ]";

fn claims() -> Value {
    json!({
        "iss": "https://base.example/auth/v1",
        "aud": "authenticated",
        "sub": "0f8fad5b-d9cb-469f-a165-70867728950e",
        "exp": 2000,
        "iat": 1000,
        "role": "authenticated",
        "email": "ann@example.org",
        "app_metadata": { "role": "gold" },
    })
}

fn ours() -> Value {
    json!({ "iss": "usher", "aud": "usher", "sub": "1", "jti": "id", "exp": 2000, "ver": 4 })
}

/// Whom a token speaks of, or why it is not believed.
async fn check(tokens: &Tokens, token: &str) -> Result<Arc<Checked>, TokenFault> {
    check_at(tokens, token, 1000).await
}

async fn check_at(tokens: &Tokens, token: &str, second: i64) -> Result<Arc<Checked>, TokenFault> {
    tokens.check(token, at(second)).await.map_err(|doubt| match doubt {
        Doubt::Fault(fault) => fault,
        Doubt::Unavailable(unavailable) => panic!("{unavailable}"),
    })
}

async fn fault(tokens: &Tokens, token: &str) -> TokenFault {
    check(tokens, token).await.err().unwrap_or_else(|| panic!("{token} is believed"))
}

#[tokio::test]
async fn our_own_tokens_are_believed_for_what_the_contract_says() {
    let (config, tokens) = believed("");
    let minted = tokens.local().mint(&user("free"), 60, at(1000)).unwrap();
    let checked = check(&tokens, minted.expose()).await.unwrap();
    assert!(matches!(&checked.holder, Holder::Token { user: 1, .. }));
    assert_eq!((checked.version, checked.expires), (Some(0), 1060));
    assert_eq!(tokens.tier(&checked), Ok(None), "the database says");
    assert_eq!(config.jwt.ttl.as_secs(), 86_400);
    let by_hand = check(&tokens, &hs256(SECRET, &ours())).await.unwrap();
    assert_eq!(by_hand.version, Some(4));
    assert_eq!(by_hand.holder, Holder::Token { user: 1, id: "id".into() });
    let no_version = check(&tokens, &hs256(SECRET, &with(&ours(), "ver", Value::Null))).await;
    assert_eq!(no_version.unwrap().version, Some(0));
}

#[tokio::test]
async fn a_claim_of_our_own_that_is_missing_or_wrong_refuses_the_token() {
    let (_, tokens) = believed("");
    for (name, value, expected) in [
        ("iss", Value::Null, TokenFault::Claim("iss")),
        ("iss", json!("Usher"), TokenFault::Issuer),
        ("aud", Value::Null, TokenFault::Claim("aud")),
        ("aud", json!("authenticated"), TokenFault::Audience),
        ("sub", Value::Null, TokenFault::Claim("sub")),
        ("sub", json!("ann"), TokenFault::Claim("sub")),
        ("sub", json!("1.0"), TokenFault::Claim("sub")),
        ("sub", json!(1), TokenFault::Claim("sub")),
        ("jti", Value::Null, TokenFault::Claim("jti")),
        ("jti", json!(7), TokenFault::Claim("jti")),
        ("exp", Value::Null, TokenFault::Claim("exp")),
        ("exp", json!("9999999999"), TokenFault::Claim("exp")),
        ("exp", json!(1000), TokenFault::Expired),
        ("iat", json!("now"), TokenFault::Claim("iat")),
        ("nbf", json!("99999999999"), TokenFault::Claim("nbf")),
        ("nbf", json!(1001), TokenFault::NotYet),
        ("ver", json!("4"), TokenFault::Claim("ver")),
        ("ver", json!(-1), TokenFault::Claim("ver")),
    ] {
        let token = hs256(SECRET, &with(&ours(), name, value.clone()));
        assert_eq!(fault(&tokens, &token).await, expected, "{name} {value}");
    }
}

#[tokio::test]
async fn nobody_signs_for_us_without_our_secret_whatever_the_header_says() {
    let (_, tokens) = believed(SHARED);
    assert_eq!(fault(&tokens, &hs256(OTHER, &ours())).await, TokenFault::Signature);
    let pair = Pair::ed();
    assert_eq!(fault(&tokens, &pair.token("k", &ours())).await, TokenFault::Algorithm);
    for alg in ["none", "None", "HS512"] {
        let token = raw(SECRET, &json!({ "alg": alg }).to_string(), &ours().to_string());
        assert_eq!(fault(&tokens, &token).await, TokenFault::Algorithm, "{alg}");
        let (body, _) = token.rsplit_once('.').unwrap();
        assert_eq!(fault(&tokens, &format!("{body}.")).await, TokenFault::Malformed);
    }
    assert_eq!(fault(&tokens, &"x".repeat(9000)).await, TokenFault::Malformed);
}

#[tokio::test]
async fn another_issuers_token_speaks_of_its_user_with_the_mapped_tier() {
    let (_, tokens) = believed(SHARED);
    for secret in [OTHER, "a-third-one-0123456789-0123456789-0123456789"] {
        let checked = check(&tokens, &hs256(secret, &claims())).await.unwrap();
        let Holder::Subject(subject) = &checked.holder else { panic!("{:?}", checked.holder) };
        assert_eq!(subject.issuer, "https://base.example/auth/v1");
        assert_eq!(subject.issuer_name, "base");
        assert_eq!(subject.subject, "0f8fad5b-d9cb-469f-a165-70867728950e");
        assert_eq!(subject.email.as_deref(), Some("ann@example.org"));
        assert_eq!(&*subject.tier, "premium");
        assert!(subject.token.starts_with("sha256:") && subject.token.len() == 71);
        assert_eq!(checked.version, None);
        assert_eq!(tokens.tier(&checked), Ok(Some("premium".into())));
    }
}

#[tokio::test]
async fn a_role_is_a_listed_text_or_there_is_none() {
    let (_, tokens) = believed(SHARED);
    let tier = async |role: Value| {
        let token = hs256(OTHER, &with(&claims(), "app_metadata", json!({ "role": role })));
        let checked = check(&tokens, &token).await?;
        tokens.tier(&checked)
    };
    assert_eq!(tier(json!("free")).await, Ok(Some("free".into())));
    assert_eq!(tier(json!(null)).await, Ok(Some("free".into())), "the default");
    for refused in
        [json!("service_role"), json!("premium"), json!("Gold"), json!(["gold"]), json!(1)]
    {
        assert_eq!(tier(refused.clone()).await, Err(TokenFault::Role), "{refused}");
    }
    let strict = SHARED.replace(", default_tier: free", "");
    let (_, tokens) = believed(&strict);
    let without = hs256(OTHER, &with(&claims(), "app_metadata", Value::Null));
    assert_eq!(fault(&tokens, &without).await, TokenFault::Role);
    assert!(check(&tokens, &hs256(OTHER, &claims())).await.is_ok());
}

#[tokio::test]
async fn another_issuers_token_is_refused_for_any_claim_that_is_not_right() {
    let (_, tokens) = believed(SHARED);
    for (name, value, expected) in [
        ("iss", json!("https://evil.example"), TokenFault::Issuer),
        ("iss", json!("https://base.example/auth/v1/"), TokenFault::Issuer),
        ("aud", json!("anon"), TokenFault::Audience),
        ("aud", Value::Null, TokenFault::Claim("aud")),
        ("sub", Value::Null, TokenFault::Claim("sub")),
        ("sub", json!("x".repeat(257)), TokenFault::Claim("sub")),
        ("exp", json!(999), TokenFault::Expired),
        ("exp", Value::Null, TokenFault::Claim("exp")),
        ("nbf", json!(1100), TokenFault::NotYet),
        ("iat", json!(1.5), TokenFault::Claim("iat")),
    ] {
        let token = hs256(OTHER, &with(&claims(), name, value.clone()));
        assert_eq!(fault(&tokens, &token).await, expected, "{name} {value}");
    }
    assert_eq!(fault(&tokens, &hs256(SECRET, &claims())).await, TokenFault::Signature);
    assert_eq!(fault(&tokens, &Pair::ec().token("k", &claims())).await, TokenFault::Algorithm);
    let ours_from_them = hs256(OTHER, &with(&ours(), "iss", json!("usher")));
    assert_eq!(fault(&tokens, &ours_from_them).await, TokenFault::Signature);
}

#[tokio::test]
async fn a_token_of_the_future_is_not_believed_whoever_made_it() {
    let (_, tokens) = believed(SHARED);
    for (issued, outcome) in [(1030, None), (1031, Some(TokenFault::NotYet))] {
        let foreign = hs256(OTHER, &with(&claims(), "iat", json!(issued)));
        assert_eq!(check(&tokens, &foreign).await.err(), outcome, "{issued}");
        let own = hs256(SECRET, &with(&ours(), "iat", json!(issued)));
        assert_eq!(check(&tokens, &own).await.err(), outcome, "{issued}");
    }
    let (_, tokens) = believed("jwt: { leeway: 60s }");
    let own = hs256(SECRET, &with(&ours(), "iat", json!(1060)));
    assert!(check(&tokens, &own).await.is_ok(), "a longer leeway is meant");
}

#[tokio::test]
async fn another_issuers_tokens_are_good_for_so_long_and_ours_as_long_as_they_were_made_for() {
    const MONTH: i64 = 30 * 86_400;
    let (_, tokens) = believed(SHARED);
    let shorter = SHARED.replace("default_tier", "max_lifetime: 1h, default_tier");
    let (_, strict) = believed(&shorter);
    for (tokens, longest) in [(&tokens, MONTH), (&strict, 3600)] {
        for (lives, outcome) in [(longest + 30, None), (longest + 31, Some(TokenFault::Lifetime))] {
            let token = hs256(OTHER, &with(&claims(), "exp", json!(1000 + lives)));
            assert_eq!(check(tokens, &token).await.err(), outcome, "{lives}");
        }
        let own = hs256(SECRET, &with(&ours(), "exp", json!(1000 + 10 * MONTH)));
        assert!(check(tokens, &own).await.is_ok(), "its maker knows why");
    }
}

#[tokio::test]
async fn an_odd_address_is_no_address_and_no_reason_to_refuse() {
    let (_, tokens) = believed(SHARED);
    for email in [json!("no-at"), json!(7), json!(format!("{}@x", "a".repeat(253))), Value::Null] {
        let token = hs256(OTHER, &with(&claims(), "email", email.clone()));
        let checked = check(&tokens, &token).await.unwrap();
        let Holder::Subject(subject) = &checked.holder else { panic!() };
        assert_eq!(subject.email, None, "{email}");
    }
}

#[tokio::test]
async fn the_end_is_judged_to_the_second_for_remembered_tokens_too() {
    let (_, tokens) = believed("jwt: { leeway: 5s }");
    let token = hs256(SECRET, &with(&ours(), "nbf", json!(1000)));
    for (second, outcome) in [
        (994, Some(TokenFault::NotYet)),
        (995, None),
        (2004, None),
        (2005, Some(TokenFault::Expired)),
        (3000, Some(TokenFault::Expired)),
        (2004, None),
        (994, Some(TokenFault::NotYet)),
    ] {
        assert_eq!(check_at(&tokens, &token, second).await.err(), outcome, "{second}");
    }
    let checked = check(&tokens, &token).await.unwrap();
    assert_eq!(tokens.end_of(&checked), at(2005));
}

#[tokio::test]
async fn a_token_that_was_checked_is_remembered_as_a_whole_and_a_wrong_one_is_not() {
    let (_, tokens) = believed("");
    let token = hs256(SECRET, &ours());
    let first = check(&tokens, &token).await.unwrap();
    let second = check(&tokens, &token).await.unwrap();
    assert!(Arc::ptr_eq(&first, &second), "no second look at the signature");
    let other = hs256(SECRET, &with(&ours(), "sub", json!("2")));
    assert_eq!(token.get(..40), other.get(..40), "they begin alike");
    let other = check(&tokens, &other).await.unwrap();
    assert!(matches!(other.holder, Holder::Token { user: 2, .. }));
    tokens.checked.run_pending_tasks();
    assert_eq!(tokens.checked.entry_count(), 2);
    for wrong in [hs256(OTHER, &ours()), hs256(SECRET, &with(&ours(), "exp", json!(1)))] {
        assert!(check(&tokens, &wrong).await.is_err());
    }
    tokens.checked.run_pending_tasks();
    assert_eq!(tokens.checked.entry_count(), 2);
    assert_eq!(first.lives, Duration::from_secs(1000), "until it ends, and no longer");
}

#[tokio::test]
async fn each_key_of_a_published_set_verifies_its_own_algorithm_beside_a_secret() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("jwks.json");
    let pairs = [Pair::rsa(), Pair::ec(), Pair::ed()];
    let set = json!({ "keys": [pairs[0].public("r"), pairs[1].public("e"), pairs[2].public("d")] });
    fs::write(&file, set.to_string()).unwrap();
    let both =
        SHARED.replace("role_claim", &format!("jwks_file: '{}', role_claim", file.display()));
    let (_, tokens) = believed(&both);
    for (pair, key) in pairs.iter().zip(["r", "e", "d"]) {
        assert!(check(&tokens, &pair.token(key, &claims())).await.is_ok(), "{key}");
        let nameless = pair.sign(&json!({ "alg": pair.algorithm() }), &claims());
        assert!(check(&tokens, &nameless).await.is_ok(), "the only one of its kind");
        let expired = pair.token(key, &with(&claims(), "exp", json!(1)));
        assert_eq!(fault(&tokens, &expired).await, TokenFault::Expired);
    }
    assert!(check(&tokens, &hs256(OTHER, &claims())).await.is_ok(), "and the secret");
    let stranger = Pair::ec();
    assert_eq!(fault(&tokens, &stranger.token("e", &claims())).await, TokenFault::Signature);
    assert_eq!(fault(&tokens, &stranger.token("r", &claims())).await, TokenFault::Algorithm);
    assert_eq!(fault(&tokens, &stranger.token("gone", &claims())).await, TokenFault::Key);
}

#[tokio::test]
async fn a_public_key_is_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("jwks.json");
    let pair = Pair::rsa();
    let public = pair.public("r");
    fs::write(&file, json!({ "keys": [public] }).to_string()).unwrap();
    let issuer = "name: idp, issuer: 'https://base.example/auth/v1', audience: authenticated, default_tier: free";
    let (_, tokens) =
        believed(&format!("issuers: [ {{ {issuer}, jwks_file: '{}' }} ]", file.display()));
    assert!(check(&tokens, &pair.token("r", &claims())).await.is_ok());
    let Pair::Rsa(key) = &pair else { panic!() };
    let der = ring::signature::KeyPair::public_key(key).as_ref().to_vec();
    let modulus = public["n"].as_str().unwrap().to_owned();
    for secret in [public.to_string(), modulus, String::from_utf8_lossy(&der).into_owned()] {
        for header in [json!({ "alg": "HS256", "kid": "r" }), json!({ "alg": "HS256" })] {
            let forged = raw(&secret, &header.to_string(), &claims().to_string());
            assert_eq!(fault(&tokens, &forged).await, TokenFault::Algorithm);
        }
    }
}

#[tokio::test]
async fn an_issuer_whose_keys_change_ends_what_was_remembered_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("jwks.json");
    let (old, new) = (Pair::ed(), Pair::ed());
    let publish =
        |pair: &Pair, name| fs::write(&file, json!({ "keys": [pair.public(name)] }).to_string());
    publish(&old, "old").unwrap();
    let issuer = "name: idp, issuer: 'https://base.example/auth/v1', audience: authenticated, default_tier: free";
    let (config, tokens) =
        believed(&format!("issuers: [ {{ {issuer}, jwks_file: '{}' }} ]", file.display()));
    let old_token = old.token("old", &claims());
    assert!(check(&tokens, &old_token).await.is_ok());
    publish(&new, "new").unwrap();
    let new_token = new.token("new", &claims());
    assert!(check(&tokens, &old_token).await.is_ok(), "nobody has looked yet");
    assert_eq!(
        fault(&tokens, &new_token).await,
        TokenFault::Key,
        "the last look because of a key was a moment ago"
    );
    let again = Tokens::load(&config, Some(&tokens)).unwrap_or_else(|bad| panic!("{bad}"));
    assert!(check(&again, &old_token).await.is_ok(), "a reload keeps the keys");
    let anew = Tokens::load(&config, None).unwrap_or_else(|bad| panic!("{bad}"));
    assert!(check(&anew, &new_token).await.is_ok());
    assert_eq!(fault(&anew, &old_token).await, TokenFault::Key);
}

#[tokio::test]
async fn keys_that_cannot_be_had_are_no_reason_to_call_a_token_wrong() {
    let issuer = "name: idp, issuer: 'https://base.example/auth/v1', audience: authenticated, default_tier: free";
    let (_, tokens) = believed(&format!("issuers: [ {{ {issuer}, jwks_file: /nowhere/jwks }} ]"));
    let token = Pair::ed().token("k", &claims());
    let doubt = tokens.check(&token, at(1000)).await.err().unwrap();
    let Doubt::Unavailable(unavailable) = doubt else { panic!("{doubt:?}") };
    assert_eq!(unavailable.0, "the keys of issuer idp cannot be had");
    let forged = hs256(OTHER, &claims());
    assert_eq!(fault(&tokens, &forged).await, TokenFault::Algorithm);
}

#[tokio::test]
async fn what_one_set_refuses_another_that_cannot_be_had_may_know() {
    crate::server::prepare_tls();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("jwks.json");
    fs::write(&file, json!({ "keys": [Pair::ed().public("k")] }).to_string()).unwrap();
    let issuer = format!(
        "name: idp, issuer: 'https://base.example/auth/v1', audience: authenticated, \
         default_tier: free, jwks_url: 'https://127.0.0.1:1/jwks', jwks_file: '{}'",
        file.display()
    );
    let (_, tokens) = believed(&format!("issuers: [ {{ {issuer} }} ]"));
    let token = Pair::ed().token("k", &claims());
    // the first look fills the file's memory
    for _ in 0..2 {
        let doubt = tokens.check(&token, at(1000)).await.err().unwrap();
        assert!(matches!(doubt, Doubt::Unavailable(_)), "{doubt:?}");
    }
}

#[tokio::test]
async fn a_token_of_8_kib_is_believed_and_a_longer_one_is_not() {
    let (_, tokens) = believed("");
    let padded = |length| hs256(SECRET, &with(&ours(), "pad", json!("x".repeat(length))));
    let of = |size| (5000..7000).map(padded).find(|token| token.len() == size).unwrap();
    assert!(check(&tokens, &of(8192)).await.is_ok());
    assert_eq!(fault(&tokens, &of(8193)).await, TokenFault::Malformed);
}

#[tokio::test]
async fn a_token_is_forgotten_once_it_is_over() {
    let (_, tokens) = believed("");
    let now = Timestamp::now();
    let token = hs256(SECRET, &with(&ours(), "exp", json!(now.as_second() + 1)));
    tokens.check(&token, now).await.unwrap_or_else(|doubt| panic!("{doubt:?}"));
    let remembered = || {
        tokens.checked.run_pending_tasks();
        tokens.checked.entry_count()
    };
    assert_eq!(remembered(), 1);
    let patience = Instant::now() + Duration::from_secs(20);
    while remembered() > 0 {
        assert!(Instant::now() < patience, "it is still there");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_key_that_was_withdrawn_ends_the_tokens_that_were_remembered_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("jwks.json");
    let (old, new) = (Pair::ed(), Pair::ed());
    let publish = |pair: &Pair, name| {
        fs::write(&file, json!({ "keys": [pair.public(name)] }).to_string()).unwrap();
    };
    publish(&old, "old");
    let (_, tokens) = believed(&format!(
        "issuers: [ {{ name: idp, issuer: 'https://base.example/auth/v1', \
         audience: authenticated, default_tier: free, jwks_file: '{}' }} ]",
        file.display()
    ));
    tokens.keep_fresh();
    while tokens.issuers[0].state() == 0 {
        tokio::task::yield_now().await;
    }
    let old_token = old.token("old", &claims());
    for _ in 0..2 {
        assert!(check(&tokens, &old_token).await.is_ok());
    }
    publish(&new, "new");
    assert!(check(&tokens, &new.token("new", &claims())).await.is_ok(), "it is looked for");
    assert_eq!(fault(&tokens, &old_token).await, TokenFault::Key);
}
