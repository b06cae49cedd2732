//! Hashes that are weaker than those made today.

use sqlx::{Connection, SqliteConnection};

use super::*;

/// Of the tests of Argon2's reference implementation: "password", 256 KiB, two passes.
const WEAK: &str =
    "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";

/// Ann's hash, as it is kept; another one in its place if one is given.
fn kept(gateway: &Gateway, another: Option<&str>) -> String {
    let runtime = tokio::runtime::Runtime::new().expect("threads can be had");
    let url = format!("sqlite://{}/state/usher.db", gateway.home().path().display());
    runtime.block_on(async {
        let mut connection = SqliteConnection::connect(&url).await.expect("it opens");
        if let Some(hash) = another {
            let put = sqlx::query("UPDATE users SET password_hash = $1 WHERE username = 'ann'");
            put.bind(hash).execute(&mut connection).await.expect("it is put there");
        }
        let read = sqlx::query_scalar("SELECT password_hash FROM users WHERE username = 'ann'");
        read.fetch_one(&mut connection).await.expect("it is read")
    })
}

#[test]
fn a_weak_hash_is_made_anew_when_its_user_logs_in_and_nobody_else_makes_it_so() {
    let (_instance, gateway) = house(|it| it);
    let strong = kept(&gateway, None);
    assert_eq!(login(&gateway, "ann", PASSWORD).status, 200);
    assert_eq!(kept(&gateway, None), strong, "it is left alone");
    assert_eq!(kept(&gateway, Some(WEAK)), WEAK);
    assert_eq!(login(&gateway, "ann", PASSWORD).status, 401, "that was another password");
    assert_eq!(kept(&gateway, None), WEAK);

    let token = login(&gateway, "ann", "password").json()["access_token"].clone();
    eventually("the hash is made anew", || kept(&gateway, None) != WEAK);
    let renewed = kept(&gateway, None);
    assert!(renewed.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{renewed}");
    assert_ne!(renewed, strong);
    assert_eq!(me(&gateway, token.as_str().unwrap()).status, 200, "its token goes on");
    assert_eq!(login(&gateway, "ann", "password").status, 200, "and so does the password");
    assert!(!gateway.stop().join("\n").contains("argon2id"), "no hash is logged");
}
