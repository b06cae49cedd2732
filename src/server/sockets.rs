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
pub(super) struct Sockets {
    clients: Vec<Socket>,
    admin: Option<Socket>,
    metrics: Option<Socket>,
}

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
        let mut open = |wanted: SocketAddr, scheme| {
            let taken = inherited.take(wanted).or_else(|| take(&mut activated, wanted));
            let listener = match taken {
                Some(listener) => listener,
                None => TcpListener::bind(wanted)?,
            };
            listener.set_nonblocking(true)?;
            // port 0 is the system's choice, which only the socket knows
            Ok::<_, std::io::Error>(Socket {
                wanted,
                address: listener.local_addr()?,
                scheme,
                listener,
            })
        };
        let mut clients = Vec::with_capacity(config.listen.len());
        for listen in &config.listen {
            let scheme = if listen.tls.is_some() { "https" } else { "http" };
            let socket = open(listen.address, scheme);
            clients.push(socket.with_context(|| format!("cannot listen on {}", listen.address))?);
        }
        let admin = config.admin.map(|wanted| {
            open(wanted, "http").with_context(|| format!("cannot listen on {wanted} for /admin"))
        });
        let admin = admin.transpose()?;
        let metrics = config.metrics.map(|wanted| {
            open(wanted, "http").with_context(|| {
                format!("cannot listen on {wanted} for metrics (`metrics: off` does without)")
            })
        });
        Ok(Self { clients, admin, metrics: metrics.transpose()? })
    }

    /// Where requests come in: the clients' listeners in their order, then that of `/admin`.
    pub(super) fn addresses(&self) -> Vec<String> {
        let all = self.clients.iter().chain(&self.admin);
        all.map(|socket| socket.address.to_string()).collect()
    }

    /// Says where they listen.
    pub(super) fn announce(&self) {
        if let Some(socket) = &self.metrics {
            log::info!("metrics on http://{}/metrics", socket.address);
        }
        if let Some(socket) = &self.admin {
            log::info!("administration on http://{}/admin", socket.address);
        }
        for socket in &self.clients {
            log::info!("listening on {}://{}", socket.scheme, socket.address);
        }
    }

    /// Second handles, to hand over one day. While one is open its socket goes on listening.
    pub(super) fn handles(&self) -> std::io::Result<Vec<(SocketAddr, TcpListener)>> {
        let all = self.clients.iter().chain(&self.admin).chain(&self.metrics);
        all.map(|socket| Ok((socket.wanted, socket.listener.try_clone()?))).collect()
    }

    /// The listener of the metrics, and the others for Pingora, which knows them by
    /// [`Self::addresses`].
    pub(super) fn into_parts(self) -> (Option<TcpListener>, ListenFds) {
        let mut fds = Fds::new();
        for socket in self.clients.into_iter().chain(self.admin) {
            fds.add(socket.address.to_string(), socket.listener.into_raw_fd());
        }
        (self.metrics.map(|socket| socket.listener), Arc::new(Mutex::new(fds)))
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
    Some(listeners.remove(index).1)
}
