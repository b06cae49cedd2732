//! What systemd is told, by the protocol of `sd_notify(3)`. Without systemd nobody is told.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A way to the service manager, if there is one.
#[derive(Clone)]
pub(super) struct Manager(Option<Arc<UnixDatagram>>);

impl Manager {
    /// The manager that `$NOTIFY_SOCKET` names.
    pub(super) fn from_env() -> Self {
        let connected = std::env::var_os("NOTIFY_SOCKET").and_then(|name| {
            let address = match name.as_bytes() {
                [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
                path => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path)),
            };
            let socket = UnixDatagram::unbound().ok()?;
            socket.connect_addr(&address.ok()?).ok()?;
            socket.set_nonblocking(true).ok()?;
            Some(Arc::new(socket))
        });
        Self(connected)
    }

    /// The service is up, or up again after [`Self::reloading`].
    pub(super) fn ready(&self) {
        self.tell("READY=1");
    }

    /// The configuration is being reread.
    pub(super) fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let microseconds = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}"));
    }

    /// The end has begun.
    pub(super) fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// Another process is the service from now on.
    pub(super) fn replaced_by(&self, process: u32) {
        self.tell(&format!("MAINPID={process}"));
    }

    /// Shows signs of life, twice as often as `$WATCHDOG_USEC` asks for, for ever. The variable
    /// that names the process is not looked at: after an upgrade it names the one before.
    pub(super) async fn keep_alive(self) {
        let asked = std::env::var("WATCHDOG_USEC").ok().and_then(|text| text.parse().ok());
        let Some(limit) = asked.filter(|limit| self.0.is_some() && *limit > 0) else { return };
        loop {
            self.tell("WATCHDOG=1");
            tokio::time::sleep(Duration::from_micros(limit) / 2).await;
        }
    }

    fn tell(&self, state: &str) {
        if let Some(socket) = &self.0
            && let Err(error) = socket.send(state.as_bytes())
        {
            log::debug!("cannot tell systemd {state}: {error}");
        }
    }
}
