//! JSON Web Tokens (RFC 7519), taken apart without believing them, and judged without mercy.
//!
//! The signature is `jsonwebtoken`'s business. All else is decided here, because that crate
//! enforces a claim only where it is asked to and finds it well-formed, and never `crit`. The
//! algorithm comes from the configuration and the key; what a token says of itself chooses among
//! those, and opens nothing (RFC 8725).

pub mod local;
mod strict;

pub(super) use strict::object as strict_object;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, crypto};
use serde_json::{Map, Value};

/// Bytes of the longest token that is looked at.
pub const LONGEST: usize = 8 * 1024;
/// Bytes of the longest name in a token: of a user, a token.
const LONGEST_NAME: usize = 256;
/// Bytes of the longest name of a key.
pub(super) const LONGEST_KEY_ID: usize = 128;
/// The last second of year 9999: a later moment is a mistake.
const LAST_SECOND: i64 = 253_402_300_799;

/// Why a token is refused; the text is for the log alone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenFault {
    /// Its signature is of an algorithm that its issuer's keys are not for.
    #[error("algorithm not configured for its issuer")]
    Algorithm,
    /// It is for somebody else.
    #[error("meant for another audience")]
    Audience,
    /// A claim is missing or of the wrong form.
    #[error("claim {0:?} is missing or malformed")]
    Claim(&'static str),
    /// It was logged out, or its user is gone.
    #[error("logged out, or its user is gone")]
    Ended,
    /// Its time is over.
    #[error("token expired")]
    Expired,
    /// Its header asks for what is not done here.
    #[error("header {0:?} is not accepted")]
    Header(&'static str),
    /// Nobody known made it.
    #[error("unknown issuer")]
    Issuer,
    /// It was signed with a key that its issuer does not have.
    #[error("unknown key")]
    Key,
    /// It would be good for longer than its issuer's tokens may be.
    #[error("valid for longer than its issuer's tokens may be")]
    Lifetime,
    /// It is not three parts of JSON in base64.
    #[error("malformed token")]
    Malformed,
    /// Its time has not come.
    #[error("not valid yet")]
    NotYet,
    /// The user's password or tier has changed since.
    #[error("made before the user's last change")]
    Outdated,
    /// Its role is no tier here.
    #[error("role is not mapped to a tier")]
    Role,
    /// Its signature is not right.
    #[error("wrong signature")]
    Signature,
    /// Its user is disabled.
    #[error("user disabled")]
    UserDisabled,
}

impl TokenFault {
    /// Whether it is known who made the token, so that it is nothing else.
    pub(super) fn is_of_a_true_token(&self) -> bool {
        match self {
            Self::Algorithm
            | Self::Header(_)
            | Self::Issuer
            | Self::Key
            | Self::Malformed
            | Self::Signature => false,
            // whose issuer it does not say
            Self::Claim(claim) => *claim != "iss",
            Self::Audience
            | Self::Ended
            | Self::Expired
            | Self::Lifetime
            | Self::NotYet
            | Self::Outdated
            | Self::Role
            | Self::UserDisabled => true,
        }
    }

    /// One word for metrics.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Expired => "token_expired",
            Self::UserDisabled => "user_disabled",
            Self::Ended | Self::Outdated => "token_ended",
            Self::Malformed | Self::Header(_) => "token_malformed",
            Self::Algorithm | Self::Key | Self::Signature => "token_signature",
            Self::Audience
            | Self::Claim(_)
            | Self::Issuer
            | Self::Lifetime
            | Self::NotYet
            | Self::Role => "token_claims",
        }
    }
}

/// Whether this may be a token, by its look: an object in base64, and something behind a dot. `{` and
/// a quote or a space make `ey`, `{` and the end of a line or a tab `ew`.
pub fn looks_like_one(text: &str) -> bool {
    (text.starts_with("ey") || text.starts_with("ew")) && text.contains('.')
}

/// A token taken apart. Nothing of it is believed yet.
pub(super) struct Token<'t> {
    header: Header,
    claims: Map<String, Value>,
    signed: &'t str,
    signature: &'t str,
}

/// The part of the header that is looked at.
struct Header {
    algorithm: Algorithm,
    key_id: Option<String>,
}

