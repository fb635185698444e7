//! Responses of HTTP/1.0 with chunks.
//!
//! HTTP/1.0 has no `Transfer-Encoding`, and hyper refuses such a response. Some servers send one all the same, and other
//! proxies read the chunks and close the connection (RFC 9112 §6.1). [`Http10Chunks`] shows hyper the version 1.1 in the
//! status line of such a response, and the connection takes no other request.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What a connection and its stream tell each other.
#[derive(Debug, Default)]
pub(super) struct ResponseStart {
    /// Whether the next bytes begin a response.
    pub(super) is_next: Cell<bool>,
    /// Whether a response of HTTP/1.0 had chunks.
    pub(super) has_http10_chunks: Cell<bool>,
}

/// A stream on which such responses have the version 1.1.
#[derive(Debug)]
pub(super) struct Http10Chunks<S> {
    pub(super) stream: S,
    start: Rc<ResponseStart>,
}

impl<S> Http10Chunks<S> {
    /// Wraps the stream of a connection that shares `start`.
    pub(super) const fn new(stream: S, start: Rc<ResponseStart>) -> Self {
        Self { stream, start }
    }
}

/// Whether these bytes begin a response of HTTP/1.0 with `Transfer-Encoding`. A head that arrives in pieces is left to
/// hyper, which refuses it.
fn is_http10_with_coding(bytes: &[u8]) -> bool {
    const NAME: &[u8] = b"\ntransfer-encoding:";
    if !bytes.starts_with(b"HTTP/1.0 ") {
        return false;
    }
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(bytes.len());
    bytes[..end].windows(NAME.len()).any(|part| part.eq_ignore_ascii_case(NAME))
}

impl<S: AsyncRead + Unpin> AsyncRead for Http10Chunks<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let bytes = &mut buf.filled_mut()[read..];
        if !bytes.is_empty() && self.start.is_next.replace(false) && is_http10_with_coding(bytes) {
            bytes[b"HTTP/1.".len()] = b'1';
            self.start.has_http10_chunks.set(true);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Http10Chunks<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn only_the_start_of_a_response_of_http_1_0_with_a_coding_is_changed() {
        for (head, is_changed) in [
            ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", true),
            ("HTTP/1.0 200 OK\r\nx: y\r\ntransfer-encoding:chunked\r\n\r\n", true),
            ("HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\n\ntransfer-encoding: x", false),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", false),
            ("HTTP/1.0", false),
        ] {
            let (near, mut far) = tokio::io::duplex(1024);
            let start = Rc::<ResponseStart>::default();
            let mut near = Http10Chunks::new(near, Rc::clone(&start));
            let mut read = [0; 1024];
            for is_next in [true, false] {
                start.is_next.set(is_next);
                far.write_all(head.as_bytes()).await.unwrap();
                let length = near.read(&mut read).await.unwrap();
                let version = if is_next && is_changed { "HTTP/1.1" } else { &head[..8] };
                assert_eq!(read[..length], [version.as_bytes(), &head.as_bytes()[8..]].concat(), "{head}");
                assert_eq!(start.has_http10_chunks.get(), is_changed, "{head}");
            }
        }
    }
}
