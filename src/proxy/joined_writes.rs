//! Joins the small writes of an HTTP/2 connection into one system call.
//!
//! h2 writes each DATA frame, with the frames before it, by a call of its own. The responses of several streams would
//! take as many system calls, and over TLS as many records. [`JoinedWrites::poll`] collects what h2 writes during one poll
//! of a connection, and writes it at the end of the poll.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The most bytes that are written at once: those of a TLS record (RFC 8446 §5.1).
pub(super) const MAX_JOINED: usize = 16 * 1024;
/// A longer write is passed on as it is: the copy would take longer than the system call.
const MAX_COPIED: usize = 8 * 1024;

/// A stream whose writes are joined. The connection owns one handle of the stream, and its task another.
pub(super) struct JoinedWrites<S>(Rc<RefCell<Inner<S>>>);

struct Inner<S> {
    stream: S,
    /// Bytes that the connection has written and the stream has not.
    joined: BytesMut,
    /// Whether the connection is being polled by [`JoinedWrites::poll`].
    is_polling: bool,
    /// Why the write at the end of a poll failed; the next poll reports it to the connection.
    error: Option<io::Error>,
}

impl<S> Clone for JoinedWrites<S> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<S: AsyncWrite + Unpin> JoinedWrites<S> {
    pub(super) fn new(stream: S) -> Self {
        Self(Rc::new(RefCell::new(Inner { stream, joined: BytesMut::new(), is_polling: false, error: None })))
    }

    /// Polls the connection that owns the other handle, and then writes what the connection wrote meanwhile. A stream that
    /// takes no more wakes the task when it does, as after a write of the connection itself.
    pub(super) fn poll<T>(&self, cx: &mut Context<'_>, poll: impl FnOnce(&mut Context<'_>) -> T) -> T {
        self.0.borrow_mut().is_polling = true;
        let outcome = poll(cx);
        let mut inner = self.0.borrow_mut();
        inner.is_polling = false;
        if let Poll::Ready(Err(error)) = inner.poll_flush(cx) {
            inner.error = Some(error);
            cx.waker().wake_by_ref();
        }
        outcome
    }
}

impl<S: AsyncWrite + Unpin> Inner<S> {
    fn poll_write(&mut self, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if let Some(error) = self.error.take() {
            return Poll::Ready(Err(error));
        }
        let length: usize = pieces.iter().map(|piece| piece.len()).sum();
        let is_joined = self.is_polling && length <= MAX_COPIED;
        if !is_joined || self.joined.len() + length > MAX_JOINED {
            ready!(self.poll_write_joined(cx))?;
        }
        if !is_joined {
            return Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        }
        if self.joined.is_empty() {
            self.joined = BytesMut::with_capacity(MAX_JOINED);
        }
        for piece in pieces {
            self.joined.extend_from_slice(piece);
        }
        Poll::Ready(Ok(length))
    }

