//! The steps that every request pays for, one by one.
#![allow(missing_docs, reason = "criterion's macro makes public functions without any")]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use futures_util::FutureExt;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Method};
use jiff::Timestamp;
use tokio::runtime::Runtime;

use usher::auth::verdict::{Authenticator, Options};
use usher::auth::{
    Asking, Holder, Identity, IdentityStore, Key, Method as Proof, Principal, Signed, Tokens,
    Unavailable, User, api_key,
};
use usher::config::Config;
use usher::limit::{Bounds, InProcess, Limits, What};
use usher::model::ModelName;
use usher::payload;
use usher::policy::{self, Rules};
use usher::route;
use usher::usage::{Format, Meter};

mod seating;

use seating::seating;

criterion_group!(benches, admitting, limiting, inspecting, metering, seating);
criterion_main!(benches);

/// What the head of a request costs, for a caller who is known.
fn admitting(c: &mut Criterion) {
    let mut group = c.benchmark_group("admit");
    group.bench_function("route", |b| {
        b.iter(|| route::find(&Method::POST, black_box(b"/v1/chat/completions")).is_ok());
    });
    let known = KnownCaller::with_key();
    group.bench_function("credential, remembered", |b| b.iter(|| known.is_welcome()));
    let bearer = KnownCaller::with_token();
    group.bench_function("token, remembered", |b| b.iter(|| bearer.is_welcome()));
    group.bench_function("token, its signature verified", |b| {
        // a memory that has seen no token yet
        let fresh = || tokens(&bearer.config);
        b.iter_batched_ref(fresh, |fresh| bearer.is_welcome_to(fresh), BatchSize::LargeInput);
    });
    let config = config();
    let principal = principal();
    group.bench_function("policy", |b| {
        let Ok(found) = route::find(&Method::POST, b"/api/chat") else { return };
        b.iter(|| {
            let rules = Rules::from(&config);
            let permit = policy::authorise_route(black_box(&principal), found.route, &rules);
            let model = ModelName::parse(black_box("llama3.2"));
            matches!((permit, model), (Ok(p), Ok(m)) if p.authorise_model(&m).is_ok())
        });
    });
    group.finish();
}

/// A key in a request, and an authenticator that has seen it before.
struct KnownCaller {
    authenticator: Authenticator,
    headers: HeaderMap,
    config: Config,
    tokens: Tokens,
    runtime: Runtime,
}

impl KnownCaller {
    /// Somebody with a key.
    fn with_key() -> Self {
        let key = api_key::generate().unwrap_or_else(|_| unreachable!("{MUST}"));
        Self::new(key.plaintext.expose(), config())
    }

    /// Somebody with a token of ours.
    fn with_token() -> Self {
        let config = config();
        let tokens = tokens(&config);
        let token = tokens.local().mint(&identity().user, 86_400, Timestamp::now());
        Self::new(token.unwrap_or_else(|_| unreachable!("{MUST}")).expose(), config)
    }

    fn new(credential: &str, config: Config) -> Self {
        let runtime = Runtime::new().unwrap_or_else(|_| unreachable!("{MUST}"));
        let mut headers = HeaderMap::new();
        let bearer = format!("Bearer {credential}");
        headers.extend(HeaderValue::try_from(bearer).map(|value| (AUTHORIZATION, value)));
        let options = Options::new(Duration::from_hours(24), runtime.handle().clone());
        let authenticator = Authenticator::new(Arc::new(OneUser), &options);
        let tokens = tokens(&config);
        let known = Self { authenticator, headers, config, tokens, runtime };
        let first = known.authenticator.authenticate(known.asking(&known.tokens));
        assert!(known.runtime.block_on(first).is_ok(), "the store knows everybody");
        known
    }

    fn asking<'a>(&'a self, tokens: &'a Tokens) -> Asking<'a> {
        Asking {
            headers: black_box(&self.headers),
            path_key: None,
            signed: Signed { method: "POST", path: "/api/chat", query: "", private: true },
            config: &self.config.auth,
            tokens,
            now: Timestamp::now(),
            from: Ipv4Addr::LOCALHOST.into(),
            last: None,
        }
    }

    /// The answer is there at once: nobody has to be asked.
    fn is_welcome(&self) -> bool {
        self.is_welcome_to(&self.tokens)
    }

    fn is_welcome_to(&self, tokens: &Tokens) -> bool {
        let asked = self.authenticator.authenticate(self.asking(tokens));
        asked.now_or_never().is_some_and(|found| found.is_ok())
    }
}

const MUST: &str = "a bench runs where threads and randomness can be had";

