//! THE STORY: how a request travels, phase by phase, in the order in which it meets them.

mod account;
mod admit;
mod body;
mod bridge;
mod cors;
pub mod ctx;
pub mod entrance;
mod everywhere;
mod finish;
pub mod front;
mod h2;
mod headers;
mod host;
mod lint;
mod local;
mod managed;
mod outgoing;
mod patience;
mod quota;
mod refusal;
mod relay;
mod request_id;
mod seating;
pub mod stage;
mod watchdog;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use bytes::Bytes;
use pingora::http::ResponseHeader;
use pingora::modules::http::HttpModules;
use pingora::protocols::Digest;
use pingora::proxy::{FailToProxy, ProxyHttp, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, Result};
use tokio::sync::watch;

use crate::auth::verdict::Authenticator;
use crate::config::Timeouts;
use crate::limit::Limits;
use crate::limit::login::Attempts;
use crate::live::Live;
use crate::route::{Action, Door};
use crate::scheduler::Scheduler;
use crate::store::{Redis, Store};
use crate::telemetry::metrics::Metrics;
use crate::usage::ledger::Ledger;
use admit::{Admitted, Stop};
use body::Budget;
use cors::Preflight;
use ctx::Ctx;
use finish::Counter;
use front::Connections;
use stage::Stage;

/// Everything that a request may need on its way.
#[derive(Clone)]
pub struct Gateway {
    door: Door,
    live: Arc<Live>,
    authenticator: Arc<Authenticator>,
    redis: Option<Arc<Redis>>,
    limits: Arc<Limits>,
    ledger: Arc<Ledger>,
    scheduler: Arc<Scheduler>,
    bodies: Arc<Budget>,
    in_flight: Counter,
    stage: watch::Receiver<Stage>,
    connections: Arc<Connections>,
    metrics: Arc<Metrics>,
    logins: Arc<Attempts>,
    store: Arc<Store>,
    admin: Router,
    client: reqwest::Client,
}

/// What a [`Gateway`] is made of.
pub struct Parts {
    /// The configuration in force and its instances.
    pub live: Arc<Live>,
    /// Knows who is asking.
    pub authenticator: Arc<Authenticator>,
    /// Counts attempts to log in.
    pub logins: Arc<Attempts>,
    /// What this gateway shares with others, if it does.
    pub redis: Option<Arc<Redis>>,
    /// Knows how much of it everybody may have.
    pub limits: Arc<Limits>,
    /// Where usage is written down.
    pub ledger: Arc<Ledger>,
    /// Gives seats.
    pub scheduler: Arc<Scheduler>,
    /// How far the end has come.
    pub stage: watch::Receiver<Stage>,
    /// Where things are counted.
    pub metrics: Arc<Metrics>,
    /// Where what changes the models of an instance is written down.
    pub store: Arc<Store>,
    /// What is behind `/admin` and `/auth`.
    pub admin: Router,
    /// For loads that go on although the client who began them left.
    pub client: reqwest::Client,
}

impl Gateway {
    /// Puts the parts together.
    pub fn new(parts: Parts) -> Self {
        Self {
            door: Door::Both,
            live: parts.live,
            authenticator: parts.authenticator,
            redis: parts.redis,
            limits: parts.limits,
            ledger: parts.ledger,
            scheduler: parts.scheduler,
            bodies: Budget::new(),
            in_flight: Counter::default(),
            stage: parts.stage,
            connections: Arc::default(),
            metrics: parts.metrics,
            logins: parts.logins,
            store: parts.store,
            admin: parts.admin,
            client: parts.client,
        }
    }

    /// The same gateway behind another door: all that is counted is counted together.
    pub fn at(&self, door: Door) -> Self {
        Self { door, ..self.clone() }
    }

    /// The parts that do not answer, and are done without.
    pub(super) fn missing(&self) -> Vec<&'static str> {
        let database = self.authenticator.is_without_store().then_some("database");
        let redis = self.redis.as_ref().filter(|redis| redis.is_away()).map(|_| "redis");
        let ledger = self.ledger.is_without_store().then_some("ledger");
        database.into_iter().chain(redis).chain(ledger).collect()
    }

    /// What is held at any moment, for the drain and its last line.
    pub fn gauges(&self) -> Gauges {
        Gauges {
            in_flight: self.in_flight.clone(),
            connections: Arc::clone(&self.connections),
            scheduler: Arc::clone(&self.scheduler),
            bodies: Arc::clone(&self.bodies),
        }
    }

    /// The connections that its front counts.
    pub fn connections(&self) -> Arc<Connections> {
        Arc::clone(&self.connections)
    }

    /// Whether the connection stays open behind this request. HTTP/1.0 clients wait for its end.
    fn keepalive(&self, session: &Session) -> Option<u64> {
        let old = session.req_header().version == http::Version::HTTP_10;
        (!old && !self.stage.borrow().is_leaving()).then_some(front::KEEPALIVE.as_secs())
    }
}

/// The scarce things that requests hold; all of them zero when nothing is under way.
#[derive(Clone)]
pub struct Gauges {
    in_flight: Counter,
    connections: Arc<Connections>,
    scheduler: Arc<Scheduler>,
    bodies: Arc<Budget>,
}

