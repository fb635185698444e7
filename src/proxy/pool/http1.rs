//! HTTP/1.1 connections.
//!
//! A connection carries one request at a time and is driven by whoever has it: while a request is under way,
//! the request itself polls it, so that there is no task between the two and a caller who leaves takes the
//! upstream connection with it. Between requests it lies idle in here and is looked at when it is wanted again.

use std::cell::RefCell;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use super::{Break, Fate, MAX_BUFFER, SendError};
use crate::proxy::connect::Stream;
use crate::proxy::forward::ForwardError;
use crate::proxy::trailers;

/// Below what servers and load balancers usually allow a connection to lie idle.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a connection may lie idle and be taken for open without a look at its socket.
const SETTLED: Duration = Duration::from_millis(500);
/// What a worker keeps for one upstream.
const MAX_IDLE: usize = 64;

/// Connections between two requests, the last used at the end.
pub(super) struct Idle<B: Body + 'static>(RefCell<Vec<Resting<B>>>);

struct Resting<B: Body + 'static> {
    wire: Wire<B>,
    since: Instant,
    /// Which of the upstream's places it leads to.
    number: u32,
}

/// One connection, and the handle by which requests are put into it.
struct Wire<B: Body + 'static> {
    sender: http1::SendRequest<B>,
    /// Boxed, as it is large and handed from one request to the next.
    connection: Box<http1::Connection<TokioIo<Box<dyn Stream>>, B>>,
}

/// A connection in use. Dropping it ends the connection.
pub(super) struct Leased<B: Body + 'static> {
    wire: Wire<B>,
    /// Which of the upstream's places it leads to.
    pub(super) number: u32,
    is_over: bool,
}

impl<B: Body + 'static> Default for Idle<B> {
    fn default() -> Self {
        Self(RefCell::new(Vec::new()))
    }
}

impl<B> Idle<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// A connection that has lain idle and is still good, the last used first.
    pub(super) async fn reuse(&self, number: u32) -> Option<Leased<B>> {
        let idle_since = self.0.borrow().last()?.since;
        if idle_since.elapsed() > SETTLED {
            // Lets the runtime hear from the system first: it may have been closed, and nobody has looked since.
            tokio::task::yield_now().await;
        }
        loop {
            let Resting { mut wire, number: leads_to, .. } = self.0.borrow_mut().pop()?;
            if leads_to == number && wire.is_good() {
                return Some(Leased { wire, number, is_over: false });
            }
        }
    }

    /// Keeps a connection whose exchange is over, if it is still good.
    pub(super) fn keep(&self, leased: Leased<B>) {
        let Leased { mut wire, number, is_over } = leased;
        if is_over || !wire.is_good() {
            return;
        }
        let mut idle = self.0.borrow_mut();
        if idle.len() >= MAX_IDLE {
            idle.remove(0);
        }
        idle.push(Resting { wire, since: Instant::now(), number });
    }

    /// Ends connections that have lain idle for too long, or lead elsewhere.
    pub(super) fn reap(&self, number: u32, now: Instant) {
        let is_of_use =
            |idle: &Resting<B>| idle.number == number && now.duration_since(idle.since) < IDLE_TIMEOUT;
        self.0.borrow_mut().retain(is_of_use);
    }
}

impl<B> Wire<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Moves bytes in both directions; ready when the connection has ended.
    ///
    /// What went wrong is told to whoever waits for the response or reads its body.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut *self.connection).poll(cx).map(|_| ())
    }

    /// Whether it is ready for a request: neither closed nor in the middle of something.
    ///
    /// The poll also lets go of the task that used it last, which would otherwise be woken for nothing.
    fn is_good(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        // Whatever the task has done so far in its turn: a look that is put off sees nothing.
        let look = pin!(tokio::task::unconstrained(std::future::poll_fn(|cx| self.poll(cx))));
        look.poll(&mut cx).is_pending() && self.sender.is_ready()
    }
}

impl<B> Leased<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Over a new stream.
    pub(super) async fn open(stream: Box<dyn Stream>, number: u32) -> Result<Self, ForwardError> {
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_BUFFER)
            .handshake::<TokioIo<Box<dyn Stream>>, B>(TokioIo::new(stream))
            .await
            .map_err(|error| ForwardError::Protocol(error.to_string()))?;
        let wire = Wire { sender, connection: Box::new(connection) };
        Ok(Self { wire, number, is_over: false })
    }

    /// Sends a request and waits for the response's head; drives the connection meanwhile.
    pub(super) async fn send(&mut self, mut request: Request<B>) -> Result<Response<Incoming>, SendError<B>> {
        trailers::ask_over_http1(request.headers_mut());
        let mut response = pin!(self.wire.sender.try_send_request(request));
        let outcome = std::future::poll_fn(|cx| {
            if let Poll::Ready(outcome) = response.as_mut().poll(cx) {
                return Poll::Ready(outcome);
            }
            self.poll(cx);
            response.as_mut().poll(cx)
        })
        .await;
        outcome.map_err(|mut error| {
            let fate = error.take_message().map_or(Fate::Sent, |unsent| Fate::Unsent(Box::new(unsent)));
            SendError { error: Break::Http1(error.into_error()), fate }
        })
    }

    /// The stream itself once the upstream has switched to another protocol, and what has come of that; `None` if the
    /// connection goes on.
    pub(super) async fn into_stream(mut self) -> Option<(Box<dyn Stream>, Bytes)> {
        let ended = std::future::poll_fn(|cx| {
            self.poll(cx);
            if self.is_over { Poll::Ready(()) } else { Poll::Pending }
        });
        // The head is there: hyper has only to let go.
        tokio::time::timeout(SETTLED, ended).await.ok()?;
        let http1::Parts { io, read_buf, .. } = self.wire.connection.into_parts();
        Some((io.into_inner(), read_buf))
    }

    /// Moves bytes of the request and the response that are under way.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) {
        self.is_over = self.is_over || self.wire.poll(cx).is_ready();
    }
}
