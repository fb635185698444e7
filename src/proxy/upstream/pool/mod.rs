//! Connections to one upstream, kept by one worker: HTTP/1.1 ones that carry a request at a time, and HTTP/2 ones that
//! many share.
//!
//! Which it is, the connection says when it is made. As long as an upstream may speak HTTP/2, one request makes the
//! connection and those that come meanwhile wait for it; whoever makes it may leave, and another goes on.

pub mod body;
mod http1;
mod http2;
mod http2_stream;
mod idle;
pub mod request;

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Response};
use http_body::Body;
use thiserror::Error;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};

use self::body::UpstreamBody;
use self::http2::{Connections, Found};
use self::idle::{Idle, Turn};
use self::request::Outgoing;
use super::breaker::Good;
use super::connect::{Connected, Stream};
use super::permits::Place;
use super::{Destination, Upstream};
use crate::proxy::error::upstream::ForwardError;
use crate::proxy::limits::slots::Reservation;

/// The largest response head, and how much is read ahead of a slow caller over HTTP/1.1 or buffered for an upstream.
const MAX_BUFFER: usize = 64 * 1024;

/// A worker's connections to one upstream.
pub struct Pool<B: Body + 'static> {
    upstream: Arc<Upstream>,
    idle: Idle<B>,
    shared: Connections,
    /// Whether the last connection spoke HTTP/1.1, so that each request makes its own.
    is_http1: Cell<bool>,
    /// A connection being made that may become one to share.
    flight: RefCell<Option<Rc<Flight>>>,
    /// Something of what one may wait for has changed.
    changed: Rc<Notify>,
    good: Arc<Good>,
}

/// A connection being made by one request, for those that wait too.
#[derive(Default)]
struct Flight {
    failed: RefCell<Option<ForwardError>>,
}

/// A place on a connection. Dropping it ends the exchange; [`Lease::give_back`] keeps what can be kept.
pub struct Lease<B: Body + 'static> {
    carrier: Carrier<B>,
    pool: Rc<Pool<B>>,
    /// Whether its connection was there already: its peer may have closed it just now.
    pub is_reused: bool,
}

enum Carrier<B: Body + 'static> {
    Http1(http1::Leased<B>),
    /// Boxed, so that the others need no room for it.
    Http2(Box<http2_stream::Stream<B>>),
}

/// What a connection takes of what there may only be so much of, for as long as it is.
#[derive(Debug)]
pub struct Held {
    /// Among the upstream's connections.
    place: Place,
    _descriptor: Reservation,
}

/// A connection that has switched to another protocol.
pub struct Switched {
    /// The bytes themselves.
    pub stream: Box<dyn Stream>,
    /// What has come already.
    pub first: Bytes,
    /// To be kept as long as the stream.
    pub held: Held,
}

/// A request that brought no response.
#[derive(Debug)]
pub struct SendError<B> {
    /// What went wrong.
    pub error: Break,
    /// Whether the upstream has seen anything of it.
    pub fate: Fate<B>,
}

/// What has become of a request that brought no response.
#[derive(Debug)]
pub enum Fate<B> {
    /// Nothing of it was sent: the request, untouched.
    Unsent(Outgoing<B>),
    /// The upstream says that it has not been processed (RFC 9113 §8.7): its head.
    Refused(Box<Parts>),
    /// It was sent.
    Sent,
}

/// A connection or a stream that ended too early, by the word of its protocol.
#[derive(Debug, Error)]
pub enum Break {
    /// HTTP/1.1.
    #[error("the connection broke off")]
    Http1(#[source] hyper::Error),
    /// HTTP/2, in our words: a caller's connection must not take over the upstream's reason for its own.
    #[error("the stream broke off: {0}")]
    Http2(Broken),
}

/// Why an HTTP/2 stream ended.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Broken {
    /// The upstream reset it.
    #[error("reset by the upstream: {0}")]
    Reset(h2::Reason),
    /// The upstream ended the connection.
    #[error("connection ended by the upstream: {0}")]
    GoneAway(h2::Reason),
    /// The upstream broke the protocol.
    #[error("protocol error: {0}")]
    Protocol(h2::Reason),
    /// The socket ended.
    #[error("connection closed")]
    Closed,
    /// The body has ended short of its length.
    #[error("the body is shorter than its length")]
    Short,
}

