//! Limits token requests of every cause.
//!
//! Every request counts against the quota (GCRA, in [`quota`]), and waits for the barrier that the responses so far demand: a
//! `Retry-After`, a backoff, an open circuit breaker, the wait after a refusal in passing, or the latch after a rejection.
//! An operator's order waits for the quota and for `Retry-After` alone. Forced refreshes have half of the quota, so that 401s
//! from an upstream cannot use up the part that scheduled refreshes need. A [`Snapshot`] carries all this across a restart.

mod quota;
mod snapshot;

use std::time::Duration;

pub use self::snapshot::{Barrier, Blocked, Snapshot};

use self::quota::RequestQuota;
use super::error::{FailureClass, TokenError};
use crate::backoff::Backoff;
use crate::clock::{Clock, Moment};
use crate::config;

/// The waits after failures.
const BACKOFF: Backoff = Backoff { first: Duration::from_secs(1), max: Duration::from_mins(1) };
/// Failures in a row that open the circuit breaker.
const BREAKER_FAILURES: u32 = 5;

/// How long rejections block token requests: every attempt can prolong the lock-out of an account.
const LATCH: Backoff = Backoff { first: Duration::from_secs(30), max: LATCH_MAX };
pub(super) const LATCH_MAX: Duration = Duration::from_mins(5);

/// Why a token request is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The token is missing or due for replacement.
    Scheduled,
    /// An upstream has rejected the token, or an operator has requested a refresh.
    Forced,
}

/// Limits one credential's token requests.
#[derive(Debug)]
pub struct Limiter {
    clock: Clock,
    all: RequestQuota,
    forced: RequestQuota,
    quota: config::Quota,
    /// Among how many limiters of other replicas, and this one, the quota is divided.
    parts: u64,
    retry_after_max: Duration,
    failures: u32,
    rejections: u32,
    blocked: Option<Blocked>,
}

impl Limiter {
    /// A limiter with a full quota and no barrier.
    pub fn new(credential: &config::Credential, clock: Clock) -> Self {
        let quota = credential.quota;
        let (all, forced) = quotas(quota, 1, clock);
        Self {
            clock,
            all,
            forced,
            quota,
            parts: 1,
            retry_after_max: credential.retry_after_max,
            failures: 0,
            rejections: 0,
            blocked: None,
        }
    }

    /// Has the quota divided among so many limiters. What was used of the quota stays used.
    pub fn divide(&mut self, parts: u64) {
        if std::mem::replace(&mut self.parts, parts) == parts {
            return;
        }
        let used = self.snapshot();
        (self.all, self.forced) = quotas(self.quota, parts, self.clock);
        self.all.restore(used.quota_full_at);
        self.forced.restore(used.forced_quota_full_at);
    }

    /// Takes a request out of the quota.
    ///
    /// # Errors
    ///
    /// [`Blocked`] where no request may be made now; the quota is unchanged.
    pub fn admit(&mut self, cause: Cause) -> Result<(), Blocked> {
        let now = self.clock.now();
        if let Some(blocked) = self.blocked.filter(|blocked| now < blocked.until) {
            return Err(blocked);
        }
        let forced_before = self.forced.full_at();
        if cause == Cause::Forced {
            check(&self.forced, now)?;
        }
        // A request that the whole quota refuses must not count against the forced one.
        check(&self.all, now).inspect_err(|_| self.forced.restore(forced_before))
    }

    /// Takes a request that an operator orders out of the quota, and removes the barrier unless the server has asked for it.
    ///
    /// # Errors
    ///
    /// [`Blocked`] where no request may be made now; barrier and quota are unchanged.
    pub fn admit_order(&mut self) -> Result<(), Blocked> {
        let barrier = self.blocked.take_if(|blocked| blocked.by != Barrier::RetryAfter);
        self.admit(Cause::Forced).inspect_err(|_| self.blocked = self.blocked.or(barrier))
    }

    /// The last request brought a token: no barrier stays.
    pub fn succeeded(&mut self) {
        self.failures = 0;
        self.rejections = 0;
        self.blocked = None;
    }

    /// A person has authorized the client anew.
    pub fn authorized(&mut self) {
        let Snapshot { blocked, failures, rejections, .. } = self.snapshot().authorized();
        (self.blocked, self.failures, self.rejections) = (blocked, failures, rejections);
    }

