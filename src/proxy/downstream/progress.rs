//! How an answer gets on: whom it waits for, and since when.
//!
//! An answer that waits for its upstream is given up after the route's `read_timeout`. Over HTTP/2 one that waits
//! for its caller to open the stream's window is given up after `write_timeout`; over HTTP/1 the socket tells
//! that, for the connection. The worker's sweep finds both; an answer only notes what it does.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;

/// Whom an answer waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WaitsFor {
    Nobody,
    Upstream,
    Caller,
}

/// Who kept an answer waiting for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stalled {
    /// The upstream sent nothing.
    Upstream,
    /// The caller took nothing.
    Caller,
}

/// One answer at a time: that of an HTTP/2 stream, or the present one of an HTTP/1 connection.
#[derive(Debug)]
pub struct Pace {
    /// The time as of the worker's last sweep.
    now: Rc<Cell<Instant>>,
    waits_for: Cell<WaitsFor>,
    since: Cell<Instant>,
    read_timeout: Cell<Option<Duration>>,
    stalled: Cell<Option<Stalled>>,
    /// Whether the request has been sent, if only in part.
    is_sent: Cell<bool>,
    task: RefCell<Option<Waker>>,
}

impl Pace {
    /// No answer yet; `now` is the worker's clock.
    pub fn new(now: Rc<Cell<Instant>>) -> Rc<Self> {
        let since = Cell::new(now.get());
        Rc::new(Self {
            now,
            waits_for: Cell::new(WaitsFor::Nobody),
            since,
            read_timeout: Cell::new(None),
            stalled: Cell::new(None),
            is_sent: Cell::new(false),
            task: RefCell::new(None),
        })
    }

    /// An answer begins, whose upstream may pause for so long.
    pub fn begin(&self, read_timeout: Option<Duration>) {
        self.read_timeout.set(read_timeout);
        self.is_sent.set(false);
        self.rest();
    }

    /// The upstream is given the request.
    pub fn sent(&self) {
        self.is_sent.set(true);
    }

    /// Whether the upstream has been given the request, if only in part.
    pub fn is_sent(&self) -> bool {
        self.is_sent.get()
    }

    /// A piece of the answer has been handed over: it is for the caller to take it.
    pub fn gave(&self) {
        self.waits_for.set(WaitsFor::Caller);
        self.since.set(self.now.get());
    }

    /// There is no further piece yet.
    pub fn awaits_upstream(&self) {
        if self.waits_for.replace(WaitsFor::Upstream) != WaitsFor::Upstream {
            self.since.set(self.now.get());
        }
    }

    /// There is nothing to wait for.
    pub fn rest(&self) {
        self.waits_for.set(WaitsFor::Nobody);
    }

    /// Who kept the answer waiting for too long, if someone did.
    pub fn stalled(&self) -> Option<Stalled> {
        self.stalled.get()
    }

    /// The task to wake when someone did.
    pub fn set_task(&self, waker: &Waker) {
        let mut task = self.task.borrow_mut();
        if !task.as_ref().is_some_and(|task| task.will_wake(waker)) {
            *task = Some(waker.clone());
        }
    }

    /// The connection as a whole is congested, and its answers take turns: none of them is the one that is not taken.
    pub fn excuse(&self) {
        if self.waits_for.get() == WaitsFor::Caller {
            self.since.set(self.now.get());
        }
    }

    /// Looks whether someone keeps the answer waiting for too long; a caller, only where a time is given.
    pub fn sweep(&self, write_timeout: Option<Duration>) {
        let (stalled, allowed) = match self.waits_for.get() {
            WaitsFor::Nobody => return,
            WaitsFor::Upstream => (Stalled::Upstream, self.read_timeout.get()),
            WaitsFor::Caller => (Stalled::Caller, write_timeout),
        };
        let waited = self.now.get().duration_since(self.since.get());
        if self.stalled.get().is_none() && allowed.is_some_and(|allowed| waited >= allowed) {
            self.stalled.set(Some(stalled));
            self.wake();
        }
    }

    /// Has the answer's task look again.
    pub fn wake(&self) {
        if let Some(task) = self.task.borrow().as_ref() {
            task.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: Duration = Duration::from_secs(5);
    const WRITE: Duration = Duration::from_secs(3);

    /// A pace with its clock.
    fn pace() -> (Rc<Cell<Instant>>, Rc<Pace>) {
        let now = Rc::new(Cell::new(Instant::now()));
        let pace = Pace::new(Rc::clone(&now));
        pace.begin(Some(READ));
        (now, pace)
    }

    fn pass(now: &Cell<Instant>, pace: &Pace, seconds: u64) -> Option<Stalled> {
        now.set(now.get() + Duration::from_secs(seconds));
        pace.sweep(Some(WRITE));
        pace.stalled()
    }

    #[test]
    fn an_upstream_may_pause_for_its_time_and_each_piece_gives_it_anew() {
        let (now, pace) = pace();
        pace.awaits_upstream();
        assert_eq!(pass(&now, &pace, 4), None);
        pace.gave();
        pace.awaits_upstream();
        assert_eq!(pass(&now, &pace, 4), None);
        // Looking again is no progress.
        pace.awaits_upstream();
        assert_eq!(pass(&now, &pace, 1), Some(Stalled::Upstream));
    }

    #[test]
    fn a_caller_is_blamed_for_what_it_was_given_and_for_nothing_else() {
        let (now, pace) = pace();
        pace.gave();
        assert_eq!(pass(&now, &pace, 2), None);
        pace.gave();
        assert_eq!(pass(&now, &pace, 2), None);
        pace.awaits_upstream();
        assert_eq!(pass(&now, &pace, 4), None);
        pace.rest();
        assert_eq!(pass(&now, &pace, 100), None);
        pace.gave();
        assert_eq!(pass(&now, &pace, 3), Some(Stalled::Caller));
    }

    #[test]
    fn while_the_connection_is_congested_no_answer_is_blamed_and_an_upstream_is_all_the_same() {
        let (now, pace) = pace();
        pace.gave();
        for _ in 0..10 {
            assert_eq!(pass(&now, &pace, 2), None);
            pace.excuse();
        }
        pace.awaits_upstream();
        assert_eq!(pass(&now, &pace, 4), None);
        pace.excuse();
        assert_eq!(pass(&now, &pace, 1), Some(Stalled::Upstream));
    }

    #[test]
    fn without_a_time_nobody_is_blamed() {
        let (now, pace) = pace();
        pace.begin(None);
        pace.awaits_upstream();
        assert_eq!(pass(&now, &pace, 1_000_000), None);
        pace.gave();
        now.set(now.get() + Duration::from_hours(1));
        pace.sweep(None);
        assert_eq!(pace.stalled(), None);
    }
}
