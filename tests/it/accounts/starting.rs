//! What a gateway wants before it lets anybody in.

use super::*;

#[test]
fn it_is_said_at_the_start_who_may_come_in() {
    let (_instance, gateway) = house(|it| {
        it.config(
            "auth: { api_keys: { path: true, header: X-Own-Key }, issuers: [ { name: idp, \
             issuer: 'https://id.example', audience: usher, jwks_file: absent.json, \
             default_tier: free } ] }",
        )
    });
    let ways = "known by API keys in x-own-key or Authorization or the path, tokens of usher and \
                of idp, registered SSH keys";
    assert!(gateway.log().iter().any(|line| line.contains(ways)), "{:#?}", gateway.log());
}

#[test]
fn nothing_starts_without_a_good_secret_and_it_is_said_how_to_make_one() {
    let home = gateway().upstream("gpu0", "http://127.0.0.1:1").home();
    let serve = |home: &crate::support::gateway::Home| {
        let output = home.usher(&["serve"]);
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let said = serve(&home);
    assert!(
        said.contains("run `usher init`") && said.contains("openssl rand -base64 48"),
        "{said}"
    );
    assert!(home.usher(&["check"]).status.success(), "init is still to come");
    home.usher_json(&["init"]);
    std::fs::write(home.path().join("state/jwt_secret"), "short").unwrap();
    assert!(serve(&home).contains("state/jwt_secret: is too short"));
    assert_eq!(home.usher(&["check"]).status.code(), Some(1));
    let known = "super-secret-jwt-token-with-at-least-32-characters-long";
    let weak = gateway().upstream("gpu0", "http://127.0.0.1:1").env("JWT_SECRET", known).home();
    let said = serve(&weak);
    assert!(said.contains("JWT_SECRET: is a secret that everybody knows"), "{said}");
    assert!(!said.contains(known));
    let file = gateway()
        .upstream("gpu0", "http://127.0.0.1:1")
        .config("auth: { jwt: { secret_file: absent } }")
        .home();
    let said = serve(&file);
    assert!(said.contains("auth.jwt.secret_file:") && said.contains("cannot be read"), "{said}");
}

#[test]
fn nothing_starts_on_a_database_that_is_none_and_it_is_left_as_it_is() {
    let home = gateway().upstream("gpu0", "http://127.0.0.1:1").home();
    home.usher_json(&["init"]);
    let file = home.path().join("state/usher.db");
    for wal in ["usher.db-wal", "usher.db-shm"] {
        std::fs::remove_file(home.path().join("state").join(wal)).ok();
    }
    std::fs::write(&file, "this is no database, and nobody gets in for it").unwrap();
    let output = home.usher(&["serve"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("usher.db"), "{said}");
    let after = std::fs::read_to_string(&file).unwrap();
    assert_eq!(after, "this is no database, and nobody gets in for it");
}

#[test]
fn a_secret_is_changed_without_ending_what_the_one_before_has_signed() {
    let instance = sim().args(&FAST).start();
    let builder = gateway().upstream("gpu0", &instance.url()).user("ann", "free");
    let mut gateway = builder.start();
    let token = gateway.home().usher_json(&["token", "--user", "ann", "--ttl", "1h"]);
    let token = token["access_token"].as_str().unwrap().to_owned();
    let state = gateway.home().path().join("state");
    std::fs::rename(state.join("jwt_secret"), state.join("before")).unwrap();
    let fresh = "bmV2ZXIgdXNlZCBhbnl3aGVyZSBidXQgaW4gdGhpcyB0ZXN0";
    std::fs::write(state.join("jwt_secret"), fresh).unwrap();
    let config = gateway.home().path().join("usher.yaml");
    let before = std::fs::read_to_string(&config).unwrap();
    let reload = |yaml: &str| {
        std::fs::write(&config, yaml).unwrap();
        gateway.signal("HUP");
    };
    reload(&format!("{before}auth: {{ jwt: {{ previous_secret_files: [state/before] }} }}\n"));
    let minted = || {
        let made = gateway.home().usher_json(&["token", "--user", "ann", "--ttl", "1h"]);
        made["access_token"].as_str().unwrap().to_owned()
    };
    let new = minted();
    eventually("the new one is believed", || me(&gateway, &new).status == 200);
    assert_eq!(me(&gateway, &token).status, 200);
    reload(&before);
    eventually("the old one is over", || refused(&me(&gateway, &token)) == invalid());
    assert_eq!(me(&gateway, &new).status, 200);
    assert!(gateway.ended().is_none());
}
