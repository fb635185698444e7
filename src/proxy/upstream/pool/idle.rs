//! Idle HTTP/1.1 connections of a worker.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::http1::Connection;
use super::queue::Queue;
use super::request::RequestBody;
use crate::config::HeaderCase;
use crate::proxy::upstream::destination::Upstream;

/// Idle time up to which a connection is reused without letting the runtime poll for its end first.
const UNPOLLED_IDLE_TIME: Duration = Duration::from_millis(500);
/// Idle connections that a worker keeps for one upstream: enough for bursts of concurrent requests.
const MAX_IDLE: usize = 1024;

/// The idle connections of one worker to one upstream.
pub(super) struct IdleConnections<B: RequestBody> {
    upstream: Arc<Upstream>,
    queue: Rc<Queue>,
    /// The most recently used last.
    all: RefCell<Vec<Connection<B>>>,
    /// The case of field names; connections that were made for another one are not kept.
    pub(super) header_case: Cell<HeaderCase>,
    /// Whether connections are closed unless a request waits.
    is_retired: Cell<bool>,
}

impl<B: RequestBody> IdleConnections<B> {
    pub(super) fn new(upstream: Arc<Upstream>, queue: Rc<Queue>) -> Self {
        let header_case = Cell::new(HeaderCase::Lower);
        Self { upstream, queue, all: RefCell::default(), header_case, is_retired: Cell::new(false) }
    }

    /// How many connections are idle, of which some may turn out to be closed.
    pub(super) fn len(&self) -> usize {
        self.all.borrow().len()
    }

    /// The most recently used connection to this revision of the destination that is still open, and whether it is
    /// reused: the upstream may close a reused connection at any moment.
    pub(super) async fn take(&self, revision: u32, now: Instant) -> Option<(Connection<B>, bool)> {
        let idle_since = self.all.borrow().last()?.lifetime().idle_since.get();
        if now.saturating_duration_since(idle_since) > UNPOLLED_IDLE_TIME {
            // The runtime learns of a closed socket only when it polls the system for events.
            tokio::task::yield_now().await;
        }
        loop {
            let mut connection = self.all.borrow_mut().pop()?;
            let lifetime = connection.lifetime();
            if !lifetime.allows(revision, now) || lifetime.is_idle_too_long(now) {
                continue;
            }
            let is_reused = !lifetime.is_just_made(now);
            lifetime.begin_use();
            if !is_reused || connection.is_reusable() {
                return Some((connection, is_reused));
            }
        }
    }

    /// Keeps a connection that was given back, if it can take another request.
    pub(super) fn give_back(&self, mut connection: Connection<B>) {
        let now = Instant::now();
        let is_usable = connection.is_reusable()
            && connection.lifetime().allows(self.upstream.revision(), now)
            && connection.header_case() == self.header_case.get();
        // Scarce descriptors are left to other workers and other upstreams.
        let is_surplus = self.is_retired.get() || self.upstream.descriptors.are_scarce();
        if is_usable && !(is_surplus && self.queue.is_empty()) {
            connection.lifetime().idle_since.set(now);
            self.add(connection);
        }
    }

    /// Adds a connection that carries no request.
    pub(super) fn add(&self, connection: Connection<B>) {
        let mut idle = self.all.borrow_mut();
        let surplus = (idle.len() >= MAX_IDLE).then(|| idle.remove(0));
        idle.push(connection);
        // Dropped after the borrow has ended.
        drop(idle);
        drop(surplus);
        self.queue.wake();
    }

    /// Closes the least recently used connection.
    pub(super) fn close_oldest(&self) {
        let mut idle = self.all.borrow_mut();
        let oldest = (!idle.is_empty()).then(|| idle.remove(0));
        drop(idle);
        drop(oldest);
    }

    /// Sets the case of field names, and closes the connections that were made for another one.
    pub(super) fn set_header_case(&self, header_case: HeaderCase) {
        if self.header_case.replace(header_case) != header_case {
            drop(self.all.take());
        }
    }

    pub(super) fn retire(&self) {
        self.is_retired.set(true);
        drop(self.all.take());
    }

    pub(super) fn reap(&self, revision: u32, now: Instant) {
        self.all.borrow_mut().retain(|connection| {
            let lifetime = connection.lifetime();
            !lifetime.is_idle_too_long(now) && lifetime.allows(revision, now)
        });
    }
}
