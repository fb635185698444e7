//! HTTP/1.1 connections between two requests, and the requests that wait for one.
//!
//! Who finds no connection and no place for another waits: for the first that is given back on its worker, or for the
//! place of one that has ended anywhere.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body::Body;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::connection::IDLE_TIMEOUT;
use super::http1::Leased;
use crate::proxy::error::upstream::ForwardError;
use crate::proxy::upstream::destination::Upstream;
use crate::proxy::upstream::permits::Place;

/// How long a connection may lie idle and be taken for open without a look at its socket.
const SETTLED: Duration = Duration::from_millis(500);
/// What a worker keeps for one upstream: as many as a crowd of callers needs at once, or each wave of it shakes hands anew.
const MAX_IDLE: usize = 1024;

/// Connections between two requests, the last used at the end.
pub(super) struct Idle<B: Body + 'static> {
    upstream: Arc<Upstream>,
    resting: RefCell<Vec<Resting<B>>>,
    /// Requests for which there is no place, the first that came in front; some of them have left.
    queue: RefCell<VecDeque<oneshot::Sender<Leased<B>>>>,
    /// How many of them have not.
    waiting: Cell<usize>,
    /// Whether none is kept for later requests.
    is_retired: Cell<bool>,
}

struct Resting<B: Body + 'static> {
    leased: Leased<B>,
    since: Instant,
}

/// What a request waited for.
pub(super) enum Turn<B: Body + 'static> {
    Connection(Leased<B>),
    /// For a new one.
    Place(Place),
}

/// A request of this worker that waits.
struct Waiting<'a>(&'a Cell<usize>);

impl<'a> Waiting<'a> {
    fn here(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

impl<B> Idle<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    pub(super) fn new(upstream: Arc<Upstream>) -> Self {
        let (resting, queue) = (RefCell::default(), RefCell::default());
        Self { upstream, resting, queue, waiting: Cell::new(0), is_retired: Cell::new(false) }
    }

    /// A connection that has lain idle and is still good, the last used first.
    pub(super) async fn reuse(&self, number: u32) -> Option<Leased<B>> {
        let idle_since = self.resting.borrow().last()?.since;
        if idle_since.elapsed() > SETTLED {
            // Lets the runtime hear from the system first: it may have been closed, and nobody has looked since.
            tokio::task::yield_now().await;
        }
        loop {
            let Resting { mut leased, .. } = self.resting.borrow_mut().pop()?;
            if leased.number == number && leased.is_good() {
                return Some(leased);
            }
        }
    }

    /// The first connection that another request of this worker gives back, or the place of one that has ended.
    pub(super) async fn turn(&self, number: u32) -> Result<Turn<B>, ForwardError> {
        let waiting = self.upstream.permits.queue_up().ok_or(ForwardError::Overloaded)?;
        let mut place = pin!(waiting.place());
        let _waiting = Waiting::here(&self.waiting);
        loop {
            let (sender, handed_on) = oneshot::channel();
            self.queue_up(sender);
            tokio::select! {
                biased;
                Ok(leased) = handed_on => if leased.number == number {
                    return Ok(Turn::Connection(leased));
                },
                place = &mut place => return Ok(Turn::Place(place)),
            }
        }
    }

    fn queue_up(&self, request: oneshot::Sender<Leased<B>>) {
        let mut queue = self.queue.borrow_mut();
        // Seldom: it is a look at all of them.
        if queue.len() > 2 * self.waiting.get() {
            queue.retain(|other| !other.is_closed());
        }
        queue.push_back(request);
    }

    /// Keeps a connection whose exchange is over, if it is still good, or hands it on.
    pub(super) fn keep(&self, mut leased: Leased<B>) {
        let upstream = &self.upstream;
        let now = Instant::now();
        let is_of_use =
            leased.is_good() && leased.number == upstream.number() && !leased.place().is_over(now);
        // Where descriptors are few, another worker or another upstream may need this one more.
        if !is_of_use || upstream.descriptors.are_scarce() {
            return;
        }
        let Some(leased) = self.hand_on(leased) else { return };
        if self.is_retired.get() {
            return;
        }
        let mut resting = self.resting.borrow_mut();
        if resting.len() >= MAX_IDLE {
            resting.remove(0);
        }
        resting.push(Resting { leased, since: now });
    }

    /// To whoever waits for it here. Where somebody waits on another worker, it ends at the latest after some turns.
    fn hand_on(&self, mut leased: Leased<B>) -> Option<Leased<B>> {
        let waiting = self.upstream.permits.waiting();
        if waiting == 0 {
            return Some(leased);
        }
        if waiting > self.waiting.get() && !leased.place().take_turn() {
            return None;
        }
        let mut queue = self.queue.borrow_mut();
        while let Some(request) = queue.pop_front() {
            match request.send(leased) {
                Ok(()) => break,
                Err(unwanted) => leased = unwanted,
            }
        }
        None
    }

    /// Ends those that are idle, and keeps none from now on.
    pub(super) fn retire(&self) {
        self.is_retired.set(true);
        // Ended only once nothing is borrowed.
        drop(self.resting.take());
    }

    /// Ends as many as are waited for elsewhere.
    pub(super) fn give_way(&self, waiting: usize) {
        // Ended only once nothing is borrowed.
        let mut resting = std::mem::take(&mut *self.resting.borrow_mut());
        resting.drain(..waiting.min(resting.len()));
        *self.resting.borrow_mut() = resting;
    }

    /// Ends connections that have lain idle for too long, are too old, or lead elsewhere.
    pub(super) fn reap(&self, number: u32, now: Instant) {
        self.resting.borrow_mut().retain_mut(|one| {
            one.leased.number == number
                && now.duration_since(one.since) < IDLE_TIMEOUT
                && !one.leased.place().is_over(now)
        });
    }
}
