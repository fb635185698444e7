//! Connections to one upstream, kept by one worker: HTTP/1.1 ones that carry a request at a time, and HTTP/2 ones that
//! many share.
//!
//! Which it is, the connection says when it is made. As long as an upstream may speak HTTP/2, one request makes the
//! connection and those that come meanwhile wait for it; whoever makes it may leave, and another goes on.

pub mod body;
pub mod connection;
mod http1;
mod http2;
mod http2_stream;
mod idle;
pub mod lease;
pub mod outcome;
pub mod request;

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http_body::Body;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};

use self::connection::Held;
use self::http2::{Connections, Found};
use self::idle::{Idle, Turn};
use self::lease::{Carrier, Lease};
use super::breaker::Good;
use super::connect::Connected;
use super::destination::{Destination, Upstream};
use super::permits::Place;
use crate::proxy::error::upstream::ForwardError;

/// A worker's connections to one upstream.
pub struct Pool<B: Body + 'static> {
    upstream: Arc<Upstream>,
    idle: Rc<Idle<B>>,
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
            idle: Rc::new(Idle::new(Arc::clone(&upstream))),
            upstream,
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
    pub async fn lease(&self, destination: &Destination) -> Result<Lease<B>, ForwardError> {
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
    async fn expand(&self, destination: &Destination) -> Result<Lease<B>, ForwardError> {
        let place = if self.shared.may_grow() { self.upstream.permits.place() } else { None };
        if place.is_none()
            && let Some(crowded) = self.shared.least_used(destination.number)
        {
            return Ok(self.lend(Carrier::Http2(Box::new(http2_stream::Stream::new(crowded))), true));
        }
        self.lead(destination, place).await
    }

    /// Makes a connection that others wait for.
    async fn lead(&self, destination: &Destination, place: Option<Place>) -> Result<Lease<B>, ForwardError> {
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
    async fn wait(&self, destination: &Destination) -> Result<Lease<B>, ForwardError> {
        let permits = &self.upstream.permits;
        let turn = timeout(permits.wait(), self.idle.turn(destination.number)).await;
        match turn.unwrap_or(Err(ForwardError::Overloaded))? {
            Turn::Connection(leased) => Ok(self.lend(Carrier::Http1(leased), true)),
            Turn::Place(place) => self.connect(destination, place).await,
        }
    }

    async fn connect(&self, destination: &Destination, place: Place) -> Result<Lease<B>, ForwardError> {
        // What the daemon needs for itself is not taken for it.
        let descriptor = self.upstream.descriptors.take().ok_or(ForwardError::NoDescriptor)?;
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

    fn lend(&self, carrier: Carrier<B>, is_reused: bool) -> Lease<B> {
        Lease { carrier, idle: Rc::clone(&self.idle), is_reused }
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

#[cfg(test)]
mod tests;
