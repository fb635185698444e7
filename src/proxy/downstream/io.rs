//! A caller's socket as hyper sees it: it notes what happens, says refusals in our words, and reads on at the end.
//!
//! Callers get the words of [`ProxyError`] where hyper would refuse a malformed head with its own, and a last
//! reading of what they still send, so that they get to see the answer.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tracing::info;

use super::state::{Caller, End, LINGER};
use super::wrong_protocol::Spoken;
use crate::proxy::error::ProxyError;
use crate::proxy::error::http1::plain;
use crate::proxy::vectored;

/// How HTTP/2 begins with prior knowledge (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How a TLS handshake begins (RFC 8446 §5.1).
pub const TLS_HANDSHAKE: u8 = 22;

/// A socket of a caller, which notes what happens on it.
///
/// The stream is boxed: hyper's server is large, and compiled once for each type of stream.
pub struct CallerIo {
    stream: Box<dyn CallerStream>,
    caller: Rc<Caller>,
    /// What was read to tell the protocols apart; read again before anything else.
    sniffed: Bytes,
    /// What is to be written in the place of hyper's own refusal.
    own: Bytes,
}

/// What a caller's bytes come over.
pub trait CallerStream: AsyncRead + AsyncWrite + Unpin {
    /// Makes that closing it looks like a failure to the peer, and not like an end.
    fn set_close_by_reset(&self);

    /// The address that was called, if it has one.
    fn called(&self) -> Option<SocketAddr> {
        None
    }
}

impl CallerStream for TcpStream {
    fn set_close_by_reset(&self) {
        // If it fails the connection has ended already.
        let _ = self.set_zero_linger();
    }

    fn called(&self) -> Option<SocketAddr> {
        self.local_addr().ok()
    }
}

impl CallerStream for UnixStream {
    /// A unix socket knows no reset: its end comes either way.
    fn set_close_by_reset(&self) {}
}

impl CallerIo {
    /// A caller's new socket.
    pub const fn new(stream: Box<dyn CallerStream>, caller: Rc<Caller>) -> Self {
        Self { stream, caller, sniffed: Bytes::new(), own: Bytes::new() }
    }

    /// Whether the first bytes are those of HTTP/2. They are kept for whoever reads next.
    pub async fn sniff(&mut self) -> io::Result<bool> {
        let mut first = Vec::with_capacity(PREFACE.len());
        while first.len() < PREFACE.len() && PREFACE.starts_with(&first) {
            let missing = PREFACE.len() - first.len();
            if (&mut self.stream).take(missing as u64).read_buf(&mut first).await? == 0 {
                break;
            }
            self.caller.received();
        }
        self.sniffed = Bytes::from(first);
        Ok(self.sniffed.starts_with(PREFACE))
    }

    /// Tells the log of a caller that wants to speak TLS here.
    pub fn tell_if_tls(&self) {
        if self.sniffed.first() == Some(&TLS_HANDSHAKE) {
            self.caller.is_misdirected(Spoken::Tls, self.stream.called());
        }
    }

    /// Takes back what was read and not used. Copied: the least piece of a buffer, and one of nothing, keeps it whole.
    pub fn unread(&mut self, bytes: &[u8]) {
        self.sniffed = [bytes, &self.sniffed].concat().into();
    }

    /// Waits for the next bytes, or the end, and keeps them for whoever reads next.
    pub async fn wait(&mut self) -> io::Result<()> {
        if self.sniffed.has_remaining() {
            self.caller.received();
            return Ok(());
        }
        let mut next = Vec::with_capacity(PREFACE.len());
        if self.stream.read_buf(&mut next).await? > 0 {
            self.caller.received();
        }
        self.sniffed = Bytes::from(next);
        Ok(())
    }

    /// Tells a caller whose request head did not arrive in time, if it sent anything of one.
    pub async fn refuse_late_head(&mut self) {
        if self.caller.has_begun_a_head() {
            self.tell_of(&ProxyError::RequestTimeout);
            let answer = plain(&ProxyError::RequestTimeout);
            // A caller that does not take it has not asked properly either.
            let _ = tokio::time::timeout(LINGER, async {
                self.stream.write_all(&answer).await?;
                self.stream.shutdown().await
            })
            .await;
        }
    }

    /// Says an error, and reads on for a while so that it can be read.
    pub async fn refuse(&mut self, error: &ProxyError) {
        self.own = plain(error);
        self.read_off().await;
    }

    /// Ends what is written, and reads on for a while so that it can be read.
    pub async fn read_off(&mut self) {
        self.caller.leave_unread();
        // Whoever does not take it has left.
        let _ = self.shutdown().await;
    }

    /// Closes a connection that failed; where an answer's end is the connection's, so that it is not taken for
    /// complete (RFC 9112 §6.3).
    pub fn close(self) {
        if self.caller.is_answer_cut_off() {
            self.stream.set_close_by_reset();
        }
    }
}

impl CallerIo {
    /// Our own words in the place of hyper's, if these bytes are hyper's refusal of a malformed request.
    ///
    /// They can be nothing else: no request is being answered, and everything written before is flushed.
    fn refusal(&self, bytes: &[u8]) -> Option<Bytes> {
        if self.caller.is_answering() || !bytes.starts_with(b"HTTP/1.") {
            return None;
        }
        let error = match bytes.get(9..12)? {
            b"431" | b"414" => ProxyError::HeaderTooLarge,
            b"400" => ProxyError::BadRequest("the request is malformed"),
            _ => return None,
        };
        self.tell_of(&error);
        Some(plain(&error))
    }

    /// Tells the log of a request that there is no more of than a head that came to nothing.
    fn tell_of(&self, error: &ProxyError) {
        let (status, code) = (error.status().as_u16(), error.code());
        info!(target: "bearerd::access", peer = %self.caller.peer().host(), status, code, "request refused");
    }

    /// Notes what was taken of what there was.
    fn note(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Ready(Ok(bytes)) => self.caller.sent(*bytes),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.caller.takes_nothing(),
        }
        written
    }

    fn poll_own(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.own.has_remaining() {
            let written = Pin::new(&mut self.stream).poll_write(cx, &self.own);
            let written = ready!(self.note(written))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.own.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

/// What a caller did not take in time is not kept by the system either.
impl Drop for CallerIo {
    fn drop(&mut self) {
        if self.caller.wanted_end() == Some(End::Untaken) {
            self.stream.set_close_by_reset();
        }
    }
}

impl AsyncRead for CallerIo {
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
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            self.caller.received();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for CallerIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(own) = self.refusal(buf) {
            self.own = own;
            self.caller.leave_unread();
            return Poll::Ready(Ok(buf.len()));
        }
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // A refusal has no body: it is one buffer.
        if let [only] = bufs
            && let Some(own) = self.refusal(only)
        {
            self.own = own;
            self.caller.leave_unread();
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
            self.caller.takes_nothing();
            return Poll::Pending;
        }
        self.caller.flushed();
        Poll::Ready(Ok(()))
    }

    /// Closing at once with something unread would make the system reset the connection, and the caller lose
    /// the answer that it has not read yet. So what comes is read and thrown away for a while.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_own(cx))?;
        if Pin::new(&mut self.stream).poll_shutdown(cx)?.is_pending() {
            self.caller.takes_nothing();
            return Poll::Pending;
        }
        if !self.caller.begins_to_linger() {
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
