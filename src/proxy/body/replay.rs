//! A replayable request body: streamed to the upstream, with its beginning in a replay buffer.
//!
//! A [`ReplayBody`] owns the caller's body; each attempt to send the request reads the body through an [`AttemptBody`]:
//! first the replay buffer, with the chunks that earlier attempts have read, and then the rest. A body that exceeds the
//! replay buffer is still sent, but cannot be replayed.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use thiserror::Error;
use tokio::time::Instant;

use super::replay_buffer::ReplayBuffer;
use super::stall::StallTimer;
use super::unread::{UnreadBodies, UnreadBody};
use crate::config::Limits;
use crate::proxy::limits::slots::Slots;

/// Limits of a request body.
#[derive(Clone, Debug)]
pub struct BodyLimits {
    /// Largest body, in bytes; `None` is unlimited.
    pub body_bytes: Option<u64>,
    /// Largest replay buffer, in bytes.
    pub replay_body: usize,
    /// The memory of all replay buffers together.
    pub budget: Arc<Slots>,
    /// Longest pause between two chunks.
    pub body_timeout: Duration,
    /// Minimum bytes a second, averaged over the time spent waiting for the caller; 0 is no minimum.
    pub body_rate: u64,
}

impl BodyLimits {
    /// The configured limits, with a budget of their own.
    pub fn new(limits: &Limits) -> Self {
        Self {
            body_bytes: limits.body_bytes,
            replay_body: limits.replay_body,
            budget: Slots::new(limits.replay_total),
            body_timeout: limits.body_timeout,
            body_rate: limits.body_rate,
        }
    }
}

/// A request's body, for any number of attempts. A request without a body allocates nothing.
#[derive(Debug)]
pub struct ReplayBody<B>(Option<Rc<Shared<B>>>);

/// A request's body as one attempt reads it. Only the latest attempt may read.
#[derive(Debug)]
pub struct AttemptBody<B> {
    shared: Option<Rc<Shared<B>>>,
    number: u32,
    /// The part of the replay buffer that is still to be read.
    replayed: VecDeque<Bytes>,
}

/// Why an attempt's body is incomplete. The connection to the upstream is closed.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum BodyError {
    /// The body is malformed, or the caller disconnected.
    #[error("the request body is malformed or incomplete")]
    Incomplete,
    /// The caller paused for too long, or sends too slowly.
    #[error("the request body stalled")]
    Stalled,
    /// The body exceeds [`BodyLimits::body_bytes`].
    #[error("the request body is too large")]
    TooLarge,
    /// A later attempt reads the body.
    #[error("a later attempt reads the request body")]
    Superseded,
}

#[derive(Debug)]
struct Shared<B> {
    source: RefCell<Source<B>>,
    /// The number of the attempt that may read.
    attempt: Cell<u32>,
    fault: Cell<Option<BodyError>>,
    /// When an attempt last read a chunk, or reached the end.
    progress: Cell<Instant>,
    /// Whether the latest read found no data.
    waits_for_caller: Cell<bool>,
    unread: UnreadBody,
    is_at_end: Cell<bool>,
}

#[derive(Debug)]
struct Source<B> {
    body: B,
    received: u64,
    /// `None` if the body cannot be replayed, or need not be.
    buffer: Option<ReplayBuffer>,
    limits: BodyLimits,
    stall: StallTimer,
}

impl<B> Default for ReplayBody<B> {
    /// No body.
    fn default() -> Self {
        Self(None)
    }
}

impl<B: Body<Data = Bytes> + Unpin> ReplayBody<B> {
    /// Takes over a request's body.
    pub fn new(body: B, limits: &BodyLimits) -> Self {
        if body.is_end_stream() {
            return Self(None);
        }
        let fits = body.size_hint().lower() <= u64::try_from(limits.replay_body).unwrap_or(u64::MAX);
        let buffer = fits.then(|| ReplayBuffer::new(&limits.budget));
        let stall = StallTimer::new(limits.body_timeout, limits.body_rate);
        let source = Source { body, received: 0, buffer, limits: limits.clone(), stall };
        Self(Some(Rc::new(Shared {
            source: RefCell::new(source),
            attempt: Cell::new(0),
            fault: Cell::new(None),
            progress: Cell::new(Instant::now()),
            waits_for_caller: Cell::new(false),
            unread: UnreadBody::default(),
            is_at_end: Cell::new(false),
        })))
    }

