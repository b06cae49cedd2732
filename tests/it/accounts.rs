//! People: logging in, tokens, and the ends of both, as a new user meets them.

mod attempts;
mod fail2ban;
mod starting;

use std::process::Command;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::support::gateway::{Builder, Gateway, gateway};
use crate::support::http::{Answer, Request};
use crate::support::sim::{Sim, sim};
use crate::support::{chat, eventually};

const FAST: [&str; 2] = ["--speed", "50"];
const PASSWORD: &str = "correct horse battery staple";

/// A gateway with an instance, and Ann, who has a password.
fn house(further: impl FnOnce(Builder) -> Builder) -> (Sim, Gateway) {
    let instance = sim().args(&FAST).start();
    let builder =
        gateway().upstream_with("gpu0", &instance.url(), "slots: 4").user("ann", "premium");
    let gateway = further(builder).start();
    gateway.home().set_password("ann", PASSWORD);
    (instance, gateway)
}

fn login(gateway: &Gateway, name: &str, password: &str) -> Answer {
    gateway.post("/auth/login", &json!({ "username": name, "password": password })).send()
}

/// Ann's token.
fn token(gateway: &Gateway) -> String {
    let answer = login(gateway, "ann", PASSWORD);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["access_token"].as_str().unwrap().to_owned()
}

fn me(gateway: &Gateway, token: &str) -> Answer {
    gateway.get("/auth/me").bearer(token).send()
}

/// Status and reason of a no; a yes has no reason.
fn refused(answer: &Answer) -> (u16, String) {
    let detail = if answer.status < 400 { String::new() } else { answer.detail() };
    (answer.status, detail)
}

fn invalid() -> (u16, String) {
    (401, "Invalid token".to_owned())
}

#[test]
fn somebody_logs_in_with_curl_and_uses_the_token_with_an_openai_client() {
    let (_instance, gateway) = house(|it| it);
    let curl = |arguments: &[&str]| {
        let url = gateway.url();
        let arguments = arguments.iter().map(|argument| argument.replace("URL", &url));
        let output = Command::new("curl").args(["-s", "--noproxy", "*"]).args(arguments).output();
        String::from_utf8(output.expect("curl runs").stdout).expect("an answer is text")
    };
    let body = json!({ "username": "ann", "password": PASSWORD }).to_string();
    let json = "Content-Type: application/json";
    let answer: Value =
        serde_json::from_str(&curl(&["URL/auth/login", "-H", json, "-d", &body])).unwrap();
    assert_eq!(answer["token_type"], "bearer");
    assert_eq!(answer["expires_in"], 86_400);
    let token = answer["access_token"].as_str().unwrap();
    let bearer = format!("Authorization: Bearer {token}");
    let question = chat("llama3.2").to_string();
    let said = curl(&["URL/v1/chat/completions", "-H", &bearer, "-H", json, "-d", &question]);
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["object"], "chat.completion", "{said}");
    let form = curl(&[
        "URL/auth/login",
        "-d",
        "username=ann",
        "--data-urlencode",
        &format!("password={PASSWORD}"),
    ]);
    assert!(form.contains("access_token"), "{form}");
}

#[test]
fn a_caller_is_told_who_it_is_however_that_was_proven() {
    let (_instance, gateway) = house(|it| it);
    let token = token(&gateway);
    let answer = me(&gateway, &token);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let by_token = answer.json();
    let by_key = gateway.get("/auth/me").key(gateway.key("ann")).send().json();
    assert_eq!(by_token["username"], "ann");
    assert_eq!(by_token["tier"], "premium");
    assert_eq!((&by_token["method"], &by_key["method"]), (&json!("jwt"), &json!("api_key")));
    assert_eq!((&by_token["key_id"], by_key["key_id"].is_i64()), (&Value::Null, true));
    assert_eq!(by_token["user_id"], by_key["user_id"]);
    assert_eq!(by_token["limits"]["concurrency"], 8);
    for absent in ["email", "issuer", "subject"] {
        assert_eq!(by_token[absent], Value::Null);
    }
    let request = gateway.get("/api/tags").bearer(&token).header("X-Request-Id", "with-a-token");
    assert_eq!(request.send().status, 200);
    let line = gateway.access_line("with-a-token");
    assert_eq!(line["user_id"], by_key["user_id"]);
    assert!(line.get("key_id").is_none(), "there was no key: {line}");
    assert_eq!(line["tier"], "premium");
    assert_eq!(gateway.get("/auth/me").send().status, 401);
}

