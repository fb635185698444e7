//! Response stall detection: which side keeps a response waiting, and since when.
//!
//! A response that waits for its upstream is given up after the route's `read_timeout`. Over HTTP/2, a response that
//! waits for the client to open its stream's window is given up after `write_timeout`; over HTTP/1 the connection's
//! socket shows that. The response notes what it does, and the worker's sweep compares that with the time-outs. The sweep
//! also notes that a response head is late: no request has a timer of its own.

use std::cell::{Cell, RefCell};
use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;

use super::interim::InterimResponses;
use super::since::Since;

/// The waker of a task, once there is one.
#[derive(Debug, Default)]
pub struct Task(RefCell<Option<Waker>>);

impl Task {
    /// Sets the waker.
    pub fn set(&self, waker: &Waker) {
        let mut task = self.0.borrow_mut();
        if !task.as_ref().is_some_and(|task| task.will_wake(waker)) {
            *task = Some(waker.clone());
        }
    }

    /// The waker.
    pub fn waker(&self) -> Option<Waker> {
        self.0.borrow().clone()
    }

    /// Wakes the task.
    pub fn wake(&self) {
        if let Some(task) = self.0.borrow().as_ref() {
            task.wake_by_ref();
        }
    }
}

/// A side that a response waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The upstream has to send the next piece.
    Upstream,
    /// The caller has to read the last piece.
    Caller,
}

/// The progress of one response: an HTTP/2 stream's, or the present one of an HTTP/1 connection.
#[derive(Debug, Default)]
pub struct Progress {
    waits_for: Cell<Option<Side>>,
    since: Since,
    read_timeout: Cell<Option<Duration>>,
    stalled: Cell<Option<Side>>,
    /// When the response head has to have arrived, while it is awaited.
    head_deadline: Cell<Option<Instant>>,
    is_head_late: Cell<bool>,
    /// Whether at least part of the request may have been sent upstream.
    pub is_sent: Cell<bool>,
    /// Whether there is a response.
    pub is_answered: Cell<bool>,
    /// The interim responses that precede the response.
    pub(super) interim: InterimResponses,
    /// The task to wake when one side kept the response waiting for too long.
    pub task: Task,
}

impl Progress {
    /// A response begins, and its upstream may pause for `read_timeout`.
    pub fn begin(&self, read_timeout: Option<Duration>) {
        self.read_timeout.set(read_timeout);
        self.is_sent.set(false);
        self.stalled.set(None);
        self.expect_head_by(None);
        self.interim.begin();
        self.awaits_nobody();
    }

    /// The head of the response has to arrive by this time; `None` once it is no longer awaited.
    pub fn expect_head_by(&self, deadline: Option<Instant>) {
        self.head_deadline.set(deadline);
        self.is_head_late.set(false);
    }

    /// Whether a sweep has found the head of the response to be late.
    pub fn is_head_late(&self) -> bool {
        self.is_head_late.get()
    }

    /// A piece of the response was handed over, and the caller has to read it.
    pub fn awaits_caller(&self) {
        self.waits_for.set(Some(Side::Caller));
        self.moved();
    }

    /// The upstream has to send the next piece.
    pub fn awaits_upstream(&self) {
        if self.waits_for.replace(Some(Side::Upstream)) != Some(Side::Upstream) {
            self.moved();
        }
    }

    /// The response waits for nobody.
    pub fn awaits_nobody(&self) {
        self.waits_for.set(None);
    }

    /// The response got on: a stall that the sweep found, and nothing has acted on, is over.
    fn moved(&self) {
        self.since.begin();
        self.stalled.set(None);
    }

    /// The side that kept the response waiting for too long, if one did.
    pub fn stalled(&self) -> Option<Side> {
        self.stalled.get()
    }

    /// Restarts the caller's time: the connection as a whole is congested, so that this response cannot be written.
    pub fn excuse(&self) {
        if self.waits_for.get() == Some(Side::Caller) {
            self.since.begin();
        }
    }

