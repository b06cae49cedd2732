//! What happens to a connection before HTTP: whose it is, and TLS.
//!
//! Pingora's listeners could do the handshake, but for a minute, before any cap on connections,
//! and a PROXY header only on those that speak TLS. So they accept, and the rest is done here.

use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use ipnet::IpNet;
use pingora::listeners::tls::Acceptor;
use pingora::protocols::l4::stream::Stream as Socket;
use pingora::protocols::{GetSocketDigest, SocketDigest, Stream};
use rustls::ServerConfig;
use tokio::io::AsyncReadExt as _;
use tokio::time::timeout;

use crate::client::ClientAddr;
use crate::client::proxy_header::{self, Reading};
use crate::telemetry::security_log::SecurityEvent;

/// How long a balancer may take for its header, and a client for its handshake.
const PATIENCE: Duration = Duration::from_secs(5);

/// What one listener asks of its connections.
pub struct Entrance {
    tls: Option<Acceptor>,
    balancers: Option<Vec<IpNet>>,
}

/// A connection that was let in: its socket, and the address that it comes from.
pub(super) struct Visitor {
    pub socket: Socket,
    pub address: SocketAddr,
}

impl Entrance {
    /// One that speaks TLS if it is given how, and that believes these balancers about their
    /// clients and lets in nobody else; `None` lets everybody in, as themselves.
    pub fn new(tls: Option<Arc<ServerConfig>>, balancers: Option<Vec<IpNet>>) -> Self {
        Self { tls: tls.map(Acceptor::from_server_config), balancers }
    }

    /// Whether a connection speaks TLS, so that nothing can be said to it before.
    pub(super) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Finds out whose connection it is; `None` turns it away.
    pub(super) async fn meet(&self, stream: Stream) -> Option<Visitor> {
        let mut socket = *stream.into_any().downcast::<Socket>().ok()?;
        let digest = socket.get_socket_digest()?;
        let peer = *digest.peer_addr()?.as_inet()?;
        let Some(balancers) = &self.balancers else {
            return Some(Visitor { socket, address: peer });
        };
        if !ClientAddr::of(peer).is_in(balancers) {
            turn_away(peer, "not a listed balancer");
            return None;
        }
        let Ok(Some(named)) = timeout(PATIENCE, read_header(&mut socket)).await else {
            turn_away(peer, "no PROXY header");
            return None;
        };
        let address = named.unwrap_or(peer);
        let told = SocketDigest::from_raw_fd(socket.as_raw_fd());
        // a fresh digest has no address yet, so these are the first
        let _ = told.peer_addr.set(Some(address.into()));
        let _ = told.local_addr.set(digest.local_addr().cloned());
        socket.set_socket_digest(told);
        Some(Visitor { socket, address })
    }

    /// The stream that HTTP is spoken on; `None` if the handshake fails or takes too long.
    pub(super) async fn secure(&self, visitor: Visitor) -> Option<Stream> {
        let Visitor { socket, address } = visitor;
        let Some(tls) = &self.tls else { return Some(Box::new(socket)) };
        match timeout(PATIENCE, tls.tls_handshake(socket)).await {
            Ok(Ok(stream)) => Some(Box::new(stream)),
            Ok(Err(error)) => {
                log::debug!("no TLS with {}: {error}", ClientAddr::of(address));
                None
            }
            Err(_) => {
                log::debug!("no TLS with {} within {PATIENCE:?}", ClientAddr::of(address));
                None
            }
        }
    }
}

/// Reads a PROXY header and leaves what follows it: `None` if there is none, `Some(None)` if it
/// names nobody.
async fn read_header(socket: &mut Socket) -> Option<Option<SocketAddr>> {
    let mut bytes = BytesMut::with_capacity(256);
    loop {
        match proxy_header::read(&bytes) {
            Reading::Incomplete => {}
            Reading::Wrong => return None,
            Reading::Whole(length, client) => {
                socket.rewind(bytes.get(length..).unwrap_or_default());
                return Some(client);
            }
        }
        if !matches!(socket.read_buf(&mut bytes).await, Ok(1..)) {
            return None;
        }
    }
}

fn turn_away(peer: SocketAddr, reason: &str) {
    SecurityEvent {
        event: "connection_refused",
        address: ClientAddr::of(peer).ip(),
        request_id: "-",
        route: "-",
        key: None,
        user_id: None,
        reason,
    }
    .write();
}
