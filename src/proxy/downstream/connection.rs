//! One client connection: HTTP/1.1 or HTTP/2, recognized by its first bytes, and served until it ends.
//!
//! hyper speaks the protocols over a [`ClientIo`], and a [`Serve`] answers the requests. This module decides how a
//! connection ends: when hyper ends it, when the sweep finds that a deadline has passed, or when the daemon stops.

use std::convert::Infallible;
use std::error::Error;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::{Request, Response, Version};
use hyper::body::{Body, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tracing::{debug, info};

use super::http2_streams::Streams;
use super::io::ClientIo;
use super::progress::Progress;
use super::protocol::{End, LINGERING_CLOSE_TIMEOUT};
use super::state::ClientConnection;
use super::stream::SharedStream;
use super::upgrade::{Upgrade, UpgradeSlot};
use crate::config::{HalfClosed, HeaderCase, Http1Options, Limits};
use crate::proxy::body::unread;

/// The most bytes read ahead of a slow upstream or buffered for a slow client.
const MAX_BUFFER: usize = 64 * 1024;
const H2_STREAM_WINDOW: u32 = 64 * 1024;
const H2_CONNECTION_WINDOW: u32 = unread::STREAM_WINDOWS * H2_STREAM_WINDOW;
/// The time between two PINGs to a client, and how long the client has to acknowledge one.
const H2_KEEP_ALIVE: Duration = Duration::from_secs(30);
const H2_KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How much larger than allowed a head may be for the proxy to answer 431, instead of hyper.
const H2_HEAD_FACTOR: usize = 2;
/// Streams that a client may open only to reset them.
const H2_MAX_RESETS: usize = 256;

/// Answers the requests of client connections.
pub trait Serve: 'static {
    /// The body of a response.
    type Body: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + 'static;

    /// The limits in force.
    fn limits(&self) -> Arc<Limits>;

    /// How HTTP/1.1 is spoken.
    fn http1(&self) -> Http1Options;

    /// Answers a request whose head is complete.
    fn answer(&self, request: Request<Incoming>, downstream: Downstream) -> Answer<Self::Body>;
}

/// The downstream side of one request.
pub struct Downstream {
    /// The connection that the request came on.
    pub connection: Rc<ClientConnection>,
    /// The progress of the request's response.
    pub progress: Rc<Progress>,
    /// How the request may take over the connection's socket.
    pub upgrade: Upgrade,
}

/// A response in the making. Boxed, so that an idle connection reserves no memory for one.
pub type Answer<B> = Pin<Box<dyn Future<Output = Result<Response<B>, Infallible>>>>;

/// Serves a connection until it ends.
pub async fn serve<S: Serve>(stream: SharedStream, client: Rc<ClientConnection>, service: Rc<S>) {
    let agreed = stream.agreed_version();
    let mut io = ClientIo::new(stream, Rc::clone(&client));
    match until_ended(&client, io.sniff()).await {
        Err(end) => io.refuse_late_head(end).await,
        Ok(Err(error)) => debug!(peer = %client.peer.get(), %error, "connection ended before a request"),
        Ok(Ok(is_http2)) if agreed.is_some_and(|agreed| (agreed == Version::HTTP_2) != is_http2) => {
            if client.has_partial_head() {
                let _ = until_ended(&client, io.refuse_version()).await;
            }
        }
        // Boxed, so that a parked connection reserves no memory for them.
        Ok(Ok(true)) => {
            Box::pin(serve_http2(io, client, service)).await;
        }
        Ok(Ok(false)) => {
            io.report_tls();
            client.speaks_http1();
            while let Some(mut parked) = Box::pin(serve_http1(io, &client, &service)).await {
                if !next_request(&mut parked, &client).await {
                    return;
                }
                io = parked;
            }
        }
    }
}

/// Why hyper no longer serves an HTTP/1 connection.
enum Left {
    /// The connection has ended.
    Ended(hyper::Result<()>),
    /// The connection is to end.
    Wanted(End),
    /// The connection is quiet, and waits for its next request without the buffer that hyper keeps ready for one.
    Parked,
}

/// Serves requests over HTTP/1.1; returns the socket of a connection that is to be parked.
async fn serve_http1<S: Serve>(
    io: ClientIo,
    client: &Rc<ClientConnection>,
    service: &Rc<S>,
) -> Option<ClientIo> {
    let slot = UpgradeSlot::default();
    let answer = answers(Rc::clone(service), client, slot.handle());
    let header_bytes = service.limits().header_bytes;
    let Http1Options { header_case, half_closed } = service.http1();
    let preserves_case = header_case == HeaderCase::Preserve;
    let observation = client.observe(io.stream().observer(), half_closed);
    let mut connection = http1::Builder::new()
        .header_read_timeout(None)
        .half_close(half_closed == HalfClosed::Answer)
        .preserve_header_case(preserves_case)
        .title_case_headers(preserves_case)
        .max_header_size(header_bytes)
        .max_buf_size(MAX_BUFFER.max(header_bytes))
        .serve_connection(TokioIo::new(io), service_fn(answer));
    let mut is_closing = false;
    let left = std::future::poll_fn(|cx| {
        // First the bytes that have arrived: hyper closes a connection on which it has read nothing.
        if let Poll::Ready(outcome) = Pin::new(&mut connection).poll(cx) {
            return Poll::Ready(Left::Ended(outcome));
        }
        match client.wanted_end() {
            // Until the connection is quiet, each response has `Connection: close`: hyper would drop a head of which it
            // has read a part.
            Some(End::Gracefully) if !is_closing && client.is_quiet() => {
                is_closing = true;
                Pin::new(&mut connection).graceful_shutdown();
                Pin::new(&mut connection).poll(cx).map(Left::Ended)
            }
            None if client.is_quiet() => Poll::Ready(Left::Parked),
            Some(End::Gracefully) | None => Poll::Pending,
            Some(end) => Poll::Ready(Left::Wanted(end)),
        }
    })
    .await;
    drop(observation);
    match left {
        Left::Ended(Ok(())) => {
            if let Some(takeover) = slot.take() {
                let http1::Parts { io, read_buf, .. } = connection.into_parts();
                // However the takeover ends, the connection ends with it.
                let _ = until_ended(client, takeover(io.into_inner(), read_buf)).await;
            }
            None
        }
        Left::Ended(Err(error)) => {
            debug!(peer = %client.peer.get(), %error, "connection failed");
            connection.into_parts().io.into_inner().close();
            None
        }
        Left::Wanted(end) => {
            let mut io = connection.into_parts().io.into_inner();
            io.refuse_late_head(end).await;
            io.close();
            None
        }
        Left::Parked => {
            let http1::Parts { io, read_buf, .. } = connection.into_parts();
            let mut io = io.into_inner();
            // The beginning of the next request may have arrived with the last one.
            io.unread(&read_buf);
            Some(io)
        }
    }
}

