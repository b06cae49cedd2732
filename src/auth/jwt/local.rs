//! The tokens that Usher makes itself: HS256, with one secret that signs and, for a while after it
//! was changed, those that signed before.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header};
use ring::rand::{SecureRandom, SystemRandom};
use serde::Serialize;
use zeroize::Zeroizing;

use super::{Token, TokenFault};
use crate::auth::User;
use crate::auth::api_key::RandomFailed;
use crate::config::{Auth, Issuer, Jwt, JwtSecret, NamedFile, Secret};

/// No secret is longer: a larger file is a wrong path.
const LONGEST: u64 = 64 << 10;

/// What makes and knows our tokens.
pub struct Local {
    signs: EncodingKey,
    /// The current secret first.
    knows: Vec<DecodingKey>,
    issuer: String,
    audience: String,
}

/// A token in the clear, to be shown to its holder alone.
pub struct PlainToken(Zeroizing<String>);

impl PlainToken {
    /// The token itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// The claims of our tokens.
#[derive(Serialize)]
struct Claims<'a> {
    sub: String,
    iat: i64,
    exp: i64,
    iss: &'a str,
    aud: &'a str,
    jti: String,
    role: &'a str,
    ver: i64,
}

/// What a token of ours says, its signature and claims checked.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::auth) struct Said {
    pub user: i64,
    pub id: Arc<str>,
    pub version: i64,
    pub expires: i64,
    pub not_before: Option<i64>,
}

impl Local {
    /// Reads the secrets.
    ///
    /// # Errors
    /// Every secret that is missing, unreadable, or not fit to sign tokens, and what to do.
    pub fn load(config: &Jwt) -> Result<Self, Vec<BadSecret>> {
        let (secrets, bad) = secrets(config);
        let Some(first) = secrets.first().filter(|_| bad.is_empty()) else { return Err(bad) };
        Ok(Self {
            signs: EncodingKey::from_secret(first.expose().as_bytes()),
            knows: secrets.iter().map(known).collect(),
            issuer: config.issuer.clone(),
            audience: config.audience.clone(),
        })
    }

    /// Whether tokens of this issuer are ours.
    pub(in crate::auth) fn is(&self, issuer: &str) -> bool {
        self.issuer == issuer
    }

    /// Makes a token for a user that lives for `ttl` seconds, and is over on the second.
    ///
    /// # Errors
    /// [`RandomFailed`] if the system gives no randomness for its id.
    pub fn mint(&self, user: &User, ttl: u64, now: Timestamp) -> Result<PlainToken, RandomFailed> {
        let mut id = [0_u8; 16];
        SystemRandom::new().fill(&mut id).map_err(|_| RandomFailed)?;
        let iat = now.as_second();
        let claims = Claims {
            sub: user.id.to_string(),
            iat,
            exp: iat.saturating_add_unsigned(ttl),
            iss: &self.issuer,
            aud: &self.audience,
            jti: BASE64_URL_SAFE_NO_PAD.encode(id),
            role: &user.tier,
            ver: user.token_version,
        };
        // an HMAC of plain fields: nothing of it can fail
        let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.signs);
        token.map(|token| PlainToken(Zeroizing::new(token))).map_err(|_| RandomFailed)
    }

    /// Checks signature and claims; the time is judged by whoever asks, each time.
    pub(in crate::auth) fn check(&self, token: &Token<'_>) -> Result<Said, TokenFault> {
        if token.algorithm() != Algorithm::HS256 {
            return Err(TokenFault::Algorithm);
        }
        if !self.knows.iter().any(|key| token.is_signed_by(key)) {
            return Err(TokenFault::Signature);
        }
        token.is_for(&self.audience)?;
        let user = token.text("sub")?.parse().map_err(|_| TokenFault::Claim("sub"))?;
        token.optional_moment("iat")?;
        Ok(Said {
            user,
            id: token.text("jti")?.into(),
            version: token.optional_moment("ver")?.unwrap_or_default(),
            expires: token.moment("exp")?,
            not_before: token.optional_moment("nbf")?,
        })
    }
}