    /// Counts the body among those of its connection.
    #[must_use]
    pub fn on_connection(self, connection: &UnreadBodies) -> Self {
        if let Some(shared) = &self.0 {
            shared.unread.join(connection);
        }
        self
    }

    /// Replaces the limits of pauses and of the average rate; zero is no limit, `None` leaves the limit.
    pub fn limit_pace(&self, timeout: Option<Duration>, min_rate: Option<u64>) {
        if let (Some(shared), true) = (&self.0, timeout.is_some() || min_rate.is_some()) {
            shared.source.borrow_mut().stall.limit(timeout, min_rate);
        }
    }

    /// The body for the first attempt.
    pub fn first(&self) -> AttemptBody<B> {
        AttemptBody { shared: self.0.clone(), number: 0, replayed: VecDeque::new() }
    }

    /// The body from its beginning for another attempt, which supersedes the attempt before; `None` if the body is not
    /// in the replay buffer, or has a fault: a second attempt would end where the first one did, and look complete.
    pub fn replay(&self) -> Option<AttemptBody<B>> {
        let Some(shared) = &self.0 else {
            return Some(self.first());
        };
        if shared.fault.get().is_some() {
            return None;
        }
        let source = &mut *shared.source.borrow_mut();
        let is_untouched = source.received == 0 && !shared.is_at_end.get();
        let replayed = match &mut source.buffer {
            _ if is_untouched => VecDeque::new(),
            buffer => buffer.as_mut()?.chunks(&source.limits.budget),
        };
        source.stall.suspend();
        let number = shared.attempt.get() + 1;
        shared.attempt.set(number);
        shared.progress.set(Instant::now());
        shared.waits_for_caller.set(false);
        Some(AttemptBody { shared: self.0.clone(), number, replayed })
    }

    /// Whether the replay buffer holds the body so far.
    pub fn is_replayable(&self) -> bool {
        let Some(shared) = &self.0 else { return true };
        shared.fault.get().is_none() && shared.source.borrow().buffer.is_some()
    }

    /// Whether there is a body without a known length.
    pub fn is_of_unknown_length(&self) -> bool {
        self.0.as_ref().is_some_and(|shared| shared.source.borrow().body.size_hint().exact().is_none())
    }

    /// Frees the replay buffer, because no further attempt will need it.
    pub fn free_buffer(&self) {
        if let Some(shared) = &self.0 {
            shared.source.borrow_mut().buffer = None;
        }
    }

    /// Frees the replay buffer and stops stall detection, because the response has arrived.
    pub fn response_received(&self) {
        if let Some(shared) = &self.0 {
            let mut source = shared.source.borrow_mut();
            source.buffer = None;
            source.stall.stop();
        }
    }

    /// Reads and discards the rest of the body, for at most `within`: a caller may read its response only after it has
    /// sent its request (RFC 9113 §8.1).
    pub async fn drain(self, within: Duration) {
        self.response_received();
        let Some(shared) = self.0 else { return };
        shared.attempt.set(u32::MAX);
        // The limits of an attempt do not apply.
        let end = std::future::poll_fn(|cx| {
            let mut source = shared.source.borrow_mut();
            while let Some(Ok(_)) = ready!(Pin::new(&mut source.body).poll_frame(cx)) {}
            Poll::Ready(())
        });
        let _ = tokio::time::timeout(within, end).await;
    }

    /// The error that an attempt found in the body.
    pub fn error(&self) -> Option<BodyError> {
        self.0.as_ref().and_then(|shared| shared.fault.get())
    }

    /// Whether the whole body has been read from the caller.
    pub fn is_at_end(&self) -> bool {
        self.0.as_ref().is_none_or(|shared| shared.is_at_end.get())
    }