    /// The last request failed: raises the barrier that the failure demands.
    pub fn failed(&mut self, error: &TokenError) {
        let now = self.clock.now();
        self.failures = self.failures.saturating_add(1);
        let backoff = BACKOFF.jittered(self.failures - 1, fastrand::f64());
        self.blocked = Some(match error.class() {
            FailureClass::Throttled { retry_after, at_least }
                if retry_after.is_some() || !at_least.is_zero() =>
            {
                let wait = retry_after.unwrap_or_default().min(self.retry_after_max).max(at_least);
                // Only upwards: a request before the time that the server asked for would be refused again.
                let jitter = (wait / 10).min(Duration::from_secs(1)).mul_f64(fastrand::f64());
                Blocked { until: now + (wait + jitter).max(backoff), by: Barrier::RetryAfter }
            }
            FailureClass::Transient | FailureClass::Throttled { .. } => Blocked {
                until: now + backoff,
                by: if self.failures >= BREAKER_FAILURES { Barrier::Breaker } else { Barrier::Backoff },
            },
            FailureClass::RefusedInPassing(again_in) => {
                Blocked { until: now + again_in, by: Barrier::InDoubt }
            }
            FailureClass::Rejected => {
                self.rejections = self.rejections.saturating_add(1);
                let latch = LATCH.step(self.rejections - 1);
                Blocked { until: now + latch, by: Barrier::Latch }
            }
        });
    }

    /// Shortens a wait after a refusal that would outlast the valid token, which ends at this moment: one request is made
    /// then.
    pub fn end_latch_by(&mut self, end: Moment) {
        if let Some(Blocked { until, by: Barrier::Latch | Barrier::InDoubt }) = &mut self.blocked {
            *until = end.min(*until);
        }
    }

    /// The barrier, which may have ended; none after a success.
    pub fn blocked(&self) -> Option<Blocked> {
        self.blocked
    }

    /// The limiter's present knowledge, for [`Limiter::restore`].
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            blocked: self.blocked,
            failures: self.failures,
            rejections: self.rejections,
            quota_full_at: self.all.full_at(),
            forced_quota_full_at: self.forced.full_at(),
        }
    }

    /// Whether the server rejected the last attempt.
    pub const fn is_rejected(&self) -> bool {
        self.rejections > 0
    }

    /// Replaces the limiter's knowledge by a snapshot.
    pub fn restore(&mut self, snapshot: Snapshot) {
        self.all.restore(snapshot.quota_full_at);
        self.forced.restore(snapshot.forced_quota_full_at);
        self.blocked = snapshot.blocked;
        self.failures = snapshot.failures;
        self.rejections = snapshot.rejections;
    }

    /// Removes every barrier that the server has not asked for, because the configuration was changed. The quota bounds how
    /// often that helps.
    pub fn release_all_but_retry_after(&mut self) {
        self.release_latch();
        self.blocked = self.blocked.filter(|blocked| blocked.by == Barrier::RetryAfter);
    }

    /// Removes the barrier of a rejection or of a refusal in passing, whose cause may have been corrected.
    pub fn release_latch(&mut self) {
        match self.blocked {
            Some(Blocked { by: Barrier::Latch, .. }) => (self.blocked, self.rejections) = (None, 0),
            Some(Blocked { by: Barrier::InDoubt, .. }) => self.blocked = None,
            _ => {}
        }
    }
}

/// The whole quota and that of forced refreshes, divided by `parts`. A part of less than one request is one request in a
/// longer time.
fn quotas(quota: config::Quota, parts: u64, clock: Clock) -> (RequestQuota, RequestQuota) {
    let parts = u32::try_from(parts).unwrap_or(u32::MAX);
    let part = |requests: u32| {
        let share = (requests / parts).max(1);
        let per = quota.per.saturating_mul(share).saturating_mul(parts) / requests.max(1);
        RequestQuota::new(share, per, clock)
    };
    let requests = quota.requests.get();
    (part(requests), part((requests / 2).max(1)))
}

fn check(budget: &RequestQuota, now: Moment) -> Result<(), Blocked> {
    budget.take(now).map_err(|until| Blocked { until, by: Barrier::Quota })
}

#[cfg(test)]
mod tests;