/// Everything that is wrong with the secrets that tokens are signed with: those that are not fit,
/// and those that more than one maker of tokens has, since each could make the other's.
pub fn check(config: &Auth) -> Vec<BadSecret> {
    let (ours, mut bad) = secrets(&config.jwt);
    let mut seen: Vec<(&str, &Secret)> = ours.iter().map(|secret| ("Usher", secret)).collect();
    for Issuer { name, secrets, .. } in &config.issuers {
        for (secret, place) in secrets {
            if let Some((other, _)) = seen.iter().find(|(_, it)| it.expose() == secret.expose()) {
                bad.push(BadSecret::Unfit(format!(
                    "{place}: issuer {name} has a secret of {other}, so each could make the \
                     other's tokens: give one of them a secret of its own, from \
                     `openssl rand -base64 48`"
                )));
            }
        }
        seen.extend(secrets.iter().map(|(secret, _)| (name.as_str(), secret)));
    }
    bad
}

/// The current secret first, then those before it; and what is wrong with the others.
fn secrets(config: &Jwt) -> (Vec<Secret>, Vec<BadSecret>) {
    let current = match &config.secret {
        JwtSecret::Environment(secret) => judge(secret.clone(), || "JWT_SECRET".to_owned()),
        JwtSecret::File(file) => named(file),
        JwtSecret::Made(file) if matches!(file.path.try_exists(), Ok(false)) => {
            Err(BadSecret::Missing(file.clone()))
        }
        JwtSecret::Made(file) => named(file),
    };
    let (mut secrets, mut bad) = (Vec::new(), Vec::new());
    for outcome in std::iter::once(current).chain(config.previous.iter().map(named)) {
        match outcome {
            Ok(secret) => secrets.push(secret),
            Err(wrong) => bad.push(wrong),
        }
    }
    (secrets, bad)
}

fn known(secret: &Secret) -> DecodingKey {
    DecodingKey::from_secret(secret.expose().as_bytes())
}

/// A secret that cannot sign tokens, and what to do; never the secret.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSecret {
    /// Nobody has run `usher init` yet, nor named a secret.
    #[error(
        "{}: there is no secret to sign tokens with: run `usher init`, which makes {}, or set this \
         or JWT_SECRET to one from `openssl rand -base64 48`",
        .0.place, .0.path.display()
    )]
    Missing(NamedFile),
    /// It cannot be read, can be guessed, or is not ours alone.
    #[error("{0}")]
    Unfit(String),
}

fn judge(secret: Secret, name: impl Fn() -> String) -> Result<Secret, BadSecret> {
    match secret.weakness() {
        Some(weakness) => Err(BadSecret::Unfit(format!("{}: {weakness}", name()))),
        None => Ok(secret),
    }
}

fn named(file: &NamedFile) -> Result<Secret, BadSecret> {
    let name = || format!("{}: {}", file.place, file.path.display());
    match read(&file.path) {
        Ok(secret) => judge(secret, name),
        Err(error) => Err(BadSecret::Unfit(format!("{} cannot be read: {error}", name()))),
    }
}

