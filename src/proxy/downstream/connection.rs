//! A caller's connection: HTTP/1.1 or HTTP/2, told apart by its first bytes, served until it ends.
//!
//! hyper speaks the protocols, over a [`CallerIo`]. What is ours here is how a connection ends: when hyper says
//! so, when the sweep finds that it takes too long, or when the daemon stops.

use std::convert::Infallible;
use std::error::Error;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tracing::debug;

use super::http2_streams::Streams;
use super::io::{CallerIo, CallerStream};
use super::progress::Pace;
use super::state::{Caller, End};
use super::upgrade::{Upgrade, UpgradeSlot};
use crate::config::Limits;
use crate::proxy::body::unread;

/// What is read ahead of a slow upstream, and buffered for a slow caller.
const MAX_BUFFER: usize = 64 * 1024;
const H2_STREAM_WINDOW: u32 = 64 * 1024;
const H2_CONNECTION_WINDOW: u32 = unread::FULL * H2_STREAM_WINDOW;
/// When a silent peer is asked whether it is still there, and how long it has to say so.
const H2_KEEP_ALIVE: Duration = Duration::from_secs(30);
const H2_KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How much larger than allowed a head may be to be refused in our words, and not in those of the protocol.
const H2_HEAD_FACTOR: usize = 2;
/// Peers that open streams only to reset them are cut off.
const H2_MAX_RESETS: usize = 256;

/// Answers the requests of client connections.
pub trait Serve: 'static {
    /// The body of a response.
    type Body: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + 'static;

    /// The limits in force.
    fn limits(&self) -> Rc<Limits>;

    /// Answers a request that begins now.
    fn answer(&self, request: Request<Incoming>, downstream: Downstream) -> Answer<Self::Body>;
}

/// The downstream side of one request.
pub struct Downstream {
    /// The connection that the request came on.
    pub connection: Rc<Caller>,
    /// The progress of the request's response.
    pub pace: Rc<Pace>,
    /// How the request may take over the connection's socket.
    pub upgrade: Upgrade,
}

/// A response in the making. Boxed, so that an idle connection reserves no memory for one.
pub type Answer<B> = Pin<Box<dyn Future<Output = Result<Response<B>, Infallible>>>>;

/// Serves a connection until it ends.
pub async fn serve<S: Serve>(stream: Box<dyn CallerStream>, caller: Rc<Caller>, current: Rc<S>) {
    let mut io = CallerIo::new(stream, Rc::clone(&caller));
    match until_ended(&caller, io.sniff()).await {
        Err(end) => refuse_late_head(&mut io, end).await,
        Ok(Err(error)) => debug!(peer = %caller.peer(), %error, "connection ended before a request"),
        // Boxed, so that a connection that rests needs no room for them.
        Ok(Ok(true)) => {
            caller.speaks_http2();
            Box::pin(serve_http2(io, caller, current)).await;
        }
        Ok(Ok(false)) => {
            io.tell_if_tls();
            caller.speaks_http1();
            while let Some(mut resting) = Box::pin(serve_http1(io, &caller, &current)).await {
                if !next_request(&mut resting, &caller).await {
                    return;
                }
                io = resting;
            }
        }
    }
}

/// Why hyper serves a connection no longer.
enum Left {
    /// It has ended.
    Ended(hyper::Result<()>),
    /// It is to end.
    Wanted(End),
    /// Its next request is awaited without hyper, which keeps a buffer ready for it.
    Resting,
}

