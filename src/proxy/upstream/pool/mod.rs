//! The connections of one worker to one upstream.
//!
//! An HTTP/1.1 connection carries one request at a time; requests share an HTTP/2 connection. The version is known once
//! a connection is made. A request that finds no connection joins one queue with all others (`queue`). Connections are
//! made by tasks: one for each waiting request over HTTP/1.1, one at a time while HTTP/2 is possible. Whatever comes free
//! first serves the first request: a new connection, a connection that is given back, or the end of a stream.

mod activity;
pub mod body;
pub mod connection;
mod http1;
mod http2;
mod http2_stream;
mod idle;
pub mod lease;
pub mod outcome;
mod queue;
pub mod request;
mod response_start;

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tracing::info;

use self::connection::{ConnectionGuard, Lifetime, Place, Places};
use self::http2::StreamSlot;
use self::idle::IdleConnections;
use self::lease::{Lease, Leased};
use self::queue::{Queue, Waiter};
use self::request::RequestBody;
use super::breaker::SuccessCounter;
use super::connect::{Connect, Connected};
use super::destination::{Destination, Upstream};
use super::reconnect;
use crate::config::HeaderCase;
use crate::proxy::error::upstream::ForwardError;
use crate::proxy::limits::slots::Reservation;

/// The time after a failed attempt to connect in which no other is made, while HTTP/2 connections exist.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);
/// How long connections are HTTP/1.1 after the upstream has required that.
const HTTP1_PERIOD: Duration = Duration::from_mins(10);

/// The connections of one worker to one upstream.
pub struct Pool<B: RequestBody> {
    /// The upstream of these connections.
    pub upstream: Arc<Upstream>,
    /// The success counter of this worker.
    pub successes: Arc<SuccessCounter>,
    idle: Rc<IdleConnections<B>>,
    http2: http2::Connections,
    queue: Rc<Queue>,
    places: Rc<Places>,
    /// The number of attempts to connect in progress.
    connecting: Cell<usize>,
    /// Failed attempts to connect, each of which fails one waiting request.
    failures: RefCell<Option<(usize, ForwardError)>>,
    /// Until when no connection is made while HTTP/2 connections exist.
    paused_until: Cell<Option<Instant>>,
    /// Whether the most recent connection was HTTP/1.1.
    is_http1: Cell<bool>,
    /// Until when connections are HTTP/1.1, because the upstream has required that.
    http1_until: Cell<Option<Instant>>,
}

/// A new connection.
enum Made<B: RequestBody> {
    Http1(http1::Connection<B>),
    Http2(Rc<http2::Connection>),
}

/// An attempt to connect for the requests that wait; counted until dropped, even if it panics.
struct Attempt<B: RequestBody>(Rc<Pool<B>>);

impl<B: RequestBody> Attempt<B> {
    fn new(pool: Rc<Pool<B>>) -> Self {
        pool.connecting.set(pool.connecting.get() + 1);
        Self(pool)
    }

    async fn run(self, place: Place, descriptor: Option<Reservation>) {
        let pool = Rc::clone(&self.0);
        let Some(destination) = pool.upstream.current() else { return };
        let made = pool.made(&destination, place, descriptor).await;
        drop(self);
        match made {
            Ok(Made::Http1(connection)) => pool.idle.add(connection),
            Ok(Made::Http2(_)) => {
                pool.paused_until.set(None);
                pool.queue.wake_all();
            }
            Err(error) => pool.failed(&destination, error),
        }
    }
}

impl<B: RequestBody> Drop for Attempt<B> {
    /// Lets the first request look, which runs after the rest of [`Attempt::run`].
    fn drop(&mut self) {
        self.0.connecting.set(self.0.connecting.get() - 1);
        self.0.queue.wake();
    }
}

impl<B: RequestBody> Pool<B> {
    /// An empty pool, for one more worker.
    pub fn new(upstream: Arc<Upstream>) -> Rc<Self> {
        let share = upstream.shares.next(&upstream.limits);
        let queue = Rc::new(Queue::new(share, Arc::clone(&upstream.gauges)));
        Rc::new(Self {
            successes: upstream.breaker.add_counter(),
            idle: Rc::new(IdleConnections::new(Arc::clone(&upstream), Rc::clone(&queue))),
            places: Places::new(share, Rc::clone(&queue), Arc::clone(&upstream.gauges)),
            upstream,
            http2: http2::Connections::new(Rc::clone(&queue)),
            queue,
            connecting: Cell::new(0),
            failures: RefCell::default(),
            paused_until: Cell::new(None),
            is_http1: Cell::new(false),
            http1_until: Cell::new(None),
        })
    }