/// The file's text without the line end that editors add.
fn read(path: &Path) -> std::io::Result<Secret> {
    let mut text = Zeroizing::new(String::new());
    File::open(path)?.take(LONGEST).read_to_string(&mut text)?;
    Ok(Secret::new(text.trim_end_matches(['\r', '\n']).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Place;

    const SECRET: &str = "Zm9yIHRlc3RzIGFsb25lLCBuZXZlciB1c2VkIGFueXdoZXJl";
    const OLDER: &str = "YW5vdGhlciBvbmUsIGZvciB0ZXN0cyBhbG9uZSwgbm90IHVzZWQ";

    fn config(secret: JwtSecret, previous: Vec<NamedFile>) -> Jwt {
        Jwt {
            secret,
            previous,
            issuer: "usher".to_owned(),
            audience: "usher".to_owned(),
            ttl: std::time::Duration::from_secs(3600),
            leeway: std::time::Duration::ZERO,
        }
    }

    fn local(secret: &str) -> Local {
        let secret = JwtSecret::Environment(Secret::new(secret.to_owned()));
        Local::load(&config(secret, Vec::new())).unwrap_or_else(|bad| panic!("{bad:?}"))
    }

    fn ann() -> User {
        User {
            id: 7,
            username: "ann".to_owned(),
            email: None,
            issuer: None,
            subject: None,
            tier: "premium".to_owned(),
            tier_given: false,
            disabled: false,
            token_version: 3,
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn check(local: &Local, token: &str) -> Result<Said, TokenFault> {
        local.check(&Token::parse(token)?)
    }

    #[test]
    fn a_token_says_who_how_long_and_for_which_version_of_the_user() {
        let local = local(SECRET);
        let token = local.mint(&ann(), 60, at(1000)).unwrap();
        let said = check(&local, token.expose()).unwrap();
        assert_eq!((said.user, said.version, said.expires), (7, 3, 1060));
        assert_eq!((said.not_before, said.id.len()), (None, 22));
        assert!(super::super::looks_like_one(token.expose()));
        let again = local.mint(&ann(), 60, at(1000)).unwrap();
        assert_ne!(check(&local, again.expose()).unwrap().id, said.id);
        assert!(local.is("usher") && !local.is("Usher"));
    }

    #[test]
    fn its_claims_are_those_of_the_contract() {
        let token = local(SECRET).mint(&ann(), 60, at(1000)).unwrap();
        let parsed = Token::parse(token.expose()).unwrap();
        let names: Vec<&str> = parsed.claims.keys().map(String::as_str).collect();
        assert_eq!(names, ["aud", "exp", "iat", "iss", "jti", "role", "sub", "ver"]);
        assert_eq!(parsed.claims["role"], "premium");
        assert_eq!(parsed.claims["sub"], "7");
        assert_eq!(parsed.claims["iat"], 1000);
    }

    #[test]
    fn a_token_of_the_secret_before_is_known_and_one_of_another_secret_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("old");
        std::fs::write(&path, format!("{OLDER}\r\n")).unwrap();
        let previous = vec![NamedFile { path, place: Place::default() }];
        let secret = JwtSecret::Environment(Secret::new(SECRET.to_owned()));
        let both = Local::load(&config(secret, previous)).unwrap_or_else(|bad| panic!("{bad:?}"));
        let old = local(OLDER).mint(&ann(), 60, at(0)).unwrap();
        assert!(check(&both, old.expose()).is_ok());
        assert_eq!(check(&local(SECRET), old.expose()), Err(TokenFault::Signature));
        let new = both.mint(&ann(), 60, at(0)).unwrap();
        assert!(check(&local(SECRET), new.expose()).is_ok(), "the current one signs");
    }

    #[test]
    fn a_bad_secret_is_told_with_its_place_and_a_remedy_and_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let weak = dir.path().join("weak");
        std::fs::write(&weak, "hunter2").unwrap();
        let file = |name: &str| NamedFile {
            path: dir.path().join(name),
            place: Place::new("usher.yaml:3: auth.jwt.secret_file".to_owned()),
        };
        let told = |secret, previous| {
            let bad = Local::load(&config(secret, previous)).err().unwrap();
            let text: Vec<String> = bad.iter().map(ToString::to_string).collect();
            text.join("\n").replace(&dir.path().display().to_string(), "DIR")
        };
        let none = told(JwtSecret::Made(file("jwt_secret")), Vec::new());
        assert!(none.contains("run `usher init`, which makes DIR/jwt_secret"), "{none}");
        assert!(none.starts_with("usher.yaml:3: auth.jwt.secret_file: there is no"), "{none}");
        let both = told(JwtSecret::File(file("weak")), vec![file("absent")]);
        assert!(both.contains("usher.yaml:3: auth.jwt.secret_file: DIR/weak: is too short"));
        assert!(both.contains("DIR/absent cannot be read: "), "{both}");
        let env = told(JwtSecret::Environment(Secret::new("secret".to_owned())), Vec::new());
        assert!(env.starts_with("JWT_SECRET: is too short"), "{env}");
        let made = told(JwtSecret::Made(file("weak")), Vec::new());
        assert!(made.contains("secret_file: DIR/weak: is too short"), "{made}");
        for text in [&both, &env, &made] {
            assert!(!text.contains("hunter2"), "{text}");
        }
        let folder = told(JwtSecret::Made(file(".")), Vec::new());
        assert!(folder.contains("cannot be read"), "{folder}");
    }
}
