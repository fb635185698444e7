//! Runs work that may block for ever, such as reading a file, on a thread of its own, and bounds the wait for
//! the result.
//!
//! A file system can hang, and a thread that hangs in a file system cannot be stopped. [`Blocking`] therefore
//! runs one piece of work at a time: work that hangs costs one thread, and not one for each attempt.

use std::time::Duration;

use thiserror::Error;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Does blocking work, one piece at a time.
#[derive(Debug)]
pub struct Blocking<T> {
    limit: Duration,
    running: Option<Running<T>>,
}

#[derive(Debug)]
struct Running<T> {
    work: JoinHandle<T>,
    since: Instant,
}

/// Why blocking work brought no result.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum BlockingError {
    /// The limit has passed since the work began. The work goes on, and no other begins meanwhile.
    #[error("did not finish in time")]
    TimedOut,
    /// The work panicked.
    #[error("panicked")]
    Panicked,
}

impl<T: Send + 'static> Blocking<T> {
    /// Creates a runner that waits for the result of work at most `limit` after the work began.
    pub const fn new(limit: Duration) -> Self {
        Self { limit, running: None }
    }

    /// Whether work has begun whose result nobody has received.
    pub const fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Begins this work unless other work is running, and waits for the result of whichever is running then.
    ///
    /// # Cancel safety
    ///
    /// The work goes on, and the next call waits for its result.
    pub async fn run(&mut self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, BlockingError> {
        let running = self.running.get_or_insert_with(|| Running {
            work: tokio::task::spawn_blocking(work),
            since: Instant::now(),
        });
        let result = running.result(self.limit).await;
        self.forget_unless_timed_out(&result);
        result
    }

    /// Waits for the result of the running work, at most until its limit; `None` if no work is running.
    ///
    /// # Cancel safety
    ///
    /// As of [`Blocking::run`].
    pub async fn settle(&mut self) -> Option<Result<T, BlockingError>> {
        let result = self.running.as_mut()?.result(self.limit).await;
        self.forget_unless_timed_out(&result);
        Some(result)
    }

    /// Waits for the result of the running work, without a limit; `None` if no work is running.
    ///
    /// # Errors
    ///
    /// [`BlockingError::Panicked`].
    ///
    /// # Cancel safety
    ///
    /// As of [`Blocking::run`].
    pub async fn ended(&mut self) -> Option<Result<T, BlockingError>> {
        let result = (&mut self.running.as_mut()?.work).await;
        self.running = None;
        Some(result.map_err(|_| BlockingError::Panicked))
    }

    fn forget_unless_timed_out(&mut self, result: &Result<T, BlockingError>) {
        if !matches!(result, Err(BlockingError::TimedOut)) {
            self.running = None;
        }
    }
}

impl<T> Running<T> {
    async fn result(&mut self, limit: Duration) -> Result<T, BlockingError> {
        let left = limit.saturating_sub(self.since.elapsed());
        match tokio::time::timeout(left, &mut self.work).await {
            Ok(result) => result.map_err(|_| BlockingError::Panicked),
            Err(_) => Err(BlockingError::TimedOut),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures_util::FutureExt;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(3);

    /// Time is moved by hand: paused time does not move by itself while a thread is blocked.
    #[tokio::test(start_paused = true)]
    async fn work_that_hangs_is_waited_for_once_and_no_other_begins_meanwhile() {
        let (release, released) = mpsc::sync_channel::<()>(1);
        let mut blocking = Blocking::new(LIMIT);
        let hang = move || {
            let _ = released.recv();
            "first"
        };
        let (result, ()) = tokio::join!(blocking.run(hang), tokio::time::advance(LIMIT));
        assert_eq!(result, Err(BlockingError::TimedOut));
        for _ in 0..100 {
            assert_eq!(blocking.run(|| "another").await, Err(BlockingError::TimedOut));
        }
        assert_eq!(blocking.settle().await, Some(Err(BlockingError::TimedOut)));

        drop(release);
        while !blocking.running.as_ref().unwrap().work.is_finished() {
            tokio::task::yield_now().await;
        }
        assert_eq!(blocking.run(|| "another").await, Ok("first"));
        assert_eq!(blocking.run(|| "another").await, Ok("another"));
        assert_eq!(blocking.settle().await, None);
    }

    #[tokio::test]
    async fn the_result_of_work_whose_caller_has_left_goes_to_the_next() {
        let (release, released) = mpsc::sync_channel::<()>(1);
        let mut blocking = Blocking::new(LIMIT);
        let waits = move || {
            let _ = released.recv();
            1
        };
        assert!(blocking.run(waits).now_or_never().is_none());
        assert!(blocking.is_running());
        drop(release);

        assert_eq!(blocking.settle().await, Some(Ok(1)));
        assert!(!blocking.is_running());
    }

    #[tokio::test]
    async fn work_that_panics_is_over() {
        let mut blocking = Blocking::new(LIMIT);

        assert_eq!(blocking.run(|| panic!("of its own")).await, Err(BlockingError::Panicked));
        assert_eq!(blocking.run(|| 2).await, Ok(2));
    }
}
