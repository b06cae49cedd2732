use super::*;
use crate::auth::tests::{OTHER, SECRET, raw, with};
use jsonwebtoken::DecodingKey;
use proptest::prelude::*;
use serde_json::json;

const PLAIN: &str = r#"{"alg":"HS256"}"#;

fn fault(token: &str) -> Option<TokenFault> {
    Token::parse(token).err()
}

fn header_fault(header: &str) -> Option<TokenFault> {
    fault(&raw(SECRET, header, "{}"))
}

/// Claims as they are read.
fn reading<T>(claims: &Value, read: impl FnOnce(&Token<'_>) -> T) -> T {
    let token = raw(SECRET, PLAIN, &claims.to_string());
    read(&Token::parse(&token).unwrap_or_else(|fault| panic!("{fault}: {claims}")))
}

#[test]
fn a_token_is_three_parts_of_canonical_base64() {
    let good = raw(SECRET, PLAIN, "{}");
    assert!(looks_like_one(&good) && fault(&good).is_none());
    let [header, claims, signature] = good.split('.').collect::<Vec<_>>()[..] else { panic!() };
    for bad in [
        String::new(),
        header.to_owned(),
        format!("{header}.{claims}"),
        format!("{header}.{claims}."),
        format!("{header}..{signature}"),
        format!(".{claims}.{signature}"),
        format!("{header}.{claims}.{signature}.{signature}"),
        format!("{header}.{claims}.{claims}.{signature}.{signature}"),
        format!("{header}=.{claims}.{signature}"),
        format!("{header} .{claims}.{signature}"),
        // `{}` is `e30`; `e31` decodes alike, but nobody encodes it so
        format!("{header}.e31.{signature}"),
        format!("e30.{claims}.{signature}"),
        format!("W10.{claims}.{signature}"),
        ".".repeat(1_000_000),
    ] {
        assert!(fault(&bad).is_some(), "{bad:.80}");
    }
    assert_eq!(fault(&format!("{header}.{claims}.")), Some(TokenFault::Malformed));
}

#[test]
fn a_token_of_8_kib_is_looked_at_and_a_longer_one_is_not() {
    let fill = |length: usize| raw(SECRET, PLAIN, &format!("{{\"a\":\"{}\"}}", "x".repeat(length)));
    let longest = (6000..7000).rev().map(fill).find(|token| token.len() <= LONGEST).unwrap();
    assert!(longest.len() > LONGEST - 4);
    assert_eq!(fault(&longest), None);
    let longer = (6000..7000).map(fill).find(|token| token.len() > LONGEST).unwrap();
    assert_eq!(fault(&longer), Some(TokenFault::Malformed));
}

#[test]
fn the_look_of_a_token_is_a_json_object_and_a_dot() {
    for (text, may_be) in [
        ("eyJhbGciOiJIUzI1NiJ9.e30.c2ln", true),
        ("eyJ..", true),
        ("eyJ.", true),
        ("eyJ...", true),
        ("eyJ", false),
        ("ewok", false),
        ("sk-a.b.c", false),
        ("usk_x", false),
        ("", false),
    ] {
        assert_eq!(looks_like_one(text), may_be, "{text}");
    }
    for space in ["", " ", "  ", "\t", "\n", "\r\n"] {
        let token = raw(SECRET, &format!("{{{space}\"alg\":\"HS256\"}}"), "{}");
        assert!(looks_like_one(&token), "{token}");
        assert_eq!(fault(&token), None, "JSON may have space there");
    }
}

#[test]
fn the_algorithm_is_one_of_four_in_their_one_spelling() {
    for (name, algorithm) in [
        ("HS256", Algorithm::HS256),
        ("RS256", Algorithm::RS256),
        ("ES256", Algorithm::ES256),
        ("EdDSA", Algorithm::EdDSA),
    ] {
        let token = raw(SECRET, &format!("{{\"alg\":\"{name}\"}}"), "{}");
        assert_eq!(Token::parse(&token).unwrap().algorithm(), algorithm);
    }
    for bad in ["none", "None", "NONE", "nOnE", "", "hs256", "HS384", "HS512", "RS512", "ES384"] {
        let header = format!("{{\"alg\":\"{bad}\"}}");
        assert_eq!(header_fault(&header), Some(TokenFault::Algorithm), "{bad}");
    }
    for bad in
        ["{}", r#"{"alg":null}"#, r#"{"alg":["HS256"]}"#, r#"{"alg":256}"#, r#"{"Alg":"HS256"}"#]
    {
        assert_eq!(header_fault(bad), Some(TokenFault::Algorithm), "{bad}");
    }
}

#[test]
fn a_header_that_asks_for_more_than_a_signature_is_refused() {
    for name in ["b64", "crit", "cty", "enc", "jku", "jwk", "x5c", "x5t", "x5t#S256", "x5u", "zip"]
    {
        for value in ["null", "[]", "\"x\"", "{}", "true"] {
            let header = format!("{{\"alg\":\"HS256\",\"{name}\":{value}}}");
            assert_eq!(header_fault(&header), Some(TokenFault::Header(name)), "{header}");
        }
    }
    assert_eq!(header_fault(r#"{"alg":"HS256","unknown":1}"#), None, "RFC 7515, 4");
    assert_eq!(
        header_fault(r#"{"alg":"HS256","alg":"none"}"#),
        Some(TokenFault::Malformed),
        "which one?"
    );
}

#[test]
fn a_token_made_for_another_purpose_is_refused() {
    for kind in ["JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt"] {
        assert_eq!(header_fault(&json!({ "alg": "HS256", "typ": kind }).to_string()), None);
    }
    for kind in [json!("dpop+jwt"), json!("secevent+jwt"), json!("JWE"), json!(""), json!(1)] {
        let header = json!({ "alg": "HS256", "typ": kind }).to_string();
        assert_eq!(header_fault(&header), Some(TokenFault::Header("typ")), "{header}");
    }
}

#[test]
fn the_name_of_a_key_is_short_text() {
    let named = |id: &Value| raw(SECRET, &json!({ "alg": "HS256", "kid": id }).to_string(), "{}");
    for id in ["k", "../../etc/passwd", "' OR 1=1 --", &"k".repeat(128)] {
        let token = named(&json!(id));
        assert_eq!(Token::parse(&token).unwrap().key_id(), Some(id));
    }
    let bad = [json!(""), json!("k".repeat(129)), json!("a\nb"), json!(1), json!(["k"]), json!({})];
    for id in bad {
        assert_eq!(fault(&named(&id)), Some(TokenFault::Header("kid")), "{id}");
    }
}

#[test]
fn a_signature_is_of_the_very_bytes_and_of_one_key() {
    let token = raw(SECRET, PLAIN, r#"{"sub":"1"}"#);
    let key = |secret: &str| DecodingKey::from_secret(secret.as_bytes());
    let signed = |token: &str, secret| Token::parse(token).unwrap().is_signed_by(&key(secret));
    assert!(signed(&token, SECRET));
    assert!(!signed(&token, OTHER));
    let (body, _) = token.rsplit_once('.').unwrap();
    assert_eq!(Token::parse(&token).unwrap().signed(), body);
    for signature in ["A", "AA", &"A".repeat(43), &"A".repeat(8000 - body.len())] {
        assert!(!signed(&format!("{body}.{signature}"), SECRET), "{signature:.50}");
    }
    let forged = raw(OTHER, PLAIN, r#"{"sub":"2"}"#);
    let (other, _) = forged.rsplit_once('.').unwrap();
    let (_, made) = token.rsplit_once('.').unwrap();
    assert!(!signed(&format!("{other}.{made}"), SECRET));
}

#[test]
fn a_moment_is_a_whole_number_of_seconds_in_this_age() {
    for (value, moment) in [
        (json!(0), Ok(Some(0))),
        (json!(1_700_000_000), Ok(Some(1_700_000_000))),
        (json!(LAST_SECOND), Ok(Some(LAST_SECOND))),
        (json!(LAST_SECOND + 1), Err(TokenFault::Claim("exp"))),
        (json!(u64::MAX), Err(TokenFault::Claim("exp"))),
        (json!(-1), Err(TokenFault::Claim("exp"))),
        (json!(1.5), Err(TokenFault::Claim("exp"))),
        (json!(1e308), Err(TokenFault::Claim("exp"))),
        (json!("1700000000"), Err(TokenFault::Claim("exp"))),
        (json!("never"), Err(TokenFault::Claim("exp"))),
        (json!(null), Err(TokenFault::Claim("exp"))),
        (json!([1]), Err(TokenFault::Claim("exp"))),
        (json!(true), Err(TokenFault::Claim("exp"))),
    ] {
        let claims = json!({ "exp": value });
        let read = reading(&claims, |token| (token.optional_moment("exp"), token.moment("exp")));
        assert_eq!(read.0, moment, "{claims}");
        assert_eq!(read.1.ok(), moment.ok().flatten());
    }
    let none = reading(&json!({}), |token| (token.optional_moment("nbf"), token.moment("exp")));
    assert_eq!(none, (Ok(None), Err(TokenFault::Claim("exp"))));
}

#[test]
fn an_audience_is_one_text_or_a_list_of_texts() {
    for (audience, outcome) in [
        (json!("us"), Ok(())),
        (json!(["them", "us"]), Ok(())),
        (json!("them"), Err(TokenFault::Audience)),
        (json!("US"), Err(TokenFault::Audience)),
        (json!(["them"]), Err(TokenFault::Audience)),
        (json!([]), Err(TokenFault::Audience)),
        (json!(["us", 1]), Err(TokenFault::Claim("aud"))),
        (json!({ "us": true }), Err(TokenFault::Claim("aud"))),
        (json!(null), Err(TokenFault::Claim("aud"))),
    ] {
        let claims = json!({ "aud": audience });
        assert_eq!(reading(&claims, |token| token.is_for("us")), outcome, "{claims}");
    }
    assert_eq!(reading(&json!({}), |token| token.is_for("us")), Err(TokenFault::Claim("aud")));
}

#[test]
fn a_name_is_text_that_fits_on_a_line() {
    let sub = |value: Value| reading(&json!({ "sub": value }), |token| token.text("sub").is_ok());
    assert!(sub(json!("7")) && sub(json!("x".repeat(256))));
    for bad in [json!(""), json!("x".repeat(257)), json!("a\u{0}b"), json!(7), json!(["7"])] {
        assert!(!sub(bad.clone()), "{bad}");
    }
    let claims = json!({ "iss": "us", "Sub": "7" });
    assert_eq!(reading(&claims, |token| token.issuer().map(str::to_owned)), Ok("us".to_owned()));
    assert!(reading(&claims, |token| token.text("sub").is_err()), "case matters");
    assert!(reading(&with(&claims, "iss", json!(["us"])), |token| token.issuer().is_err()));
}

#[test]
fn a_claim_is_found_at_the_end_of_its_path() {
    let claims = json!({ "app_metadata": { "role": "x", "deep": [{ "a": 1 }] }, "role": "y" });
    let at = |path: &str| {
        let steps: Vec<String> = path.split('.').map(str::to_owned).collect();
        reading(&claims, |token| token.at(&steps).cloned())
    };
    assert_eq!(at("role"), Some(json!("y")));
    assert_eq!(at("app_metadata.role"), Some(json!("x")));
    assert_eq!(at("app_metadata.deep"), Some(json!([{ "a": 1 }])));
    for absent in ["roles", "app_metadata.roles", "role.x", "app_metadata.deep.0"] {
        assert_eq!(at(absent), None, "{absent}");
    }
    assert_eq!(reading(&claims, |token| token.at(&[]).cloned()), None);
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in any::<String>(), parts in "eyJ[A-Za-z0-9_-]{0,40}(\\.[A-Za-z0-9_=-]{0,40}){0,4}") {
        let _ = Token::parse(&text);
        let _ = Token::parse(&parts);
    }

    #[test]
    fn what_parses_is_what_was_made(sub in "[a-z0-9|@-]{1,40}", exp in 0..LAST_SECOND) {
        let token = raw(SECRET, PLAIN, &json!({ "sub": sub, "exp": exp }).to_string());
        let parsed = Token::parse(&token).unwrap();
        prop_assert_eq!(parsed.text("sub"), Ok(sub.as_str()));
        prop_assert_eq!(parsed.moment("exp"), Ok(exp));
    }
}
