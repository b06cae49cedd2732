//! Who may come in: `auth`.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::listen::network;
use super::reader::{Item, Section};
use super::secrets;
use super::tree::Scalar;
use super::values;
use crate::config::{
    Auth, Issuer, Jwt, JwtSecret, NamedFile, Place, Rate, RouteClass, Secret, Tier, Window,
};

/// The tiers that a mapping of roles may give.
type Tiers = BTreeMap<String, Tier>;

/// `auth`.
pub(super) fn auth(root: &Section<'_>, tiers: &Tiers, state_dir: &Path) -> Auth {
    root.section("auth", |s| {
        let jwt = s.section("jwt", |s| jwt(s, state_dir));
        let api_keys = s.section("api_keys", |s| {
            let header = s.get("header", header).unwrap_or(HeaderName::from_static("x-api-key"));
            (header, s.get("path", values::boolean).unwrap_or(false))
        });
        Auth {
            trusted_proxies: s.list("trusted_proxies", |item| item.scalar(network)),
            issuers: issuers(s, tiers, &jwt),
            jwt,
            api_key_header: api_keys.0,
            key_in_path: api_keys.1,
            login_attempts: s.section("login", |s| s.get("attempts", attempts)).unwrap_or(FIVE),
            max_stale: s.get("max_stale", values::duration).unwrap_or(Duration::from_secs(120)),
            rotation_grace: s
                .get("rotation_grace", values::duration)
                .unwrap_or(Duration::from_secs(7 * 86_400)),
        }
    })
}

/// Attempts to log in, of one address.
const FIVE: Rate = Rate { amount: NonZeroU64::MIN.saturating_add(4), per: Window::Minute };
/// More attempts are no limit for anybody who guesses.
const MOST_ATTEMPTS: u64 = 1_000;
/// The role of Supabase's key for servers, which passes all of its own rules.
const SERVICE: &str = "service_role";
/// What changes things for everybody.
const RULING: [RouteClass; 2] = [RouteClass::Manage, RouteClass::Admin];
/// How long tokens of others are good for at most, unless the file says otherwise.
const MONTH: Duration = Duration::from_secs(30 * 86_400);
/// Clocks that differ by more are to be set.
const MOST_LEEWAY: Duration = Duration::from_secs(300);

fn attempts(scalar: &Scalar) -> Result<Rate, String> {
    let rate: Rate = values::parsed(scalar)?;
    match rate.amount.get() {
        1..=MOST_ATTEMPTS => Ok(rate),
        _ => Err(format!("expected at most {MOST_ATTEMPTS} attempts, found {}", scalar.shown())),
    }
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
    let name = HeaderName::from_bytes(values::text(scalar)?.as_bytes()).map_err(|_| {
        format!("expected a header's name such as X-API-Key, found {}", scalar.shown())
    })?;
    match TAKEN.contains(&name.as_str()) {
        true => Err(format!("{} has a meaning of its own: name another header", scalar.shown())),
        false => Ok(name),
    }
}

fn jwt(s: &Section<'_>, state_dir: &Path) -> Jwt {
    let file = s.item("secret_file").filter(|item| !item.is_null());
    let secret = file.and_then(|item| named_file(&item)).map(JwtSecret::File);
    let made = || NamedFile { path: state_dir.join("jwt_secret"), place: s.place("secret_file") };
    Jwt {
        secret: secret.unwrap_or_else(|| JwtSecret::Made(made())),
        previous: s.list("previous_secret_files", named_file),
        issuer: s.get("issuer", values::text).unwrap_or_else(|| "usher".to_owned()),
        audience: s.get("audience", values::text).unwrap_or_else(|| "usher".to_owned()),
        ttl: s.get("ttl", whole_seconds).unwrap_or(Duration::from_secs(86_400)),
        leeway: s.get("leeway", leeway).unwrap_or_default(),
    }
}

fn named_file(item: &Item<'_>) -> Option<NamedFile> {
    let path = item.scalar(values::path(item.cx.base))?;
    Some(NamedFile { path, place: item.place() })
}

/// Tokens know no smaller part of time.
fn whole_seconds(scalar: &Scalar) -> Result<Duration, String> {
    match values::time(scalar)? {
        time if time.subsec_nanos() == 0 => Ok(time),
        _ => Err(format!("expected whole seconds, found {}", scalar.shown())),
    }
}

fn leeway(scalar: &Scalar) -> Result<Duration, String> {
    match values::duration(scalar)? {
        leeway if leeway <= MOST_LEEWAY => Ok(leeway),
        _ => Err(format!("expected at most 5m, found {}", scalar.shown())),
    }
}

/// Issuers; no two of them, and none and ourselves, may be taken for each other.
fn issuers(s: &Section<'_>, tiers: &Tiers, jwt: &Jwt) -> Vec<Issuer> {
    let Some(list) = s.item("issuers") else { return Vec::new() };
    let seen = std::cell::RefCell::new(vec![(String::new(), jwt.issuer.clone())]);
    list.list(|item| {
        let issuer = issuer(item, tiers)?;
        let mut seen = seen.borrow_mut();
        // one without a name has been told so already
        let named = !issuer.name.is_empty();
        if named && seen.iter().any(|(name, _)| *name == issuer.name) {
            item.wrong(format!("there is an issuer named `{}` already", issuer.name));
        }
        if seen.iter().any(|(_, claim)| *claim == issuer.issuer) {
            item.wrong("its `issuer` is another's already: keys of one issuer stand together");
        }
        seen.push((issuer.name.clone(), issuer.issuer.clone()));
        Some(issuer)
    })
}

