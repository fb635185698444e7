//! What is known of a caller's connection while it lives: who it is, what it is doing, and since when.
//!
//! Shared by the connection's socket, its requests and the worker's sweep. The sweep looks at every connection
//! a few times a second and ends those that take too long; a request only notes what it does, and no timer is
//! set for it.

use std::cell::{Cell, OnceCell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;

use super::progress::Pace;
use super::wrong_protocol::{Misdirected, Spoken};
use crate::config::Limits;
use crate::proxy::body::unread::Backlog;
use crate::proxy::peer::Peer;

/// How long a request is read on after it was answered, for the caller to take the answer.
pub const LINGER: Duration = Duration::from_secs(5);

/// Over HTTP/2, what is written at once where it is no answer: acknowledgements of pings and settings.
const CONTROL_FRAMES: usize = 128;

/// How long a connection has to begin a request when the daemon is about to stop: a new one, and one that was just
/// answered, whose caller may be sending the next. Closing it could meet that, and nothing would tell the caller whether
/// it was done.
const LAST_CHANCE: Duration = Duration::from_secs(1);

/// How long a connection that is old enough rests before it is closed.
const REST: Duration = Duration::from_secs(2);

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// TLS is being agreed on.
    Handshake,
    /// Accepted; nothing has come yet.
    Fresh,
    /// The head of a request is arriving.
    Head,
    /// Requests are being answered.
    Serving,
    /// Between requests.
    Idle,
    /// All is said; what the caller still sends is thrown away so that it can read the answer.
    Lingering,
}

/// How a connection is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// When what is in flight is answered, or on its way.
    Gracefully,
    /// Now: a request head did not arrive in time.
    HeadTimeout,
    /// Now, and what was not taken is thrown away: the caller took nothing for too long.
    Untaken,
    /// Now.
    AtOnce,
    /// Now, as everything ends; requests that still wait to be sent are told.
    Cut,
}

/// A caller's connection.
#[derive(Debug)]
pub struct Caller {
    /// Where it comes from, and what that is worth now.
    peer: Cell<Peer>,
    /// The names in its certificate, if it has one; there once TLS is agreed on.
    names: OnceCell<Vec<String>>,
    /// The time as of the worker's last sweep.
    now: Rc<Cell<Instant>>,
    phase: Cell<Phase>,
    since: Cell<Instant>,
    serving: Cell<u32>,
    is_http2: Cell<bool>,
    /// Whether bytes that go out belong to an answer of ours: what hyper says by itself does not.
    is_answering: Cell<bool>,
    /// Whether the caller may still be sending what nobody will read.
    is_unread: Cell<bool>,
    /// Whether an answer broke off whose end would be the connection's.
    is_answer_cut_off: Cell<bool>,
    /// Since when it has taken nothing of what there is for it.
    untaken_since: Cell<Option<Instant>>,
    /// When it has been used for long enough.
    expires: Option<Instant>,
    /// Of the answers that are under way; over HTTP/1 there is one, used again.
    paces: RefCell<Vec<Rc<Pace>>>,
    /// Bodies that its upstreams do not read.
    pub backlog: Backlog,
    misdirected: OnceCell<Rc<Misdirected>>,
    end: Cell<Option<End>>,
    /// Whether it waits for its next request with nothing but its socket.
    pub is_parked: Cell<bool>,
    task: RefCell<Option<Waker>>,
}

impl Caller {
    /// A connection that was just accepted, to be used for `age` at the most; `now` is the worker's clock.
    pub fn new(peer: Peer, now: Rc<Cell<Instant>>, age: Option<Duration>) -> Rc<Self> {
        // Up to a tenth sooner: those that came together should not all come again together.
        let expires = age.map(|age| now.get() + age.mul_f64(1.0 - fastrand::f64() / 10.0));
        let since = Cell::new(now.get());
        Rc::new(Self {
            peer: Cell::new(peer),
            names: OnceCell::new(),
            now,
            phase: Cell::new(Phase::Fresh),
            since,
            serving: Cell::new(0),
            is_http2: Cell::new(false),
            is_answering: Cell::new(false),
            is_unread: Cell::new(false),
            is_answer_cut_off: Cell::new(false),
            untaken_since: Cell::new(None),
            expires,
            paces: RefCell::default(),
            backlog: Backlog::default(),
            misdirected: OnceCell::new(),
            end: Cell::new(None),
            is_parked: Cell::new(false),
            task: RefCell::new(None),
        })
    }

    /// Where it comes from, and what that is worth now.
    pub fn peer(&self) -> Peer {
        self.peer.get()
    }

    /// Where it comes from is worth something else now.
    pub fn set_peer(&self, peer: Peer) {
        self.peer.set(peer);
    }

