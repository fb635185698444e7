//! How long a caller is waited for while it sends a body: at each pause, and for what has come in all.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// How long a body is waited for before its rate counts.
const RATE_GRACE: Duration = Duration::from_secs(5);

/// What there is of patience with one body.
#[derive(Debug, Default)]
pub struct Patience {
    /// While the caller is waited for.
    pause: Option<Pause>,
    /// How long it was waited for before.
    waited: Duration,
}

/// How much of a body has arrived, and how much has to.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
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

impl Patience {
    /// Waits for more; ready when there is no more waiting.
    ///
    /// `timeout` is for this pause. Where the body has arrived more slowly than allowed, there is no further
    /// pause. A caller `is_excused` if it may be unable to send.
    pub fn poll(
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

    /// Something came.
    pub fn end_pause(&mut self, is_excused: bool) {
        if let Some(pause) = self.pause.take()
            && !is_excused
        {
            self.waited += pause.since.elapsed();
        }
    }

    /// Nobody reads now: that is no pause of the caller's.
    pub fn suspend(&mut self) {
        self.pause = None;
    }

    /// Whether it has been waited for long enough for what has come. Only waiting counts: while nobody reads, it is
    /// not the caller who is slow.
    fn is_too_slow(&self, arrival: Arrival) -> bool {
        let due = self.waited.as_millis() * u128::from(arrival.least_per_second) / 1000;
        self.waited >= RATE_GRACE && u128::from(arrival.bytes) < due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(15);

    /// So many bytes, of a body for which 240 a second are the least.
    const fn arrived(bytes: u64) -> Arrival {
        Arrival { bytes, least_per_second: 240 }
    }

    /// Waits for a piece that comes after `pause`: whether it was waited for.
    async fn waits(patience: &mut Patience, pause: u64, arrival: Arrival, is_excused: bool) -> bool {
        let out = std::future::poll_fn(|cx| patience.poll(cx, TIMEOUT, arrival, is_excused));
        let waited = tokio::time::timeout(Duration::from_secs(pause), out).await.is_err();
        patience.end_pause(is_excused);
        waited
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_has_its_time_and_the_next_one_has_it_again() {
        let mut patience = Patience::default();
        for _ in 0..10 {
            assert!(waits(&mut patience, 14, Arrival { bytes: 1, least_per_second: 0 }, false).await);
        }
        assert!(!waits(&mut patience, 16, Arrival { bytes: 1, least_per_second: 0 }, false).await);
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_counts_from_five_seconds_of_waiting_and_over_all_of_it() {
        let mut patience = Patience::default();
        for second in 0..5 {
            assert!(waits(&mut patience, 1, arrived(second), false).await);
        }
        assert!(!waits(&mut patience, 1, arrived(5), false).await);
        assert!(waits(&mut patience, 1, arrived(1200), false).await);
        // What came fast is remembered.
        assert!(waits(&mut patience, 14, arrived(24_000), false).await);
        assert!(!waits(&mut patience, 1, arrived(4_700), false).await);
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_nobody_reads_or_the_caller_cannot_send_does_not_count() {
        let mut patience = Patience::default();
        for _ in 0..10 {
            assert!(waits(&mut patience, 100, arrived(0), true).await);
        }
        let out = std::future::poll_fn(|cx| patience.poll(cx, TIMEOUT, arrived(0), false));
        assert!(tokio::time::timeout(Duration::from_secs(1), out).await.is_err());
        tokio::time::advance(Duration::from_mins(1)).await;
        patience.suspend();
        assert!(waits(&mut patience, 4, arrived(0), false).await);
    }
}
