//! Stall detection for request bodies: a timeout for each pause, and a minimum average rate.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// The total wait for a body before the minimum rate applies.
const RATE_GRACE: Duration = Duration::from_secs(5);

/// The time spent waiting for the caller to send one body.
#[derive(Debug, Default)]
pub struct StallTimer {
    /// The wait in progress.
    pause: Option<Pause>,
    /// The total of the waits before.
    waited: Duration,
}

#[derive(Debug)]
struct Pause {
    since: Instant,
    end: Pin<Box<Sleep>>,
}

impl StallTimer {
    /// Waits for more data; ready when the body has stalled.
    ///
    /// `timeout` bounds this pause. A pause does not begin if less than `rate` bytes for each second of waiting were
    /// `received`. A caller that `is_excused` cannot send at the moment and does not stall.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        timeout: Duration,
        (received, rate): (u64, u64),
        is_excused: bool,
    ) -> Poll<()> {
        if self.pause.is_none() && self.is_too_slow(received, rate) && !is_excused {
            return Poll::Ready(());
        }
        loop {
            let pause = self.pause.get_or_insert_with(|| Pause {
                since: Instant::now(),
                end: Box::pin(tokio::time::sleep(timeout)),
            });
            ready!(pause.end.as_mut().poll(cx));
            if !is_excused {
                return Poll::Ready(());
            }
            self.pause = None;
        }
    }

    /// Ends a pause because data has arrived.
    pub fn end_pause(&mut self, is_excused: bool) {
        if let Some(pause) = self.pause.take()
            && !is_excused
        {
            self.waited += pause.since.elapsed();
        }
    }

    /// Ends a pause because the body is not being read.
    pub fn suspend(&mut self) {
        self.pause = None;
    }

    /// Whether the average rate is below `rate` bytes a second. Only time spent waiting counts.
    fn is_too_slow(&self, received: u64, rate: u64) -> bool {
        let due = self.waited.as_millis() * u128::from(rate) / 1000;
        self.waited >= RATE_GRACE && u128::from(received) < due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(15);

    /// Whether the timer still waits when a chunk arrives after `pause` seconds.
    async fn waits(timer: &mut StallTimer, pause: u64, progress: (u64, u64), is_excused: bool) -> bool {
        let out = std::future::poll_fn(|cx| timer.poll(cx, TIMEOUT, progress, is_excused));
        let waited = tokio::time::timeout(Duration::from_secs(pause), out).await.is_err();
        timer.end_pause(is_excused);
        waited
    }

    #[tokio::test(start_paused = true)]
    async fn the_timeout_applies_to_each_pause_anew() {
        let mut timer = StallTimer::default();
        for _ in 0..10 {
            assert!(waits(&mut timer, 14, (1, 0), false).await);
        }
        assert!(!waits(&mut timer, 16, (1, 0), false).await);
    }

    #[tokio::test(start_paused = true)]
    async fn the_minimum_rate_applies_after_five_seconds_to_the_whole_wait() {
        let mut timer = StallTimer::default();
        for second in 0..5 {
            assert!(waits(&mut timer, 1, (second, 240), false).await);
        }
        assert!(!waits(&mut timer, 1, (5, 240), false).await);
        assert!(waits(&mut timer, 1, (1200, 240), false).await);
        // Earlier data counts.
        assert!(waits(&mut timer, 14, (24_000, 240), false).await);
        assert!(!waits(&mut timer, 1, (4_700, 240), false).await);
    }

    #[tokio::test(start_paused = true)]
    async fn time_when_the_caller_cannot_send_or_the_body_is_not_read_does_not_count() {
        let mut timer = StallTimer::default();
        for _ in 0..10 {
            assert!(waits(&mut timer, 100, (0, 240), true).await);
        }
        let out = std::future::poll_fn(|cx| timer.poll(cx, TIMEOUT, (0, 240), false));
        assert!(tokio::time::timeout(Duration::from_secs(1), out).await.is_err());
        tokio::time::advance(Duration::from_mins(1)).await;
        timer.suspend();
        assert!(waits(&mut timer, 4, (0, 240), false).await);
    }
}
