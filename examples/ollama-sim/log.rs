//! What arrived and what became of it.

use std::collections::VecDeque;
use std::sync::Arc;

use http::HeaderMap;
use parking_lot::Mutex;
use serde::Serialize;

use crate::counters::{Counters, Held};
use crate::serve::Received;

/// Requests remembered; older ones are forgotten.
const KEPT: usize = 4096;
/// Bytes of a body that are remembered.
const HEAD: usize = 4096;

/// One request.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Entry {
    id: u64,
    connection: u64,
    method: String,
    /// The target exactly as it came.
    target: String,
    headers: Vec<(String, String)>,
    body_bytes: usize,
    body_sha256: String,
    body_head: String,
    status: Option<u16>,
    /// `open`, `complete`, `cancelled` or `fault`.
    outcome: &'static str,
    sent_chunks: usize,
    sent_bytes: usize,
}

/// A request that would have left the box, or touched its owner's account.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Egress {
    pub(crate) reason: &'static str,
    pub(crate) path: String,
    pub(crate) model: String,
    /// The headers that Ollama would have sent along.
    pub(crate) headers: Vec<(String, String)>,
}

#[derive(Debug, Default)]
pub(crate) struct Log {
    entries: Mutex<VecDeque<Entry>>,
    egress: Mutex<Vec<Egress>>,
    next: std::sync::atomic::AtomicU64,
}

impl Log {
    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.entries.lock().iter().cloned().collect()
    }

    pub(crate) fn egress(&self) -> Vec<Egress> {
        self.egress.lock().clone()
    }

    pub(crate) fn would_leave(&self, egress: Egress) {
        self.egress.lock().push(egress);
    }

    pub(crate) fn clear(&self) {
        self.entries.lock().retain(|entry| entry.outcome == "open");
        self.egress.lock().clear();
    }

    fn change(&self, id: u64, change: impl FnOnce(&mut Entry)) {
        let mut entries = self.entries.lock();
        if let Some(entry) = entries.iter_mut().rev().find(|entry| entry.id == id) {
            change(entry);
        }
    }
}

/// A request under way. Dropped before its answer was complete, it was cancelled.
#[derive(Debug)]
pub(crate) struct Ticket {
    log: Arc<Log>,
    counters: Arc<Counters>,
    id: u64,
    outcome: &'static str,
    chunks: usize,
    bytes: usize,
    _inflight: Held,
}

impl Ticket {
    pub(crate) fn new(
        log: &Arc<Log>,
        counters: &Arc<Counters>,
        connection: u64,
        head: &http::request::Parts,
    ) -> Self {
        let id = log.next.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1;
        counters.add(|c| &c.requests, 1);
        let inflight = counters.hold(|c| &c.inflight, Some(|c| &c.max_inflight));
        let mut entries = log.entries.lock();
        if entries.len() == KEPT {
            entries.pop_front();
        }
        entries.push_back(Entry {
            id,
            connection,
            method: head.method.to_string(),
            target: head.uri.to_string(),
            headers: header_list(&head.headers),
            body_bytes: 0,
            body_sha256: String::new(),
            body_head: String::new(),
            status: None,
            outcome: "open",
            sent_chunks: 0,
            sent_bytes: 0,
        });
        let (log, counters) = (Arc::clone(log), Arc::clone(counters));
        Self { log, counters, id, outcome: "cancelled", chunks: 0, bytes: 0, _inflight: inflight }
    }

    pub(crate) fn body(&self, body: &Received) {
        let head = body.bytes.get(..HEAD).unwrap_or(&body.bytes);
        let head = String::from_utf8_lossy(head).into_owned();
        self.log.change(self.id, |entry| {
            (entry.body_bytes, entry.body_sha256) = (body.length, body.sha256.clone());
            entry.body_head = head;
        });
    }

    pub(crate) fn status(&self, status: u16) {
        self.log.change(self.id, |entry| entry.status = Some(status));
    }

    pub(crate) const fn sent(&mut self, bytes: usize) {
        self.chunks += 1;
        self.bytes += bytes;
    }

    /// Settles the outcome; what a fault settled stays.
    pub(crate) fn ended(&mut self, outcome: &'static str) {
        if self.outcome != "fault" {
            self.outcome = outcome;
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.outcome == "cancelled" {
            self.counters.add(|c| &c.cancelled_requests, 1);
        }
        self.log.change(self.id, |entry| {
            entry.outcome = self.outcome;
            (entry.sent_chunks, entry.sent_bytes) = (self.chunks, self.bytes);
        });
    }
}

pub(crate) fn header_list(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
}
