//! What is known of a request so far. It owns every guard that the request holds.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use pingora::proxy::Session;

use super::body::Reservation;
use super::cors;
use super::finish::InFlight;
use super::headers;
use super::outgoing::Outgoing;
use super::patience::Belated;
use super::quota::Quota;
use super::refusal::Refusal;
use super::request_id::RequestId;
use super::watchdog::{Companions, Watchdog};
use crate::auth::credential::PathKey;
use crate::auth::verdict::Acquaintance;
use crate::auth::{Principal, Tokens};
use crate::client::ClientAddr;
use crate::config::Config;
use crate::live::{Generation, Live};
use crate::model::ModelName;
use crate::policy::RoutePermit;
use crate::route::{Dialect, Door, Route};
use crate::scheduler::{Candidate, Report, Seat, Wish};
use crate::upstream::warm::Warming;
use crate::upstream::{Fleet, Instance};
use crate::usage::{Counts, Meter};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// One request, from its head to its access line.
pub struct Ctx {
    /// The configuration that this request is judged by, from beginning to end.
    pub(super) config: Arc<Config>,
    /// Its instances; a seat may lead to one that was added later.
    pub(super) fleet: Arc<Fleet>,
    /// The tokens that are believed by it.
    pub(super) tokens: Arc<Tokens>,
    /// Where it came in.
    pub(super) door: Door,
    /// When the head was complete.
    pub(super) start: Instant,
    /// The client's own id, or one made here.
    pub(super) request_id: RequestId,
    /// Who connected, or for whom a trusted proxy did.
    pub(super) client: ClientAddr,
    /// Whether nobody can listen: TLS, or the machine's own network.
    pub(super) private: bool,
    /// Whether it is TLS.
    pub(super) encrypted: bool,
    /// The key that stood in the path.
    pub(super) path_key: Option<PathKey>,
    /// The origin of the page that asks, if its browser may let it read the answer.
    pub(super) origin: Option<HeaderValue>,
    /// What is asked for, once it is known.
    pub(super) route: Option<&'static Route>,
    /// The path to send to the instance: the table's, never the client's.
    pub(super) upstream_path: Cow<'static, str>,
    /// The variable part of the path.
    pub(super) parameter: Option<String>,
    /// The shape of errors.
    pub(super) dialect: Dialect,
    /// Who is asking, once it is known.
    pub(super) principal: Option<Principal>,
    /// What they may see, for the lists that are answered here.
    pub(super) permit: Option<RoutePermit>,
    /// The model, once the body was read.
    pub(super) model: Option<ModelName>,
    /// What goes to the instance: the same bytes on every attempt.
    pub(super) body: Option<Bytes>,
    /// Its share of the memory for bodies.
    pub(super) reservation: Option<Reservation>,
    /// What it holds of its sender's limits.
    pub(super) quota: Quota,
    /// Tokens that the body is estimated to have, where that is what was asked.
    pub(super) estimate: u64,
    /// What it needs of an instance.
    pub(super) wish: Option<Wish>,
    /// How its model is loaded, should it have to be.
    pub(super) warming: Option<Warming>,
    /// The instances among which its seat was chosen.
    pub(super) candidates: Vec<Candidate>,
    /// Where it goes.
    pub(super) target: Option<Target>,
    /// The instance that it went to last.
    pub(super) upstream: Option<Arc<Instance>>,
    /// Whether its model is one that leaves the box.
    pub(super) cloud: bool,
    /// Whether the answer is asked for as a stream.
    pub(super) streams: bool,
    /// Longest wait in the queue.
    pub(super) max_wait: Duration,
    /// Whether the usage chunk was asked for by us.
    pub(super) strip_usage: bool,
    /// Whether its model had to be loaded first.
    pub(super) cold: bool,
    /// Whether the instance does what was asked: its answer is no error.
    pub(super) served: bool,
    /// Reads the token counts from the answer.
    pub(super) meter: Option<Meter>,
    /// Whether the answer is a stream of server-sent events.
    pub(super) sse: bool,
    /// What is on its way to the client.
    pub(super) outgoing: Outgoing,
    /// Attempts so far, and why they failed.
    pub(super) attempts: Attempts,
    /// How long things took.
    pub(super) timings: Timings,
    /// A refusal of the instance's that has to become an event.
    pub(super) belated: Option<Belated>,
    /// Keeps the deadlines.
    pub(super) watchdog: Option<Arc<Watchdog>>,
    /// Who came before on the same connection.
    pub(super) last: Option<Arc<Acquaintance>>,
    /// The no, if it was one.
    pub(super) refusal: Option<Refusal>,
    /// Whether the instance's answer came to the end of its body.
    pub(super) complete: bool,
    /// Counts this request while it lives.
    _in_flight: InFlight,
}

/// Where a request goes.
pub(super) enum Target {
    /// A seat of an instance.
    Seat(Box<Seat>),
    /// An instance, for a request that costs it nothing.
    Instance(usize),
}

/// Attempts at getting an answer.
#[derive(Debug, Default)]
pub struct Attempts {
    /// Connections that failed before anything was sent.
    pub(super) connects: u32,
    /// Repetitions after bytes were sent.
    pub(super) resends: u32,
    /// Whether the next attempt goes to another instance.
    pub(super) again: bool,
    /// Instances that have failed it.
    pub(super) failed: Vec<usize>,
    /// What the client hears if there is no other instance; else that none can be reached.
    pub(super) last_word: Option<Refusal>,
    /// When bytes may first have reached the instance, in this attempt.
    pub(super) sent_at: Option<Instant>,
}

