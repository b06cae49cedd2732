//! Tiers, and the routes that only some of them may use: `tiers`, `restrict`.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;

use super::reader::{Item, Section, remedy};
use super::tree::Scalar;
use super::values;
use crate::config::taming::{Context, KeepAlive};
use crate::config::units::{Window, parse_duration};
use crate::config::{Rate, RouteClass, Taming, Tier};

/// `tiers`: the built-in ones, changed where the file names a key, and the file's own, which are
/// like `free` where it names none.
pub(super) fn tiers(root: &Section<'_>) -> BTreeMap<String, Tier> {
    let mut tiers = defaults();
    let Some(item) = root.item("tiers") else { return tiers };
    let like_free = tiers.get("free").cloned().unwrap_or_else(|| tier(&[], (1, 1), (1, 1)));
    let read = item.entries(|name, item| {
        if !values::is_name(name) {
            item.wrong(values::NAME);
        }
        let before = tiers.get(name).unwrap_or(&like_free);
        Some((name.to_owned(), item.section(|s| one(s, before))))
    });
    tiers.extend(read);
    tiers
}

fn defaults() -> BTreeMap<String, Tier> {
    use RouteClass::{Admin, Inference, Manage, Read};
    BTreeMap::from([
        ("free".to_owned(), tier(&[Read, Inference], (2, 1), (100, 600))),
        ("premium".to_owned(), tier(&[Read, Inference], (8, 4), (1_000, 6_000))),
        ("admin".to_owned(), tier(&[Read, Inference, Manage, Admin], (32, 8), (10_000, 6_000))),
    ])
}

/// A tier with this concurrency and weight, and so many requests an hour and reads a minute.
fn tier(
    allow: &[RouteClass],
    (concurrency, weight): (u32, u32),
    (requests, reads): (u64, u64),
) -> Tier {
    let rate = |amount, per| NonZeroU64::new(amount).map(|amount| Rate { amount, per });
    let allow = allow.iter().copied().collect();
    Tier {
        taming: default_taming(&allow),
        allow,
        models: None,
        concurrency,
        requests: rate(requests, Window::Hour),
        reads: rate(reads, Window::Minute),
        tokens: None,
        max_queue_wait: None,
        weight,
        cloud: false,
    }
}

fn default_taming(allow: &BTreeSet<RouteClass>) -> Taming {
    Taming::by_default(allow.contains(&RouteClass::Manage))
}

fn one(s: &Section<'_>, before: &Tier) -> Tier {
    let allow = match s.item("allow") {
        Some(item) => item.list(|class| class.scalar(values::word(&CLASSES))).into_iter().collect(),
        None => before.allow.clone(),
    };
    Tier {
        taming: taming(s, default_taming(&allow)),
        allow,
        models: match s.item("models") {
            Some(item) if item.is_null() => None,
            Some(item) => Some(patterns(&item)),
            None => before.models.clone(),
        },
        concurrency: s.get("concurrency", values::whole(1..=100_000)).unwrap_or(before.concurrency),
        requests: rate(s, "requests", before.requests),
        reads: rate(s, "reads", before.reads),
        tokens: rate(s, "tokens", before.tokens),
        max_queue_wait: match s.item("max_queue_wait") {
            Some(item) if item.is_null() => None,
            Some(item) => item.scalar(values::time),
            None => before.max_queue_wait,
        },
        weight: s.get("weight", values::whole(1..=1_000)).unwrap_or(before.weight),
        cloud: s.get("cloud", values::boolean).unwrap_or(before.cloud),
    }
}

/// A rate; `null` is without limit.
fn rate(s: &Section<'_>, key: &'static str, before: Option<Rate>) -> Option<Rate> {
    match s.item(key) {
        Some(item) if item.is_null() => None,
        Some(item) => item.scalar(values::parsed),
        None => before,
    }
}

const CLASSES: [(&str, RouteClass); 4] = [
    ("read", RouteClass::Read),
    ("inference", RouteClass::Inference),
    ("manage", RouteClass::Manage),
    ("admin", RouteClass::Admin),
];

fn patterns(item: &Item<'_>) -> Vec<String> {
    let patterns = item.list(|pattern| pattern.scalar(model_pattern));
    if item.is_empty_list() {
        item.wrong("names no model, so none could be used: add patterns such as 'llama3*'");
    }
    patterns
}