    /// Whom to tell if it speaks what its port does not.
    pub fn tells_of_itself_to(&self, misdirected: &Rc<Misdirected>) {
        let _ = self.misdirected.set(Rc::clone(misdirected));
    }

    /// It speaks this, and the port that it called, at this address, does not.
    pub fn is_misdirected(&self, spoke: Spoken, address: Option<SocketAddr>) {
        if let Some(misdirected) = self.misdirected.get() {
            misdirected.tell(spoke, address, &self.peer());
        }
    }

    /// It has to agree on TLS first.
    pub fn begins_handshake(&self) {
        self.phase.set(Phase::Handshake);
    }

    /// TLS is agreed on, and these are the names in its certificate. From now on it has time for a first head.
    pub fn shook_hands(&self, names: Vec<String>) {
        let _ = self.names.set(names);
        self.enter(Phase::Fresh);
    }

    /// Whether it speaks TLS.
    pub fn is_tls(&self) -> bool {
        self.names.get().is_some()
    }

    /// The names in its certificate.
    pub fn names(&self) -> &[String] {
        self.names.get().map_or(&[], Vec::as_slice)
    }

    /// Its first bytes are those of HTTP/2: from its first request on, heads are only a part of what comes.
    pub fn speaks_http2(&self) {
        self.is_http2.set(true);
    }

    /// Bytes have come.
    pub fn received(&self) {
        match self.phase.get() {
            // The time for the first head counts from accept.
            Phase::Fresh => self.phase.set(Phase::Head),
            Phase::Idle if !self.is_http2.get() => self.enter(Phase::Head),
            _ => {}
        }
    }

    /// The pace of a request's answer that is about to begin.
    pub fn begin_pace(&self) -> Rc<Pace> {
        let mut paces = self.paces.borrow_mut();
        match paces.first() {
            Some(only) if !self.is_http2.get() => Rc::clone(only),
            _ => {
                let pace = Pace::new(Rc::clone(&self.now));
                paces.push(Rc::clone(&pace));
                pace
            }
        }
    }

    /// The one that was begun last.
    pub fn latest_pace(&self) -> Rc<Pace> {
        let latest = self.paces.borrow().last().cloned();
        latest.unwrap_or_else(|| self.begin_pace())
    }

    /// Its answer has ended.
    pub fn forget_pace(&self, pace: &Rc<Pace>) {
        let mut paces = self.paces.borrow_mut();
        if let Some(index) = paces.iter().position(|other| Rc::ptr_eq(other, pace)) {
            paces.swap_remove(index);
        }
    }

    /// There are bytes for the caller and no room for them.
    pub fn takes_nothing(&self) {
        if self.untaken_since.get().is_none() {
            self.untaken_since.set(Some(self.now.get()));
        }
    }

    /// So many bytes have been taken: a connection on which an answer is still written is not idle.
    pub fn sent(&self, bytes: usize) {
        self.untaken_since.set(None);
        if self.phase.get() == Phase::Idle && bytes > CONTROL_FRAMES {
            self.since.set(self.now.get());
        }
    }

    /// A request's head is complete.
    pub fn request_begun(&self) {
        self.serving.set(self.serving.get() + 1);
        self.is_answering.set(true);
        self.enter(Phase::Serving);
    }

    /// A request's answer is handed over, or given up. Over HTTP/1 it is under way until it is flushed.
    pub fn request_ended(&self) {
        self.serving.set(self.serving.get().saturating_sub(1));
        if self.serving.get() == 0 && self.is_http2.get() {
            self.enter(Phase::Idle);
        }
    }

    /// Everything written so far is with the operating system.
    pub fn flushed(&self) {
        self.untaken_since.set(None);
        if self.serving.get() == 0 {
            self.is_answering.set(false);
            if self.phase.get() == Phase::Serving {
                self.enter(Phase::Idle);
            }
        }
    }

    /// Whether what is being written is part of an answer.
    pub fn is_answering(&self) -> bool {
        self.is_answering.get()
    }

    /// Some of a request will not be read.
    pub fn leave_unread(&self) {
        self.is_unread.set(true);
    }

    /// An answer broke off, and nothing but the connection's end will tell.
    pub fn cut_off(&self) {
        self.is_answer_cut_off.set(true);
    }

    /// Whether an answer broke off and the connection's end has to tell.
    pub fn is_answer_cut_off(&self) -> bool {
        self.is_answer_cut_off.get()
    }

    /// Whether to read on for a while after the last answer.
    pub fn begins_to_linger(&self) -> bool {
        if self.is_unread.get() && self.phase.get() != Phase::Lingering {
            self.enter(Phase::Lingering);
        }
        self.is_unread.get()
    }