impl Gauges {
    /// Requests in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight.get()
    }

    /// Open connections.
    pub fn connections(&self) -> usize {
        self.connections.open()
    }
}

impl fmt::Display for Gauges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "in_flight={} seats={} waiting={} body_bytes={}",
            self.in_flight.get(),
            self.scheduler.taken(),
            self.scheduler.waiting(),
            self.bodies.taken()
        )
    }
}

/// What holds for a client's connection while a request is worked on.
fn settle(session: &mut Session, timeouts: &Timeouts) {
    session.set_read_timeout(Some(timeouts.body));
    session.set_write_timeout(Some(timeouts.idle));
    session.set_total_drain_timeout(Some(refusal::LINGER));
}

#[async_trait]
impl ProxyHttp for Gateway {
    /// Boxed: Pingora moves it through several futures, whose size every stream holds.
    type CTX = Box<Ctx>;

    fn new_ctx(&self) -> Box<Ctx> {
        Box::new(Ctx::new(&self.live.load(), self.in_flight.enter(), self.door))
    }

    /// No module: the default one compresses, and a compressor holds tokens back.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    async fn early_request_filter(&self, session: &mut Session, ctx: &mut Box<Ctx>) -> Result<()> {
        ctx.meet(session);
        settle(session, &ctx.config.timeouts);
        let keepalive = self.keepalive(session);
        session.set_keepalive(keepalive);
        Ok(())
    }

    /// Everything that can say no, then the routes that are answered here.
    async fn request_filter(&self, session: &mut Session, ctx: &mut Box<Ctx>) -> Result<bool> {
        if let Some(preflight) = Preflight::of(session.req_header(), ctx) {
            return local::permit(session, ctx, &preflight).await.map(|()| true);
        }
        let refusal = match admit::admit(self, session, ctx).await {
            Ok(Admitted::Proxied) => return Ok(false),
            Ok(Admitted::Local(Action::Admin | Action::Account | Action::Login)) => {
                bridge::call(self, session, ctx).await?
            }
            Ok(Admitted::Everywhere(round)) => everywhere::conduct(session, ctx, round).await?,
            Ok(Admitted::Local(action)) => local::answer(self, session, ctx, action).await?,
            Err(Stop::Refused(refusal)) => Some(refusal),
            Err(Stop::Gone(error)) => return Err(error),
        };
        ctx.decided();
        if let Some(refusal) = refusal {
            ctx.quota.give_back();
            if ctx.is_comforted() {
                return Err(relay::refuse_in_stream(refusal, ctx));
            }
            let written = refusal::write(session, &refusal, ctx).await;
            ctx.refusal = Some(refusal);
            written?;
        }
        Ok(true)
    }

    async fn upstream_peer(
        &self,
        session: &mut Session,
        ctx: &mut Box<Ctx>,
    ) -> Result<Box<HttpPeer>> {
        relay::choose(self, session, ctx).await
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        ctx: &mut Box<Ctx>,
        error: Box<Error>,
    ) -> Box<Error> {
        relay::not_connected(ctx, error)
    }

    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        _reused: bool,
        _peer: &HttpPeer,
        _fd: std::os::unix::io::RawFd,
        _digest: Option<&Digest>,
        ctx: &mut Box<Ctx>,
    ) -> Result<()> {
        relay::connected(&self.metrics, ctx);
        Ok(())
    }

    /// The kept body takes the place of what Pingora has of it: the same on every attempt.
    async fn request_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut Box<Ctx>,
    ) -> Result<()> {
        if let Some(kept) = &ctx.body {
            *body = end_of_stream.then(|| kept.clone());
        }
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Box<Ctx>,
    ) -> Result<()> {
        relay::answered(self, session, response, ctx)
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Box<Ctx>,
    ) -> Result<()> {
        if session.req_header().version == http::Version::HTTP_10 {
            // it knows no chunks: the end of the connection is the end of the answer
            response.remove_header(&http::header::TRANSFER_ENCODING);
        }
        if let Some(instance) = ctx.upstream.as_deref() {
            headers::to_client(response, instance, ctx)?;
        }
        if ctx.is_comforted() { patience::conform(response) } else { Ok(()) }
    }

    fn response_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut Box<Ctx>,
    ) -> Result<Option<Duration>> {
        relay::passing(&self.limits, session, body, end_of_stream, ctx)?;
        Ok(None)
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        ctx: &mut Box<Ctx>,
        client_reused: bool,
    ) -> Box<Error> {
        relay::broken(session, error, ctx, client_reused)
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        ctx: &mut Box<Ctx>,
    ) -> FailToProxy {
        relay::give_up(session, error, ctx).await
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut Box<Ctx>) {
        finish::finish(self, session, error, ctx);
    }

    /// The access line tells it, once.
    fn suppress_error_log(&self, _session: &Session, _ctx: &Box<Ctx>, _error: &Error) -> bool {
        true
    }

    /// Never the path as sent: it may hold what does not belong in a log.
    fn request_summary(&self, _session: &Session, ctx: &Box<Ctx>) -> String {
        format!("request {} for {}", ctx.request_id, ctx.route_path())
    }
}