    /// When an attempt last read from the body; `None` for a request without one.
    pub fn progress(&self) -> Option<Instant> {
        self.0.as_ref().map(|shared| shared.progress.get())
    }

    /// Whether the attempt waits for the caller and not for the upstream.
    pub fn waits_for_caller(&self) -> bool {
        self.0.as_ref().is_some_and(|shared| shared.waits_for_caller.get())
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for AttemptBody<B> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let Some(shared) = &this.shared else {
            return Poll::Ready(None);
        };
        if shared.attempt.get() != this.number {
            return Poll::Ready(Some(Err(BodyError::Superseded)));
        }
        if let Some(piece) = this.replayed.pop_front() {
            shared.progress.set(Instant::now());
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        let next = shared.poll_source(cx);
        shared.waits_for_caller.set(next.is_pending());
        shared.unread.set(matches!(next, Poll::Ready(Some(Ok(_)))) && !shared.is_at_end.get());
        next
    }

    fn is_end_stream(&self) -> bool {
        self.replayed.is_empty() && self.shared.as_ref().is_none_or(|shared| shared.is_at_end.get())
    }

    fn size_hint(&self) -> SizeHint {
        let Some(shared) = &self.shared else {
            return SizeHint::with_exact(0);
        };
        let replayed = self.replayed.iter().map(Bytes::len).sum::<usize>() as u64;
        let rest = shared.source.borrow().body.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(replayed + rest.lower());
        if let Some(upper) = rest.upper() {
            hint.set_upper(replayed + upper);
        }
        hint
    }
}

impl<B: Body<Data = Bytes> + Unpin> Shared<B> {
    /// The next chunk, the end, or the body's fault. A fault is permanent.
    fn poll_source(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(fault) = self.fault.get() {
            return Poll::Ready(Some(Err(fault)));
        }
        if self.is_at_end.get() {
            return Poll::Ready(None);
        }
        let mut source = self.source.borrow_mut();
        let next = ready!(source.poll_data(cx, self.unread.may_block()));
        self.progress.set(Instant::now());
        match next {
            Some(Ok(data)) => {
                self.is_at_end.set(source.body.is_end_stream());
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Some(Err(fault)) => {
                self.fault.set(Some(fault));
                Poll::Ready(Some(Err(fault)))
            }
            None => {
                self.is_at_end.set(true);
                Poll::Ready(None)
            }
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Source<B> {
    /// The next chunk of the caller's body. Trailers are dropped, because the guard has not checked them. A caller that
    /// `is_excused` cannot send at the moment and does not stall.
    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
        is_excused: bool,
    ) -> Poll<Option<Result<Bytes, BodyError>>> {
        loop {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.stall.end_pause(is_excused);
                    let Ok(data) = frame.into_data() else { continue };
                    self.received += data.len() as u64;
                    if self.limits.body_bytes.is_some_and(|limit| self.received > limit) {
                        return Poll::Ready(Some(Err(BodyError::TooLarge)));
                    }
                    self.record(&data);
                    return Poll::Ready(Some(Ok(data)));
                }
                Poll::Ready(Some(Err(_))) => return Poll::Ready(Some(Err(BodyError::Incomplete))),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => {
                    ready!(self.stall.poll(cx, self.received, is_excused));
                    return Poll::Ready(Some(Err(BodyError::Stalled)));
                }
            }
        }
    }

    /// Appends a chunk to the replay buffer, or drops the buffer if the body will not fit.
    fn record(&mut self, data: &Bytes) {
        let rest = self.body.size_hint();
        let limit = self.limits.replay_body;
        let bounded = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let will_fit = bounded(self.received + rest.lower()) <= limit;
        let length = rest.upper().map_or(limit, |upper| limit.min(bounded(self.received + upper)));
        if self.buffer.as_mut().is_some_and(|buffer| !will_fit || !buffer.append(data, length)) {
            self.buffer = None;
        }
    }
}

#[cfg(test)]
mod tests;