    /// Notes a response head that is late, and a side that keeps the response waiting for too long; the caller only with a
    /// `write_timeout`. `now` is the time of the sweep, and `system_now` the same without the pauses of the process.
    pub fn sweep(&self, now: Instant, system_now: Instant, write_timeout: Option<Duration>) {
        if self.head_deadline.get().is_some_and(|deadline| system_now >= deadline)
            && !self.is_head_late.replace(true)
        {
            self.task.wake();
        }
        let Some(side) = self.waits_for.get() else { return };
        let allowed = match side {
            Side::Upstream => self.read_timeout.get(),
            Side::Caller => write_timeout,
        };
        let waited = self.since.sweep(now);
        if self.stalled.get().is_none() && allowed.is_some_and(|allowed| waited >= allowed) {
            self.stalled.set(Some(side));
            self.task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: Duration = Duration::from_secs(5);
    const WRITE: Duration = Duration::from_secs(3);

    /// A progress with its clock.
    fn progress() -> (Cell<Instant>, Progress) {
        let progress = Progress::default();
        progress.begin(Some(READ));
        (Cell::new(Instant::now()), progress)
    }

    /// What a sweep finds so many seconds after another one.
    fn after(now: &Cell<Instant>, progress: &Progress, seconds: u64) -> Option<Side> {
        for seconds in [0, seconds] {
            now.set(now.get() + Duration::from_secs(seconds));
            progress.sweep(now.get(), now.get(), Some(WRITE));
        }
        progress.stalled()
    }

    #[test]
    fn an_upstream_may_pause_for_the_read_timeout_before_each_piece() {
        let (now, progress) = progress();
        progress.awaits_upstream();
        assert_eq!(after(&now, &progress, 4), None);
        progress.awaits_caller();
        progress.awaits_upstream();
        assert_eq!(after(&now, &progress, 4), None);
        // Looking again is no progress.
        progress.awaits_upstream();
        assert_eq!(after(&now, &progress, 1), Some(Side::Upstream));
    }

    #[test]
    fn a_caller_stalls_a_response_only_while_it_has_a_piece_to_read() {
        let (now, progress) = progress();
        progress.awaits_caller();
        assert_eq!(after(&now, &progress, 2), None);
        progress.awaits_caller();
        assert_eq!(after(&now, &progress, 2), None);
        progress.awaits_upstream();
        assert_eq!(after(&now, &progress, 4), None);
        progress.awaits_nobody();
        assert_eq!(after(&now, &progress, 100), None);
        progress.awaits_caller();
        assert_eq!(after(&now, &progress, 3), Some(Side::Caller));
    }

    #[test]
    fn a_stall_ends_when_the_response_gets_on_or_another_begins() {
        let (now, progress) = progress();
        progress.awaits_upstream();
        assert_eq!(after(&now, &progress, 5), Some(Side::Upstream));
        progress.awaits_caller();
        assert_eq!(progress.stalled(), None);
        assert_eq!(after(&now, &progress, 3), Some(Side::Caller));
        progress.awaits_upstream();
        assert_eq!(progress.stalled(), None);

        assert_eq!(after(&now, &progress, 5), Some(Side::Upstream));
        progress.begin(Some(READ));
        assert_eq!(progress.stalled(), None);
    }

    #[test]
    fn a_congested_connection_excuses_its_caller_and_not_the_upstream() {
        let (now, progress) = progress();
        progress.awaits_caller();
        for _ in 0..10 {
            assert_eq!(after(&now, &progress, 2), None);
            progress.excuse();
        }
        progress.awaits_upstream();
        assert_eq!(after(&now, &progress, 4), None);
        progress.excuse();
        assert_eq!(after(&now, &progress, 1), Some(Side::Upstream));
    }

    #[test]
    fn a_head_is_late_from_its_deadline_until_another_one_is_set() {
        let (now, progress) = progress();
        let begun = now.get();
        let is_late_after = |seconds| {
            progress.sweep(begun, begun + Duration::from_secs(seconds), None);
            progress.is_head_late()
        };
        assert!(!is_late_after(100));
        progress.expect_head_by(Some(begun + READ));
        assert!(!is_late_after(4) && is_late_after(5) && is_late_after(6));
        progress.expect_head_by(Some(begun + 2 * READ));
        assert!(!is_late_after(9) && is_late_after(10));
        progress.expect_head_by(None);
        assert!(!is_late_after(100));
        progress.expect_head_by(Some(begun));
        progress.begin(None);
        assert!(!is_late_after(100));
    }

    #[test]
    fn without_a_timeout_a_response_never_stalls() {
        let (now, progress) = progress();
        progress.begin(None);
        progress.awaits_upstream();
        assert_eq!(after(&now, &progress, 1_000_000), None);
        progress.awaits_caller();
        progress.sweep(now.get(), now.get(), None);
        now.set(now.get() + Duration::from_hours(1));
        progress.sweep(now.get(), now.get(), None);
        assert_eq!(progress.stalled(), None);
    }
}
