//! Wraps a client's socket for hyper: notes events, replaces hyper's own error responses, and closes with a
//! lingering close.
//!
//! Where hyper would refuse a malformed head with an empty response, the client gets the problem document of a
//! [`ProxyError`]. After the last response, the socket reads what the client still sends, so that the client can read
//! that response.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::protocol::{End, LINGERING_CLOSE_TIMEOUT};
use super::state::ClientConnection;
use super::stream::{SharedStream, StreamObserver};
use super::wrong_protocol::Spoken;
use crate::http::RequestId;
use crate::proxy::error::ProxyError;
use crate::proxy::error::http1::plain;
use crate::proxy::vectored;
use crate::telemetry::access::{Line, Severity};

/// The most bytes read ahead of a slow upstream or buffered for a slow client.
pub(super) const MAX_BUFFER: usize = 64 * 1024;

/// The beginning of HTTP/2 with prior knowledge (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A server's answer to anything else: an empty SETTINGS frame, and GOAWAY with `PROTOCOL_ERROR` (RFC 9113 §3.4, §6.8).
const NOT_HTTP2: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// The first byte of a TLS handshake (RFC 8446 §5.1).
pub const TLS_HANDSHAKE: u8 = 22;

/// A client's socket, which notes events in its [`ClientConnection`].
pub struct ClientIo {
    stream: SharedStream,
    client: Rc<ClientConnection>,
    /// Bytes that were read ahead of hyper, which reads them first.
    sniffed: Bytes,
    /// Bytes to be written before hyper's: interim responses, or the refusal that replaces hyper's.
    own: Bytes,
    /// The refusal that is not in the access log yet.
    unlogged: Option<Refused>,
}

/// A request that was refused before its head was complete, for the access log.
struct Refused {
    request_id: RequestId,
    error: ProxyError,
}

impl ClientIo {
    /// The socket of a new connection.
    pub const fn new(stream: SharedStream, client: Rc<ClientConnection>) -> Self {
        Self { stream, client, sniffed: Bytes::new(), own: Bytes::new(), unlogged: None }
    }

    /// An observer of the stream.
    pub fn observer(&self) -> StreamObserver {
        self.stream.observer()
    }

    /// Whether the first bytes are those of HTTP/2. The bytes stay to be read.
    pub async fn sniff(&mut self) -> io::Result<bool> {
        let mut first = Vec::with_capacity(PREFACE.len());
        while first.len() < PREFACE.len() && PREFACE.starts_with(&first) {
            let missing = PREFACE.len() - first.len();
            if (&mut self.stream).take(missing as u64).read_buf(&mut first).await? == 0 {
                break;
            }
            self.client.received();
        }
        self.sniffed = Bytes::from(first);
        Ok(self.sniffed.starts_with(PREFACE))
    }

    /// Logs a client that begins with a TLS handshake.
    pub fn report_tls(&self) {
        if self.sniffed.first() == Some(&TLS_HANDSHAKE) {
            self.client.report_wrong_protocol(Spoken::Tls, self.stream.local_address());
        }
    }

    /// Takes back bytes that were read and not used. Copied: a slice, even an empty one, keeps its whole buffer.
    pub fn unread(&mut self, bytes: &[u8]) {
        self.sniffed = [bytes, &self.sniffed].concat().into();
    }

    /// Waits for the next bytes, or the end. The bytes stay to be read.
    pub async fn wait(&mut self) -> io::Result<()> {
        if self.sniffed.has_remaining() {
            self.client.received();
            return Ok(());
        }
        let mut next = Vec::with_capacity(PREFACE.len());
        if self.stream.read_buf(&mut next).await? > 0 {
            self.client.received();
        }
        self.sniffed = Bytes::from(next);
        Ok(())
    }

    /// Answers 408 if a request's head did not arrive in time, and a part of the head did.
    pub async fn refuse_late_head(&mut self, end: End) {
        if end == End::HeadTimeout && self.client.has_partial_head() {
            let response = self.refused(ProxyError::RequestTimeout);
            // Ended within the time-out: the client may read nothing.
            let written = tokio::time::timeout(LINGERING_CLOSE_TIMEOUT, async {
                self.stream.write_all(&response).await?;
                self.stream.shutdown().await
            })
            .await;
            self.log_refusal(matches!(written, Ok(Ok(()))));
        }
    }

    /// Answers with an error and closes, lingering so that the client can read the response.
    pub async fn refuse(&mut self, error: ProxyError) {
        self.own = self.refused(error);
        self.close_lingering().await;
    }

