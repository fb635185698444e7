//! Waits that double from attempt to attempt, up to a longest one.

use std::time::Duration;

/// A doubling wait: its first step and its cap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The wait after the first failure.
    pub first: Duration,
    /// The longest wait.
    pub max: Duration,
}

impl Backoff {
    /// The wait that follows `times` earlier waits: the first step doubled `times` times, at most the cap.
    pub fn step(self, times: u32) -> Duration {
        self.first.saturating_mul(1_u32.checked_shl(times).unwrap_or(u32::MAX)).min(self.max)
    }

    /// The step with equal jitter: half of it is certain and half is random, so that clients that failed together do not
    /// return together. `chance` is from 0 to 1.
    pub fn jittered(self, times: u32, chance: f64) -> Duration {
        let half = self.step(times) / 2;
        half + half.mul_f64(chance.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BACKOFF: Backoff = Backoff { first: Duration::from_secs(1), max: Duration::from_mins(1) };

    #[test]
    fn steps_double_up_to_the_cap() {
        let steps = [0, 1, 2, 3, 4, 5, 6, 7, 31, 32, u32::MAX].map(|times| BACKOFF.step(times).as_secs());

        assert_eq!(steps, [1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60]);
    }

    #[test]
    fn jitter_spreads_over_the_upper_half_of_a_step() {
        let waits = [0.0, 0.5, 1.0, 7.0].map(|chance| BACKOFF.jittered(3, chance).as_secs());

        assert_eq!(waits, [4, 6, 8, 8]);
    }

    proptest! {
        #[test]
        fn no_wait_is_shorter_than_half_a_step_or_longer_than_the_cap(
            first in 1_u64..10_000,
            longer in 0_u64..10_000_000,
            times: u32,
            chance in 0.0..=1.0_f64,
        ) {
            let first = Duration::from_millis(first);
            let backoff = Backoff { first, max: first + Duration::from_millis(longer) };
            let (step, wait) = (backoff.step(times), backoff.jittered(times, chance));

            prop_assert!(step >= first && step <= backoff.max);
            prop_assert!(step <= backoff.step(times.saturating_add(1)));
            prop_assert!(wait >= step / 2 && wait <= step);
        }
    }
}