/// Serves requests over HTTP/1.1; the socket, if the next one is a while in coming.
async fn serve_http1<S: Serve>(io: CallerIo, caller: &Rc<Caller>, current: &Rc<S>) -> Option<CallerIo> {
    let slot = UpgradeSlot::default();
    let answer = answers(Rc::clone(current), caller, slot.handle());
    let header_bytes = current.limits().header_bytes;
    let mut connection = http1::Builder::new()
        .header_read_timeout(None)
        .max_header_size(header_bytes)
        .max_buf_size(MAX_BUFFER.max(header_bytes))
        .serve_connection(TokioIo::new(io), service_fn(answer));
    let mut is_closing = false;
    let left = std::future::poll_fn(|cx| {
        // First what has come: hyper takes a connection on which it has read nothing yet for one without a request.
        if let Poll::Ready(outcome) = Pin::new(&mut connection).poll(cx) {
            return Poll::Ready(Left::Ended(outcome));
        }
        match caller.wanted_end() {
            // Until then every answer says that it is the last: hyper would drop a head of which it has read a part.
            Some(End::Gracefully) if !is_closing && caller.is_at_rest() => {
                is_closing = true;
                Pin::new(&mut connection).graceful_shutdown();
                Pin::new(&mut connection).poll(cx).map(Left::Ended)
            }
            None if caller.is_at_rest() => Poll::Ready(Left::Resting),
            Some(End::Gracefully) | None => Poll::Pending,
            Some(end) => Poll::Ready(Left::Wanted(end)),
        }
    })
    .await;
    match left {
        Left::Ended(Ok(())) => {
            if let Some(takeover) = slot.take() {
                let http1::Parts { io, read_buf, .. } = connection.into_parts();
                // However the takeover ends, the connection ends with it.
                let _ = until_ended(caller, takeover(io.into_inner(), read_buf)).await;
            }
            None
        }
        Left::Ended(Err(error)) => {
            debug!(peer = %caller.peer(), %error, "connection failed");
            connection.into_parts().io.into_inner().close();
            None
        }
        Left::Wanted(end) => {
            let mut io = connection.into_parts().io.into_inner();
            refuse_late_head(&mut io, end).await;
            None
        }
        Left::Resting => {
            let http1::Parts { io, read_buf, .. } = connection.into_parts();
            let mut io = io.into_inner();
            // It may have come with the request before, and be the beginning of one.
            io.unread(&read_buf);
            Some(io)
        }
    }
}

/// Whether there is something to serve again: bytes, or the end that is to come between two requests.
async fn next_request(io: &mut CallerIo, caller: &Caller) -> bool {
    let mut first = pin!(io.wait());
    let awaited = std::future::poll_fn(|cx| {
        if let Poll::Ready(came) = first.as_mut().poll(cx) {
            return Poll::Ready(came.is_ok());
        }
        match caller.wanted_end() {
            None => Poll::Pending,
            Some(end) => Poll::Ready(end == End::Gracefully),
        }
    });
    caller.is_parked.set(true);
    let is_there = awaited.await;
    caller.is_parked.set(false);
    is_there
}

async fn serve_http2<S: Serve>(io: CallerIo, caller: Rc<Caller>, current: Rc<S>) {
    let limits = current.limits();
    let answer = answers(current, &caller, Upgrade::default());
    let mut connection = pin!(
        http2::Builder::new(Streams::of(Rc::clone(&caller)))
            .timer(TokioTimer::new())
            .keep_alive_interval(H2_KEEP_ALIVE)
            .keep_alive_timeout(H2_KEEP_ALIVE_TIMEOUT)
            .max_concurrent_streams(limits.streams)
            .initial_stream_window_size(H2_STREAM_WINDOW)
            .initial_connection_window_size(H2_CONNECTION_WINDOW)
            .max_header_list_size(u32::try_from(limits.header_bytes * H2_HEAD_FACTOR).unwrap_or(u32::MAX))
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
        debug!(peer = %caller.peer(), %error, "connection failed");
    }
}

/// The function that hyper calls for each request.
fn answers<S: Serve>(
    current: Rc<S>,
    caller: &Rc<Caller>,
    upgrade: Upgrade,
) -> impl Fn(Request<Incoming>) -> Answer<S::Body> + use<S> {
    let caller = Rc::clone(caller);
    move |request| {
        let connection = Rc::clone(&caller);
        let pace = connection.begin_pace();
        current.answer(request, Downstream { connection, pace, upgrade: upgrade.clone() })
    }
}

/// Runs a future unless the connection is to end first.
///
/// Asked to end gracefully it waits: a request may be on its way, and the sweep knows for how long.
pub(in crate::proxy) async fn until_ended<T>(
    caller: &Caller,
    future: impl Future<Output = T>,
) -> Result<T, End> {
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
async fn refuse_late_head(io: &mut CallerIo, end: End) {
    if end == End::HeadTimeout {
        io.refuse_late_head().await;
    }
}