impl<'t> Token<'t> {
    /// Takes a token apart.
    pub(super) fn parse(text: &'t str) -> Result<Self, TokenFault> {
        if text.len() > LONGEST {
            return Err(TokenFault::Malformed);
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(TokenFault::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(TokenFault::Malformed)?;
        if claims.contains('.') || signature.is_empty() {
            return Err(TokenFault::Malformed);
        }
        Ok(Self { header: Header::read(&part(header)?)?, claims: part(claims)?, signed, signature })
    }

    pub(super) fn algorithm(&self) -> Algorithm {
        self.header.algorithm
    }

    /// The name of the key that signed it, if it says.
    pub(super) fn key_id(&self) -> Option<&str> {
        self.header.key_id.as_deref()
    }

    /// What the signature is of.
    pub(super) fn signed(&self) -> &'t str {
        self.signed
    }

    /// Whether this key made the signature. The key is of one algorithm, which the caller knows
    /// to be this token's.
    pub(super) fn is_signed_by(&self, key: &DecodingKey) -> bool {
        let signed = self.signed.as_bytes();
        crypto::verify(self.signature, signed, key, self.header.algorithm).unwrap_or(false)
    }

    /// Who claims to have made it.
    pub(super) fn issuer(&self) -> Result<&str, TokenFault> {
        self.text("iss")
    }

    /// A claim that must be a name: text that is not empty, not long, and on one line.
    pub(super) fn text(&self, claim: &'static str) -> Result<&str, TokenFault> {
        let text = self.claims.get(claim).and_then(Value::as_str);
        text.filter(|text| is_name(text)).ok_or(TokenFault::Claim(claim))
    }

    /// A moment that must be there, in whole seconds since 1970.
    pub(super) fn moment(&self, claim: &'static str) -> Result<i64, TokenFault> {
        self.optional_moment(claim)?.ok_or(TokenFault::Claim(claim))
    }

    /// A moment that may be missing, but not be something else.
    pub(super) fn optional_moment(&self, claim: &'static str) -> Result<Option<i64>, TokenFault> {
        let Some(value) = self.claims.get(claim) else { return Ok(None) };
        let moment = value.as_i64().filter(|moment| (0..=LAST_SECOND).contains(moment));
        moment.map(Some).ok_or(TokenFault::Claim(claim))
    }

    /// Whether it is meant for this audience, alone or among others.
    pub(super) fn is_for(&self, audience: &str) -> Result<(), TokenFault> {
        let named = match self.claims.get("aud") {
            Some(Value::String(one)) => one == audience,
            Some(Value::Array(all)) if all.iter().all(Value::is_string) => {
                all.iter().any(|one| one == audience)
            }
            _ => return Err(TokenFault::Claim("aud")),
        };
        if named { Ok(()) } else { Err(TokenFault::Audience) }
    }

    /// The claim at the end of this path, whatever it is.
    pub(super) fn at(&self, steps: &[String]) -> Option<&Value> {
        let (first, rest) = steps.split_first()?;
        rest.iter().try_fold(self.claims.get(first)?, |value, step| value.get(step))
    }
}

impl Header {
    /// `alg`, `kid` and `typ` are understood. Parameters that would change what the signature
    /// means, or bring a key along, are refused; others mean nothing here and are passed over, as
    /// RFC 7515 (4) wants.
    fn read(header: &Map<String, Value>) -> Result<Self, TokenFault> {
        const REFUSED: [&str; 11] =
            ["b64", "crit", "cty", "enc", "jku", "jwk", "x5c", "x5t", "x5t#S256", "x5u", "zip"];
        if let Some(name) = REFUSED.into_iter().find(|name| header.contains_key(*name)) {
            return Err(TokenFault::Header(name));
        }
        // one made for another purpose says so (RFC 8725, 3.11)
        let kind = header.get("typ").map(|typ| typ.as_str().unwrap_or_default());
        let kind = kind.map(|kind| kind.strip_prefix("application/").unwrap_or(kind));
        if kind.is_some_and(|kind| !["jwt", "at+jwt"].contains(&kind.to_ascii_lowercase().as_str()))
        {
            return Err(TokenFault::Header("typ"));
        }
        let key_id = match header.get("kid") {
            None => None,
            Some(Value::String(id)) if is_name(id) && id.len() <= LONGEST_KEY_ID => {
                Some(id.clone())
            }
            Some(_) => return Err(TokenFault::Header("kid")),
        };
        let algorithm = match header.get("alg").and_then(Value::as_str) {
            Some("HS256") => Algorithm::HS256,
            Some("RS256") => Algorithm::RS256,
            Some("ES256") => Algorithm::ES256,
            Some("EdDSA") => Algorithm::EdDSA,
            _ => return Err(TokenFault::Algorithm),
        };
        Ok(Self { algorithm, key_id })
    }
}

/// One part, decoded: canonical base64 of a JSON object in which no key stands twice.
fn part(encoded: &str) -> Result<Map<String, Value>, TokenFault> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(encoded).map_err(|_| TokenFault::Malformed)?;
    strict::object(&bytes).ok_or(TokenFault::Malformed)
}

fn is_name(text: &str) -> bool {
    (1..=LONGEST_NAME).contains(&text.len()) && !text.contains(char::is_control)
}

#[cfg(test)]
mod tests;