impl<B> Pool<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// An empty pool.
    pub fn new(upstream: Arc<Upstream>) -> Rc<Self> {
        let changed = Rc::new(Notify::new());
        Rc::new(Self {
            good: upstream.breaker.counter(),
            upstream,
            idle: Idle::default(),
            shared: Connections::new(Rc::clone(&changed)),
            is_http1: Cell::new(false),
            flight: RefCell::default(),
            changed,
        })
    }

    /// A place on a connection that is there, or on a new one; waits while there are as many as there may be.
    ///
    /// # Errors
    ///
    /// [`ForwardError`] if a new one cannot be made.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the connection that it was making; who waits for that one makes another.
    pub async fn lease(self: &Rc<Self>, destination: &Destination) -> Result<Lease<B>, ForwardError> {
        let number = destination.number;
        let mut has_waited = false;
        // One such connection after the other must not keep a request for ever.
        let mut settled_by = None;
        loop {
            if let Some(leased) = self.idle.reuse(number).await {
                return Ok(self.lend(Carrier::Http1(leased), true));
            }
            if self.is_http1.get() || !destination.connect.may_speak_http2() {
                return match self.upstream.permits.place() {
                    Some(place) => Box::pin(self.connect(destination, place)).await,
                    None => Box::pin(self.wait(destination)).await,
                };
            }
            // Before anything is looked at, so that no change is missed.
            let changed = self.changed.notified();
            match self.shared.find(number, self.upstream.permits.waiting() > 0) {
                Found::Place(place) => {
                    return Ok(
                        self.lend(Carrier::Http2(Box::new(http2_stream::Stream::new(place))), !has_waited)
                    );
                }
                Found::Settling => {
                    let latest = *settled_by.get_or_insert_with(|| Instant::now() + http2::SETTLED_WITHIN);
                    if timeout_at(latest, changed).await.is_err() {
                        return Err(ForwardError::ConnectTimeout);
                    }
                }
                Found::Full => {
                    let flight = self.flight.borrow().clone();
                    let Some(flight) = flight else {
                        return Box::pin(self.expand(destination)).await;
                    };
                    changed.await;
                    if let Some(error) = flight.failed.borrow().clone() {
                        return Err(error);
                    }
                }
            }
            has_waited = true;
        }
    }

    /// One more connection, or the one with the fewest streams where there may be none.
    async fn expand(self: &Rc<Self>, destination: &Destination) -> Result<Lease<B>, ForwardError> {
        let place = if self.shared.may_grow() { self.upstream.permits.place() } else { None };
        if place.is_none()
            && let Some(crowded) = self.shared.least_used(destination.number)
        {
            return Ok(self.lend(Carrier::Http2(Box::new(http2_stream::Stream::new(crowded))), true));
        }
        self.lead(destination, place).await
    }

    /// Makes a connection that others wait for.
    async fn lead(
        self: &Rc<Self>,
        destination: &Destination,
        place: Option<Place>,
    ) -> Result<Lease<B>, ForwardError> {
        let flight = Rc::new(Flight::default());
        *self.flight.borrow_mut() = Some(Rc::clone(&flight));
        let _landing = Landing { pool: self };
        let lease = match place {
            Some(place) => self.connect(destination, place).await,
            None => self.wait(destination).await,
        };
        if let Err(error) = &lease {
            *flight.failed.borrow_mut() = Some(error.clone());
        }
        lease
    }

    /// What comes free first.
    async fn wait(self: &Rc<Self>, destination: &Destination) -> Result<Lease<B>, ForwardError> {
        let permits = &self.upstream.permits;
        let turn = timeout(permits.wait(), self.idle.turn(destination.number, permits)).await;
        match turn.unwrap_or(Err(ForwardError::Overloaded))? {
            Turn::Connection(leased) => Ok(self.lend(Carrier::Http1(leased), true)),
            Turn::Place(place) => self.connect(destination, place).await,
        }
    }

    async fn connect(
        self: &Rc<Self>,
        destination: &Destination,
        place: Place,
    ) -> Result<Lease<B>, ForwardError> {
        // What the daemon needs for itself is not taken for it.
        let descriptor = self.upstream.descriptors.take(1).ok_or(ForwardError::NoDescriptor)?;
        let held = Held { place, _descriptor: descriptor };
        let Connected { stream, is_http2 } = destination.connect.connect().await?;
        self.is_http1.set(!is_http2);
        let carrier = if is_http2 {
            let place = self.shared.open(stream, destination, &self.upstream, held).await?;
            Carrier::Http2(Box::new(http2_stream::Stream::new(place)))
        } else {
            Carrier::Http1(http1::Leased::open(stream, destination.number, held).await?)
        };
        Ok(self.lend(carrier, false))
    }

    fn lend(self: &Rc<Self>, carrier: Carrier<B>, is_reused: bool) -> Lease<B> {
        Lease { carrier, pool: Rc::clone(self), is_reused }
    }

    /// Ends idle connections whose places are waited for on another worker. Comes to no end.
    pub async fn give_way(self: Rc<Self>) {
        let permits = &self.upstream.permits;
        loop {
            let mut wanted = pin!(permits.wanted());
            wanted.as_mut().enable();
            let waiting = permits.waiting();
            self.idle.give_way(waiting);
            self.shared.give_way(waiting);
            tokio::select! {
                () = wanted => {}
                () = self.shared.idle_and_wanted() => {}
            }
        }
    }

    /// What requests are sent to.
    pub fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    /// What this worker counts good answers by.
    pub fn good(&self) -> &Good {
        &self.good
    }

    /// No request comes any more but those of a table before: a connection ends with the last request on it.
    pub fn retire(&self) {
        self.idle.retire();
        self.shared.retire();
    }

    /// Ends connections that have lain idle for too long, are too old, or lead where the upstream is no more.
    pub fn reap(&self, now: Instant) {
        let number = self.upstream.number();
        self.idle.reap(number, now);
        self.shared.reap(number, now);
    }
}