    /// Leases an existing or a new connection.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the queue; a connection that is being made is kept for other requests.
    pub async fn lease(
        self: &Rc<Self>,
        destination: &Destination,
        now: Instant,
    ) -> Result<Lease<B>, ForwardError> {
        // The waiting requests have not run yet that connections came free for.
        let has_enough = self.queue.is_empty() || self.idle.len() > self.queue.len();
        if has_enough && let Some(lease) = self.find(destination.revision, now).await {
            return Ok(lease);
        }
        Box::pin(self.wait(destination)).await
    }

    /// Leases a connection that no request has used, at the cost of an idle one if the worker may have no more.
    pub async fn lease_new(self: &Rc<Self>, destination: &Destination) -> Result<Lease<B>, ForwardError> {
        // An HTTP/2 connection that has ended has left the list, and requests share the next one.
        if self.speaks_http1(destination) {
            if let Some(place) = self.places.take() {
                return self.connect_for_one(destination, place).await;
            }
            self.idle.close_oldest();
            if let Some(place) = self.places.take() {
                return self.connect_for_one(destination, place).await;
            }
        }
        self.lease(destination, Instant::now()).await
    }

    async fn find(&self, revision: u32, now: Instant) -> Option<Lease<B>> {
        if let Some((connection, is_reused)) = self.idle.take(revision, now).await {
            return Some(self.lend(Leased::Http1(connection), is_reused));
        }
        self.http2.find(revision).map(|slot| self.lend_stream(slot))
    }

    /// Waits for a connection, for as long as the connect timeout; as long again if a connection is being made then.
    async fn wait(self: &Rc<Self>, destination: &Destination) -> Result<Lease<B>, ForwardError> {
        if self.queue.is_empty() {
            self.failures.take();
        }
        let waiter = self.queue.join().ok_or(ForwardError::Overloaded)?;
        if self.speaks_http1(destination) && destination.revision == self.upstream.revision() {
            self.connect(destination);
        }
        let mut found = pin!(self.wait_in_line(&waiter, destination));
        let wait_timeout = self.upstream.limits.wait_timeout;
        if let Ok(found) = timeout(wait_timeout, found.as_mut()).await {
            return found;
        }
        if self.connecting.get() == 0 {
            return Err(ForwardError::Overloaded);
        }
        timeout(wait_timeout, found).await.unwrap_or(Err(ForwardError::ConnectTimeout))
    }

    async fn wait_in_line(
        self: &Rc<Self>,
        waiter: &Waiter<'_>,
        destination: &Destination,
    ) -> Result<Lease<B>, ForwardError> {
        if !waiter.is_first() {
            waiter.call().await;
        }
        loop {
            if destination.revision != self.upstream.revision() {
                // The destination has just changed: a connection for this request alone.
                self.queue.wake();
                let place = self.places.take().ok_or(ForwardError::Overloaded)?;
                return self.connect_for_one(destination, place).await;
            }
            if let Some(lease) = self.find(destination.revision, Instant::now()).await {
                // Not everything that comes free calls a request: an upstream may allow more streams.
                if matches!(lease.leased, Leased::Http2(_)) || self.idle.len() > 0 {
                    self.queue.wake();
                }
                return Ok(lease);
            }
            if let Some(error) = self.take_failure(destination) {
                return Err(error);
            }
            self.connect(destination);
            waiter.call().await;
        }
    }

    /// Starts the attempts to connect that the waiting requests need, as far as there are places.
    fn connect(self: &Rc<Self>, destination: &Destination) {
        let wanted = if self.speaks_http1(destination) {
            // Idle ones serve the first requests of the queue, as soon as these run.
            self.queue.len().saturating_sub(self.idle.len())
        } else {
            let (are_any, is_any_pending) = self.http2.are_any();
            let is_paused = are_any && self.paused_until.get().is_some_and(|until| Instant::now() < until);
            usize::from(!is_any_pending && !is_paused)
        };
        while self.connecting.get() < wanted {
            let descriptor = self.upstream.descriptors.take(1);
            if descriptor.is_none() && self.places.are_any_taken() {
                // The requests wait for one of the connections that there are.
                return;
            }
            let Some(place) = self.places.take() else { return };
            let attempt = Attempt::new(Rc::clone(self));
            tokio::task::spawn_local(async move { attempt.run(place, descriptor).await });
        }
    }

    async fn connect_for_one(
        &self,
        destination: &Destination,
        place: Place,
    ) -> Result<Lease<B>, ForwardError> {
        Ok(match self.made(destination, place, self.upstream.descriptors.take(1)).await? {
            Made::Http1(connection) => {
                connection.lifetime().begin_use();
                self.lend(Leased::Http1(connection), false)
            }
            Made::Http2(connection) => self.lend_stream(connection.first_slot()),
        })
    }

