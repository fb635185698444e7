//! The connections of one worker to one upstream.
//!
//! An HTTP/1.1 connection carries one request at a time; requests share an HTTP/2 connection. The version is known once
//! a connection is made. While HTTP/2 is possible, one request makes the connection, and the requests that arrive
//! meanwhile wait for it. If that request is dropped, one of the waiting requests makes a connection.

pub mod body;
pub mod connection;
mod http1;
mod http10_chunks;
mod http2;
mod http2_stream;
mod idle;
pub mod lease;
pub mod outcome;
pub mod request;

use std::cell::{Cell, OnceCell, RefCell};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};

use self::connection::ConnectionGuard;
use self::http2::{Availability, SETTINGS_TIMEOUT, StreamSlot};
use self::idle::{Available, IdleConnections};
use self::lease::{Lease, Leased};
use self::request::RequestBody;
use super::breaker::SuccessCounter;
use super::connect::Connected;
use super::destination::{Destination, Upstream};
use super::permits::ConnectionPermit;
use crate::proxy::error::upstream::ForwardError;

/// The connections of one worker to one upstream.
pub struct Pool<B: RequestBody> {
    /// The upstream of these connections.
    pub upstream: Arc<Upstream>,
    idle: Rc<IdleConnections<B>>,
    http2: http2::Connections,
    /// Whether the most recent connection was HTTP/1.1: requests then do not wait for a pending connection.
    is_http1: Cell<bool>,
    /// The attempt of one request to connect, for which other requests wait; contains the error of a failed attempt.
    pending: RefCell<Option<Rc<OnceCell<ForwardError>>>>,
    /// Notified when the pending connection or an HTTP/2 connection changes.
    changed: Rc<Notify>,
    /// The success counter of this worker.
    pub successes: Arc<SuccessCounter>,
}

/// Ends the pending connection when dropped.
struct PendingGuard<'a, B: RequestBody>(&'a Pool<B>);

impl<B: RequestBody> Drop for PendingGuard<'_, B> {
    fn drop(&mut self) {
        *self.0.pending.borrow_mut() = None;
        self.0.changed.notify_waiters();
    }
}

impl<B: RequestBody> Pool<B> {
    /// An empty pool.
    pub fn new(upstream: Arc<Upstream>) -> Rc<Self> {
        let changed = Rc::new(Notify::new());
        Rc::new(Self {
            successes: upstream.breaker.add_counter(),
            idle: Rc::new(IdleConnections::new(Arc::clone(&upstream))),
            upstream,
            http2: http2::Connections::new(Rc::clone(&changed)),
            is_http1: Cell::new(false),
            pending: RefCell::default(),
            changed,
        })
    }

    /// Leases an existing or a new connection. At the connection limit, waits for at most the connect timeout.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future abandons its attempt to connect; a request that waits for the attempt starts another.
    pub async fn lease(&self, destination: &Destination) -> Result<Lease<B>, ForwardError> {
        let revision = destination.revision;
        let mut has_waited = false;
        // One deadline for all waits: a succession of new connections must not delay a request without end.
        let mut settings_deadline = None;
        loop {
            if let Some(connection) = self.idle.reuse(revision).await {
                return Ok(self.lend(Leased::Http1(connection), true));
            }
            if self.is_http1.get() || !destination.connect.may_speak_http2() {
                return match self.upstream.permits.try_acquire() {
                    Some(permit) => Box::pin(self.connect(destination, permit)).await,
                    None => Box::pin(self.wait(destination)).await,
                };
            }
            // Created before the state is read, so that no change is missed.
            let changed = self.changed.notified();
            match self.http2.find(revision, self.upstream.permits.waiters() > 0) {
                Availability::Slot(slot) => return Ok(self.lend_stream(slot, !has_waited)),
                Availability::AwaitingSettings => {
                    let deadline =
                        *settings_deadline.get_or_insert_with(|| Instant::now() + SETTINGS_TIMEOUT);
                    timeout_at(deadline, changed).await.map_err(|_| ForwardError::ConnectTimeout)?;
                }
                Availability::Full => {
                    let pending = self.pending.borrow().clone();
                    let Some(pending) = pending else {
                        return Box::pin(self.grow(destination)).await;
                    };
                    changed.await;
                    if let Some(error) = pending.get() {
                        return Err(error.clone());
                    }
                }
            }
            has_waited = true;
        }
    }

