//! A caller's connection: HTTP/1.1 or HTTP/2, told apart by its first bytes, served until it ends.
//!
//! hyper speaks the protocols. What is ours is around it: the phases by which a slow connection is found, a
//! last reading of what the caller still sends so that it gets to see the answer, and hyper's own refusals of
//! malformed requests put into the words of [`ProxyError`].

use std::convert::Infallible;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::{Request, Response, Version};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tracing::debug;

use super::caller::{Caller, End};
use super::error::ProxyError;
use super::response::AnswerBody;
use super::service::Service;
use crate::config::Limits;

/// How HTTP/2 begins with prior knowledge (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What is read ahead of a slow upstream, and buffered for a slow caller.
const MAX_BUFFER: usize = 64 * 1024;
const H2_STREAM_WINDOW: u32 = 64 * 1024;
const H2_CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Peers that open streams only to reset them are cut off.
const H2_MAX_RESETS: usize = 256;

/// Serves a connection until it ends.
pub async fn serve<S>(stream: S, caller: Rc<Caller>, service: Rc<Service>, limits: Rc<Limits>)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    caller.set_task(&std::future::poll_fn(|cx| Poll::Ready(cx.waker().clone())).await);
    let mut io = CallerIo { stream, caller: Rc::clone(&caller), sniffed: Bytes::new(), own: Bytes::new() };
    let sniffed = until_ended(&caller, io.sniff()).await;
    match sniffed {
        Err(end) => refuse_late_head(&mut io, end).await,
        Ok(Err(error)) => debug!(peer = %caller.peer, %error, "connection ended before a request"),
        Ok(Ok(true)) => serve_http2(io, caller, service, &limits).await,
        Ok(Ok(false)) => serve_http1(io, caller, service, &limits).await,
    }
}

async fn serve_http1<S>(io: CallerIo<S>, caller: Rc<Caller>, service: Rc<Service>, limits: &Limits)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let answer = answers(service, &caller);
    let mut connection = http1::Builder::new()
        .header_read_timeout(None)
        .max_header_size(limits.header_bytes)
        .max_buf_size(MAX_BUFFER.max(limits.header_bytes))
        .serve_connection(TokioIo::new(io), service_fn(answer));
    let mut is_closing = false;
    let outcome = std::future::poll_fn(|cx| {
        // First what has come: hyper takes a connection on which it has read nothing yet for one without a request.
        if let Poll::Ready(outcome) = Pin::new(&mut connection).poll(cx) {
            return Poll::Ready(Ok(outcome));
        }
        match caller.wanted_end() {
            Some(End::Gracefully) if !is_closing => {
                is_closing = true;
                Pin::new(&mut connection).graceful_shutdown();
                Pin::new(&mut connection).poll(cx).map(Ok)
            }
            Some(End::Gracefully) | None => Poll::Pending,
            Some(end) => Poll::Ready(Err(end)),
        }
    })
    .await;
    match outcome {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(peer = %caller.peer, %error, "connection failed"),
        Err(end) => {
            let mut io = connection.into_parts().io.into_inner();
            refuse_late_head(&mut io, end).await;
        }
    }
}

async fn serve_http2<S>(io: CallerIo<S>, caller: Rc<Caller>, service: Rc<Service>, limits: &Limits)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let answer = answers(service, &caller);
    let mut connection = pin!(
        http2::Builder::new(LocalExecutor)
            .max_concurrent_streams(limits.streams)
            .initial_stream_window_size(H2_STREAM_WINDOW)
            .initial_connection_window_size(H2_CONNECTION_WINDOW)
            .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
            .max_send_buf_size(MAX_BUFFER)
            .max_local_error_reset_streams(H2_MAX_RESETS)
            .serve_connection(TokioIo::new(io), service_fn(answer))
    );
    let mut is_closing = false;
    let outcome = std::future::poll_fn(|cx| {
        if let Poll::Ready(outcome) = connection.as_mut().poll(cx) {
            return Poll::Ready(outcome);
        }
        match caller.wanted_end() {
            Some(End::Gracefully) if !is_closing => {
                is_closing = true;
                connection.as_mut().graceful_shutdown();
                connection.as_mut().poll(cx)
            }
            Some(End::Gracefully) | None => Poll::Pending,
            Some(_) => Poll::Ready(Ok(())),
        }
    })
    .await;
    if let Err(error) = outcome {
        debug!(peer = %caller.peer, %error, "connection failed");
    }
}

