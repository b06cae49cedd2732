//! A client's connection, counted, and broken on command.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::counters::Counters;

/// What the next write on a connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sabotage {
    /// Half of it leaves, then the connection is reset.
    Reset = 1,
    /// Bytes that are no HTTP leave in its place.
    Garbage = 2,
}

const BROKEN: u8 = 3;
const GARBAGE: &[u8] = b"HTP/9.9 whatever\r\n\x00\xff\r\n\r\n";

/// One connection, as the rest of the process knows it.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) id: u64,
    /// Requests that arrived on it so far.
    pub(crate) requests: AtomicU64,
    sabotage: AtomicU8,
}

impl Conn {
    pub(crate) const fn new(id: u64) -> Self {
        Self { id, requests: AtomicU64::new(0), sabotage: AtomicU8::new(0) }
    }

    pub(crate) fn sabotage(&self, how: Sabotage) {
        self.sabotage.store(how as u8, Ordering::SeqCst);
    }
}

/// The socket under a connection.
pub(crate) struct Tap {
    stream: TcpStream,
    conn: Arc<Conn>,
    counters: Arc<Counters>,
}

impl Tap {
    pub(crate) const fn new(stream: TcpStream, conn: Arc<Conn>, counters: Arc<Counters>) -> Self {
        Self { stream, conn, counters }
    }
}

impl AsyncRead for Tap {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        self.counters.add(|c| &c.bytes_in, buf.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tap {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        const RESET: u8 = Sabotage::Reset as u8;
        const NOISE: u8 = Sabotage::Garbage as u8;
        match self.conn.sabotage.load(Ordering::SeqCst) {
            BROKEN => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            RESET => {
                let (half, _) = buf.split_at(buf.len().div_ceil(2));
                let written = ready!(Pin::new(&mut self.stream).poll_write(cx, half))?;
                self.conn.sabotage.store(BROKEN, Ordering::SeqCst);
                self.stream.set_zero_linger()?;
                return Poll::Ready(Ok(written));
            }
            NOISE => {
                let _ = ready!(Pin::new(&mut self.stream).poll_write(cx, GARBAGE))?;
                self.conn.sabotage.store(BROKEN, Ordering::SeqCst);
                return Poll::Ready(Ok(buf.len()));
            }
            _ => {}
        }
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
        self.counters.add(|c| &c.bytes_out, written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.conn.sabotage.load(Ordering::SeqCst) == BROKEN {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
