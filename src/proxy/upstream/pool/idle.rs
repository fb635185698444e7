//! Idle HTTP/1.1 connections of a worker, and the requests of the worker that wait for a connection.
//!
//! A request that finds neither an idle connection nor a permit waits for whichever comes first: a connection that
//! another request of its worker gives back, or the permit of a connection that ended on any worker.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::http1::Connection;
use super::request::RequestBody;
use crate::proxy::error::upstream::ForwardError;
use crate::proxy::upstream::destination::Upstream;
use crate::proxy::upstream::permits::ConnectionPermit;

/// Idle time up to which a connection is reused without letting the runtime poll for its end first.
const UNPOLLED_IDLE_TIME: Duration = Duration::from_millis(500);
/// Idle connections that a worker keeps for one upstream: enough for bursts of concurrent requests.
const MAX_IDLE: usize = 1024;

/// The idle connections of one worker to one upstream, and the worker's waiting requests.
pub(super) struct IdleConnections<B: RequestBody> {
    upstream: Arc<Upstream>,
    /// The most recently used last.
    idle: RefCell<Vec<Connection<B>>>,
    /// Waiting requests, in the order of arrival; some may have been dropped.
    queue: RefCell<VecDeque<oneshot::Sender<Connection<B>>>>,
    /// Each waiting request holds a clone until it is dropped.
    waiters: Rc<()>,
    /// Whether connections are closed instead of kept.
    is_retired: Cell<bool>,
}

/// The result of a wait.
pub(super) enum Available<B: RequestBody> {
    Connection(Connection<B>),
    /// For a new connection.
    Permit(ConnectionPermit),
}

impl<B: RequestBody> IdleConnections<B> {
    pub(super) fn new(upstream: Arc<Upstream>) -> Self {
        let (idle, queue) = (RefCell::default(), RefCell::default());
        Self { upstream, idle, queue, waiters: Rc::default(), is_retired: Cell::new(false) }
    }

    /// The most recently used connection to this revision of the destination that is still open.
    pub(super) async fn reuse(&self, revision: u32) -> Option<Connection<B>> {
        let idle_since = self.idle.borrow().last()?.lifetime().idle_since.get();
        if idle_since.elapsed() > UNPOLLED_IDLE_TIME {
            // The runtime learns of a closed socket only when it polls the system for events.
            tokio::task::yield_now().await;
        }
        loop {
            let mut connection = self.idle.borrow_mut().pop()?;
            if connection.lifetime().revision == revision && connection.is_reusable() {
                return Some(connection);
            }
        }
    }

    /// Waits, without a timeout, for a connection that another request of this worker gives back, or for a permit.
    pub(super) async fn wait(&self, revision: u32) -> Result<Available<B>, ForwardError> {
        let waiter = self.upstream.permits.join_queue().ok_or(ForwardError::Overloaded)?;
        let mut permit = pin!(waiter.acquire());
        let _counted = Rc::clone(&self.waiters);
        loop {
            let (sender, given_back) = oneshot::channel();
            self.join_queue(sender);
            tokio::select! {
                biased;
                Ok(connection) = given_back => if connection.lifetime().revision == revision {
                    return Ok(Available::Connection(connection));
                },
                permit = &mut permit => return Ok(Available::Permit(permit)),
            }
        }
    }

    /// The number of requests of this worker that wait.
    fn waiters(&self) -> usize {
        Rc::strong_count(&self.waiters) - 1
    }

    fn join_queue(&self, request: oneshot::Sender<Connection<B>>) {
        let mut queue = self.queue.borrow_mut();
        // Removes dropped requests once they are the majority: the amortized cost is constant.
        if queue.len() > 2 * self.waiters() {
            queue.retain(|other| !other.is_closed());
        }
        queue.push_back(request);
    }

    /// Passes a connection to a waiting request or keeps it, if it can take another request.
    pub(super) fn keep(&self, mut connection: Connection<B>) {
        let now = Instant::now();
        let is_usable =
            connection.is_reusable() && connection.lifetime().allows(self.upstream.revision(), now);
        // Scarce descriptors are left to other workers and other upstreams.
        if !is_usable || self.upstream.descriptors.are_scarce() {
            return;
        }
        let Some(connection) = self.pass_on(connection) else { return };
        if self.is_retired.get() {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        if idle.len() >= MAX_IDLE {
            idle.remove(0);
        }
        connection.lifetime().idle_since.set(now);
        idle.push(connection);
    }

    /// Passes a connection to the first waiting request of this worker. Returns the connection if no request waits on
    /// any worker; closes it after a number of requests if requests wait on other workers.
    fn pass_on(&self, mut connection: Connection<B>) -> Option<Connection<B>> {
        let waiters = self.upstream.permits.waiters();
        if waiters == 0 {
            return Some(connection);
        }
        if waiters > self.waiters() && !connection.lifetime().count_contended_request() {
            return None;
        }
        let mut queue = self.queue.borrow_mut();
        while let Some(request) = queue.pop_front() {
            match request.send(connection) {
                Ok(()) => break,
                Err(returned) => connection = returned,
            }
        }
        None
    }

    pub(super) fn retire(&self) {
        self.is_retired.set(true);
        // Dropped after the borrow has ended.
        drop(self.idle.take());
    }

    /// Closes up to `count` idle connections, the least recently used first.
    pub(super) fn close_idle(&self, count: usize) {
        // Dropped while nothing is borrowed.
        let mut idle = self.idle.take();
        idle.drain(..count.min(idle.len()));
        *self.idle.borrow_mut() = idle;
    }

    pub(super) fn reap(&self, revision: u32, now: Instant) {
        self.idle.borrow_mut().retain(|connection| {
            let lifetime = connection.lifetime();
            !lifetime.is_idle_too_long(now) && lifetime.allows(revision, now)
        });
    }
}