/// How long things took.
#[derive(Debug, Default)]
pub struct Timings {
    /// Finding out who is asking.
    pub(super) auth: Option<Duration>,
    /// Waiting for the client to send its body.
    pub(super) body: Option<Duration>,
    /// Waiting for a seat.
    pub(super) queue: Option<Duration>,
    /// From arrival to the first byte of the instance's answer.
    pub(super) first_byte: Option<Duration>,
    /// From arrival to the first piece of the instance's answer.
    pub(super) first_piece: Option<Duration>,
    /// From arrival to the end of the instance's answer.
    pub(super) last_byte: Option<Duration>,
    /// Our own work until it was clear what becomes of the request: an instance, or an answer.
    pub(super) overhead: Option<Duration>,
}

impl Ctx {
    /// A request of which nothing is known yet.
    pub(super) fn new(generation: &Generation, in_flight: InFlight, door: Door) -> Self {
        Self {
            config: Arc::clone(&generation.config),
            fleet: Arc::clone(&generation.fleet),
            tokens: Arc::clone(&generation.tokens),
            door,
            start: Instant::now(),
            request_id: RequestId::NONE,
            client: ClientAddr::of(SocketAddr::from(([0, 0, 0, 0], 0))),
            private: false,
            encrypted: false,
            path_key: None,
            origin: None,
            route: None,
            upstream_path: Cow::Borrowed(""),
            parameter: None,
            dialect: Dialect::Plain,
            principal: None,
            permit: None,
            model: None,
            body: None,
            reservation: None,
            quota: Quota::default(),
            estimate: 0,
            wish: None,
            warming: None,
            candidates: Vec::new(),
            target: None,
            upstream: None,
            cloud: false,
            streams: false,
            max_wait: Duration::ZERO,
            strip_usage: false,
            cold: false,
            served: false,
            meter: None,
            sse: false,
            outgoing: Outgoing::default(),
            attempts: Attempts::default(),
            timings: Timings::default(),
            belated: None,
            watchdog: None,
            last: None,
            refusal: None,
            complete: false,
            _in_flight: in_flight,
        }
    }

    /// Learns what the connection and the head say.
    pub(super) fn meet(&mut self, session: &Session) {
        let given = &session.req_header().headers;
        self.request_id = RequestId::of(given.get(headers::X_REQUEST_ID));
        if let Some(peer) = session.client_addr().and_then(|address| address.as_inet()) {
            self.private = ClientAddr::of(*peer).ip().is_loopback();
            let trusted = &self.config.auth.trusted_proxies;
            self.client = match trusted.is_empty() {
                true => ClientAddr::of(*peer),
                false => {
                    let lines = given.get_all(X_FORWARDED_FOR).iter().map(HeaderValue::as_bytes);
                    ClientAddr::behind(*peer, lines, trusted)
                }
            };
        }
        self.encrypted = session.digest().is_some_and(|digest| digest.ssl_digest.is_some());
        self.private |= self.encrypted;
        self.origin = cors::allowed(given, &self.config.cors_origins);
        if let Some(Companions { watchdog, last }) = Companions::of(session) {
            self.watchdog = Some(watchdog);
            self.last = Some(last);
        }
    }

    /// Whether the answer's body ended before the answer did: Ollama's `/v1` routes lose an error
    /// in mid-stream and just stop.
    pub(super) fn ended_early(&self) -> bool {
        self.streams && self.meter.as_ref().is_some_and(|meter| !meter.counts().finished)
    }

    /// Takes a target and remembers the instance, for the way there and for the log.
    pub(super) fn take(&mut self, mut target: Target, live: &Live) {
        let id = match &mut target {
            Target::Seat(seat) => {
                self.candidates = seat.take_candidates();
                seat.instance()
            }
            Target::Instance(id) => *id,
        };
        let known = self.fleet.get(id).cloned();
        // a request that waited may have been seated on an instance that is newer than itself
        self.upstream = known.or_else(|| live.load().fleet.get(id).cloned());
        self.target = Some(target);
    }

    /// Leaves the seat, with what the answer has said of the work behind it.
    pub(super) fn free_seat(&mut self) {
        let Some(Target::Seat(mut seat)) = self.target.take() else { return };
        if let Some(meter) = &self.meter {
            seat.account(report(meter.counts()), meter.pieces());
        }
        if let Some(instance) = &self.upstream {
            instance.glance();
        }
    }

    /// Notes that it is clear what becomes of the request; the first time counts.
    pub(super) fn decided(&mut self) {
        let timings = &mut self.timings;
        let others = timings.body.unwrap_or_default() + timings.queue.unwrap_or_default();
        timings.overhead.get_or_insert_with(|| self.start.elapsed().saturating_sub(others));
    }

    /// The account, 0 while it is unknown.
    pub(super) fn user_id(&self) -> i64 {
        self.principal.as_ref().map_or(0, Principal::user_id)
    }

    /// The seat, if it has one.
    pub(super) fn seat(&mut self) -> Option<&mut Seat> {
        match self.target.as_mut()? {
            Target::Seat(seat) => Some(seat),
            Target::Instance(_) => None,
        }
    }

    /// The route's path for logs, `-` for what is no route.
    pub(super) fn route_path(&self) -> &'static str {
        self.route.map_or("-", |route| route.path)
    }
}

fn report(counts: &Counts) -> Report {
    let time = |ns: Option<u64>| ns.map(Duration::from_nanos);
    Report {
        prompt: counts.prompt,
        completion: counts.completion,
        load: time(counts.load_ns),
        prefill: time(counts.prompt_eval_ns),
        decode: time(counts.eval_ns),
        total: time(counts.total_ns),
    }
}