    /// Makes a connection. A failure counts once for the breaker, however many requests wait.
    async fn made(
        &self,
        destination: &Destination,
        place: Place,
        descriptor: Option<Reservation>,
    ) -> Result<Made<B>, ForwardError> {
        let attempt = self.upstream.breaker.attempt(&self.successes);
        let made = self.open(destination, place, descriptor).await;
        made.map_err(|error| attempt.record_error(error, &destination.origin))
    }

    async fn open(
        &self,
        destination: &Destination,
        place: Place,
        descriptor: Option<Reservation>,
    ) -> Result<Made<B>, ForwardError> {
        let limits = &self.upstream.limits;
        let descriptor = descriptor.ok_or(ForwardError::NoDescriptor)?;
        let guard = ConnectionGuard { place, descriptor };
        let connect = self.connector(destination);
        let Connected { stream, is_http2 } = reconnect::connect(connect, &self.upstream.breaker).await?;
        self.is_http1.set(!is_http2);
        let lifetime = Lifetime::new(limits, destination.revision);
        if is_http2 {
            let opened = self.http2.open(stream, destination, lifetime, guard);
            let opened = timeout(limits.wait_timeout, opened).await;
            if self.http1_until.get().is_some() {
                // Required while the connection was being made.
                self.http2.close_all();
            }
            return opened.unwrap_or(Err(ForwardError::ConnectTimeout)).map(Made::Http2);
        }
        let header_case = self.idle.header_case.get();
        http1::Connection::open(stream, lifetime, guard, header_case).await.map(Made::Http1)
    }

    /// Notes a failed attempt to connect. Over HTTP/1.1 one waiting request fails, if there are more than attempts; over
    /// HTTP/2 all of them fail, unless a stream of another connection may come free.
    fn failed(&self, destination: &Destination, error: ForwardError) {
        let count = if self.speaks_http1(destination) {
            self.failures.borrow().as_ref().map_or(0, |(count, _)| *count) + 1
        } else if self.http2.are_any().0 {
            self.paused_until.set(Some(Instant::now() + PAUSE_AFTER_FAILURE));
            0
        } else {
            self.queue.wake_all();
            self.queue.len()
        };
        self.failures.replace(Some((count, error)));
    }

    /// The error of the first waiting request, if it fails.
    fn take_failure(&self, destination: &Destination) -> Option<ForwardError> {
        let mut failures = self.failures.borrow_mut();
        let (count, error) = failures.as_mut()?;
        if self.speaks_http1(destination) {
            *count = (*count).min(self.queue.len().saturating_sub(self.connecting.get()));
        }
        *count = count.checked_sub(1)?;
        Some(error.clone())
    }

    /// The upstream has required HTTP/1.1: makes such connections for a while, and no stream on others. Returns whether the
    /// route allows HTTP/1.1.
    pub fn require_http1(&self, destination: &Destination) -> bool {
        if destination.connect.over_http1().is_none() {
            return false;
        }
        if self.http1_until.replace(Some(Instant::now() + HTTP1_PERIOD)).is_none() {
            info!(upstream = destination.origin, "the upstream requires HTTP/1.1");
        }
        self.is_http1.set(true);
        self.http2.close_all();
        true
    }

    fn connector<'d>(&self, destination: &'d Destination) -> &'d dyn Connect {
        let over_http1 = self.http1_until.get().and_then(|_| destination.connect.over_http1());
        over_http1.unwrap_or(&*destination.connect)
    }

    fn speaks_http1(&self, destination: &Destination) -> bool {
        self.is_http1.get() || !destination.connect.may_speak_http2()
    }

    fn lend_stream(&self, slot: StreamSlot) -> Lease<B> {
        let stream = Box::new(http2_stream::Stream::new(slot));
        let is_reused = stream.is_reused();
        self.lend(Leased::Http2(stream), is_reused)
    }

    fn lend(&self, leased: Leased<B>, is_reused: bool) -> Lease<B> {
        Lease { leased, idle: Rc::clone(&self.idle), is_reused, is_last: false }
    }

    /// Sets the case of field names over HTTP/1.1; connections that were made for another case end with their last request.
    pub fn set_header_case(&self, header_case: HeaderCase) {
        self.idle.set_header_case(header_case);
    }

    /// Closes idle connections now, each other connection after its last request, and keeps none from now on.
    pub fn retire(&self) {
        self.idle.retire();
        self.http2.close_all();
    }

    /// Closes connections that have exceeded the idle timeout or their age, or lead to an earlier destination.
    pub fn reap(&self, now: Instant) {
        if self.http1_until.get().is_some_and(|until| now >= until) {
            self.http1_until.set(None);
            self.is_http1.set(false);
        }
        let revision = self.upstream.revision();
        self.idle.reap(revision, now);
        self.http2.reap(revision, now);
    }
}

#[cfg(test)]
mod tests;