fn issuer(item: &Item<'_>, tiers: &Tiers) -> Option<Issuer> {
    let names: Vec<&str> = tiers.keys().map(String::as_str).collect();
    let (issuer, has_keys) = item.section(|s| {
        let jwks_file = s.item("jwks_file").filter(|item| !item.is_null());
        let issuer = Issuer {
            name: s.must("name", name).unwrap_or_default(),
            issuer: s.must("issuer", values::text).unwrap_or_default(),
            audience: s.must("audience", values::text).unwrap_or_default(),
            secrets: shared_secrets(s),
            jwks_url: s.nullable("jwks_url", jwks_url),
            jwks_file: jwks_file.and_then(|item| named_file(&item)),
            role_claim: s.get("role_claim", steps).unwrap_or_default(),
            roles: roles(s, tiers),
            default_tier: s.nullable("default_tier", values::known("tier", &names)).map(Arc::from),
            max_lifetime: s.get("max_lifetime", whole_seconds).unwrap_or(MONTH),
        };
        if issuer.role_claim.is_empty() && !issuer.roles.is_empty() {
            s.wrong("roles", "`role_claim` is missing: nothing says which claim they are of");
        }
        (issuer, has_keys(s))
    });
    if !has_keys {
        item.wrong("has no keys: add `secrets`, `secret_files`, `jwks_url` or `jwks_file`");
    }
    if issuer.roles.is_empty() && issuer.default_tier.is_none() {
        item.wrong("would refuse every token: add `role_claim` and `roles`, or `default_tier`");
    }
    has_keys.then_some(issuer)
}

fn name(scalar: &Scalar) -> Result<String, String> {
    let name = values::text(scalar)?;
    match values::is_name(&name) {
        true => Ok(name),
        false => Err(format!("{}, found {}", values::NAME, scalar.shown())),
    }
}

/// A dotted path.
fn steps(scalar: &Scalar) -> Result<Vec<String>, String> {
    let steps: Vec<String> = values::text(scalar)?.split('.').map(str::to_owned).collect();
    match steps.iter().any(String::is_empty) {
        true => {
            Err(format!("expected a claim such as app_metadata.role, found {}", scalar.shown()))
        }
        false => Ok(steps),
    }
}

fn roles(s: &Section<'_>, tiers: &Tiers) -> BTreeMap<String, Arc<str>> {
    let names: Vec<&str> = tiers.keys().map(String::as_str).collect();
    let read = |role: &str, item: &Item<'_>| {
        let tier = item.scalar(values::known("tier", &names))?;
        let rights = tiers.get(&tier).map(|tier| &tier.allow);
        if role == SERVICE
            && RULING.iter().any(|class| rights.is_some_and(|rights| rights.contains(class)))
        {
            item.wrong(format!(
                "`{SERVICE}` may not become `{tier}`, which allows `manage` or `admin`: every \
                 backend of the project has that key"
            ));
        }
        Some((role.to_owned(), Arc::from(tier)))
    };
    s.item("roles").map(|roles| roles.entries(read)).unwrap_or_default().into_iter().collect()
}

/// The secrets shared with an issuer, as text or in files; no message shows one.
fn shared_secrets(s: &Section<'_>) -> Vec<(Secret, Place)> {
    let mut all = s.list("secrets", |item| {
        let text = item.as_scalar().filter(|scalar| !scalar.is_null());
        if text.is_none() {
            item.wrong("expected a secret as text");
        }
        let strong = strong(item, Secret::new(text?.text.clone()))?;
        secrets::warn_if_readable(item);
        Some(strong)
    });
    all.extend(s.list("secret_files", |item| {
        let text = secrets::from_file(item)?;
        strong(item, Secret::new(text.to_string()))
    }));
    all
}

fn strong(item: &Item<'_>, secret: Secret) -> Option<(Secret, Place)> {
    // a variable that is not set is a mistake already
    item.scalar(|_| Ok(()))?;
    match secret.weakness() {
        Some(weakness) => {
            item.wrong(weakness);
            None
        }
        None => Some((secret, item.place())),
    }
}

/// Whether there is anything to verify this issuer's tokens with.
fn has_keys(s: &Section<'_>) -> bool {
    let given = |key| s.item(key).is_some_and(|item| !item.is_null() && !item.is_empty_list());
    ["secrets", "secret_files", "jwks_url", "jwks_file"].into_iter().any(given)
}

fn jwks_url(scalar: &Scalar) -> Result<String, String> {
    let rest = scalar.text.strip_prefix("https://").unwrap_or_default();
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    match host.is_empty() || host.contains('@') || rest.contains(char::is_whitespace) {
        false => Ok(scalar.text.clone()),
        true => {
            Err("expected an https:// URL: keys are only as true as the way they come".to_owned())
        }
    }
}
