//! Who may come in: `auth`.

use std::time::Duration;

use http::HeaderName;

use super::listen::network;
use super::reader::{Item, Section};
use super::tree::Scalar;
use super::values;
use crate::config::{Auth, Rate};

/// `auth`; `tiers` are the names that a mapping of roles may give.
pub(super) fn auth(root: &Section<'_>, tiers: &[&str]) -> Auth {
    root.section("auth", |s| {
        s.section("jwt", jwt);
        s.list("issuers", |item| issuer(item, tiers));
        s.section("login", |s| s.get("attempts", values::parsed::<Rate>));
        Auth {
            trusted_proxies: s.list("trusted_proxies", |item| item.scalar(network)),
            api_key_header: s.section("api_keys", |s| {
                s.get("path", values::boolean);
                s.get("header", header).unwrap_or(HeaderName::from_static("x-api-key"))
            }),
            max_stale: s.get("max_stale", values::duration).unwrap_or(Duration::from_secs(120)),
            rotation_grace: s
                .get("rotation_grace", values::duration)
                .unwrap_or(Duration::from_secs(7 * 86_400)),
        }
    })
}

/// A header that can carry a key: one that means nothing else to HTTP or to Usher.
fn header(scalar: &Scalar) -> Result<HeaderName, String> {
    const TAKEN: [&str; 15] = [
        "accept",
        "authorization",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "cookie",
        "expect",
        "host",
        "origin",
        "te",
        "transfer-encoding",
        "upgrade",
        "user-agent",
        "x-request-id",
    ];
    let name = HeaderName::from_bytes(scalar.text.as_bytes()).map_err(|_| {
        format!("expected a header's name such as X-API-Key, found {}", scalar.shown())
    })?;
    match TAKEN.contains(&name.as_str()) {
        true => Err(format!("{} has a meaning of its own: name another header", scalar.shown())),
        false => Ok(name),
    }
}

fn jwt(s: &Section<'_>) {
    s.nullable("secret_file", values::path(s.cx.base));
    s.list("previous_secret_files", |item| item.scalar(values::path(s.cx.base)));
    s.get("issuer", values::text);
    s.get("audience", values::text);
    s.get("ttl", values::time);
    s.get("leeway", values::duration);
}

fn issuer(item: &Item<'_>, tiers: &[&str]) -> Option<()> {
    let has_keys = item.section(|s| {
        issuer_claims(s, tiers);
        issuer_keys(s)
    });
    if !has_keys {
        item.wrong("has no keys: add `secrets`, `secret_files`, `jwks_url` or `jwks_file`");
    }
    has_keys.then_some(())
}

fn issuer_claims(s: &Section<'_>, tiers: &[&str]) {
    s.must("name", |scalar| match values::is_name(&scalar.text) {
        true => Ok(()),
        false => Err(format!("{}, found {}", values::NAME, scalar.shown())),
    });
    s.must("issuer", values::text);
    s.must("audience", values::text);
    s.get("role_claim", values::text);
    let tier = |item: &Item<'_>| item.scalar(values::known("tier", tiers));
    if let Some(roles) = s.item("roles") {
        roles.entries(|_, item| tier(item));
    }
    s.nullable("default_tier", values::known("tier", tiers));
}

/// Whether there is anything to verify this issuer's tokens with.
fn issuer_keys(s: &Section<'_>) -> bool {
    // a secret is never shown, so what is wrong with one is said without it
    s.list("secrets", |item| match item.as_scalar().is_some_and(|s| !s.is_null()) {
        true => Some(()),
        false => {
            item.wrong("expected a secret as text");
            None
        }
    });
    s.list("secret_files", |item| item.scalar(values::path(s.cx.base)));
    s.nullable("jwks_url", jwks_url);
    s.nullable("jwks_file", values::path(s.cx.base));
    let given = |key| s.item(key).is_some_and(|item| !item.is_null() && !item.is_empty_list());
    ["secrets", "secret_files", "jwks_url", "jwks_file"].into_iter().any(given)
}

fn jwks_url(scalar: &Scalar) -> Result<(), String> {
    let https = scalar.text.strip_prefix("https://").is_some_and(|rest| !rest.is_empty());
    match https {
        true => Ok(()),
        false => {
            Err("expected an https:// URL: keys are only as true as the way they come".to_owned())
        }
    }
}