/// Waits for the next request of a parked connection. Returns whether hyper has to serve it again: after bytes, the
/// client's end, or the beginning of a graceful end.
async fn next_request(io: &mut ClientIo, client: &ClientConnection) -> bool {
    let mut first = pin!(io.wait());
    client.park();
    std::future::poll_fn(|cx| {
        if let Poll::Ready(came) = first.as_mut().poll(cx) {
            return Poll::Ready(came.is_ok());
        }
        match client.wanted_end() {
            None => Poll::Pending,
            Some(end) => Poll::Ready(end == End::Gracefully),
        }
    })
    .await
}

async fn serve_http2<S: Serve>(io: ClientIo, client: Rc<ClientConnection>, service: Rc<S>) {
    let limits = service.limits();
    client.speaks_http2(limits.streams);
    let stream = io.stream();
    if let Err(error) = run_http2(io, &client, service, &limits).await {
        debug!(peer = %client.peer.get(), %error, "connection failed");
    }
    if client.wanted_end() == Some(End::TooManyResets) && client.is_written() {
        let error = "the caller resets too many HTTP/2 streams";
        info!(target: "bearerd::access", peer = %client.peer.get().host(), error, "connection closed");
        let mut io = ClientIo::new(stream, client);
        // Ended within the time-out: the client may go on sending.
        let _ = tokio::time::timeout(LINGERING_CLOSE_TIMEOUT, io.go_away(Reason::ENHANCE_YOUR_CALM)).await;
    }
}

/// Runs hyper on an HTTP/2 connection until hyper ends it, or it is to end.
async fn run_http2<S: Serve>(
    io: ClientIo,
    client: &Rc<ClientConnection>,
    service: Rc<S>,
    limits: &Limits,
) -> hyper::Result<()> {
    let answer = answers(service, client, Upgrade::default());
    let mut connection = pin!(
        http2::Builder::new(Streams(Rc::clone(client)))
            .timer(TokioTimer::new())
            .keep_alive_interval(H2_KEEP_ALIVE)
            .keep_alive_timeout(H2_KEEP_ALIVE_TIMEOUT)
            .max_concurrent_streams(limits.streams)
            .initial_stream_window_size(H2_STREAM_WINDOW)
            .initial_connection_window_size(H2_CONNECTION_WINDOW)
            .max_header_list_size(u32::try_from(limits.header_bytes * H2_HEAD_FACTOR).unwrap_or(u32::MAX))
            .max_send_buf_size(MAX_BUFFER)
            .max_local_error_reset_streams(H2_MAX_RESETS)
            .max_pending_accept_reset_streams(usize::try_from(limits.streams).unwrap_or(usize::MAX))
            .serve_connection(TokioIo::new(io), service_fn(answer))
    );
    let mut is_closing = false;
    std::future::poll_fn(|cx| {
        if let Poll::Ready(outcome) = connection.as_mut().poll(cx) {
            return Poll::Ready(outcome);
        }
        match client.wanted_end() {
            Some(End::Gracefully) if !is_closing => {
                is_closing = true;
                connection.as_mut().graceful_shutdown();
                connection.as_mut().poll(cx)
            }
            Some(End::Gracefully) | None => Poll::Pending,
            Some(_) => Poll::Ready(Ok(())),
        }
    })
    .await
}

/// The function that hyper calls for each request.
fn answers<S: Serve>(
    service: Rc<S>,
    client: &Rc<ClientConnection>,
    upgrade: Upgrade,
) -> impl Fn(Request<Incoming>) -> Answer<S::Body> + use<S> {
    let client = Rc::clone(client);
    move |request| {
        let (connection, progress) = (Rc::clone(&client), client.begin_progress());
        service.answer(request, Downstream { connection, progress, upgrade: upgrade.clone() })
    }
}

/// Runs a future unless the connection is to end first.
///
/// A graceful end leaves the future running: a request may be on its way, and the sweep bounds the wait for it.
pub(in crate::proxy) async fn until_ended<T>(
    client: &ClientConnection,
    future: impl Future<Output = T>,
) -> Result<T, End> {
    let mut future = pin!(future);
    std::future::poll_fn(|cx| {
        if let Poll::Ready(outcome) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(outcome));
        }
        match client.wanted_end() {
            None | Some(End::Gracefully) => Poll::Pending,
            Some(end) => Poll::Ready(Err(end)),
        }
    })
    .await
}
