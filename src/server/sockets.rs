//! The listening sockets: taken over from the process before, from systemd, or bound here.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::IntoRawFd;
use std::sync::Arc;

use anyhow::Context;
use listenfd::ListenFd;
use parking_lot::Mutex;
use pingora::server::{Fds, ListenFds};

use super::handover::Inherited;
use crate::config::Config;

/// The sockets, there before anything else is started: a busy address ends the start.
pub(super) struct Sockets(Vec<Socket>);

struct Socket {
    /// As configured, perhaps with port 0.
    wanted: SocketAddr,
    /// As it is.
    address: SocketAddr,
    scheme: &'static str,
    listener: TcpListener,
}

impl Sockets {
    /// A socket for each configured address. What is inherited and not wanted is closed.
    pub(super) fn open(config: &Config, inherited: &mut Inherited) -> anyhow::Result<Self> {
        let mut activated = activated();
        let mut open = |listen: &crate::config::Listen| {
            let wanted = listen.address;
            let taken = inherited.take(wanted).or_else(|| take(&mut activated, wanted));
            let listener = match taken {
                Some(listener) => Ok(listener),
                None => TcpListener::bind(wanted),
            };
            let listener = listener
                .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
                .with_context(|| format!("cannot listen on {wanted}"))?;
            // port 0 is the system's choice, which only the socket knows
            let scheme = if listen.tls.is_some() { "https" } else { "http" };
            Ok(Socket { wanted, address: listener.local_addr()?, scheme, listener })
        };
        config.listen.iter().map(&mut open).collect::<anyhow::Result<_>>().map(Self)
    }

    /// Where they listen.
    pub(super) fn addresses(&self) -> Vec<String> {
        self.0.iter().map(|socket| socket.address.to_string()).collect()
    }

    /// Says where they listen.
    pub(super) fn announce(&self) {
        for socket in &self.0 {
            log::info!("listening on {}://{}", socket.scheme, socket.address);
        }
    }

    /// Second handles, to hand over one day. While one is open its socket goes on listening.
    pub(super) fn handles(&self) -> std::io::Result<Vec<(SocketAddr, TcpListener)>> {
        self.0.iter().map(|socket| Ok((socket.wanted, socket.listener.try_clone()?))).collect()
    }

    /// For Pingora, which knows them by [`Self::addresses`].
    pub(super) fn into_fds(self) -> ListenFds {
        let mut fds = Fds::new();
        for socket in self.0 {
            fds.add(socket.address.to_string(), socket.listener.into_raw_fd());
        }
        Arc::new(Mutex::new(fds))
    }
}

/// What systemd listens on for us, by the protocol of `sd_listen_fds(3)`.
fn activated() -> Vec<(SocketAddr, TcpListener)> {
    let mut fds = ListenFd::from_env();
    let listeners = (0..fds.len()).filter_map(|index| fds.take_tcp_listener(index).ok().flatten());
    listeners.filter_map(|listener| Some((listener.local_addr().ok()?, listener))).collect()
}

/// The first listener of this address.
pub(super) fn take(
    listeners: &mut Vec<(SocketAddr, TcpListener)>,
    wanted: SocketAddr,
) -> Option<TcpListener> {
    let index = listeners.iter().position(|(address, _)| *address == wanted)?;
    Some(listeners.swap_remove(index).1)
}
