//! What is wrong with secrets.

use super::*;

#[test]
fn a_secret_that_is_not_right_is_told() {
    let env = |_: &str| Some("short".to_owned());
    let yaml = "upstreams: [ { name: a, url: http://127.0.0.1:1 } ]";
    let config = crate::config::Config::parse(yaml, std::path::Path::new("f"), &env).unwrap();
    let error = Tokens::load(&config.auth, None).err().unwrap().to_string();
    assert!(error.starts_with("JWT_SECRET: is too short"), "{error}");
}

#[test]
fn a_secret_that_two_makers_of_tokens_share_is_told() {
    let told = |secret: &'static str, issuers: &str| {
        let env = |name: &str| (name == "JWT_SECRET").then(|| secret.to_owned());
        let yaml =
            format!("upstreams: [ {{ name: a, url: http://127.0.0.1:1 }} ]\nauth: {{ {issuers} }}");
        let config = crate::config::Config::parse(&yaml, std::path::Path::new("f"), &env).unwrap();
        Tokens::load(&config.auth, None).err().map(|error| error.to_string())
    };
    assert_eq!(told(SECRET, SHARED), None);
    let ours = told(OTHER, SHARED).unwrap();
    assert!(
        ours.starts_with("f:2: auth.issuers[0].secrets[0]: issuer base has a secret of Usher, "),
        "{ours}"
    );
    assert!(ours.contains("openssl rand -base64 48") && !ours.contains(OTHER), "{ours}");
    let second = format!(
        "}}, {{ name: idp, issuer: 'https://id.example', audience: usher, secrets: ['{OTHER}'], \
         default_tier: free }} ]"
    );
    let theirs = told(SECRET, &SHARED.replace("} ]", &second)).unwrap();
    assert!(
        theirs.starts_with("f:2: auth.issuers[1].secrets[0]: issuer idp has a secret of base,"),
        "{theirs}"
    );
}
