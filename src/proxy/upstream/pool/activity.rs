//! The waker of an HTTP/1.1 connection, which has no task of its own.
//!
//! The request that a connection carries polls the connection, and so causes most of the wakes by itself: hyper passes a
//! response and its body through channels. Such a wake would make the task run once more for nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};

use futures_util::task::AtomicWaker;

/// Notes that something has happened on a connection, and wakes the task that polls it.
#[derive(Debug)]
pub(super) struct Activity {
    signal: Arc<Signal>,
    waker: Waker,
}

#[derive(Debug, Default)]
struct Signal {
    task: AtomicWaker,
    /// Whether nothing has happened since the last poll.
    is_quiet: AtomicBool,
    is_ignored: AtomicBool,
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_ignored.load(Ordering::Relaxed) {
            self.is_quiet.store(false, Ordering::Relaxed);
            self.task.wake();
        }
    }
}

impl Activity {
    /// That of a connection that was not polled yet.
    pub(super) fn new() -> Self {
        let signal = Arc::<Signal>::default();
        Self { waker: Waker::from(Arc::clone(&signal)), signal }
    }

    /// Wakes this task from now on.
    pub(super) fn set_task(&self, waker: &Waker) {
        self.signal.task.register(waker);
    }

    /// Wakes no task from now on.
    pub(super) fn forget_task(&self) {
        drop(self.signal.task.take());
    }

    /// Polls the connection.
    pub(super) fn poll<T>(&self, poll: impl FnOnce(&mut Context<'_>) -> T) -> T {
        self.signal.is_quiet.store(true, Ordering::Relaxed);
        poll(&mut Context::from_waker(&self.waker))
    }

    /// Runs what makes the connection wake, but is followed by a poll of the connection anyway.
    pub(super) fn ignore<T>(&self, cause: impl FnOnce() -> T) -> T {
        self.signal.is_ignored.store(true, Ordering::Relaxed);
        let outcome = cause();
        self.signal.is_ignored.store(false, Ordering::Relaxed);
        outcome
    }

    /// Whether nothing has happened since the connection was last polled, so that another poll would change nothing.
    pub(super) fn is_quiet(&self) -> bool {
        self.signal.is_quiet.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_wake_reaches_the_task_unless_it_is_ignored_or_there_is_no_task() {
        let counter = Arc::<Count>::default();
        let count = || counter.0.load(Ordering::Relaxed);
        let activity = Activity::new();
        let poll = || activity.poll(|cx| cx.waker().clone());
        assert!(!activity.is_quiet(), "it was not polled yet");
        activity.set_task(&Waker::from(Arc::clone(&counter)));
        let waker = poll();
        assert!(activity.is_quiet());

        activity.ignore(|| waker.wake_by_ref());
        assert!(activity.is_quiet() && count() == 0);
        waker.wake_by_ref();
        assert!(!activity.is_quiet() && count() == 1);

        activity.set_task(&Waker::from(Arc::clone(&counter)));
        activity.forget_task();
        poll().wake();
        assert!(!activity.is_quiet() && count() == 1);
    }
}