    /// Ends the connection; a later call may only make it end sooner.
    pub fn end(&self, end: End) {
        if self.end.get().is_none_or(|before| before == End::Gracefully) {
            self.end.set(Some(end));
            if matches!(self.phase.get(), Phase::Handshake | Phase::Fresh) || self.is_http2.get() {
                self.since.set(self.now.get());
            }
            // First the streams, so that what they still say goes out with the connection's end.
            if end == End::Cut {
                self.paces.borrow().iter().for_each(|pace| pace.wake());
            }
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(task) = self.task.borrow().as_ref() {
            task.wake_by_ref();
        }
    }

    /// How the connection is to end, if it is to.
    pub fn wanted_end(&self) -> Option<End> {
        self.end.get()
    }

    /// Whether an HTTP/1 connection can be closed without a request being lost, as far as we can know: not while a head
    /// arrives, and not directly after an answer.
    pub fn is_at_rest(&self) -> bool {
        self.has_rested(LAST_CHANCE)
    }

    /// Whether nothing has come or gone for so long since the last answer.
    fn has_rested(&self, so_long: Duration) -> bool {
        self.phase.get() == Phase::Idle && self.now.get().duration_since(self.since.get()) >= so_long
    }

    /// Whether it has been used for long enough.
    fn is_expired(&self) -> bool {
        self.expires.is_some_and(|expires| self.now.get() >= expires)
    }

    /// Whether the next answer is the connection's last.
    pub fn is_ending(&self) -> bool {
        self.is_expired() || self.end.get().is_some()
    }

    /// The task to wake when the connection is to end.
    pub fn set_task(&self, waker: &Waker) {
        let mut task = self.task.borrow_mut();
        if !task.as_ref().is_some_and(|task| task.will_wake(waker)) {
            *task = Some(waker.clone());
        }
    }

    /// The bytes are those of HTTP/1: the one task also writes the answers.
    pub fn speaks_http1(&self) {
        if let Some(task) = self.task.borrow().as_ref() {
            self.begin_pace().set_task(task);
        }
    }

    /// Ends the connection if what it is doing takes too long.
    pub fn sweep(&self, limits: &Limits) {
        let now = self.now.get();
        if self.untaken_since.get().is_some_and(|since| now.duration_since(since) >= limits.write_timeout) {
            return self.end(End::Untaken);
        }
        for pace in &*self.paces.borrow() {
            if self.untaken_since.get().is_some() {
                pace.excuse();
            }
            pace.sweep(self.is_http2.get().then_some(limits.write_timeout));
        }
        self.grow_old();
        let (allowed, end) = match self.phase.get() {
            Phase::Handshake if self.end.get().is_some() => {
                (LAST_CHANCE.min(limits.tls_timeout), End::AtOnce)
            }
            Phase::Handshake => (limits.tls_timeout, End::AtOnce),
            Phase::Fresh if self.end.get().is_some() => (LAST_CHANCE.min(limits.header_timeout), End::AtOnce),
            Phase::Head if self.is_http2.get() && self.end.get().is_some() => (LINGER, End::AtOnce),
            Phase::Head if self.is_http2.get() => (limits.header_timeout, End::Gracefully),
            Phase::Fresh | Phase::Head => (limits.header_timeout, End::HeadTimeout),
            // What was handed over may still be on its way in a window that the caller opens late.
            Phase::Idle if self.end.get().is_some() => {
                self.wake();
                (LINGER, End::AtOnce)
            }
            Phase::Idle if !self.is_http2.get() => {
                if !self.is_parked.get() && self.is_at_rest() {
                    self.wake();
                }
                (limits.idle_timeout, End::AtOnce)
            }
            Phase::Idle => (limits.idle_timeout, End::Gracefully),
            Phase::Lingering => (LINGER, End::AtOnce),
            Phase::Serving => return,
        };
        if now.duration_since(self.since.get()) >= allowed {
            self.end(end);
        }
    }

    /// Ends a connection that has been used for long enough, where no request can be lost by that.
    ///
    /// Over HTTP/1 the next answer says so. A caller without a next request is let go when none has come for a
    /// while: one that was just answered may be sending another.
    fn grow_old(&self) {
        let may_end = self.is_http2.get() || self.has_rested(REST);
        if self.end.get().is_none() && self.is_expired() && may_end {
            self.end(End::Gracefully);
        }
    }

    /// Whether anything of the request whose head is awaited has come.
    pub fn has_begun_a_head(&self) -> bool {
        self.phase.get() == Phase::Head
    }

    fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.since.set(self.now.get());
    }
}
