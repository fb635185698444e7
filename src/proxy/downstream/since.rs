//! Since when something lasts, without a clock at its beginning.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

/// Since when something lasts, by the sweeps of a worker. The first sweep after the beginning starts the time: something has
/// lasted at least as long as [`Since::lasted`] says, so that no timeout is up early, however short.
#[derive(Debug, Default)]
pub(super) struct Since(Cell<Option<Instant>>);

impl Since {
    /// It begins now, perhaps again.
    pub(super) fn begin(&self) {
        self.0.set(None);
    }

    /// Starts the time of what has begun since the last sweep, and answers how long the rest has lasted.
    pub(super) fn sweep(&self, now: Instant) -> Duration {
        if self.0.get().is_none() {
            self.0.set(Some(now));
        }
        self.lasted(now)
    }

    /// How long it had lasted at the last sweep, at the least.
    pub(super) fn lasted(&self, last_sweep: Instant) -> Duration {
        self.0.get().map_or(Duration::ZERO, |since| last_sweep.duration_since(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With beginnings at any time between two sweeps.
    #[test]
    fn nothing_lasts_shorter_than_the_sweeps_say_or_longer_by_more_than_their_pause() {
        const PAUSE: u64 = 10;
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        for begins in 0..3 * PAUSE {
            let since = Since::default();
            for now in (0..10).map(|sweep| sweep * PAUSE) {
                let before = now.saturating_sub(PAUSE);
                if (before..now).contains(&begins) {
                    since.begin();
                }
                let lasted = since.sweep(at(now));
                assert_eq!(lasted, since.lasted(at(now)));
                if begins < now {
                    let exact = Duration::from_millis(now - begins);
                    assert!(
                        lasted <= exact && exact <= lasted + Duration::from_millis(PAUSE),
                        "{begins}: {lasted:?}"
                    );
                }
            }
        }
    }
}
