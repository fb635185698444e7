//! The byte stream of a client connection, over TCP, TLS or a unix socket.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use http::Version;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready};
use tokio::net::{TcpStream, UnixStream};

/// A byte stream to a client.
pub trait ClientStream: AsyncRead + AsyncWrite + Unpin {
    /// Makes closing the stream a reset, which the client cannot take for a regular end.
    fn set_close_by_reset(&self);

    /// The address of the port that accepted the stream, if there is one.
    fn local_address(&self) -> Option<SocketAddr> {
        None
    }

    /// The version of HTTP that ALPN agreed on; `None` without ALPN.
    fn agreed_version(&self) -> Option<Version> {
        None
    }

    /// What has arrived of the client's end, also behind bytes that nobody has read.
    fn noticed(&mut self) -> Option<Noticed> {
        None
    }
}

/// The end of a client's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noticed {
    /// The client sends nothing more; it may still read.
    HalfClosed,
    /// The connection is broken or closed in both directions.
    Closed,
    /// The system has ended the connection, as the client acknowledged nothing in time.
    TimedOut,
}

impl Noticed {
    fn of(ready: Ready) -> Option<Self> {
        if ready.is_write_closed() || ready.is_error() {
            Some(Self::Closed)
        } else {
            ready.is_read_closed().then_some(Self::HalfClosed)
        }
    }
}

/// The readiness that tokio knows of a socket now, without a system call.
fn readiness_now(ready: impl Future<Output = io::Result<Ready>>) -> Ready {
    match pin!(ready).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(ready)) => ready,
        Poll::Ready(Err(_)) | Poll::Pending => Ready::EMPTY,
    }
}

impl ClientStream for TcpStream {
    fn set_close_by_reset(&self) {
        // Fails only on a connection that has ended.
        let _ = self.set_zero_linger();
    }

    fn local_address(&self) -> Option<SocketAddr> {
        self.local_addr().ok()
    }

    fn noticed(&mut self) -> Option<Noticed> {
        let noticed = Noticed::of(readiness_now(self.ready(Interest::READABLE | Interest::WRITABLE)))?;
        let has_timed_out = noticed == Noticed::Closed
            && self
                .take_error()
                .is_ok_and(|error| error.is_some_and(|error| error.kind() == io::ErrorKind::TimedOut));
        Some(if has_timed_out { Noticed::TimedOut } else { noticed })
    }
}

impl ClientStream for UnixStream {
    /// Has no effect: a unix socket knows no reset.
    fn set_close_by_reset(&self) {}

    fn noticed(&mut self) -> Option<Noticed> {
        Noticed::of(readiness_now(self.ready(Interest::READABLE | Interest::WRITABLE)))
    }
}

/// A client's stream with one user at a time: a protocol, or what ends the connection after it.
///
/// Of one type, so that hyper's server, which is large, is compiled only once.
#[derive(Clone)]
pub struct SharedStream(Rc<RefCell<dyn ClientStream>>);

/// A look at a [`SharedStream`] that does not keep it open.
#[derive(Clone, Debug)]
pub struct StreamObserver(Weak<RefCell<dyn ClientStream>>);

impl SharedStream {
    /// The stream of a new connection.
    pub fn new(stream: impl ClientStream + 'static) -> Self {
        Self(Rc::new(RefCell::new(stream)))
    }

    /// An observer.
    pub fn observer(&self) -> StreamObserver {
        StreamObserver(Rc::downgrade(&self.0))
    }

    /// See [`ClientStream::set_close_by_reset`].
    pub fn set_close_by_reset(&self) {
        self.0.borrow().set_close_by_reset();
    }

    /// See [`ClientStream::local_address`].
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.0.borrow().local_address()
    }

    /// See [`ClientStream::agreed_version`].
    pub fn agreed_version(&self) -> Option<Version> {
        self.0.borrow().agreed_version()
    }

    /// Calls `poll` with the stream.
    fn with<T>(&self, poll: impl FnOnce(Pin<&mut dyn ClientStream>) -> T) -> T {
        poll(Pin::new(&mut *self.0.borrow_mut()))
    }
}

impl StreamObserver {
    /// See [`ClientStream::noticed`].
    pub fn noticed(&self) -> Option<Noticed> {
        self.0.upgrade()?.borrow_mut().noticed()
    }
}

impl AsyncRead for SharedStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_read(cx, buf))
    }
}

impl AsyncWrite for SharedStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.with(|stream| stream.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.with(|stream| stream.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.0.borrow().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_shutdown(cx))
    }
}
