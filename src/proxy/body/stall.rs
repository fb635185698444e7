//! Stall detection for request bodies: a timeout for each pause, and a minimum average rate.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// The total wait for a body before the minimum rate applies.
const RATE_GRACE: Duration = Duration::from_secs(5);

/// The time spent waiting for the caller to send one body.
#[derive(Debug, Default)]
pub(super) struct StallTimer {
    /// The wait in progress.
    pause: Option<Pause>,
    /// The total of the waits before.
    waited: Duration,
}

/// How much of a body has arrived, and how much has to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    /// What has arrived, in bytes.
    pub bytes: u64,
    /// The lowest rate allowed, in bytes a second; 0 is no bound.
    pub least_per_second: u64,
}

#[derive(Debug)]
struct Pause {
    since: Instant,
    end: Pin<Box<Sleep>>,
}

impl StallTimer {
    /// Waits for more data; ready when the body has stalled.
    ///
    /// `timeout` bounds this pause. A pause does not begin if the body `arrival` is slower than the minimum rate. A caller
    /// that `is_excused` cannot send at the moment and does not stall.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        timeout: Duration,
        arrival: Arrival,
        is_excused: bool,
    ) -> Poll<()> {
        if self.pause.is_none() && self.is_too_slow(arrival) && !is_excused {
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

    /// Whether the average rate is below the minimum. Only time spent waiting counts.
    fn is_too_slow(&self, arrival: Arrival) -> bool {
        let due = self.waited.as_millis() * u128::from(arrival.least_per_second) / 1000;
        self.waited >= RATE_GRACE && u128::from(arrival.bytes) < due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(15);

    /// A body with a minimum rate of 240 bytes a second, after `bytes`.
    const fn arrived(bytes: u64) -> Arrival {
        Arrival { bytes, least_per_second: 240 }
    }

    /// Whether the timer still waits when a chunk arrives after `pause` seconds.
    async fn waits(timer: &mut StallTimer, pause: u64, arrival: Arrival, is_excused: bool) -> bool {
        let out = std::future::poll_fn(|cx| timer.poll(cx, TIMEOUT, arrival, is_excused));
        let waited = tokio::time::timeout(Duration::from_secs(pause), out).await.is_err();
        timer.end_pause(is_excused);
        waited
    }

    #[tokio::test(start_paused = true)]
    async fn the_timeout_applies_to_each_pause_anew() {
        let mut timer = StallTimer::default();
        for _ in 0..10 {
            assert!(waits(&mut timer, 14, Arrival { bytes: 1, least_per_second: 0 }, false).await);
        }
        assert!(!waits(&mut timer, 16, Arrival { bytes: 1, least_per_second: 0 }, false).await);
    }

    #[tokio::test(start_paused = true)]
    async fn the_minimum_rate_applies_after_five_seconds_to_the_whole_wait() {
        let mut timer = StallTimer::default();
        for second in 0..5 {
            assert!(waits(&mut timer, 1, arrived(second), false).await);
        }
        assert!(!waits(&mut timer, 1, arrived(5), false).await);
        assert!(waits(&mut timer, 1, arrived(1200), false).await);
        // Earlier data counts.
        assert!(waits(&mut timer, 14, arrived(24_000), false).await);
        assert!(!waits(&mut timer, 1, arrived(4_700), false).await);
    }

    #[tokio::test(start_paused = true)]
    async fn time_when_the_caller_cannot_send_or_the_body_is_not_read_does_not_count() {
        let mut timer = StallTimer::default();
        for _ in 0..10 {
            assert!(waits(&mut timer, 100, arrived(0), true).await);
        }
        let out = std::future::poll_fn(|cx| timer.poll(cx, TIMEOUT, arrived(0), false));
        assert!(tokio::time::timeout(Duration::from_secs(1), out).await.is_err());
        tokio::time::advance(Duration::from_mins(1)).await;
        timer.suspend();
        assert!(waits(&mut timer, 4, arrived(0), false).await);
    }
}
