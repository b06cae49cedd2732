//! An upload that goes to several instances while it comes in: nobody holds more of it than a few
//! pieces, and the slowest sets the pace.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

/// Pieces between the client and an instance.
const PIECES: usize = 8;

/// What comes of an upload, piece by piece.
enum Piece {
    More(Bytes),
    End,
}

/// The client's end of one of the bodies.
pub struct Pipe(mpsc::Sender<Piece>);

impl Pipe {
    /// Passes a piece on, in so much time. Whether the instance still takes them.
    pub async fn pass(&self, piece: &Bytes, patience: Duration) -> bool {
        self.send(Piece::More(piece.clone()), patience).await
    }

    /// There is no more. A pipe that is dropped without this breaks the request off.
    pub async fn end(&self, patience: Duration) {
        self.send(Piece::End, patience).await;
    }

    async fn send(&self, piece: Piece, patience: Duration) -> bool {
        self.0.send_timeout(piece, patience).await.is_ok()
    }
}

/// So many bodies of this length, as far as it is known, and the pipes that fill them.
pub fn bodies(count: usize, length: Option<u64>) -> (Vec<Pipe>, Vec<reqwest::Body>) {
    let one = |_| {
        let (send, pieces) = mpsc::channel(PIECES);
        (Pipe(send), reqwest::Body::wrap(Piped { pieces, left: length, ended: false }))
    };
    (0..count).map(one).unzip()
}

/// The instance's end.
struct Piped {
    pieces: mpsc::Receiver<Piece>,
    left: Option<u64>,
    ended: bool,
}

impl Body for Piped {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        match ready!(self.pieces.poll_recv(cx)) {
            Some(Piece::More(bytes)) => {
                let length = bytes.len() as u64;
                self.left = self.left.map(|left| left.saturating_sub(length));
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Some(Piece::End) => {
                self.ended = true;
                Poll::Ready(None)
            }
            None => {
                self.ended = true;
                Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