    fn poll_write_joined(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.joined.has_remaining() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.joined))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.joined.advance(written);
        }
        // A connection at rest keeps no buffer.
        self.joined = BytesMut::new();
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_joined(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for JoinedWrites<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for JoinedWrites<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_write(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_write(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.borrow().stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.borrow_mut();
        if let Some(error) = inner.error.take() {
            return Poll::Ready(Err(error));
        }
        // The end of the poll flushes.
        if inner.is_polling { Poll::Ready(Ok(())) } else { inner.poll_flush(cx) }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.borrow_mut();
        ready!(inner.poll_write_joined(cx))?;
        Pin::new(&mut inner.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    use super::*;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What reaches the stream: writes by their lengths, flushes as 0. The stream takes at most so many bytes in all.
    #[derive(Default)]
    struct Recorder {
        calls: Vec<usize>,
        bytes: Vec<u8>,
        room: usize,
    }

    impl AsyncWrite for Recorder {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            let taken = buf.len().min(self.room);
            if taken == 0 {
                return Poll::Pending;
            }
            self.room -= taken;
            self.calls.push(taken);
            self.bytes.extend_from_slice(&buf[..taken]);
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.calls.push(0);
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    const NONE: [usize; 0] = [];

    fn over(room: usize) -> JoinedWrites<Recorder> {
        JoinedWrites::new(Recorder { room, ..Recorder::default() })
    }

    fn calls(stream: &JoinedWrites<Recorder>) -> Vec<usize> {
        std::mem::take(&mut stream.0.borrow_mut().stream.calls)
    }

    /// Writes pieces of these lengths; returns how many were taken whole.
    fn write(stream: &JoinedWrites<Recorder>, cx: &mut Context<'_>, lengths: &[usize]) -> usize {
        let mut connection = stream.clone();
        let is_taken = |length: &&usize| {
            let piece = vec![b'x'; **length];
            matches!(Pin::new(&mut connection).poll_write(cx, &piece), Poll::Ready(Ok(taken)) if taken == **length)
        };
        lengths.iter().take_while(is_taken).count()
    }

    #[test]
    fn what_one_poll_writes_reaches_the_stream_as_one_write_before_the_flush() {
        let (stream, mut cx) = (over(usize::MAX), Context::from_waker(Waker::noop()));

        let taken = stream.poll(&mut cx, |cx| {
            let taken = write(&stream, cx, &[10, 1000, 1]);
            assert!(Pin::new(&mut stream.clone()).poll_flush(cx).is_ready());
            assert_eq!(calls(&stream), NONE);
            taken
        });

        assert_eq!((taken, calls(&stream)), (3, vec![1011, 0]));
        assert_eq!(stream.0.borrow().joined.capacity(), 0);
    }

    #[test]
    fn a_long_write_is_passed_on_after_those_before_it_and_so_is_one_beyond_a_record() {
        let (stream, mut cx) = (over(usize::MAX), Context::from_waker(Waker::noop()));

        stream.poll(&mut cx, |cx| write(&stream, cx, &[10, MAX_COPIED + 1, 5]));
        assert_eq!(calls(&stream), [10, MAX_COPIED + 1, 5, 0]);

        stream.poll(&mut cx, |cx| write(&stream, cx, &[MAX_COPIED, MAX_COPIED, 1]));
        assert_eq!(calls(&stream), [MAX_JOINED, 1, 0]);
    }

    #[test]
    fn outside_of_a_poll_nothing_is_held_back() {
        let (stream, mut cx) = (over(5), Context::from_waker(Waker::noop()));
        stream.poll(&mut cx, |cx| write(&stream, cx, &[8]));
        assert_eq!(calls(&stream), [5]);

        let mut connection = stream.clone();
        assert!(Pin::new(&mut connection).poll_flush(&mut cx).is_pending());
        assert!(Pin::new(&mut connection).poll_shutdown(&mut cx).is_pending());
        stream.0.borrow_mut().stream.room = 100;
        assert_eq!(write(&stream, &mut cx, &[7]), 1);
        assert_eq!(calls(&stream), [3, 7]);
        assert!(Pin::new(&mut connection).poll_shutdown(&mut cx).is_ready());
    }

    #[test]
    fn a_stream_that_takes_nothing_holds_the_connection_back_after_a_record() {
        let (stream, mut cx) = (over(3), Context::from_waker(Waker::noop()));
        let half = MAX_JOINED / 2;

        let taken = stream.poll(&mut cx, |cx| write(&stream, cx, &[half, half, half]));
        assert_eq!((taken, calls(&stream)), (2, vec![3]));

        // What was taken is written first and in order, once there is room.
        stream.0.borrow_mut().stream.room = usize::MAX;
        stream.poll(&mut cx, |_| ());
        assert_eq!(calls(&stream), [MAX_JOINED - 3, 0]);
        assert_eq!(stream.0.borrow().stream.bytes.len(), MAX_JOINED);
    }

    #[test]
    fn a_failed_write_is_reported_to_the_connection_by_the_next_poll() {
        struct Broken;
        impl AsyncWrite for Broken {
            fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
                Poll::Ready(Ok(0))
            }
            fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }
            fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }
        }
        let counter = Arc::<Wakes>::default();
        let waker = Waker::from(Arc::clone(&counter));
        let (stream, mut cx) = (JoinedWrites::new(Broken), Context::from_waker(&waker));
        let mut connection = stream.clone();
        for report_by_flush in [true, false] {
            let written = stream.poll(&mut cx, |cx| Pin::new(&mut connection).poll_write(cx, b"x"));
            assert!(matches!(written, Poll::Ready(Ok(1))));
            assert_eq!(counter.0.swap(0, Ordering::Relaxed), 1);

            let reported = stream.poll(&mut cx, |cx| {
                if report_by_flush {
                    Pin::new(&mut connection).poll_flush(cx)
                } else {
                    Pin::new(&mut connection).poll_write(cx, b"x").map_ok(drop)
                }
            });
            let Poll::Ready(Err(error)) = reported else { panic!("{reported:?}") };
            assert_eq!(error.kind(), io::ErrorKind::WriteZero);
            stream.0.borrow_mut().joined.clear();
            stream.0.borrow_mut().error = None;
            counter.0.store(0, Ordering::Relaxed);
        }
    }
}
