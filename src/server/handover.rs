//! An upgrade without a refused connection: this process starts its successor and hands its
//! listening sockets over, by way of a Unix socket that is the successor's standard input.
//!
//! Both hold the same sockets for a moment, so that no connection waits in a queue that nobody
//! empties. Only when the successor says that it is ready does this process stop accepting.

use std::ffi::OsString;
use std::io::{IoSlice, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};

/// Tells a process that its standard input is its predecessor.
const SIGN: &str = "USHER_HANDOVER";
/// The most sockets that are handed over; the kernel lets a message carry 253 descriptors.
const MOST: usize = 64;
/// How long a successor may take to be ready.
const PATIENCE: Duration = Duration::from_secs(60);
const READY: &[u8] = b"ready\n";

/// How this process was started, to start another in the same way.
pub(super) struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
}

impl Program {
    /// Remembers it; to be called before the file of the program is replaced.
    pub(super) fn this() -> std::io::Result<Self> {
        let arguments = std::env::args_os().skip(1).collect();
        Ok(Self { path: std::env::current_exe()?, arguments })
    }

    /// Starts it, hands the listeners over, and waits until it is ready. Returns its process id.
    ///
    /// # Errors
    /// It cannot be started, ends, or is not ready in time; then it is no more.
    pub(super) async fn succeed(
        &self,
        listeners: &[(SocketAddr, TcpListener)],
    ) -> anyhow::Result<u32> {
        let (here, there) = UnixStream::pair()?;
        let mut command = Command::new(&self.path);
        command.args(&self.arguments).env(SIGN, "1").stdin(Stdio::from(OwnedFd::from(there)));
        let child = command.kill_on_drop(false).spawn();
        let mut child = Successor(Some(
            child.with_context(|| format!("cannot start {}", self.path.display()))?,
        ));
        // the command holds the other end, too, and must not keep it open
        drop(command);
        send(&here, listeners).context("cannot hand the sockets over")?;
        here.set_nonblocking(true)?;
        let mut here = tokio::net::UnixStream::from_std(here)?;
        let mut word = [0; READY.len()];
        match tokio::time::timeout(PATIENCE, here.read_exact(&mut word)).await {
            Err(_) => bail!("the new process was not ready within {PATIENCE:?}"),
            Ok(Err(_)) => bail!("the new process ended before it was ready"),
            Ok(Ok(_)) => ensure!(word == *READY, "the new process is no gateway"),
        }
        child.keep().context("the new process ended")
    }
}

/// A new process, which ends with this guard unless it is kept.
struct Successor(Option<Child>);

impl Successor {
    fn keep(&mut self) -> Option<u32> {
        self.0.take()?.id()
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // it may have ended by itself
            let _ = child.start_kill();
        }
    }
}

/// What the process before handed over, if this one was started by [`Program::succeed`].
#[derive(Default)]
pub(super) struct Inherited {
    listeners: Vec<(SocketAddr, TcpListener)>,
    predecessor: Option<UnixStream>,
}

impl Inherited {
    /// Takes it from standard input.
    ///
    /// # Errors
    /// A handover was announced and did not come.
    pub(super) fn receive() -> anyhow::Result<Self> {
        if std::env::var_os(SIGN).is_none() {
            return Ok(Self::default());
        }
        let input = std::io::stdin().as_fd().try_clone_to_owned()?;
        let predecessor = UnixStream::from(input);
        let listeners = receive(&predecessor).context("cannot take the sockets over")?;
        Ok(Self { listeners, predecessor: Some(predecessor) })
    }

    /// Whether there is a process before this one, which serves until this one is ready.
    pub(super) fn is_succession(&self) -> bool {
        self.predecessor.is_some()
    }

    /// The listener that was opened for this address.
    pub(super) fn take(&mut self, wanted: SocketAddr) -> Option<TcpListener> {
        super::sockets::take(&mut self.listeners, wanted)
    }

    /// Tells the process before that this one serves.
    pub(super) fn ready(&mut self) {
        if let Some(mut predecessor) = self.predecessor.take() {
            // it may have been killed meanwhile
            let _ = predecessor.write_all(READY);
        }
    }
}

/// Sends the listeners and, in the same order, a line with the address of each.
fn send(to: &UnixStream, listeners: &[(SocketAddr, TcpListener)]) -> anyhow::Result<()> {
    ensure!(listeners.len() <= MOST, "there are more than {MOST}");
    let lines: String = listeners.iter().map(|(address, _)| format!("{address}\n")).collect();
    let fds: Vec<BorrowedFd<'_>> = listeners.iter().map(|(_, listener)| listener.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    ensure!(control.push(SendAncillaryMessage::ScmRights(&fds)), "there are too many");
    let sent = sendmsg(to, &[IoSlice::new(lines.as_bytes())], &mut control, SendFlags::empty())?;
    ensure!(sent == lines.len(), "the message was cut short");
    Ok(())
}

fn receive(from: &UnixStream) -> anyhow::Result<Vec<(SocketAddr, TcpListener)>> {
    from.set_read_timeout(Some(PATIENCE))?;
    let mut lines = vec![0; 64 * MOST];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut lines)];
    let message = recvmsg(from, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    ensure!(message.bytes > 0, "the process before is gone");
    let fds = control.drain().flat_map(|part| match part {
        RecvAncillaryMessage::ScmRights(fds) => fds.collect(),
        _ => Vec::new(),
    });
    let listeners: Vec<_> = fds.map(TcpListener::from).collect();
    let text = std::str::from_utf8(lines.get(..message.bytes).unwrap_or_default())?;
    let addresses: Vec<SocketAddr> =
        text.lines().map(str::parse).collect::<Result<_, _>>().context("the addresses")?;
    ensure!(addresses.len() == listeners.len(), "addresses and sockets differ in number");
    Ok(addresses.into_iter().zip(listeners).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_arrive_with_their_addresses_and_still_accept() {
        let (here, there) = UnixStream::pair().unwrap();
        let bound: Vec<_> = (0..3)
            .map(|_| ("127.0.0.1:0".parse().unwrap(), TcpListener::bind("127.0.0.1:0").unwrap()))
            .collect();
        let addresses: Vec<_> = bound.iter().map(|(_, it)| it.local_addr().unwrap()).collect();
        send(&here, &bound).unwrap();
        drop(bound);
        let mut inherited = Inherited { listeners: receive(&there).unwrap(), predecessor: None };
        assert!(inherited.take("127.0.0.1:1".parse().unwrap()).is_none());
        let mut found = Vec::new();
        while let Some(listener) = inherited.take("127.0.0.1:0".parse().unwrap()) {
            let address = listener.local_addr().unwrap();
            let _client = std::net::TcpStream::connect(address).unwrap();
            listener.accept().unwrap();
            found.push(address);
        }
        found.sort();
        let mut addresses = addresses;
        addresses.sort();
        assert_eq!(found, addresses);
    }

    #[test]
    fn an_announced_handover_that_does_not_come_is_an_error() {
        let (here, there) = UnixStream::pair().unwrap();
        drop(here);
        assert!(receive(&there).is_err());
        let (mut here, there) = UnixStream::pair().unwrap();
        here.write_all(b"127.0.0.1:80\n").unwrap();
        assert!(receive(&there).is_err(), "an address without a socket");
    }
}
