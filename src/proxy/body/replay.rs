//! A request's body: streamed to the upstream, and its beginning kept in case it must be sent again.
//!
//! A [`Payload`] owns the caller's body; each attempt at the upstream reads it through an [`Attempt`]. When an
//! attempt is answered with a 401, early or late, the next one gets what was kept and then the rest, however
//! much of it was read before. A body that grows beyond what may be kept streams on and cannot be replayed.

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

use super::stall::{Arrival, Patience};
use super::unread::{Backlog, Unread};
use crate::config::Limits;
use crate::proxy::limits::slots::{Reservation, Slots};

/// What a request may take.
#[derive(Clone, Debug)]
pub struct Allowance {
    /// Largest body, in bytes.
    pub body_bytes: Option<u64>,
    /// Largest part of it that is kept.
    pub replay_body: usize,
    /// What all requests share.
    pub budget: Arc<Slots>,
    /// Between two pieces of the body; `None` once the response is there.
    pub body_timeout: Option<Duration>,
    /// Least bytes a second, averaged over the time that was waited for the caller; 0 is no bound.
    pub body_rate: u64,
}

impl Allowance {
    /// As it is configured; all requests share the budget of this.
    pub fn new(limits: &Limits) -> Self {
        Self {
            body_bytes: limits.body_bytes,
            replay_body: limits.replay_body,
            budget: Slots::new(limits.replay_total),
            body_timeout: Some(limits.body_timeout),
            body_rate: limits.body_rate,
        }
    }
}

/// A caller's body, for one attempt after the other. A request without one costs nothing.
#[derive(Debug)]
pub struct Payload<B>(Option<Rc<Shared<B>>>);

/// A caller's body as one attempt reads it.
#[derive(Debug)]
pub struct Attempt<B> {
    shared: Option<Rc<Shared<B>>>,
    number: u32,
    /// What was kept of the attempts before.
    prefix: VecDeque<Bytes>,
}

/// Why an attempt's body broke off. Only ever seen by the connection it went to, which ends with it.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Fault {
    /// The caller sent what is no body, or left.
    #[error("the caller's body broke off")]
    Caller,
    /// Nothing came for too long.
    #[error("the caller's body stopped coming")]
    Stalled,
    /// It is larger than allowed.
    #[error("the caller's body is too large")]
    TooLarge,
    /// Another attempt has taken over.
    #[error("another attempt has the body")]
    Superseded,
}

#[derive(Debug)]
struct Shared<B> {
    source: RefCell<Source<B>>,
    /// Which attempt may read.
    attempt: Cell<u32>,
    fault: Cell<Option<Fault>>,
    /// When an attempt last took a piece, or reached the end.
    progress: Cell<Instant>,
    /// Whether the last thing an attempt did was to wait for the caller.
    waits_for_caller: Cell<bool>,
    /// Among the bodies of its connection.
    unread: Unread,
    is_at_end: Cell<bool>,
}

#[derive(Debug)]
struct Source<B> {
    body: B,
    received: u64,
    kept: Option<Kept>,
    allowance: Allowance,
    patience: Patience,
}

/// The beginning of a body, with its share of the budget.
#[derive(Debug)]
struct Kept {
    /// What attempts have been given already, and may share.
    given: Vec<Bytes>,
    /// What came since.
    bytes: Vec<u8>,
    reserved: Reservation,
}

impl<B> Default for Payload<B> {
    /// That of a request without one.
    fn default() -> Self {
        Self(None)
    }
}

impl<B: Body<Data = Bytes> + Unpin> Payload<B> {
    /// Takes over a caller's body.
    pub fn new(body: B, allowance: &Allowance) -> Self {
        if body.is_end_stream() {
            return Self(None);
        }
        let fits = body.size_hint().lower() <= u64::try_from(allowance.replay_body).unwrap_or(u64::MAX);
        let kept = fits.then(|| Kept::new(&allowance.budget));
        let source =
            Source { body, received: 0, kept, allowance: allowance.clone(), patience: Patience::default() };
        Self(Some(Rc::new(Shared {
            source: RefCell::new(source),
            attempt: Cell::new(0),
            fault: Cell::new(None),
            progress: Cell::new(Instant::now()),
            waits_for_caller: Cell::new(false),
            unread: Unread::default(),
            is_at_end: Cell::new(false),
        })))
    }