    /// Refuses a client that speaks another version of HTTP than ALPN agreed on (RFC 7301 §3.2).
    pub async fn refuse_version(&mut self) {
        let error = ProxyError::BadRequest("the protocol is not the one that ALPN agreed on");
        if self.sniffed.starts_with(PREFACE) {
            self.refuse(error).await;
        } else {
            self.refused(error);
            self.own = Bytes::from_static(NOT_HTTP2);
            self.close_lingering().await;
        }
    }

    /// Closes, lingering so that the client can read what was written.
    pub async fn close_lingering(&mut self) {
        self.client.has_unread.set(true);
        // Fails only where the client has left.
        let _ = self.shutdown().await;
    }

    /// Closes a connection that failed, by a reset if a truncated response would seem complete (RFC 9112 §6.3).
    pub fn close(self) {
        if self.client.is_truncated.get() {
            self.stream.set_close_by_reset();
        }
    }

    /// The response that replaces these bytes if they are hyper's refusal of a malformed request: while no request is
    /// answered, hyper writes nothing else.
    fn replacement(&mut self, bytes: &[u8]) -> Option<Bytes> {
        if self.client.is_responding() || !bytes.starts_with(b"HTTP/1.") {
            return None;
        }
        let error = match bytes.get(9..12)? {
            b"431" | b"414" => ProxyError::HeaderTooLarge,
            b"400" => ProxyError::BadRequest("the request is malformed"),
            _ => return None,
        };
        Some(self.refused(error))
    }

    /// The response to a request that is refused before its head is complete.
    fn refused(&mut self, error: ProxyError) -> Bytes {
        self.client.refused(&error);
        let refused = Refused { request_id: RequestId::random(), error };
        let response = plain(&refused.error, &refused.request_id);
        self.unlogged = Some(refused);
        response
    }

    /// Logs a refusal, once it is written or given up.
    fn log_refusal(&mut self, is_complete: bool) {
        let Some(Refused { request_id, error }) = self.unlogged.take() else { return };
        Line {
            request_id: request_id.as_str(),
            caller: self.client.names().first().map(String::as_str),
            client_address: self.client.peer.get().ip(),
            status: Some(error.status().as_u16()),
            code: Some(error.code()),
            is_complete,
            error: Some(&error.explain()),
            ..Line::default()
        }
        .write(Severity::Info);
    }

    /// Notes the outcome of a write.
    fn note(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Ready(Ok(bytes)) => self.client.written(*bytes),
            Poll::Ready(Err(error)) => self.client.failed(error),
            Poll::Pending => self.client.write_blocked(),
        }
        written
    }

    /// Writes the bytes that go before hyper's.
    fn poll_own(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.own.is_empty() {
            self.own = self.client.interim.take().into();
        }
        while self.own.has_remaining() {
            let written = Pin::new(&mut self.stream).poll_write(cx, &self.own);
            let written = ready!(self.note(written))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.own.advance(written);
        }
        self.log_refusal(true);
        Poll::Ready(Ok(()))
    }
}

/// After a write time-out a reset makes the system drop what the client did not read.
impl Drop for ClientIo {
    fn drop(&mut self) {
        self.log_refusal(false);
        if self.client.wanted_end() == Some(End::WriteTimeout) {
            self.stream.set_close_by_reset();
        }
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.sniffed.has_remaining() {
            let count = self.sniffed.len().min(buf.remaining());
            buf.put_slice(&self.sniffed.split_to(count));
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buf));
        match &read {
            Ok(()) if buf.filled().len() > before => self.client.received(),
            Ok(()) => {}
            Err(error) => self.client.failed(error),
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_own(cx))?;
        // hyper's refusal has no body: it is one buffer.
        if let [only] = bufs
            && let Some(refusal) = self.replacement(only)
        {
            self.own = refusal;
            self.client.has_unread.set(true);
            return Poll::Ready(Ok(only.len()));
        }
        let written = vectored::poll_write_all(Pin::new(&mut self.stream), cx, bufs);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_own(cx))?;
        if Pin::new(&mut self.stream).poll_flush(cx)?.is_pending() {
            self.client.write_blocked();
            return Poll::Pending;
        }
        self.client.flushed();
        Poll::Ready(Ok(()))
    }

    /// Lingers, until the sweep ends the connection, if the client may still be sending: closing with bytes unread would
    /// make the system reset the connection, and the client lose the response that it has not read yet.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_own(cx))?;
        if Pin::new(&mut self.stream).poll_shutdown(cx)?.is_pending() {
            self.client.write_blocked();
            return Poll::Pending;
        }
        if !self.client.linger() {
            return Poll::Ready(Ok(()));
        }
        let mut scratch = [0; 8 * 1024];
        loop {
            let mut buf = ReadBuf::new(&mut scratch);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf))?;
            if buf.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}
