//! The byte stream of an upstream connection, and the wait for a response on a connection without its own task.
//!
//! An upstream may send a response before it has read the whole request body, and close. The write of the body then
//! fails while the response can still be read; hyper would report the write error and drop the response. Therefore
//! [`DeferredWriteErrors`] hides failed writes, and the reader gets the response or the end of the stream.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::proxy::vectored;

/// A byte stream to an upstream.
pub trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

/// A stream that reports success for writes after the peer has closed; only reads report the end.
#[derive(Debug)]
pub struct DeferredWriteErrors<S> {
    stream: S,
    is_closed_by_peer: bool,
}

impl<S> DeferredWriteErrors<S> {
    /// Wraps a stream.
    pub const fn new(stream: S) -> Self {
        Self { stream, is_closed_by_peer: false }
    }
}

/// Whether the error means that the peer no longer reads.
fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected)
}

impl<S: Unpin> DeferredWriteErrors<S> {
    /// Runs `write`; from the first write that fails because the peer has closed, reports `len` bytes as written.
    fn write(
        &mut self,
        len: usize,
        write: impl FnOnce(Pin<&mut S>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if self.is_closed_by_peer {
            return Poll::Ready(Ok(len));
        }
        match write(Pin::new(&mut self.stream)) {
            Poll::Ready(Err(error)) if is_closed(&error) => {
                self.is_closed_by_peer = true;
                Poll::Ready(Ok(len))
            }
            other => other,
        }
    }
}

/// Waits for `response` to a request that was given to a connection, and polls that connection.
pub fn drive<T>(
    mut response: Pin<&mut impl Future<Output = T>>,
    mut poll_connection: impl FnMut(&mut Context<'_>),
) -> impl Future<Output = T> {
    poll_fn(move |cx| {
        poll_connection(cx);
        // The connection, which this task polls, brings the response: it need not wake the task.
        response.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    })
}

impl<S: AsyncRead + Unpin> AsyncRead for DeferredWriteErrors<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for DeferredWriteErrors<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.write(buf.len(), |stream| stream.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let len = bufs.iter().map(|buf| buf.len()).sum();
        self.write(len, |stream| vectored::poll_write_all(stream, cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write(0, |stream| stream.poll_flush(cx).map_ok(|()| 0)).map_ok(|_| ())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write(0, |stream| stream.poll_shutdown(cx).map_ok(|()| 0)).map_ok(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_response_can_be_read_after_a_write_has_failed() {
        let (near, mut far) = tokio::io::duplex(64);
        let mut near = DeferredWriteErrors::new(near);
        far.write_all(b"HTTP/1.1 401 Unauthorized\r\n\r\n").await.unwrap();
        drop(far);

        near.write_all(&[b'x'; 1000]).await.unwrap();
        near.flush().await.unwrap();

        let mut response = String::new();
        near.read_to_string(&mut response).await.unwrap();
        assert!(response.starts_with("HTTP/1.1 401"));
    }

    #[tokio::test]
    async fn a_closed_upstream_without_a_response_reads_as_the_end() {
        let (near, far) = tokio::io::duplex(64);
        let mut near = DeferredWriteErrors::new(near);
        drop(far);

        near.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();

        assert_eq!(near.read(&mut [0; 8]).await.unwrap(), 0);
    }
}
