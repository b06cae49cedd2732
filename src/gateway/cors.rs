//! CORS: which pages a browser may let read our answers (the Fetch standard, section 3.2).
//!
//! An origin is allowed if it is listed, letter by letter. Other pages learn nothing: no header at
//! all is how a server says no. Credentials in the standard's sense, cookies and their like, are
//! never asked for; keys come in headers, which a preflight has to permit.

use std::collections::BTreeSet;

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, HOST, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method};
use pingora::Result;
use pingora::http::{RequestHeader, ResponseHeader};

use super::admit;
use super::ctx::Ctx;
use crate::route::{self, NoRoute};

/// What pages may read of an answer beside its body and what they always may.
const EXPOSED: &str = "X-Request-Id, X-Usher-Upstream, Retry-After, x-should-retry, \
    x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, \
    x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens";

/// What pages may send; SDKs also tell about themselves in headers of this [`PREFIX`].
const SENT: &str = "authorization, x-api-key, content-type, accept, x-request-id, \
    x-usher-upstream, anthropic-version, anthropic-beta, \
    anthropic-dangerous-direct-browser-access, openai-beta, openai-organization, openai-project";
const PREFIX: &str = "x-stainless-";

/// Seconds that a browser may keep a preflight's answer. Firefox keeps it for a day at most, the
/// others for two hours.
const MAX_AGE: &str = "7200";

/// The origin of the page that asks, if it is one that may.
pub(super) fn allowed(headers: &HeaderMap, origins: &BTreeSet<String>) -> Option<HeaderValue> {
    if origins.is_empty() {
        return None;
    }
    let mut given = headers.get_all(ORIGIN).iter();
    let (Some(origin), None) = (given.next(), given.next()) else { return None };
    origins.contains(origin.to_str().ok()?).then(|| origin.clone())
}

/// Whether a page asks that is neither listed nor our own. A browser may add a credential that it
/// was once given for this server, which the page itself never saw; so nothing that such a page
/// sends may change anything.
pub(super) fn is_foreign(request: &RequestHeader, ctx: &Ctx) -> bool {
    if ctx.origin.is_some() {
        return false;
    }
    let host = request.headers.get(HOST).and_then(|host| host.to_str().ok());
    let host = host.or_else(|| request.uri.authority().map(|authority| authority.as_str()));
    let own = |origin: &HeaderValue| {
        let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
        origin.zip(host).is_some_and(|((_, origin), host)| origin.eq_ignore_ascii_case(host))
    };
    let crossing = |site: &HeaderValue| site == "cross-site" || site == "same-site";
    request.headers.get_all(ORIGIN).iter().any(|origin| !own(origin))
        || (request.method != Method::GET
            && request.headers.get_all("sec-fetch-site").iter().any(crossing))
}

/// Lets the page read this answer.
pub(super) fn grant(head: &mut ResponseHeader, ctx: &Ctx) -> Result<()> {
    let Some(origin) = &ctx.origin else { return Ok(()) };
    head.insert_header(ACCESS_CONTROL_ALLOW_ORIGIN, origin)?;
    head.insert_header(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED)?;
    head.append_header(VARY, "Origin")?;
    Ok(())
}

/// What a browser asks before it sends what a form could not.
pub(super) struct Preflight {
    methods: &'static str,
    headers: String,
}

impl Preflight {
    /// The preflight that this request of an allowed page is, for a path that exists.
    pub(super) fn of(request: &RequestHeader, ctx: &Ctx) -> Option<Self> {
        if request.method != Method::OPTIONS || ctx.origin.is_none() {
            return None;
        }
        let wanted = request.headers.get(ACCESS_CONTROL_REQUEST_METHOD)?;
        let wanted = Method::from_bytes(wanted.as_bytes()).ok()?;
        let (_, path) = admit::path_of(request, &ctx.config);
        let methods = match route::find_at(ctx.door, &wanted, path) {
            Ok(found) => found.route.methods,
            Err(NoRoute::MethodNotAllowed { allow, .. }) => allow,
            Err(NoRoute::NotFound(_)) => return None,
        };
        let own = ctx.config.auth.api_key_header.as_str();
        Some(Self { methods, headers: may_be_sent(&request.headers, own) })
    }

    /// Permits it.
    pub(super) fn grant(&self, head: &mut ResponseHeader) -> Result<()> {
        head.insert_header(ACCESS_CONTROL_ALLOW_METHODS, self.methods)?;
        head.insert_header(ACCESS_CONTROL_ALLOW_HEADERS, &self.headers)?;
        head.insert_header(ACCESS_CONTROL_MAX_AGE, MAX_AGE)?;
        Ok(())
    }
}

/// The headers that may be sent, among them those with the [`PREFIX`] that are asked for.
fn may_be_sent(headers: &HeaderMap, api_key_header: &str) -> String {
    let asked = headers.get_all(ACCESS_CONTROL_REQUEST_HEADERS).iter();
    let asked = asked.filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(','));
    let is_name = |name: &str| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let ours = asked
        .map(|name| name.trim().to_ascii_lowercase())
        .filter(|name| name.starts_with(PREFIX) && is_name(name))
        .collect::<BTreeSet<_>>();
    let mut all = SENT.to_owned();
    for name in ours.iter().map(String::as_str).chain([api_key_header]) {
        if name != "x-api-key" {
            all.push_str(", ");
            all.push_str(name);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let line = |(name, value): &(&'static str, &str)| {
            (http::HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        lines.iter().map(line).collect()
    }

    #[test]
    fn an_origin_is_allowed_letter_by_letter() {
        let origins = BTreeSet::from(["https://app.example".to_owned()]);
        let verdict = |origin| allowed(&headers(&[("origin", origin)]), &origins).is_some();
        assert!(verdict("https://app.example"));
        for other in [
            "null",
            "",
            "*",
            "http://app.example",
            "https://app.example:443",
            "https://app.example/",
            "https://APP.example",
            "https://app.example.evil.example",
            "https://app.example, https://evil.example",
        ] {
            assert!(!verdict(other), "{other}");
        }
        assert_eq!(allowed(&HeaderMap::new(), &origins), None);
        let mut twice = headers(&[("origin", "https://app.example")]);
        twice.append("origin", HeaderValue::from_static("https://app.example"));
        assert_eq!(allowed(&twice, &origins), None);
    }

    #[test]
    fn a_preflight_permits_what_sdks_send_and_no_more() {
        let asked = "Authorization, X-Stainless-Lang,x-stainless-os, x-evil, x-stainless-\"bad";
        let lines = headers(&[("access-control-request-headers", asked)]);
        let all = may_be_sent(&lines, "x-own-key");
        assert_eq!(all, format!("{SENT}, x-stainless-lang, x-stainless-os, x-own-key"));
        assert_eq!(may_be_sent(&HeaderMap::new(), "x-api-key"), SENT);
    }
}