/// The end of a flight, however it ended.
struct Landing<'a, B: Body + 'static> {
    pool: &'a Pool<B>,
}

impl<B: Body + 'static> Drop for Landing<'_, B> {
    fn drop(&mut self) {
        *self.pool.flight.borrow_mut() = None;
        self.pool.changed.notify_waiters();
    }
}

impl<B> Lease<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Sends a request and waits for the response's head; carries the request's body meanwhile.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the exchange in its middle: the lease must be dropped too.
    pub async fn send(&mut self, request: Outgoing<B>) -> Result<Response<UpstreamBody>, SendError<B>> {
        match &mut self.carrier {
            Carrier::Http1(leased) => {
                leased.send(request).await.map(|response| response.map(UpstreamBody::Http1))
            }
            Carrier::Http2(stream) => {
                stream.send(request).await.map(|response| response.map(UpstreamBody::Http2))
            }
        }
    }

    /// The connection itself once an HTTP/1.1 upstream has switched to another protocol.
    pub async fn into_stream(self) -> Option<Switched> {
        match self.carrier {
            Carrier::Http1(leased) => leased.into_stream().await,
            Carrier::Http2(_) => None,
        }
    }

    /// Moves bytes of the request and, over HTTP/1.1, of the response that are under way.
    pub fn poll(&mut self, cx: &mut std::task::Context<'_>) {
        match &mut self.carrier {
            Carrier::Http1(leased) => leased.poll(cx),
            Carrier::Http2(stream) => stream.poll(cx),
        }
    }

    /// The response was read to its end: keeps the connection, if the request was sent to its end too.
    pub fn give_back(self) {
        let Self { carrier, pool, .. } = self;
        // An HTTP/2 connection stays where it is; of a request that was not sent to its end the stream is reset.
        if let Carrier::Http1(leased) = carrier {
            pool.idle.keep(leased, &pool.upstream);
        }
    }
}

/// What a request's `Host` is over HTTP/2, and the rest of where it goes.
fn authority(host: &HeaderValue) -> Result<http::uri::Authority, ForwardError> {
    http::uri::Authority::try_from(host.as_bytes())
        .map_err(|_| ForwardError::Protocol("the upstream's name is no authority".to_owned()))
}

impl From<h2::Error> for Broken {
    fn from(error: h2::Error) -> Self {
        let reason = error.reason().unwrap_or(h2::Reason::INTERNAL_ERROR);
        match (error.is_remote(), error.is_reset()) {
            _ if error.is_io() => Self::Closed,
            (true, true) => Self::Reset(reason),
            (true, false) => Self::GoneAway(reason),
            _ => Self::Protocol(reason),
        }
    }
}

#[cfg(test)]
mod tests;