    /// Makes another connection; at a limit, takes the connection with the fewest streams.
    async fn grow(&self, destination: &Destination) -> Result<Lease<B>, ForwardError> {
        let permit = if self.http2.may_grow() { self.upstream.permits.try_acquire() } else { None };
        if permit.is_none()
            && let Some(slot) = self.http2.least_used(destination.revision)
        {
            return Ok(self.lend_stream(slot, true));
        }
        let pending = Rc::new(OnceCell::new());
        *self.pending.borrow_mut() = Some(Rc::clone(&pending));
        let _guard = PendingGuard(self);
        let lease = match permit {
            Some(permit) => self.connect(destination, permit).await,
            None => self.wait(destination).await,
        };
        if let Err(error) = &lease {
            let _ = pending.set(error.clone());
        }
        lease
    }

    /// Waits for a connection that is given back, or for a permit for a new one.
    async fn wait(&self, destination: &Destination) -> Result<Lease<B>, ForwardError> {
        let wait = timeout(self.upstream.permits.wait_timeout, self.idle.wait(destination.revision));
        match wait.await.unwrap_or(Err(ForwardError::Overloaded))? {
            Available::Connection(connection) => Ok(self.lend(Leased::Http1(connection), true)),
            Available::Permit(permit) => self.connect(destination, permit).await,
        }
    }

    async fn connect(
        &self,
        destination: &Destination,
        permit: ConnectionPermit,
    ) -> Result<Lease<B>, ForwardError> {
        let descriptor = self.upstream.descriptors.take(1).ok_or(ForwardError::NoDescriptor)?;
        let guard = ConnectionGuard::new(permit, descriptor);
        let Connected { stream, is_http2 } = destination.connect.connect().await?;
        self.is_http1.set(!is_http2);
        if is_http2 {
            let slot = self.http2.open(stream, destination, &self.upstream, guard).await?;
            return Ok(self.lend_stream(slot, false));
        }
        let connection = http1::Connection::open(stream, destination.revision, guard).await?;
        Ok(self.lend(Leased::Http1(connection), false))
    }

    fn lend_stream(&self, slot: StreamSlot, is_reused: bool) -> Lease<B> {
        self.lend(Leased::Http2(Box::new(http2_stream::Stream::new(slot))), is_reused)
    }

    fn lend(&self, leased: Leased<B>, is_reused: bool) -> Lease<B> {
        Lease { leased, idle: Rc::clone(&self.idle), is_reused, is_last: false }
    }

    /// Closes idle connections while requests wait for a connection permit, on this or another worker. Never returns.
    pub async fn yield_idle(self: Rc<Self>) {
        let permits = &self.upstream.permits;
        loop {
            let mut waiter_joined = pin!(permits.waiter_joined.notified());
            waiter_joined.as_mut().enable();
            let waiters = permits.waiters();
            self.idle.close_idle(waiters);
            self.http2.close_idle(waiters);
            tokio::select! {
                () = waiter_joined => {}
                () = self.http2.idle_while_contended.notified() => {}
            }
        }
    }

    /// Closes idle connections now, each other connection after its last request, and keeps none from now on.
    pub fn retire(&self) {
        self.idle.retire();
        self.http2.retire();
    }

    /// Closes connections that have exceeded the idle timeout or their age, or lead to an earlier destination.
    pub fn reap(&self, now: Instant) {
        let revision = self.upstream.revision();
        self.idle.reap(revision, now);
        self.http2.reap(revision, now);
    }
}

#[cfg(test)]
mod tests;