/// A request being answered. Boxed, so that an idle connection has no room set aside for one.
type Answering = Pin<Box<dyn Future<Output = Result<Response<AnswerBody>, Infallible>>>>;

/// The function that hyper calls for each request.
fn answers(service: Rc<Service>, caller: &Rc<Caller>) -> impl Fn(Request<Incoming>) -> Answering + use<> {
    let caller = Rc::clone(caller);
    move |request| {
        let service = Rc::clone(&service);
        let caller = Rc::clone(&caller);
        Box::pin(async move { service.answer(request, caller).await })
    }
}

/// Runs a future unless the connection is to end first.
///
/// Asked to end gracefully it waits: a request may be on its way, and the sweep knows for how long.
async fn until_ended<T>(caller: &Caller, future: impl Future<Output = T>) -> Result<T, End> {
    let mut future = pin!(future);
    std::future::poll_fn(|cx| {
        if let Poll::Ready(outcome) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(outcome));
        }
        match caller.wanted_end() {
            None | Some(End::Gracefully) => Poll::Pending,
            Some(end) => Poll::Ready(Err(end)),
        }
    })
    .await
}

/// Tells a caller whose request head did not arrive in time, if it sent anything at all.
async fn refuse_late_head<S: AsyncRead + AsyncWrite + Unpin>(io: &mut CallerIo<S>, end: End) {
    if end == End::HeadTimeout && io.caller.has_begun_a_head() {
        let answer = plain(&ProxyError::RequestTimeout);
        // A caller that does not take it has not asked properly either.
        let _ = io.stream.write_all(&answer).await;
        let _ = io.stream.shutdown().await;
    }
}

/// A socket of a caller, which notes what happens on it.
struct CallerIo<S> {
    stream: S,
    caller: Rc<Caller>,
    /// What was read to tell the protocols apart; read again before anything else.
    sniffed: Bytes,
    /// What is to be written in the place of hyper's own refusal.
    own: Bytes,
}

impl<S: AsyncRead + AsyncWrite + Unpin> CallerIo<S> {
    /// Whether the first bytes are those of HTTP/2. They are kept for whoever reads next.
    async fn sniff(&mut self) -> io::Result<bool> {
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
        Some(plain(&error))
    }

    fn poll_own(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.own.has_remaining() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.own))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.own.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

/// A refusal as it goes over the wire where hyper does not write it (RFC 9112 §4).
fn plain(error: &ProxyError) -> Bytes {
    let response = error.response(Version::HTTP_11);
    let reason = response.status().canonical_reason().unwrap_or_default();
    let mut text = format!("HTTP/1.1 {} {reason}\r\n", response.status().as_u16()).into_bytes();
    for (name, value) in response.headers() {
        text.extend_from_slice(name.as_str().as_bytes());
        text.extend_from_slice(b": ");
        text.extend_from_slice(value.as_bytes());
        text.extend_from_slice(b"\r\n");
    }
    let date = httpdate::fmt_http_date(crate::clock::wall_clock());
    let end = format!("content-length: {}\r\ndate: {date}\r\n\r\n", response.body().len());
    text.extend_from_slice(end.as_bytes());
    text.extend_from_slice(response.body());
    Bytes::from(text)
}

impl<S: AsyncRead + Unpin> AsyncRead for CallerIo<S> {
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

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for CallerIo<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(own) = self.refusal(buf) {
            self.own = own;
            self.caller.leave_unread();
            return Poll::Ready(Ok(buf.len()));
        }
        Pin::new(&mut self.stream).poll_write(cx, buf)
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
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_own(cx))?;
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.caller.flushed();
        Poll::Ready(Ok(()))
    }

    /// Closing at once with something unread would make the system reset the connection, and the caller lose
    /// the answer that it has not read yet. So what comes is read and thrown away for a while.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_own(cx))?;
        ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
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

/// Runs the streams of an HTTP/2 connection on the worker that has the connection.
#[derive(Clone, Copy, Debug)]
struct LocalExecutor;

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future<Output = ()> + 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
