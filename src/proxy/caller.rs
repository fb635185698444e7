//! What is known of a caller's connection while it lives: who it is, what it is doing, and since when.
//!
//! Shared by the connection's socket, its requests and the worker's sweep. The sweep looks at every connection
//! a few times a second and ends those that take too long; a request only notes what it does, and no timer is
//! set for it.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;

use super::upgrade::Slot;
use crate::config::Limits;

/// How long a request is read on after it was answered, for the caller to take the answer.
pub const LINGER: Duration = Duration::from_secs(5);

/// Over HTTP/2, what is written at once where it is no answer: acknowledgements of pings and settings.
const CONTROL_FRAMES: usize = 128;

/// How long a new connection has to begin a request when the daemon is about to stop.
const LAST_CHANCE: Duration = Duration::from_secs(1);

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
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
    /// When what is in flight is answered.
    Gracefully,
    /// Now: a request head did not arrive in time.
    HeadTimeout,
    /// Now.
    AtOnce,
}

/// A caller's connection.
#[derive(Debug)]
pub struct Caller {
    /// Its address, an IPv4 one as such even where it came in over IPv6.
    pub peer: SocketAddr,
    /// Whether requests from there are answered.
    pub is_allowed: bool,
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
    end: Cell<Option<End>>,
    /// What it is to become.
    pub upgrade: Slot,
    task: RefCell<Option<Waker>>,
}

impl Caller {
    /// A connection that was just accepted; `now` is the worker's clock.
    pub fn new(peer: SocketAddr, is_allowed: bool, now: Rc<Cell<Instant>>) -> Rc<Self> {
        let since = Cell::new(now.get());
        Rc::new(Self {
            peer,
            is_allowed,
            now,
            phase: Cell::new(Phase::Fresh),
            since,
            serving: Cell::new(0),
            is_http2: Cell::new(false),
            is_answering: Cell::new(false),
            is_unread: Cell::new(false),
            is_answer_cut_off: Cell::new(false),
            end: Cell::new(None),
            upgrade: Slot::default(),
            task: RefCell::new(None),
        })
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

    /// So many bytes have been taken: a connection on which an answer is still written is not idle.
    pub fn sent(&self, bytes: usize) {
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
            if matches!(self.phase.get(), Phase::Fresh | Phase::Idle) || self.is_http2.get() {
                self.since.set(self.now.get());
            }
            if let Some(task) = self.task.borrow().as_ref() {
                task.wake_by_ref();
            }
        }
    }

    /// How the connection is to end, if it is to.
    pub fn wanted_end(&self) -> Option<End> {
        self.end.get()
    }

    /// The task to wake when the connection is to end.
    pub fn set_task(&self, waker: &Waker) {
        let mut task = self.task.borrow_mut();
        if !task.as_ref().is_some_and(|task| task.will_wake(waker)) {
            *task = Some(waker.clone());
        }
    }

    /// Ends the connection if what it is doing takes too long.
    pub fn sweep(&self, limits: &Limits) {
        let (allowed, end) = match self.phase.get() {
            Phase::Fresh if self.end.get().is_some() => (LAST_CHANCE.min(limits.header_timeout), End::AtOnce),
            Phase::Head if self.is_http2.get() && self.end.get().is_some() => (LINGER, End::AtOnce),
            Phase::Head if self.is_http2.get() => (limits.header_timeout, End::Gracefully),
            Phase::Fresh | Phase::Head => (limits.header_timeout, End::HeadTimeout),
            Phase::Idle if !self.is_http2.get() => (limits.idle_timeout, End::AtOnce),
            // What was handed over may still be on its way in a window that the caller opens late.
            Phase::Idle if self.end.get().is_some() => (LINGER, End::AtOnce),
            Phase::Idle => (limits.idle_timeout, End::Gracefully),
            Phase::Lingering => (LINGER, End::AtOnce),
            Phase::Serving => return,
        };
        if self.now.get().duration_since(self.since.get()) >= allowed {
            self.end(end);
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
