//! A caller's connection: HTTP/1.1 or HTTP/2, told apart by its first bytes, served until it ends.
//!
//! hyper speaks the protocols, over a [`CallerIo`]. What is ours here is how a connection ends: when hyper says
//! so, when the sweep finds that it takes too long, or when the daemon stops.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tracing::debug;

use super::backlog;
use super::caller::{Caller, End};
use super::caller_io::{CallerIo, CallerStream};
use super::current::Current;
use super::response::AnswerBody;
use super::streams::Streams;
use crate::config::Limits;

/// What is read ahead of a slow upstream, and buffered for a slow caller.
const MAX_BUFFER: usize = 64 * 1024;
const H2_STREAM_WINDOW: u32 = 64 * 1024;
const H2_CONNECTION_WINDOW: u32 = backlog::FULL * H2_STREAM_WINDOW;
/// When a silent peer is asked whether it is still there, and how long it has to say so.
const H2_KEEP_ALIVE: Duration = Duration::from_secs(30);
const H2_KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How much larger than allowed a head may be to be refused in our words, and not in those of the protocol.
const H2_HEAD_FACTOR: usize = 2;
/// Peers that open streams only to reset them are cut off.
const H2_MAX_RESETS: usize = 256;

/// Serves a connection until it ends.
pub async fn serve<S>(stream: S, caller: Rc<Caller>, current: Rc<Current>)
where
    S: CallerStream + 'static,
{
    caller.set_task(&std::future::poll_fn(|cx| Poll::Ready(cx.waker().clone())).await);
    let mut io = CallerIo::new(stream, Rc::clone(&caller));
    let limits = current.limits();
    let sniffed = until_ended(&caller, io.sniff()).await;
    match sniffed {
        Err(end) => refuse_late_head(&mut io, end).await,
        Ok(Err(error)) => debug!(peer = %caller.peer(), %error, "connection ended before a request"),
        Ok(Ok(true)) => {
            caller.speaks_http2();
            serve_http2(io, caller, current, &limits).await;
        }
        Ok(Ok(false)) => {
            io.tell_if_tls();
            caller.speaks_http1();
            serve_http1(io, caller, current, &limits).await;
        }
    }
}

async fn serve_http1<S>(io: CallerIo<S>, caller: Rc<Caller>, current: Rc<Current>, limits: &Limits)
where
    S: CallerStream + 'static,
{
    let answer = answers(current, &caller);
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
            // Until then every answer says that it is the last: hyper would drop a head of which it has read a part.
            Some(End::Gracefully) if !is_closing && caller.is_at_rest() => {
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
        Ok(Ok(())) => {
            if let Some(tunnel) = caller.upgrade.take() {
                let http1::Parts { io, read_buf, .. } = connection.into_parts();
                // Whatever ends it, it was all that the connection was for.
                let _ = until_ended(&caller, tunnel.run(io.into_inner(), read_buf)).await;
            }
        }
        Ok(Err(error)) => {
            debug!(peer = %caller.peer(), %error, "connection failed");
            connection.into_parts().io.into_inner().close();
        }
        Err(end) => {
            let mut io = connection.into_parts().io.into_inner();
            refuse_late_head(&mut io, end).await;
        }
    }
}

async fn serve_http2<S>(io: CallerIo<S>, caller: Rc<Caller>, current: Rc<Current>, limits: &Limits)
where
    S: CallerStream + 'static,
{
    let answer = answers(current, &caller);
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

/// A request being answered. Boxed, so that an idle connection has no room set aside for one.
type Answering = Pin<Box<dyn Future<Output = Result<Response<AnswerBody>, Infallible>>>>;

/// The function that hyper calls for each request, which is answered by what counts as it begins.
fn answers(current: Rc<Current>, caller: &Rc<Caller>) -> impl Fn(Request<Incoming>) -> Answering + use<> {
    let caller = Rc::clone(caller);
    move |request| {
        let service = current.service();
        let caller = Rc::clone(&caller);
        let pace = caller.begin_pace();
        Box::pin(async move { service.answer(request, caller, pace).await })
    }
}

/// Runs a future unless the connection is to end first.
///
/// Asked to end gracefully it waits: a request may be on its way, and the sweep knows for how long.
pub(super) async fn until_ended<T>(caller: &Caller, future: impl Future<Output = T>) -> Result<T, End> {
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
async fn refuse_late_head<S: CallerStream>(io: &mut CallerIo<S>, end: End) {
    if end == End::HeadTimeout {
        io.refuse_late_head().await;
    }
}