/// A model's name in which `*` stands for any run of characters.
fn model_pattern(scalar: &Scalar) -> Result<String, String> {
    let pattern = values::text(scalar)?;
    let sane = |b: u8| b.is_ascii_alphanumeric() || b"._-/:*".contains(&b);
    match pattern.len() <= 256 && pattern.bytes().all(sane) {
        true => Ok(pattern),
        false => {
            let shown = scalar.shown();
            Err(format!("expected a model such as 'qwen3:8b' or 'llama3*', found {shown}"))
        }
    }
}

/// What a tier's requests may do to a model; what it does not name follows from what it may use.
fn taming(s: &Section<'_>, default: Taming) -> Taming {
    Taming {
        num_ctx: s.get("num_ctx", num_ctx).unwrap_or(default.num_ctx),
        runner_options: s
            .get("runner_options", values::word(&[("drop", false), ("allow", true)]))
            .unwrap_or(default.runner_options),
        keep_alive: s.get("keep_alive", keep_alive).unwrap_or(default.keep_alive),
        max_output: s.nullable("max_output", values::whole(1..=MOST_TOKENS)),
        unloading: default.unloading,
    }
}

/// What every reader of a number of tokens can hold.
const MOST_TOKENS: u32 = i32::MAX.unsigned_abs();

fn num_ctx(scalar: &Scalar) -> Result<Context, String> {
    let count = |text: &str| text.parse().ok().filter(|n| (1..=MOST_TOKENS).contains(n));
    let read = match &*scalar.text {
        "allow" => Some(Context::Allow),
        text => match text.split_once(' ') {
            Some(("max", number)) => count(number.trim()).map(Context::Max),
            Some(("pin", number)) => count(number.trim()).map(Context::Pin),
            _ => None,
        },
    };
    let found = || scalar.shown();
    read.ok_or_else(|| format!("expected `allow` or `max 32768` or `pin 32768`, found {}", found()))
}

fn keep_alive(scalar: &Scalar) -> Result<KeepAlive, String> {
    let time = |text: &str| parse_duration(text).ok().filter(|time| !time.is_zero());
    let read = match &*scalar.text {
        "drop" => Some(KeepAlive::Drop),
        "allow" => Some(KeepAlive::Allow),
        text => match text.split_once(' ') {
            Some(("max", text)) => time(text.trim()).map(KeepAlive::Max),
            _ => None,
        },
    };
    let found = || scalar.shown();
    read.ok_or_else(|| format!("expected `drop` or `allow` or `max 30m`, found {}", found()))
}

/// `restrict`: known routes, known tiers.
pub(super) fn restrict(root: &Section<'_>, tiers: &[&str]) -> BTreeMap<String, BTreeSet<String>> {
    let Some(item) = root.item("restrict") else { return BTreeMap::new() };
    let read = item.entries(|route, item| {
        if !ROUTES.contains(&route) {
            item.wrong(format!("no such route: {}", remedy(route, ROUTES)));
            return None;
        }
        let allowed: BTreeSet<_> =
            item.list(|tier| tier.scalar(values::known("tier", tiers))).into_iter().collect();
        if item.is_empty_list() {
            item.wrong("names no tier, so nobody could use the route: add tiers");
        }
        Some((route.to_owned(), allowed))
    });
    read.into_iter().collect()
}

/// Routes that `restrict` may name: those that need a tier at all.
pub const ROUTES: &[&str] = &[
    "/admin/audit",
    "/admin/config",
    "/admin/keys",
    "/admin/keys/{id}",
    "/admin/keys/{id}/rotate",
    "/admin/openapi.json",
    "/admin/reload",
    "/admin/upstreams",
    "/admin/upstreams/{name}/drain",
    "/admin/upstreams/{name}/resume",
    "/admin/usage",
    "/admin/users",
    "/admin/users/{id}",
    "/admin/users/{id}/ssh-keys",
    "/api/blobs/{digest}",
    "/api/chat",
    "/api/copy",
    "/api/create",
    "/api/delete",
    "/api/embed",
    "/api/embeddings",
    "/api/generate",
    "/api/ps",
    "/api/pull",
    "/api/push",
    "/api/show",
    "/api/tags",
    "/api/version",
    "/auth/logout",
    "/auth/me",
    "/auth/usage",
    "/v1/audio/transcriptions",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/models",
    "/v1/models/{id}",
    "/v1/responses",
];
