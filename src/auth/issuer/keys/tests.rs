mod bounds;
mod forms;

use std::fs;

use serde_json::json;

use super::*;
use crate::auth::tests::Pair;

struct Published {
    keys: Arc<Keys>,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl Published {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("jwks.json");
        Self { keys: Keys::in_file("idp", &path, &[]), path, _dir: dir }
    }

    fn publish(&self, pair: &Pair, name: &str) {
        let set = json!({ "keys": [pair.public(name)] }).to_string();
        fs::write(&self.path, set).unwrap();
    }

    async fn look(&self) {
        self.keys.look(&mut *self.keys.last.lock().await).await;
    }

    async fn outcome(&self, token: &str) -> Result<(), TokenFault> {
        match self.keys.verify(&Token::parse(token).unwrap()).await {
            Err(Doubt::Fault(fault)) => Err(fault),
            Err(Doubt::Unavailable(unavailable)) => panic!("{unavailable}"),
            Ok(()) => Ok(()),
        }
    }
}

#[tokio::test]
async fn a_key_that_is_not_known_is_looked_for_at_most_twice_a_minute() {
    let published = Published::new();
    let (one, two, three) = (Pair::ed(), Pair::ed(), Pair::ed());
    published.publish(&one, "one");
    published.look().await;
    assert_eq!(published.outcome(&one.token("one", &json!({}))).await, Ok(()));
    published.publish(&two, "two");
    assert_eq!(published.outcome(&two.token("two", &json!({}))).await, Ok(()), "looked for");
    assert_eq!(published.keys.state(), 2);
    published.publish(&three, "three");
    let token = three.token("three", &json!({}));
    for _ in 0..3 {
        assert_eq!(published.outcome(&token).await, Err(TokenFault::Key), "not again so soon");
    }
    published.look().await;
    assert_eq!(published.outcome(&token).await, Ok(()), "the usual look goes on");
}

/// What an issuer publishes that gives its keys no names.
fn nameless(pair: &Pair) -> String {
    let mut key = pair.public("");
    key.as_object_mut().unwrap().remove("kid");
    json!({ "keys": [key] }).to_string()
}

#[tokio::test]
async fn a_key_without_a_name_is_looked_for_when_none_of_those_held_fits() {
    // after a rotation, of the same kind and of another; with and without a name in the token
    for (old, new, named) in [
        (Pair::ed(), Pair::ed(), false),
        (Pair::ec(), Pair::ed(), false),
        (Pair::ed(), Pair::ed(), true),
    ] {
        let token = |pair: &Pair| match named {
            true => pair.token("any", &json!({})),
            false => pair.sign(&json!({ "alg": pair.algorithm() }), &json!({})),
        };
        let published = Published::new();
        fs::write(&published.path, nameless(&old)).unwrap();
        published.look().await;
        assert_eq!(published.outcome(&token(&old)).await, Ok(()));
        fs::write(&published.path, nameless(&new)).unwrap();
        assert_eq!(published.outcome(&token(&new)).await, Ok(()), "looked for");
        assert_eq!(published.keys.state(), 2);
        fs::write(&published.path, nameless(&old)).unwrap();
        for _ in 0..3 {
            assert!(published.outcome(&token(&old)).await.is_err(), "not again so soon");
        }
        assert_eq!(published.keys.state(), 2);
    }
}

#[tokio::test]
async fn a_forgery_under_the_name_of_a_held_key_causes_no_look() {
    let published = Published::new();
    let pair = Pair::ed();
    published.publish(&pair, "k");
    published.look().await;
    fs::remove_file(&published.path).unwrap();
    let forged = Pair::ed().token("k", &json!({}));
    assert_eq!(published.outcome(&forged).await, Err(TokenFault::Signature));
    let other = Pair::ec().token("k", &json!({}));
    assert_eq!(published.outcome(&other).await, Err(TokenFault::Algorithm));
    assert!(!published.keys.away.load(Ordering::Relaxed), "nobody has looked");
}

#[tokio::test]
async fn an_origin_that_fails_leaves_the_keys_as_they_are() {
    let published = Published::new();
    let pair = Pair::ec();
    published.publish(&pair, "k");
    published.look().await;
    let token = pair.token("k", &json!({}));
    for broken in ["", "not json", "{\"keys\":[]}", "{\"keys\":[{\"kty\":\"oct\",\"k\":\"AA\"}]}"] {
        fs::write(&published.path, broken).unwrap();
        published.look().await;
        assert!(published.keys.away.load(Ordering::Relaxed), "{broken}");
        assert_eq!(published.outcome(&token).await, Ok(()), "{broken}");
    }
    fs::write(&published.path, vec![b' '; LARGEST + 1]).unwrap();
    published.look().await;
    assert!(published.keys.away.load(Ordering::Relaxed));
    fs::remove_file(&published.path).unwrap();
    published.look().await;
    assert_eq!(published.outcome(&token).await, Ok(()));
    assert_eq!(published.keys.state(), 1, "the same keys all the time");
    let stranger = Pair::ec().token("other", &json!({}));
    let doubt = published.keys.verify(&Token::parse(&stranger).unwrap()).await;
    assert!(matches!(doubt, Err(Doubt::Unavailable(_))), "it could be a new one");
    published.publish(&pair, "k");
    published.look().await;
    assert!(!published.keys.away.load(Ordering::Relaxed));
    assert_eq!(published.keys.state(), 1, "nothing new");
}

#[tokio::test]
async fn many_who_miss_a_key_at_once_cause_one_look() {
    let published = Published::new();
    let pair = Pair::ed();
    published.publish(&pair, "k");
    let token = pair.token("k", &json!({}));
    let all = (0..20).map(|_| published.outcome(&token));
    for outcome in futures_util::future::join_all(all).await {
        assert_eq!(outcome, Ok(()));
    }
    assert_eq!(published.keys.state(), 1);
}

#[tokio::test]
async fn keys_are_kept_fresh_until_nobody_holds_them() {
    let published = Published::new();
    let pair = Pair::ed();
    published.publish(&pair, "k");
    published.keys.keep_fresh();
    published.keys.keep_fresh();
    while published.keys.state() == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(published.outcome(&pair.token("k", &json!({}))).await, Ok(()));
}

#[test]
fn the_same_origin_is_asked_once_over_reloads() {
    let file = Keys::in_file("idp", Path::new("/a"), &[]);
    let known = [Arc::clone(&file)];
    assert!(Arc::ptr_eq(&file, &Keys::in_file("idp", Path::new("/a"), &known)));
    assert!(!Arc::ptr_eq(&file, &Keys::in_file("idp", Path::new("/b"), &known)));
    assert!(!Arc::ptr_eq(&file, &Keys::in_file("other", Path::new("/a"), &known)));
    crate::server::prepare_tls();
    let url = Keys::at_url("idp", "https://id.example/keys", &[]).unwrap();
    let known = [Arc::clone(&url), file];
    assert!(Arc::ptr_eq(&url, &Keys::at_url("idp", "https://id.example/keys", &known).unwrap()));
    assert!(!Arc::ptr_eq(&url, &Keys::at_url("idp", "https://id.example/k", &known).unwrap()));
}
