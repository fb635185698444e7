//! Stall detection for request bodies: a timeout for each pause, and a minimum average rate.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::proxy::suspension;

/// The total wait for a body before the minimum rate applies.
const RATE_GRACE: Duration = Duration::from_secs(5);

/// Stands for no limit of a pause.
const NO_TIMEOUT: Duration = Duration::from_hours(24 * 365);

/// The time spent waiting for the caller to send one body.
#[derive(Debug)]
pub(super) struct StallTimer {
    /// The longest pause; `None` once stopped.
    timeout: Option<Duration>,
    /// The minimum rate, in bytes a second; 0 is no minimum.
    min_rate: u64,
    /// The wait in progress.
    pause: Option<Pause>,
    /// The total of the earlier waits.
    waited: Duration,
}

#[derive(Debug)]
struct Pause {
    since: Instant,
    end: Pin<Box<Sleep>>,
}

impl StallTimer {
    /// `timeout` bounds each pause, and `min_rate` the average bytes a second.
    pub(super) const fn new(timeout: Duration, min_rate: u64) -> Self {
        Self { timeout: Some(timeout), min_rate, pause: None, waited: Duration::ZERO }
    }

    /// Replaces the limits before the first wait; zero is no limit, `None` leaves the limit.
    pub(super) fn limit(&mut self, timeout: Option<Duration>, min_rate: Option<u64>) {
        if let Some(timeout) = timeout {
            self.timeout = Some(if timeout.is_zero() { NO_TIMEOUT } else { timeout });
        }
        self.min_rate = min_rate.unwrap_or(self.min_rate);
    }

    /// Waits for more data; ready when the body, of which `received` bytes have arrived, has stalled. A caller that
    /// `is_excused` cannot send at the moment and does not stall.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, received: u64, is_excused: bool) -> Poll<()> {
        let Some(timeout) = self.timeout else {
            return Poll::Pending;
        };
        if self.pause.is_none() && self.is_too_slow(received) && !is_excused {
            return Poll::Ready(());
        }
        loop {
            let pause = self.pause.get_or_insert_with(|| Pause {
                since: Instant::now(),
                end: Box::pin(tokio::time::sleep(timeout)),
            });
            ready!(pause.end.as_mut().poll(cx));
            if let Some(later) = suspension::extended(pause.end.deadline()) {
                pause.end.as_mut().reset(later);
                continue;
            }
            if !is_excused {
                return Poll::Ready(());
            }
            self.pause = None;
        }
    }

    /// Ends a pause because data has arrived.
    pub(super) fn end_pause(&mut self, is_excused: bool) {
        if let Some(pause) = self.pause.take()
            && !is_excused
        {
            self.waited += pause.since.elapsed();
        }
    }

    /// Ends a pause because the body is not being read.
    pub(super) fn suspend(&mut self) {
        self.pause = None;
    }

    /// Ends all stall detection.
    pub(super) fn stop(&mut self) {
        self.pause = None;
        self.timeout = None;
    }

    /// Whether the average rate is below the minimum. Only time spent waiting counts.
    fn is_too_slow(&self, received: u64) -> bool {
        let due = self.waited.as_millis() * u128::from(self.min_rate) / 1000;
        self.waited >= RATE_GRACE && u128::from(received) < due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(15);

    /// A timer with a minimum rate of 240 bytes a second.
    const fn timer() -> StallTimer {
        StallTimer::new(TIMEOUT, 240)
    }

    /// Whether the timer still waits when a chunk arrives after `pause` seconds, with `received` bytes before the
    /// chunk.
    async fn waits(timer: &mut StallTimer, pause: u64, received: u64, is_excused: bool) -> bool {
        let out = std::future::poll_fn(|cx| timer.poll(cx, received, is_excused));
        let waited = tokio::time::timeout(Duration::from_secs(pause), out).await.is_err();
        timer.end_pause(is_excused);
        waited
    }

    #[tokio::test(start_paused = true)]
    async fn the_timeout_applies_to_each_pause_anew() {
        let mut timer = StallTimer::new(TIMEOUT, 0);
        for _ in 0..10 {
            assert!(waits(&mut timer, 14, 1, false).await);
        }
        assert!(!waits(&mut timer, 16, 1, false).await);
    }

    #[tokio::test(start_paused = true)]
    async fn the_minimum_rate_applies_after_five_seconds_to_the_whole_wait() {
        let mut timer = timer();
        for second in 0..5 {
            assert!(waits(&mut timer, 1, second, false).await);
        }
        assert!(!waits(&mut timer, 1, 5, false).await);
        assert!(waits(&mut timer, 1, 1200, false).await);
        // Earlier data counts.
        assert!(waits(&mut timer, 14, 24_000, false).await);
        assert!(!waits(&mut timer, 1, 4_700, false).await);
    }

    #[tokio::test(start_paused = true)]
    async fn time_when_the_caller_cannot_send_or_the_body_is_not_read_does_not_count() {
        let mut timer = timer();
        for _ in 0..10 {
            assert!(waits(&mut timer, 100, 0, true).await);
        }
        let out = std::future::poll_fn(|cx| timer.poll(cx, 0, false));
        assert!(tokio::time::timeout(Duration::from_secs(1), out).await.is_err());
        tokio::time::advance(Duration::from_mins(1)).await;
        timer.suspend();
        assert!(waits(&mut timer, 4, 0, false).await);
    }
}
