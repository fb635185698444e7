//! A byte stream in memory between two tasks of one thread, with the same cost in every run.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bearerd::proxy::downstream::stream::ClientStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The bytes of one direction.
#[derive(Default)]
struct Lane {
    bytes: Vec<u8>,
    taken: usize,
    reader: Option<Waker>,
    is_closed: bool,
}

/// One end of a pipe.
pub(crate) struct End {
    incoming: Rc<RefCell<Lane>>,
    outgoing: Rc<RefCell<Lane>>,
}

/// Two connected ends. Writes never wait.
pub(crate) fn pipe() -> (End, End) {
    let (one, other) = (Rc::<RefCell<Lane>>::default(), Rc::<RefCell<Lane>>::default());
    let near = End { incoming: Rc::clone(&one), outgoing: Rc::clone(&other) };
    (near, End { incoming: other, outgoing: one })
}

impl End {
    /// Writes bytes.
    pub(crate) fn put(&self, parts: &[&[u8]]) {
        let mut lane = self.outgoing.borrow_mut();
        for part in parts {
            lane.bytes.extend_from_slice(part);
        }
        if let Some(reader) = lane.reader.take() {
            reader.wake();
        }
    }

    /// Waits until `complete` returns a value for the received bytes, and takes them.
    ///
    /// `complete` is called again for each piece that arrives. `None` at the end of the stream.
    pub(crate) async fn take_when<T>(&self, mut complete: impl FnMut(&[u8]) -> Option<T>) -> Option<T> {
        let mut seen = 0;
        std::future::poll_fn(|cx| {
            let mut lane = self.incoming.borrow_mut();
            if lane.bytes.len() > seen {
                seen = lane.bytes.len();
                if let Some(made) = complete(&lane.bytes) {
                    lane.bytes.clear();
                    return Poll::Ready(Some(made));
                }
            }
            if lane.is_closed {
                return Poll::Ready(None);
            }
            lane.reader = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}

impl ClientStream for End {
    fn set_close_by_reset(&self) {}
}

impl AsyncRead for End {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut lane = self.incoming.borrow_mut();
        let count = (lane.bytes.len() - lane.taken).min(buf.remaining());
        if count == 0 && !lane.is_closed {
            lane.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        buf.put_slice(&lane.bytes[lane.taken..lane.taken + count]);
        lane.taken += count;
        if lane.taken == lane.bytes.len() {
            lane.bytes.clear();
            lane.taken = 0;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for End {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.put(&[buf]);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut lane = self.outgoing.borrow_mut();
        let before = lane.bytes.len();
        for buf in bufs {
            lane.bytes.extend_from_slice(buf);
        }
        if let Some(reader) = lane.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(lane.bytes.len() - before))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let mut lane = self.outgoing.borrow_mut();
        lane.is_closed = true;
        if let Some(reader) = lane.reader.take() {
            reader.wake();
        }
    }
}
