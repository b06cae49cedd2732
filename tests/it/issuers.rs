//! Tokens that others make: as Supabase signs them, and with keys that an issuer publishes.

mod published;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jiff::Timestamp;
use ring::hmac;
use serde_json::{Value, json};

use crate::support::gateway::{Gateway, gateway};
use crate::support::http::Answer;
use crate::support::sim::{Sim, sim};
use crate::support::{chat, eventually};

const SECRET: &str = "c3VwYWJhc2UncyBzZWNyZXQgZm9yIHRoZXNlIHRlc3RzIGFsb25l";
const ISSUER: &str = "https://project.supabase.co/auth/v1";

/// A gateway that believes Supabase. `tiers` are those of the test, if it has any.
fn base(settings: &str, tiers: Option<&str>) -> (Sim, Gateway) {
    let instance = sim().args(&["--speed", "50"]).start();
    let issuer = format!(
        "auth: {{ issuers: [ {{ name: supabase, issuer: '{ISSUER}', audience: authenticated, \
         role_claim: role, roles: {{ free: free, premium: premium }}, {settings} }} ] }}"
    );
    let builder = gateway().upstream("gpu0", &instance.url()).config(&issuer);
    let builder = if let Some(tiers) = tiers { builder.config(tiers) } else { builder };
    (instance, builder.start())
}

fn encode(part: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(part)
}

fn sign(secret: &[u8], header: &Value, claims: &Value) -> String {
    let signed = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
    let made = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes());
    format!("{signed}.{}", encode(made))
}

fn hs256(claims: &Value) -> String {
    sign(SECRET.as_bytes(), &json!({ "alg": "HS256", "typ": "JWT" }), claims)
}

fn claims() -> Value {
    let now = Timestamp::now().as_second();
    json!({
        "iss": ISSUER,
        "aud": "authenticated",
        "sub": "0f8fad5b-d9cb-469f-a165-70867728950e",
        "email": "ann@example.org",
        "role": "premium",
        "iat": now,
        "exp": now + 3600,
    })
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn me(gateway: &Gateway, token: &str) -> Answer {
    gateway.get("/auth/me").bearer(token).send()
}

#[test]
fn a_token_of_supabase_gets_the_limits_of_its_role() {
    // those that a file without tiers has
    let tiers = "tiers: { free: { requests: 100/h }, premium: { requests: 1000/h } }";
    let (_instance, gateway) = base(&format!("secrets: ['{SECRET}']"), Some(tiers));
    let token = hs256(&claims());
    let answer = me(&gateway, &token);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = answer.json();
    assert_eq!(seen["tier"], "premium");
    assert_eq!(seen["username"], "supabase+0f8fad5b-d9cb-469f-a165-70867728950e");
    assert_eq!(seen["email"], "ann@example.org");
    assert_eq!(seen["issuer"], ISSUER);
    assert_eq!(seen["subject"], "0f8fad5b-d9cb-469f-a165-70867728950e");
    assert_eq!(seen["limits"]["requests"], "1000/hour");
    assert_eq!(seen["limits"]["concurrency"], 8);
    let answer = gateway.post("/v1/chat/completions", &chat("llama3.2")).bearer(&token).send();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("x-ratelimit-limit-requests"), Some("1000"));
    let free = me(&gateway, &hs256(&with("role", json!("free")))).json();
    assert_eq!((&free["tier"], &free["user_id"]), (&json!("free"), &seen["user_id"]));
    assert_eq!(free["limits"]["requests"], "100/hour", "each token's own word, each time");
}

#[test]
fn a_token_of_supabase_that_is_not_right_is_refused() {
    let (_instance, gateway) = base(&format!("secrets: ['{SECRET}']"), None);
    let header = json!({ "alg": "HS256", "typ": "JWT" });
    let none = format!("{}.{}.", encode(r#"{"alg":"none"}"#), encode(claims().to_string()));
    for (what, token) in [
        ("wrong audience", hs256(&with("aud", json!("anon")))),
        ("wrong issuer", hs256(&with("iss", json!("https://other.supabase.co/auth/v1")))),
        ("no algorithm", none),
        ("another secret", sign(b"another secret, as long as it has to be", &header, &claims())),
        ("service role", hs256(&with("role", json!("service_role")))),
        ("no role", hs256(&with("role", Value::Null))),
        ("not yet", hs256(&with("nbf", json!(Timestamp::now().as_second() + 600)))),
        ("no expiry", hs256(&with("exp", Value::Null))),
        ("critical", sign(SECRET.as_bytes(), &json!({ "alg": "HS256", "crit": ["x"] }), &claims())),
    ] {
        let answer = me(&gateway, &token);
        assert_eq!((answer.status, answer.detail().as_str()), (401, "Invalid token"), "{what}");
    }
    let expired = me(&gateway, &hs256(&with("exp", json!(Timestamp::now().as_second() - 1))));
    assert_eq!((expired.status, expired.detail().as_str()), (401, "Token expired"));
    let users = gateway.home().usher_json(&["users", "list"]);
    assert_eq!(users["data"].as_array().unwrap().len(), 1, "nobody was made of this");
}

#[test]
fn a_user_of_another_issuer_is_disabled_and_tiered_like_any_other() {
    let (_instance, gateway) = base(&format!("secrets: ['{SECRET}']"), None);
    let token = hs256(&claims());
    let name = me(&gateway, &token).json()["username"].as_str().unwrap().to_owned();
    let home = gateway.home();
    assert_eq!(home.usher_json(&["users", "show", &name])["issuer"], ISSUER);
    home.usher_json(&["users", "set-tier", &name, "free"]);
    eventually("the given tier holds", || me(&gateway, &token).json()["tier"] == "free");
    home.usher_json(&["users", "disable", &name]);
    eventually("nobody comes in", || me(&gateway, &token).status == 401);
    home.usher_json(&["users", "enable", &name]);
    eventually("the token goes on", || me(&gateway, &token).status == 200);
    assert_eq!(gateway.request("POST", "/auth/logout").bearer(&token).send().status, 204);
    assert_eq!(me(&gateway, &token).status, 401, "that one is over");
    assert_eq!(me(&gateway, &hs256(&with("session", json!(2)))).status, 200, "another is not");
    let password = home.feed(&["users", "set-password", &name, "--password-stdin"], "twelve bytes");
    assert!(!password.status.success(), "passwords are the issuer's business");
    let minted = home.usher(&["token", "--user", &name]);
    assert!(!minted.status.success());
}