fn tokens(config: &Config) -> Tokens {
    Tokens::load(&config.auth, None).unwrap_or_else(|_| unreachable!("the secret is a good one"))
}

/// Every key is of the one user.
struct OneUser;

#[async_trait]
impl IdentityStore for OneUser {
    async fn identity(&self, _: &Holder, _: IpAddr) -> Result<Option<Identity>, Unavailable> {
        Ok(Some(identity()))
    }

    async fn revision(&self) -> Result<i64, Unavailable> {
        Ok(1)
    }
}

fn principal() -> Principal {
    Principal { identity: Arc::new(identity()), method: Proof::ApiKey, token: None }
}

fn identity() -> Identity {
    let tier = "premium".to_owned();
    Identity {
        user: User {
            id: 1,
            username: "ann".to_owned(),
            email: None,
            issuer: None,
            subject: None,
            tier,
            tier_given: false,
            disabled: false,
            token_version: 0,
        },
        key: Some(Key {
            id: 1,
            public_id: None,
            tier: None,
            models: Some(vec!["qwen3*".to_owned(), "llama3*".to_owned()]),
            concurrency: None,
            requests: None,
            tokens: None,
            delegating: false,
            expires_at: None,
            revoked_at: None,
        }),
    }
}

/// What the limits of a request cost: taken, kept, and told of.
fn limiting(c: &mut Criterion) {
    let mut group = c.benchmark_group("limit");
    let text = "upstreams: [ { name: a, url: 'http://127.0.0.1:1' } ]\ntiers: { premium: { requests: 1000M/h, tokens: 1000M/h } }";
    let Ok(config) = Config::parse(text, Path::new("."), &|_| None) else { return };
    let principal = principal();
    let limits = Limits::new(Arc::new(InProcess::default()));
    for (name, what) in [("requests", What::Requests), ("tokens", What::Tokens)] {
        group.bench_function(name, |b| {
            b.iter(|| {
                let bounds = Bounds::of(black_box(&principal), &config.tiers, what);
                if let Some(Ok(Some(claim))) = limits.take(&bounds, 100).now_or_never() {
                    black_box(claim.standing());
                    claim.settle(90);
                }
            });
        });
    }
    group.finish();
}

/// What the body of a request costs.
fn inspecting(c: &mut Criterion) {
    let mut group = c.benchmark_group("inspect");
    for (name, size) in [("1 KB", 1_000), ("220 KB", 220_000)] {
        let body = chat(size);
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| payload::inspect(black_box(body.as_bytes())).is_ok())
        });
    }
    group.finish();
}

fn chat(size: usize) -> String {
    let turn = r#"{"role":"user","content":"Why is the sky \"blue\"?\nTell me in a few words."}"#;
    let turns = vec![turn; size.div_ceil(turn.len() + 1)].join(",");
    format!(r#"{{"model":"llama3.2","stream":true,"messages":[{turns}]}}"#)
}

/// What each chunk of an answer costs.
fn metering(c: &mut Criterion) {
    let mut group = c.benchmark_group("chunk");
    let line = Bytes::from_static(b"{\"model\":\"llama3.2\",\"created_at\":\"2026-01-01T00:00:00.000000000Z\",\"message\":{\"role\":\"assistant\",\"content\":\" blue\"},\"done\":false}\n");
    let event = Bytes::from_static(b"data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1767225600,\"model\":\"llama3.2\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\" blue\"},\"finish_reason\":null}]}\n\n");
    for (name, format, strip, chunk) in [
        ("Ollama's line", Format::Ndjson, false, &line),
        ("OpenAI's event", Format::SseOpenAi, false, &event),
        ("OpenAI's event, usage cut out", Format::SseOpenAi, true, &event),
    ] {
        let mut meter = Meter::new(format, strip);
        group.throughput(Throughput::Bytes(chunk.len() as u64));
        group.bench_function(name, |b| b.iter(|| meter.push(black_box(chunk.clone()))));
    }
    group.finish();
}

pub(crate) fn config() -> Config {
    let text = "state_dir: state\nbalance: { queue: 1024, queue_per_user: 1024 }\nupstreams:\n  - { name: a, url: 'http://127.0.0.1:1', slots: 4 }\n  - { name: b, url: 'http://127.0.0.1:2', slots: 4 }\n";
    let secret = |name: &str| {
        (name == "JWT_SECRET")
            .then(|| "Zm9yIGEgYmVuY2ggYWxvbmUsIG5ldmVyIHVzZWQgYW55d2hlcmU".to_owned())
    };
    match Config::parse(text, Path::new("."), &secret) {
        Ok(config) => config,
        Err(problems) => unreachable!("{problems}"),
    }
}
