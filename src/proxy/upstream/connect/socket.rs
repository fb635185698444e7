//! An upstream's socket, made so that an answer is not lost behind a write that failed.
//!
//! An upstream may answer before it has read the body and close: the 401 is there to be read, and the write
//! that is still going on fails. hyper reports the write error and drops the answer. So a failed write is kept
//! quiet here and what follows it is thrown away; the reading side finds the answer, or the end, and that
//! decides.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::proxy::vectored;

/// A byte stream to an upstream, whatever it is made of.
pub trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

/// A stream whose failed writes are left for the reader to find out.
#[derive(Debug)]
pub struct ReadsDecide<S> {
    stream: S,
    is_broken: bool,
}

impl<S> ReadsDecide<S> {
    /// Wraps a stream.
    pub const fn new(stream: S) -> Self {
        Self { stream, is_broken: false }
    }
}

/// Errors that mean that the peer does not read any more.
fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected)
}

impl<S: Unpin> ReadsDecide<S> {
    /// Runs a write; once one has failed because the peer is gone, says that `all` was written.
    fn write(
        &mut self,
        all: usize,
        write: impl FnOnce(Pin<&mut S>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if self.is_broken {
            return Poll::Ready(Ok(all));
        }
        match write(Pin::new(&mut self.stream)) {
            Poll::Ready(Err(error)) if is_gone(&error) => {
                self.is_broken = true;
                Poll::Ready(Ok(all))
            }
            other => other,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ReadsDecide<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ReadsDecide<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.write(buf.len(), |stream| stream.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all = bufs.iter().map(|buf| buf.len()).sum();
        self.write(all, |stream| vectored::poll_write_all(stream, cx, bufs))
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
    async fn an_answer_is_read_although_writing_failed() {
        let (near, mut far) = tokio::io::duplex(64);
        let mut near = ReadsDecide::new(near);
        far.write_all(b"HTTP/1.1 401 Unauthorized\r\n\r\n").await.unwrap();
        drop(far);

        near.write_all(&[b'x'; 1000]).await.unwrap();
        near.flush().await.unwrap();

        let mut answer = String::new();
        near.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 401"));
    }

    #[tokio::test]
    async fn an_upstream_that_is_gone_without_an_answer_is_at_its_end() {
        let (near, far) = tokio::io::duplex(64);
        let mut near = ReadsDecide::new(near);
        drop(far);

        near.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();

        assert_eq!(near.read(&mut [0; 8]).await.unwrap(), 0);
    }
}