    /// A body among others of its connection.
    #[must_use]
    pub fn beside(self, others: &Backlog) -> Self {
        if let Some(shared) = &self.0 {
            shared.unread.join(others);
        }
        self
    }

    /// The body for the first attempt.
    pub fn first(&self) -> Attempt<B> {
        Attempt { shared: self.0.clone(), number: 0, prefix: VecDeque::new() }
    }

    /// The body once more from its beginning, if that was kept or nothing of it was read. The attempt before reads no
    /// further. What it is given stays kept for another one: [`Payload::forget`] where there will be none.
    ///
    /// What broke off has no second attempt: it would end where the first one did, and look complete.
    pub fn again(&self) -> Option<Attempt<B>> {
        let Some(shared) = &self.0 else {
            return Some(self.first());
        };
        if shared.fault.get().is_some() {
            return None;
        }
        let mut source = shared.source.borrow_mut();
        let is_untouched = source.received == 0 && !shared.is_at_end.get();
        let prefix = if is_untouched { VecDeque::new() } else { source.give()? };
        // Between the attempts nobody reads: that is no pause of the caller's.
        source.patience.suspend();
        let number = shared.attempt.get() + 1;
        shared.attempt.set(number);
        shared.progress.set(Instant::now());
        shared.waits_for_caller.set(false);
        Some(Attempt { shared: self.0.clone(), number, prefix })
    }

    /// Whether the body could be sent again as things stand.
    pub fn is_replayable(&self) -> bool {
        let is_kept = |shared: &Rc<Shared<B>>| shared.source.borrow().kept.is_some();
        self.fault().is_none() && self.0.as_ref().is_none_or(is_kept)
    }

    /// Whether there is a body and nobody knows yet how long it is.
    pub fn is_of_unknown_length(&self) -> bool {
        self.0.as_ref().is_some_and(|shared| shared.source.borrow().body.size_hint().exact().is_none())
    }

    /// There will be no further attempt: lets go of what was kept.
    pub fn forget(&self) {
        if let Some(shared) = &self.0 {
            shared.source.borrow_mut().kept = None;
        }
    }

    /// The answer is there: nothing is kept, and the caller is no longer hurried.
    pub fn settle(&self) {
        if let Some(shared) = &self.0 {
            let mut source = shared.source.borrow_mut();
            source.kept = None;
            source.patience.suspend();
            source.allowance.body_timeout = None;
        }
    }

    /// Reads what the caller still sends and throws it away, for a while: it is answered, and has to be able to
    /// end its request to see that (RFC 9113 §8.1).
    pub async fn drain(self, within: Duration) {
        self.settle();
        let Some(shared) = self.0 else { return };
        shared.attempt.set(u32::MAX);
        // The body itself: what is too large to be forwarded is read as well.
        let end = std::future::poll_fn(|cx| {
            let mut source = shared.source.borrow_mut();
            while let Some(Ok(_)) = ready!(Pin::new(&mut source.body).poll_frame(cx)) {}
            Poll::Ready(())
        });
        // Whoever takes longer has had its answer for as long.
        let _ = tokio::time::timeout(within, end).await;
    }

    /// What was wrong with the body, if something was.
    pub fn fault(&self) -> Option<Fault> {
        self.0.as_ref().and_then(|shared| shared.fault.get())
    }

    /// Whether everything was read from the caller.
    pub fn is_at_end(&self) -> bool {
        self.0.as_ref().is_none_or(|shared| shared.is_at_end.get())
    }

    /// When an attempt last got on with the body; `None` for a request without one.
    pub fn progress(&self) -> Option<Instant> {
        self.0.as_ref().map(|shared| shared.progress.get())
    }

    /// Whether the attempt waits for the caller and not for the upstream.
    pub fn waits_for_caller(&self) -> bool {
        self.0.as_ref().is_some_and(|shared| shared.waits_for_caller.get())
    }
}

/// What was kept, as the bytes of an attempt; gives its share back when they are gone.
struct Prefix {
    bytes: Vec<u8>,
    _reserved: Reservation,
}

impl AsRef<[u8]> for Prefix {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Attempt<B> {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let this = &mut *self;
        let Some(shared) = &this.shared else {
            return Poll::Ready(None);
        };
        if shared.attempt.get() != this.number {
            return Poll::Ready(Some(Err(Fault::Superseded)));
        }
        if let Some(piece) = this.prefix.pop_front() {
            shared.progress.set(Instant::now());
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        let next = shared.poll_source(cx);
        shared.waits_for_caller.set(next.is_pending());
        shared.unread.set(matches!(next, Poll::Ready(Some(Ok(_)))) && !shared.is_at_end.get());
        next
    }

