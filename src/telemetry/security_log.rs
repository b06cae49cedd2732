//! The security log: who was turned away, from where, and why.
//!
//! `address=` comes first after the event, bare, so that fail2ban can match it. Never a
//! credential: a key's public id at most.

use std::net::IpAddr;

use super::SECURITY;

/// One event.
#[derive(Debug)]
pub struct SecurityEvent<'a> {
    /// What happened, one word.
    pub event: &'static str,
    /// Who connected.
    pub address: IpAddr,
    /// The request, as in the access log.
    pub request_id: &'a str,
    /// The route's own path, or `-`.
    pub route: &'a str,
    /// Public id of the key that was presented, if it has one.
    pub key: Option<&'a str>,
    /// The account, if it is known.
    pub user_id: Option<i64>,
    /// Why.
    pub reason: &'a str,
}

impl SecurityEvent<'_> {
    /// Writes the line.
    pub fn write(&self) {
        let Self { event, address, request_id, route, reason, .. } = self;
        let key = self.key.map(|key| format!(" key={key}")).unwrap_or_default();
        let user = self.user_id.map(|id| format!(" user_id={id}")).unwrap_or_default();
        log::warn!(
            target: SECURITY,
            "{event} address={address} request_id={request_id} route={route}{key}{user} reason={reason:?}"
        );
    }
}