#[test]
fn a_wrong_password_and_an_unknown_name_are_answered_alike() {
    let (_instance, gateway) = house(|it| it.user("bob", "free").user("eve", "free"));
    gateway.home().set_password("eve", PASSWORD);
    gateway.home().usher_json(&["users", "disable", "eve"]);
    let answers = [
        login(&gateway, "ann", "wrong horse battery staple"),
        login(&gateway, "nobody", PASSWORD),
        login(&gateway, "bob", PASSWORD),
        login(&gateway, "eve", PASSWORD),
        login(&gateway, "", ""),
    ];
    for answer in &answers {
        assert_eq!(refused(answer), (401, "Incorrect username or password".to_owned()));
        assert_eq!(answer.text(), r#"{"detail":"Incorrect username or password"}"#);
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    }
    eventually("the log says why", || {
        let lines = gateway.security_lines().join("\n");
        ["wrong password", "unknown user", "user disabled"].iter().all(|why| lines.contains(why))
    });
    let lines = gateway.log().join("\n");
    assert!(!lines.contains("nobody") && !lines.contains("horse"), "{lines}");
}

#[test]
fn a_body_that_is_no_login_is_refused_with_the_field_and_without_its_value() {
    let (_instance, gateway) = house(|it| it.config("auth: { login: { attempts: 100/min } }"));
    let send = |kind: &str, body: &str| {
        let request = gateway.request("POST", "/auth/login");
        request.header("Content-Type", kind).body(body).send()
    };
    let json = "application/json";
    for (kind, body, detail) in [
        (json, r#"{"username":"ann"}"#, "field 'password': text is missing"),
        (
            json,
            r#"{"username":"ann","password":"x","tier":"admin"}"#,
            "field 'tier': is not known here",
        ),
        (json, r#"{"username":["ann"],"password":"x"}"#, "field 'username': text is missing"),
    ] {
        assert_eq!(refused(&send(kind, body)), (400, detail.to_owned()), "{body}");
    }
    assert_eq!(send("text/xml", "<x/>").status, 400);
    assert_eq!(send(json, "hunter2").status, 400);
    let long = json!({ "username": "ann", "password": "x".repeat(1025) }).to_string();
    assert_eq!(send(json, &long).detail(), "field 'password': a password has at most 1024 bytes");
    assert_eq!(send(json, &"x".repeat(9000)).status, 413);
    let query = format!("/auth/login?username=ann&password={}", PASSWORD.replace(' ', "%20"));
    assert_eq!(gateway.request("POST", &query).send().status, 400, "never a query");
    assert_eq!(gateway.get("/auth/login").send().status, 405);
    assert_eq!(gateway.request("POST", "/auth/login/").send().status, 404);
    assert!(!gateway.log().join("\n").contains("hunter2"));
}

#[test]
fn a_token_ends_to_the_second_though_it_was_accepted_before() {
    let (_instance, gateway) = house(|it| it);
    let made = gateway.home().usher_json(&["token", "--user", "ann", "--ttl", "2s"]);
    assert_eq!((&made["token_type"], &made["expires_in"]), (&json!("bearer"), &json!(2)));
    let token = made["access_token"].as_str().unwrap();
    let end = claims(token)["exp"].as_i64().unwrap();
    let mut over = false;
    eventually("it ends", || {
        let before = Timestamp::now();
        let answer = me(&gateway, token);
        let after = Timestamp::now();
        over = answer.status != 200;
        if over {
            assert_eq!(refused(&answer), (401, "Token expired".to_owned()));
            assert!(after.as_second() >= end, "not a moment earlier");
        } else {
            assert!(before.as_second() < end, "not a moment later");
        }
        over
    });
    assert_eq!(me(&gateway, token).detail(), "Token expired");
    let brief = gateway.home().usher_json(&["token", "--user", "ann", "--ttl", "1s"]);
    let brief = brief["access_token"].as_str().unwrap();
    let claims = claims(brief);
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 1);
    eventually("a second is over", || refused(&me(&gateway, brief)).1 == "Token expired");
}

/// What a token says, without looking at its signature.
fn claims(token: &str) -> Value {
    use base64::Engine;
    let part = token.split('.').nth(1).unwrap();
    let json = base64::prelude::BASE64_URL_SAFE_NO_PAD.decode(part).unwrap();
    serde_json::from_slice(&json).unwrap()
}

#[test]
fn a_token_command_makes_tokens_for_those_who_may_have_them() {
    let (_instance, gateway) = house(|it| it.user("eve", "free"));
    let home = gateway.home();
    let plain = home.usher(&["token", "--user", "ann", "--ttl", "1h"]);
    let token = String::from_utf8(plain.stdout).unwrap();
    assert_eq!(me(&gateway, token.trim_end()).status, 200, "it prints the token and no more");
    home.usher_json(&["users", "disable", "eve"]);
    for (arguments, complaint) in [
        (&["token", "--user", "nobody"][..], "usher: there is no user 'nobody'"),
        (&["token", "--user", "eve"], "usher: 'eve' is disabled, so no token would open anything"),
    ] {
        let output = home.usher(arguments);
        assert_eq!(String::from_utf8_lossy(&output.stderr).trim_end(), complaint);
        assert_eq!(output.status.code(), Some(1));
    }
    assert_eq!(home.usher(&["token", "--user", "ann", "--ttl", "500ms"]).status.code(), Some(2));
}

#[test]
fn a_token_is_made_without_asking_an_issuer_that_publishes_its_keys() {
    let (_instance, gateway) = house(|it| {
        it.config(
            "auth: { issuers: [ { name: idp, issuer: 'https://id.example', audience: usher, \
             jwks_url: 'https://127.0.0.1:1/jwks?key=hidden', default_tier: free } ] }",
        )
    });
    let made = gateway.home().usher_json(&["token", "--user", "ann"]);
    assert_eq!(me(&gateway, made["access_token"].as_str().unwrap()).status, 200);
}

#[test]
fn a_logout_ends_that_token_at_once_and_no_other() {
    let (_instance, gateway) = house(|it| it);
    let (one, two) = (token(&gateway), token(&gateway));
    assert_eq!(me(&gateway, &one).status, 200);
    let out = || gateway.request("POST", "/auth/logout").bearer(&one).send();
    assert_eq!(out().status, 204);
    assert_eq!(refused(&me(&gateway, &one)), invalid());
    assert_eq!(refused(&out()), invalid());
    assert_eq!(me(&gateway, &two).status, 200);
    let by_key = gateway.request("POST", "/auth/logout").key(gateway.key("ann")).send();
    assert_eq!(by_key.status, 400, "{}", by_key.text());
    assert_eq!(gateway.get("/auth/me").key(gateway.key("ann")).send().status, 200);
}

#[test]
fn what_was_ended_stays_ended_when_the_process_was_killed() {
    let (_instance, mut gateway) = house(|it| it);
    let (one, two) = (token(&gateway), token(&gateway));
    assert_eq!(gateway.request("POST", "/auth/logout").bearer(&one).send().status, 204);
    gateway.signal("KILL");
    gateway.start_again();
    eventually("it answers again", || me(&gateway, &two).status == 200);
    assert_eq!(refused(&me(&gateway, &one)), invalid());
    gateway.home().usher_json(&["users", "disable", "ann"]);
    eventually("disabled", || refused(&me(&gateway, &two)) == invalid());
    gateway.signal("KILL");
    gateway.start_again();
    eventually("it is known", || refused(&me(&gateway, &two)) == invalid());
    assert_eq!(me(&gateway, &two).status, 401, "not for a moment more");
}

#[test]
fn a_changed_password_tier_or_account_ends_tokens_within_a_second_or_so() {
    let (_instance, gateway) = house(|it| it.config("auth: { login: { attempts: 100/min } }"));
    let home = gateway.home();
    let dead = |token: &str, what: &str| {
        eventually(what, || refused(&me(&gateway, token)) == invalid());
    };
    let first = token(&gateway);
    home.set_password("ann", "another horse battery staple");
    dead(&first, "a new password ends tokens");
    assert_eq!(login(&gateway, "ann", PASSWORD).status, 401, "the old one is over");
    home.set_password("ann", PASSWORD);
    let second = token(&gateway);
    home.usher_json(&["users", "set-tier", "ann", "free"]);
    dead(&second, "a new tier ends tokens");
    let third = token(&gateway);
    assert_eq!(me(&gateway, &third).json()["tier"], "free");
    home.usher_json(&["users", "disable", "ann"]);
    dead(&third, "disabling ends tokens");
    assert_eq!(login(&gateway, "ann", PASSWORD).status, 401);
    home.usher_json(&["users", "enable", "ann"]);
    assert_eq!(login(&gateway, "ann", PASSWORD).status, 200);
    assert_eq!(refused(&me(&gateway, &third)), invalid(), "for good");
    let key = gateway.get("/auth/me").key(gateway.key("ann")).send();
    assert_eq!(key.status, 200, "keys go on");
}

#[test]
fn a_token_has_the_rights_of_its_user_and_no_more() {
    let (_instance, gateway) = house(|it| it);
    let ann = token(&gateway);
    let denied = gateway.get("/admin/upstreams").bearer(&ann).send();
    assert_eq!(
        refused(&denied),
        (403, "Role 'premium' not authorized for this endpoint".to_owned())
    );
    gateway.home().set_password("admin", PASSWORD);
    let admin = login(&gateway, "admin", PASSWORD).json();
    let admin = admin["access_token"].as_str().unwrap();
    assert_eq!(gateway.get("/admin/upstreams").bearer(admin).send().status, 200);
}

#[test]
fn a_token_is_refused_for_whatever_is_not_right_about_it() {
    let (_instance, gateway) = house(|it| it);
    let good = token(&gateway);
    let [header, claims, signature] = good.split('.').collect::<Vec<_>>()[..] else { panic!() };
    let other = token(&gateway);
    let other = other.split('.').nth(1).unwrap();
    // {"alg":"none"}
    let none = "eyJhbGciOiJub25lIn0";
    for bad in [
        format!("{header}.{claims}."),
        format!("{none}.{claims}."),
        format!("{none}.{claims}.{signature}"),
        format!("{header}.{other}.{signature}"),
        format!("{header}.{claims}.{}", "A".repeat(43)),
        format!("{header}.{claims}.{}", "A".repeat(9000)),
    ] {
        assert_eq!(refused(&me(&gateway, &bad)), invalid(), "{bad:.200}");
    }
    let twice = gateway.get("/auth/me").bearer(&good).bearer(&good).send();
    assert_eq!(twice.status, 400);
    assert_eq!(me(&gateway, &good).status, 200);
    eventually("failures are logged", || {
        gateway.security_lines().iter().filter(|line| line.contains("auth_failure")).count() >= 6
    });
    let log = gateway.log().join("\n");
    assert!(!log.contains(signature) && !log.contains(claims), "no part of a token is logged");
}

#[test]
fn a_password_is_12_to_1024_bytes_and_never_an_argument() {
    let home = gateway().upstream("gpu0", "http://127.0.0.1:1").home();
    home.usher_json(&["init"]);
    let set = |user: &str, password: &str| {
        let output = home.feed(&["users", "set-password", user, "--password-stdin"], password);
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(set("admin", "eleven byte\n").1, "usher: a password has at least 12 bytes\n");
    assert_eq!(set("admin", &"x".repeat(1025)).1, "usher: a password has at most 1024 bytes\n");
    assert_eq!(set("nobody", "twelve bytes").1, "usher: there is no user 'nobody'\n");
    assert_eq!(set("admin", "twelve bytes\n"), (Some(0), String::new()));
    let shown = home.usher(&["users", "show", "admin"]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(!shown.contains("argon2") && !shown.contains("twelve"), "{shown}");
    let argument = home.usher(&["users", "set-password", "admin", "twelve bytes"]);
    assert_eq!(argument.status.code(), Some(2));
}

/// A login as it would be sent from this address, behind a trusted proxy.
fn from(gateway: &Gateway, address: &str, password: &str) -> Answer {
    let body = json!({ "username": "ann", "password": password });
    let request: Request = gateway.post("/auth/login", &body);
    request.header("X-Forwarded-For", address).send()
}
