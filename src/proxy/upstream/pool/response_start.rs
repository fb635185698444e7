//! The start of each response on an HTTP/1.1 connection, looked at before hyper reads it.
//!
//! hyper skips interim responses (RFC 9110 §15.2), and refuses responses of HTTP/1.0 with chunks. [`ResponseStream`] notes the
//! former for the request. HTTP/1.0 has no `Transfer-Encoding`, but some servers send it all the same, and other proxies
//! read the chunks and close the connection (RFC 9112 §6.1): [`ResponseStream`] shows hyper the version 1.1 in the status
//! line of such a response, and the connection takes no other request.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use http::{HeaderName, HeaderValue, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connection::MAX_BUFFER;

/// What a connection and its stream tell each other.
#[derive(Debug, Default)]
pub(super) struct ResponseStart {
    /// Whether the next bytes begin a response.
    is_next: Cell<bool>,
    /// Whether an interim response has arrived, at least in part.
    pub(super) has_begun: Cell<bool>,
    /// Whether a response of HTTP/1.0 had chunks.
    pub(super) has_http10_chunks: Cell<bool>,
    /// The part of an interim response that has arrived.
    partial: RefCell<Vec<u8>>,
    interim: RefCell<Vec<Response<()>>>,
}

/// A stream whose responses are looked at.
#[derive(Debug)]
pub(super) struct ResponseStream<S> {
    pub(super) stream: S,
    start: Rc<ResponseStart>,
}

impl<S> ResponseStream<S> {
    /// Wraps the stream of a connection that shares `start`.
    pub(super) const fn new(stream: S, start: Rc<ResponseStart>) -> Self {
        Self { stream, start }
    }
}

impl ResponseStart {
    /// A request is about to be sent: the next bytes begin its response.
    pub(super) fn await_next(&self) {
        self.is_next.set(true);
        if self.has_begun.replace(false) {
            self.partial.take();
            self.interim.take();
        }
    }

    /// The interim responses that have arrived since the last call.
    pub(super) fn take_interim(&self) -> Vec<Response<()>> {
        if self.has_begun.get() { self.interim.take() } else { Vec::new() }
    }

    /// Looks at bytes that begin a response or continue an interim one. A head whose first bytes arrive in pieces is left to
    /// hyper.
    fn look_at(&self, mut bytes: &mut [u8]) {
        let mut partial = self.partial.borrow_mut();
        while !bytes.is_empty() {
            if partial.is_empty() && !is_interim(bytes) {
                self.is_next.set(false);
                if is_http10_with_coding(bytes) {
                    bytes[b"HTTP/1.".len()] = b'1';
                    self.has_http10_chunks.set(true);
                }
                return;
            }
            self.has_begun.set(true);
            let before = partial.len();
            partial.extend_from_slice(bytes);
            let Some(end) = end_of_head(&partial, before) else {
                if partial.len() > MAX_BUFFER {
                    self.is_next.set(false);
                    *partial = Vec::new();
                }
                return;
            };
            self.interim.borrow_mut().extend(parsed(&partial[..end]));
            partial.clear();
            bytes = &mut bytes[end - before..];
        }
    }
}

/// Whether these bytes begin an interim response. A 101 ends HTTP, and is none.
fn is_interim(bytes: &[u8]) -> bool {
    bytes.starts_with(b"HTTP/1.1 1") && bytes.len() >= 12 && &bytes[9..12] != b"101"
}

/// The end of the head at the start of `bytes`, whose first empty line ends behind the first `known` bytes.
fn end_of_head(bytes: &[u8], known: usize) -> Option<usize> {
    let from = known.saturating_sub(2);
    bytes[from..].iter().enumerate().find_map(|(at, byte)| {
        let behind = from + at + 1;
        match (byte, bytes.get(behind..)?) {
            (b'\n', [b'\n', ..]) => Some(behind + 1),
            (b'\n', [b'\r', b'\n', ..]) => Some(behind + 2),
            _ => None,
        }
    })
}

/// The interim response with this head; `None` if hyper refuses the head.
fn parsed(head: &[u8]) -> Option<Response<()>> {
    let mut lines = head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end);
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_bytes(lines.next()?.get(9..12)?).ok()?;
    for line in lines.filter(|line| !line.is_empty()) {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        response.headers_mut().append(name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?);
    }
    Some(response)
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

impl<S: AsyncRead + Unpin> AsyncRead for ResponseStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if self.start.is_next.get() {
            self.start.look_at(&mut buf.filled_mut()[read..]);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ResponseStream<S> {
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
            let mut near = ResponseStream::new(near, Rc::clone(&start));
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

    const INTERIM: &str =
        "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\nLink:</b>\r\n\r\nHTTP/1.1 102 Processing\n\n";

    /// The statuses and the `Link` fields of the interim responses in these bytes, which arrive in pieces.
    fn found(bytes: &str, piece: usize) -> (Vec<u16>, Vec<String>, ResponseStart) {
        let start = ResponseStart::default();
        start.await_next();
        for piece in bytes.as_bytes().chunks(piece) {
            if start.is_next.get() {
                start.look_at(&mut piece.to_vec());
            }
        }
        let all = start.take_interim();
        let links = all.iter().flat_map(|response| response.headers().get_all("link"));
        let links = links.map(|link| link.to_str().unwrap().to_owned()).collect();
        (all.iter().map(|response| response.status().as_u16()).collect(), links, start)
    }

    #[test]
    fn interim_responses_are_found_up_to_the_final_one_in_whatever_pieces() {
        let bytes = format!("{INTERIM}HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 103 No\r\n\r\n");
        // Pieces in which each head has its first bytes together.
        for piece in [bytes.len() - 1, INTERIM.len()] {
            let (statuses, links, start) = found(&bytes, piece);
            assert_eq!(
                (&*statuses, &*links),
                (&[103, 102][..], &["</a>".to_owned(), "</b>".to_owned()][..]),
                "{piece}"
            );
            assert!(!start.is_next.get() && start.has_begun.get(), "{piece}");
        }
    }

    #[test]
    fn what_is_no_interim_response_is_left_alone() {
        for bytes in [
            "HTTP/1.1 101 Switching\r\n\r\nx",
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.0 103 x\r\n\r\n",
            "HTTP/1.1 1",
        ] {
            let (statuses, _, start) = found(bytes, 1000);
            assert!(statuses.is_empty() && !start.has_begun.get() && !start.is_next.get(), "{bytes}");
        }
        let (statuses, _, _) = found("HTTP/1.1 103 x\r\nno field\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", 1000);
        assert!(statuses.is_empty());
        let (_, _, start) = found(&format!("HTTP/1.1 103 x\r\nx: {}", "y".repeat(2 * MAX_BUFFER)), 4096);
        assert!(
            !start.is_next.get() && start.partial.borrow().is_empty(),
            "a head without an end is not kept"
        );
    }
}
