//! How Pingora reaches an instance.

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use pingora::upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy};

use crate::config::{Place, Timeouts, Upstream};

/// What Pingora wants to know of an instance.
pub type Peer = HttpPeer;

/// A pooled connection to another machine that idles for longer is closed: what stands between
/// may forget it without a word. Ollama itself never closes idle ones.
const POOL_IDLE: Duration = Duration::from_secs(60);

/// The prototype that every request to this instance clones. Names are resolved here, off the
/// request path: `HttpPeer::new` would resolve them blocking, and panic when that fails.
///
/// # Errors
/// The host has no address, and `before` has none of it either.
pub fn prototype(
    config: &Upstream,
    timeouts: &Timeouts,
    before: Option<&Peer>,
) -> Result<Peer, PeerError> {
    let known = before.and_then(|peer| peer._address.as_inet().copied());
    let address = resolve(config).or_else(|error| {
        log::warn!("{error}{}", known.map_or("", |_| ": the last address stays in use"));
        known.ok_or(error)
    })?;
    // without TLS nobody asks for the name, and every request would copy it
    let name = if config.tls { config.host.clone() } else { String::new() };
    let mut peer = HttpPeer::new(address, config.tls, name);
    let options = &mut peer.options;
    options.connection_timeout = Some(timeouts.connect);
    options.total_connection_timeout = Some(timeouts.connect * 2);
    // for requests without a watchdog: see `watched`
    options.read_timeout = Some(timeouts.first_byte.max(timeouts.idle) + Duration::from_secs(5));
    options.write_timeout = Some(timeouts.body);
    options.idle_timeout = (!address.ip().is_loopback()).then_some(POOL_IDLE);
    // the head is built from an allow-list before Pingora sees it: nothing is left to take away
    options.http_upstream_request_policy = HttpUpstreamRequestPolicy::preserve();
    Ok(peer)
}

/// The same peer, at the address where it was found.
pub fn at(peer: &Peer, address: Option<&SocketAddr>) -> Peer {
    let mut peer = peer.clone();
    if let Some(address) = address {
        peer._address = (*address).into();
    }
    peer
}

/// The same peer, for a request whose watchdog keeps its deadlines: each read with a time-out of
/// its own would leave a timer behind until that has passed.
#[must_use]
pub fn watched(mut peer: Peer) -> Peer {
    peer.options.read_timeout = None;
    peer
}

/// An instance cannot be reached as it is configured.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// Its address cannot be found.
    #[error("{place}: cannot resolve {host}: {cause}")]
    Address {
        /// Where the configuration has it.
        place: Place,
        /// The name that was looked up.
        host: String,
        /// What the system says.
        cause: String,
    },
    /// Its name, its host or its key is no value for a header.
    #[error("{0}: its name, host or key cannot be sent in a header")]
    Header(Place),
}

fn resolve(config: &Upstream) -> Result<SocketAddr, PeerError> {
    let Upstream { place, host, port, .. } = config;
    let failed = |cause| PeerError::Address { place: place.clone(), host: host.clone(), cause };
    let mut addresses =
        (host.as_str(), *port).to_socket_addrs().map_err(|error| failed(error.to_string()))?;
    addresses.next().ok_or_else(|| failed("it has no address".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_where_its_probe_found_it() {
        let peer = HttpPeer::new(SocketAddr::from(([127, 0, 0, 1], 1)), false, "name".to_owned());
        let found = SocketAddr::from(([127, 0, 0, 2], 3));
        let moved = at(&peer, Some(&found));
        assert_eq!(moved._address.as_inet(), Some(&found));
        assert_eq!(at(&peer, None)._address, peer._address);
    }
}