    fn is_end_stream(&self) -> bool {
        self.prefix.is_empty() && self.shared.as_ref().is_none_or(|shared| shared.is_at_end.get())
    }

    fn size_hint(&self) -> SizeHint {
        let Some(shared) = &self.shared else {
            return SizeHint::with_exact(0);
        };
        let kept = self.prefix.iter().map(Bytes::len).sum::<usize>() as u64;
        let rest = shared.source.borrow().body.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(kept + rest.lower());
        if let Some(upper) = rest.upper() {
            hint.set_upper(kept + upper);
        }
        hint
    }
}

impl<B: Body<Data = Bytes> + Unpin> Shared<B> {
    /// The next piece, the end, or what is wrong with the body: once something is, for ever.
    fn poll_source(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
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
    /// The next piece of the caller's body. Trailers are dropped: nobody has vetted them.
    ///
    /// A caller that may be unable to send is not hurried.
    fn poll_data(&mut self, cx: &mut Context<'_>, is_excused: bool) -> Poll<Option<Result<Bytes, Fault>>> {
        loop {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.patience.end_pause(is_excused);
                    let Ok(data) = frame.into_data() else { continue };
                    self.received += data.len() as u64;
                    if self.allowance.body_bytes.is_some_and(|limit| self.received > limit) {
                        return Poll::Ready(Some(Err(Fault::TooLarge)));
                    }
                    self.keep(&data);
                    return Poll::Ready(Some(Ok(data)));
                }
                Poll::Ready(Some(Err(_))) => return Poll::Ready(Some(Err(Fault::Caller))),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => {
                    ready!(self.poll_stall(cx, is_excused));
                    return Poll::Ready(Some(Err(Fault::Stalled)));
                }
            }
        }
    }

    fn poll_stall(&mut self, cx: &mut Context<'_>, is_excused: bool) -> Poll<()> {
        let Some(timeout) = self.allowance.body_timeout else {
            return Poll::Pending;
        };
        let arrival = Arrival { bytes: self.received, least_per_second: self.allowance.body_rate };
        self.patience.poll(cx, timeout, arrival, is_excused)
    }

    /// What is kept, for an attempt.
    fn give(&mut self) -> Option<VecDeque<Bytes>> {
        let kept = self.kept.as_mut()?;
        if !kept.bytes.is_empty() {
            let Kept { given, bytes, reserved } = std::mem::replace(kept, Kept::new(&self.allowance.budget));
            kept.given = given;
            kept.given.push(Bytes::from_owner(Prefix { bytes, _reserved: reserved }));
        }
        Some(kept.given.iter().cloned().collect())
    }

    /// Keeps a piece, or gives up keeping this body.
    fn keep(&mut self, data: &Bytes) {
        let rest = self.body.size_hint();
        let limit = self.allowance.replay_body;
        let bounded = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let will_fit = bounded(self.received + rest.lower()) <= limit;
        let most = rest.upper().map_or(limit, |upper| limit.min(bounded(self.received + upper)));
        if self.kept.as_mut().is_some_and(|kept| !will_fit || !kept.add(data, most)) {
            self.kept = None;
        }
    }
}

impl Kept {
    fn new(budget: &Arc<Slots>) -> Self {
        Self { given: Vec::new(), bytes: Vec::new(), reserved: budget.reservation() }
    }

    /// Adds a piece of a body that has at `most` so many bytes; `false` if there is no room for it.
    ///
    /// Room is taken as the body arrives, twice as much each time: a length that a caller only declares must
    /// not use up what all requests share.
    fn add(&mut self, data: &[u8], most: usize) -> bool {
        let most = most.saturating_sub(self.given.iter().map(Bytes::len).sum());
        let needed = self.bytes.len() + data.len();
        if needed > most {
            return false;
        }
        if needed > self.bytes.capacity() {
            let capacity = self.bytes.capacity().saturating_mul(2).clamp(needed, most);
            if !self.reserved.grow_to(capacity) {
                return false;
            }
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(data);
        true
    }
}

#[cfg(test)]
mod tests;
