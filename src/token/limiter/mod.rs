//! When a token request may be made: one gate for all causes.
//!
//! Every request passes the quota (GCRA), and then whatever the answers so far demand: a `Retry-After`, a
//! backoff, an open breaker, or the latch after a rejection. Nothing passes by being urgent; a forced refresh
//! has only a part of the quota, so that callers who see 401s cannot use up what the schedule needs.

mod quota;
mod snapshot;

use std::time::Duration;

pub use self::snapshot::{Barrier, Blocked, Snapshot};

use self::quota::RequestQuota;
use super::error::{FailureClass, TokenError};
use crate::clock::{Clock, Moment};
use crate::config;

/// The first backoff step, the longest, and how many failures in a row open the breaker.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_mins(1);
const BREAKER_FAILURES: u32 = 5;

/// How long a rejection keeps us from asking: a locked account stays locked if one goes on knocking.
const LATCH_FIRST: Duration = Duration::from_secs(30);
pub(super) const LATCH_MAX: Duration = Duration::from_mins(5);

/// Why a token is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// There is none, or the current one nears its end.
    Scheduled,
    /// An upstream or an operator says that the current one is no good.
    Forced,
}

/// A credential's budget of token requests.
#[derive(Debug)]
pub struct Limiter {
    clock: Clock,
    all: RequestQuota,
    forced: RequestQuota,
    retry_after_max: Duration,
    failures: u32,
    rejections: u32,
    blocked: Option<Blocked>,
}

impl Limiter {
    /// A full budget.
    pub fn new(credential: &config::Credential, clock: Clock) -> Self {
        let quota = credential.quota;
        let half = (quota.requests.get() / 2).max(1);
        Self {
            clock,
            all: RequestQuota::new(quota.requests.get(), quota.per, clock),
            forced: RequestQuota::new(half, quota.per, clock),
            retry_after_max: credential.retry_after_max,
            failures: 0,
            rejections: 0,
            blocked: None,
        }
    }

    /// Takes a request out of the budget, or says when to ask again.
    pub fn admit(&mut self, cause: Cause) -> Result<(), Blocked> {
        let now = self.clock.now();
        if let Some(blocked) = self.blocked.filter(|blocked| now < blocked.until) {
            return Err(blocked);
        }
        let forced_before = self.forced.full_at();
        if cause == Cause::Forced {
            check(&self.forced, now)?;
        }
        // What is not used is not taken: it would be used later than it was counted.
        check(&self.all, now).inspect_err(|_| self.forced.restore(forced_before))
    }

    /// A token came: whatever kept requests back is over.
    pub fn succeeded(&mut self) {
        self.failures = 0;
        self.rejections = 0;
        self.blocked = None;
    }

    /// Another grant takes the old one's place.
    pub fn authorized(&mut self) {
        let Snapshot { blocked, failures, rejections, .. } = self.snapshot().authorized();
        (self.blocked, self.failures, self.rejections) = (blocked, failures, rejections);
    }

    /// No token came: keeps the next request back as its cause demands.
    pub fn failed(&mut self, error: &TokenError) {
        let now = self.clock.now();
        self.failures = self.failures.saturating_add(1);
        let backoff = equal_jitter(doubled(BACKOFF_FIRST, self.failures - 1, BACKOFF_MAX));
        self.blocked = Some(match error.class() {
            FailureClass::Throttled { retry_after, at_least }
                if retry_after.is_some() || !at_least.is_zero() =>
            {
                let wait = retry_after.unwrap_or_default().min(self.retry_after_max).max(at_least);
                // Upwards only: whoever was asked to wait so long and comes sooner has not waited.
                let jitter = (wait / 10).min(Duration::from_secs(1)).mul_f64(fastrand::f64());
                Blocked { until: now + (wait + jitter).max(backoff), by: Barrier::RetryAfter }
            }
            FailureClass::Transient | FailureClass::Throttled { .. } => Blocked {
                until: now + backoff,
                by: if self.failures >= BREAKER_FAILURES { Barrier::Breaker } else { Barrier::Backoff },
            },
            FailureClass::Rejected => {
                self.rejections = self.rejections.saturating_add(1);
                let latch = doubled(LATCH_FIRST, self.rejections - 1, LATCH_MAX);
                Blocked { until: now + latch, by: Barrier::Latch }
            }
        });
    }

    /// What the answers so far demand.
    pub fn blocked(&self) -> Option<Blocked> {
        self.blocked
    }

    /// What must not be forgotten by a restart.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            blocked: self.blocked,
            failures: self.failures,
            rejections: self.rejections,
            quota_full_at: self.all.full_at(),
            forced_quota_full_at: self.forced.full_at(),
        }
    }

    /// Whether the last attempts were rejected.
    pub const fn is_rejected(&self) -> bool {
        self.rejections > 0
    }

    /// Goes on from a snapshot, whatever was known before.
    pub fn restore(&mut self, snapshot: Snapshot) {
        self.all.restore(snapshot.quota_full_at);
        self.forced.restore(snapshot.forced_quota_full_at);
        self.blocked = snapshot.blocked;
        self.failures = snapshot.failures;
        self.rejections = snapshot.rejections;
    }

    /// What was wrong may have been mended: the next request need not wait for the latch.
    pub fn release_latch(&mut self) {
        if self.blocked.is_some_and(|blocked| blocked.by == Barrier::Latch) {
            self.blocked = None;
            self.rejections = 0;
        }
    }
}

fn check(budget: &RequestQuota, now: Moment) -> Result<(), Blocked> {
    budget.take(now).map_err(|until| Blocked { until, by: Barrier::Quota })
}

/// `first` doubled `times` times, at the most `max`.
pub(super) fn doubled(first: Duration, times: u32, max: Duration) -> Duration {
    first.saturating_mul(1_u32.checked_shl(times).unwrap_or(u32::MAX)).min(max)
}

/// Half of the step for certain and half by chance, so that those who failed together do not return together.
fn equal_jitter(step: Duration) -> Duration {
    step / 2 + (step / 2).mul_f64(fastrand::f64())
}

#[cfg(test)]
mod tests;
