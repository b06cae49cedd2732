//! What is remembered with a connection of who came last on it.

use super::*;

async fn present_on(
    last: &Acquaintance,
    authenticator: &Authenticator,
    key: &str,
    now: Timestamp,
) -> Result<Principal, AuthError> {
    let headers = &HeaderMap::from_iter([(KEY_HEADER, key.parse().unwrap())]);
    let (config, tokens) = &believed("");
    let signed = Signed { method: "GET", path: "/api/tags", query: "", private: true };
    let last = Some(last);
    let asking = Asking { headers, path_key: None, signed, config, tokens, now, from: HERE, last };
    authenticator.authenticate(asking).await
}

#[tokio::test]
async fn who_comes_again_is_known_without_a_look_into_the_cache() {
    let (key, store, authenticator) = usual();
    let last = Acquaintance::default();
    for _ in 0..3 {
        assert!(present_on(&last, &authenticator, &key, at(1000)).await.is_ok());
        authenticator.known.invalidate_all();
    }
    assert_eq!(store.asked(), 1);
    assert_eq!(authenticator.asked().known, 2, "counted as what memory answered");
    let elsewhere = Acquaintance::default();
    assert!(present_on(&elsewhere, &authenticator, &key, at(1000)).await.is_ok());
    assert_eq!(store.asked(), 2, "another connection knows nobody");
}

#[tokio::test]
async fn expiry_is_judged_to_the_second_all_the_same() {
    let (key, store, authenticator) = usual();
    store.change(&key, |identity| identity.key.as_mut().unwrap().expires_at = Some(at(2000)));
    let last = Acquaintance::default();
    assert!(present_on(&last, &authenticator, &key, at(1999)).await.is_ok());
    assert_eq!(fault(present_on(&last, &authenticator, &key, at(2000)).await), KeyFault::Expired);
    assert!(present_on(&last, &authenticator, &key, at(1999)).await.is_ok());
}

#[tokio::test]
async fn a_change_ends_it_at_once() {
    for (expected, change) in [
        (
            KeyFault::Revoked,
            (|i| i.key.as_mut().unwrap().revoked_at = Some(at(1))) as fn(&mut Identity),
        ),
        (KeyFault::UserDisabled, |i| i.user.disabled = true),
    ] {
        let (key, store, authenticator) = usual();
        let last = Acquaintance::default();
        assert!(present_on(&last, &authenticator, &key, at(1000)).await.is_ok());
        store.change(&key, change);
        authenticator.invalidate();
        assert_eq!(fault(present_on(&last, &authenticator, &key, at(1000)).await), expected);
    }
}

#[tokio::test]
async fn it_is_no_fresher_than_the_cache() {
    let (key, store, _) = usual();
    let authenticator = asking(&store, &Options { max_stale: Duration::ZERO, ..measures() });
    let last = Acquaintance::default();
    assert!(present_on(&last, &authenticator, &key, at(1000)).await.is_ok());
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(present_on(&last, &authenticator, &key, at(1000)).await.is_ok());
    assert_eq!(store.asked(), 2);
}

#[tokio::test]
async fn nobody_else_is_taken_for_who_came_last() {
    let (key, _, authenticator) = usual();
    let last = Acquaintance::default();
    assert!(present_on(&last, &authenticator, &key, at(1000)).await.is_ok());
    for other in [fresh(), key.replace("usk_", "usK_"), format!("{key}0")] {
        assert!(present_on(&last, &authenticator, &other, at(1000)).await.is_err(), "{other}");
    }
    assert!(present_on(&last, &authenticator, &key, at(1000)).await.is_ok());
}
