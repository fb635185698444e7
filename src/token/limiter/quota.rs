//! A quota of requests (GCRA) that a restart does not refill.
//!
//! The whole state of GCRA is one moment: when the quota is full again if no more requests are made. governor keeps that
//! moment in a store of ours, from which it can be read for a snapshot and to which it can be restored.

use std::num::NonZeroU32;
use std::ops::Add;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use governor::clock::Reference;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{NotKeyed, StateStore};
use governor::{Quota, RateLimiter};

use crate::clock::{Clock, Moment};

/// A number of requests at once, refilled over a time.
#[derive(Debug)]
pub(super) struct RequestQuota {
    gcra: RateLimiter<NotKeyed, FullAt, GcraClock, NoOpMiddleware<Moment>>,
    full_at: FullAt,
    /// The moment from which governor counts.
    start: Moment,
    /// The time in which an empty quota is refilled.
    per: Duration,
    clock: Clock,
}

impl RequestQuota {
    /// A full quota.
    pub(super) fn new(requests: u32, per: Duration, clock: Clock) -> Self {
        let burst = NonZeroU32::new(requests).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::with_period(per / burst.get())
            .unwrap_or_else(|| Quota::per_second(NonZeroU32::MIN))
            .allow_burst(burst);
        let full_at = FullAt::default();
        // Not after governor's own start, or the moment that is read would lie too late.
        let start = clock.now();
        let gcra = RateLimiter::new(quota, full_at.clone(), GcraClock(clock));
        Self { gcra, full_at, start, per, clock }
    }

    /// Takes one request out of the quota.
    ///
    /// # Errors
    ///
    /// The moment at which a request is available again.
    pub(super) fn take(&self, now: Moment) -> Result<(), Moment> {
        self.gcra.check().map_err(|not_until| now + not_until.wait_time_from(now))
    }

    /// When the quota is full again if no more requests are made; in the past if it is full.
    pub(super) fn full_at(&self) -> Moment {
        match self.full_at.0.load(Ordering::Acquire) {
            0 => Moment::default(),
            nanos => self.start + Duration::from_nanos(nanos),
        }
    }

    /// Restores such a moment. An impossible one counts as an empty quota.
    pub(super) fn restore(&self, full_at: Moment) {
        let latest = self.clock.now() + self.per;
        let nanos = full_at.min(latest).since(self.start).as_nanos();
        self.full_at.0.store(u64::try_from(nanos).unwrap_or(u64::MAX), Ordering::Release);
    }
}

/// When the quota is full again, in nanoseconds since governor's start; 0 before the first request.
#[derive(Clone, Debug, Default)]
struct FullAt(Arc<AtomicU64>);

impl StateStore for FullAt {
    type Key = NotKeyed;

    fn measure_and_replace<T, F, E>(&self, _: &NotKeyed, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut before = self.0.load(Ordering::Acquire);
        loop {
            let (outcome, after) = decide((before > 0).then(|| before.into()))?;
            match self.0.compare_exchange(before, after.into(), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(outcome),
                Err(other) => before = other,
            }
        }
    }
}

/// Our clock, for governor.
#[derive(Clone, Debug)]
struct GcraClock(Clock);

impl governor::clock::Clock for GcraClock {
    type Instant = Moment;

    fn now(&self) -> Moment {
        self.0.now()
    }
}

impl Reference for Moment {
    fn duration_since(&self, earlier: Self) -> Nanos {
        self.since(earlier).into()
    }

    fn saturating_sub(&self, duration: Nanos) -> Self {
        self.before(duration.into())
    }
}

impl Add<Nanos> for Moment {
    type Output = Self;

    fn add(self, nanos: Nanos) -> Self {
        self + Duration::from(nanos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PER: Duration = Duration::from_mins(1);

    fn taken(budget: &RequestQuota, clock: Clock) -> usize {
        (0..100).take_while(|_| budget.take(clock.now()).is_ok()).count()
    }

    #[tokio::test(start_paused = true)]
    async fn a_restart_neither_refills_a_quota_nor_slows_its_refill() {
        let clock = Clock::tokio();
        let before = RequestQuota::new(6, PER, clock);
        assert_eq!(taken(&before, clock), 6);
        let at = before.full_at();
        assert_eq!(clock.now().until(at), PER);
        tokio::time::sleep(Duration::from_secs(25)).await;

        let after = RequestQuota::new(6, PER, clock);
        after.restore(at);

        assert_eq!(after.full_at(), at);
        assert_eq!((taken(&after, clock), taken(&before, clock)), (2, 2));
        tokio::time::sleep(PER).await;
        assert_eq!((taken(&after, clock), taken(&before, clock)), (6, 6));
    }

    #[tokio::test(start_paused = true)]
    async fn an_impossible_moment_counts_as_an_empty_quota() {
        let clock = Clock::tokio();
        for cannot_be in [Moment::from_nanos(u64::MAX), clock.now() + PER * 2] {
            let budget = RequestQuota::new(6, PER, clock);
            budget.restore(cannot_be);
            assert_eq!(taken(&budget, clock), 0);
            tokio::time::sleep(PER).await;
            assert_eq!(taken(&budget, clock), 6);
        }
        // And one long ago is a whole quota.
        let budget = RequestQuota::new(6, PER, clock);
        budget.restore(Moment::from_nanos(1));
        assert_eq!(taken(&budget, clock), 6);
    }

    #[tokio::test(start_paused = true)]
    async fn a_restart_with_another_quota_obeys_that_quota() {
        let clock = Clock::tokio();
        let before = RequestQuota::new(6, PER, clock);
        assert_eq!(taken(&before, clock), 6);

        let after = RequestQuota::new(2, Duration::from_secs(4), clock);
        after.restore(before.full_at());
        assert_eq!(taken(&after, clock), 0);
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert_eq!(taken(&after, clock), 2);
    }
}
