//! Asking the store: once for a key however many ask for it, and never too much at once.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::Shared;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use super::{Epoch, Options};
use crate::auth::{Holder, Identity, IdentityStore, Peers, Unavailable};

/// The lookups under way.
pub(super) struct Lookups {
    store: Arc<dyn IdentityStore>,
    peers: Option<Arc<dyn Peers>>,
    flights: Mutex<HashMap<Errand, Flight>>,
    pending: usize,
    permits: Semaphore,
    timeout: Duration,
    runtime: Handle,
}

/// Those who ask in a later epoch do not share an answer with those of an earlier one.
pub(super) type Errand = (Holder, Epoch);
type Flight = Shared<oneshot::Receiver<Outcome>>;
type Outcome = Result<Answer, Unavailable>;

/// What a lookup found.
#[derive(Clone)]
pub(super) enum Answer {
    /// It is nobody.
    Nobody,
    /// It is somebody.
    Somebody {
        /// Who.
        identity: Arc<Identity>,
        /// Whether a peer had read it.
        by_peer: bool,
    },
}

impl Lookups {
    pub(super) fn new(store: Arc<dyn IdentityStore>, options: &Options) -> Self {
        Self {
            store,
            peers: options.peers.clone(),
            flights: Mutex::default(),
            pending: options.pending,
            permits: Semaphore::new(options.lookups),
            timeout: options.lookup_timeout,
            runtime: options.runtime.clone(),
        }
    }

    /// Who this is; peers may know, as of this revision. Of those who ask at once, the first is
    /// whom the store hears of.
    ///
    /// # Errors
    /// [`Unavailable`] if the store fails, takes too long, or has too much to do.
    pub(super) async fn ask(
        self: &Arc<Self>,
        errand: Errand,
        revision: Option<i64>,
        from: IpAddr,
    ) -> Outcome {
        match self.board(errand, revision, from)?.await {
            Ok(answer) => answer,
            Err(_) => Err(Unavailable("the lookup was lost".to_owned())),
        }
    }

    /// Joins the flight of this errand, or starts it. It is a task of its own, so that a client
    /// who leaves neither holds up the others nor tears a query apart.
    fn board(
        self: &Arc<Self>,
        errand: Errand,
        revision: Option<i64>,
        from: IpAddr,
    ) -> Result<Flight, Unavailable> {
        let (answer, flight) = {
            let mut flights = self.flights.lock();
            if let Some(flight) = flights.get(&errand) {
                return Ok(flight.clone());
            }
            if flights.len() >= self.pending {
                return Err(Unavailable("too many lookups at once".to_owned()));
            }
            let (answer, flight) = oneshot::channel();
            let flight = flight.shared();
            flights.insert(errand.clone(), flight.clone());
            (answer, flight)
        };
        let landing = Landing { lookups: Arc::clone(self), errand };
        self.runtime.spawn(async move {
            let (lookups, holder) = (Arc::clone(&landing.lookups), landing.errand.0.clone());
            let outcome = lookups.look_up(&holder, revision, from).await;
            // nobody may be waiting any more
            let _ = answer.send(outcome.clone());
            drop(landing);
            lookups.share(&holder, revision, &outcome).await;
        });
        Ok(flight)
    }

    async fn look_up(&self, holder: &Holder, revision: Option<i64>, from: IpAddr) -> Outcome {
        if let (Some(peers), Some(revision)) = (&self.peers, revision)
            && let Some(identity) = peers.recall(holder, revision).await
        {
            return Ok(Answer::Somebody { identity: Arc::new(identity), by_peer: true });
        }
        let lookup = async {
            let _permit = self.permits.acquire().await.map_err(|e| Unavailable(e.to_string()))?;
            self.store.identity(holder, from).await
        };
        let answer = timeout(self.timeout, lookup).await;
        let answer = answer.unwrap_or_else(|_| Err(Unavailable("no answer in time".to_owned())))?;
        let somebody = |it| Answer::Somebody { identity: Arc::new(it), by_peer: false };
        Ok(answer.map_or(Answer::Nobody, somebody))
    }

    /// Lets the peers know what the store said.
    async fn share(&self, holder: &Holder, revision: Option<i64>, outcome: &Outcome) {
        if let (Some(peers), Some(revision)) = (&self.peers, revision)
            && let Ok(Answer::Somebody { identity, by_peer: false }) = outcome
        {
            peers.remember(holder, revision, identity).await;
        }
    }
}

/// Strikes the flight off the list however it ends, panic included.
struct Landing {
    lookups: Arc<Lookups>,
    errand: Errand,
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.lookups.flights.lock().remove(&self.errand);
    }
}
