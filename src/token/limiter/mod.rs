//! When a token request may be made: one gate for all causes.
//!
//! Every request passes the quota (GCRA), and then whatever the answers so far demand: a `Retry-After`, a
//! backoff, an open breaker, or the latch after a rejection. Nothing passes by being urgent; a forced refresh
//! has only a part of the quota, so that callers who see 401s cannot use up what the schedule needs.

mod quota;

use std::time::Duration;

use self::quota::Budget;
use super::error::{Class, TokenError};
use super::state::file::Memory;
use crate::backoff::Backoff;
use crate::clock::{Clock, Moment};
use crate::config;

/// The waits after failures, and how many failures in a row open the breaker.
const BACKOFF: Backoff = Backoff { first: Duration::from_secs(1), max: Duration::from_mins(1) };
const BREAKER_FAILURES: u32 = 5;

/// How long a rejection keeps us from asking: a locked account stays locked if one goes on knocking.
const LATCH: Backoff = Backoff { first: Duration::from_secs(30), max: LATCH_MAX };
pub(super) const LATCH_MAX: Duration = Duration::from_mins(5);

/// Why a token is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// There is none, or the current one nears its end.
    Scheduled,
    /// An upstream or an operator says that the current one is no good.
    Forced,
}

/// What keeps a token request from being made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Barrier {
    /// The quota is used up.
    Quota,
    /// The server asked to be left alone.
    RetryAfter,
    /// The last attempt failed.
    Backoff,
    /// The last attempts all failed.
    Breaker,
    /// The last attempt was rejected.
    Latch,
}

/// Until when token requests are kept back, and by what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// When asking is allowed again.
    pub until: Moment,
    /// What forbids it until then.
    pub by: Barrier,
}

/// A credential's budget of token requests.
#[derive(Debug)]
pub struct Limiter {
    clock: Clock,
    all: Budget,
    forced: Budget,
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
            all: Budget::new(quota.requests.get(), quota.per, clock),
            forced: Budget::new(half, quota.per, clock),
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
        let forced_before = self.forced.whole_again();
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
        let Memory { blocked, failures, rejections, .. } = authorized(self.snapshot());
        (self.blocked, self.failures, self.rejections) = (blocked, failures, rejections);
    }

    /// No token came: keeps the next request back as its cause demands.
    pub fn failed(&mut self, error: &TokenError) {
        let now = self.clock.now();
        self.failures = self.failures.saturating_add(1);
        let backoff = BACKOFF.jittered(self.failures - 1, fastrand::f64());
        self.blocked = Some(match error.class() {
            Class::Throttled { retry_after, at_least } if retry_after.is_some() || !at_least.is_zero() => {
                let wait = retry_after.unwrap_or_default().min(self.retry_after_max).max(at_least);
                // Upwards only: whoever was asked to wait so long and comes sooner has not waited.
                let jitter = (wait / 10).min(Duration::from_secs(1)).mul_f64(fastrand::f64());
                Blocked { until: now + (wait + jitter).max(backoff), by: Barrier::RetryAfter }
            }
            Class::Transient | Class::Throttled { .. } => Blocked {
                until: now + backoff,
                by: if self.failures >= BREAKER_FAILURES { Barrier::Breaker } else { Barrier::Backoff },
            },
            Class::Rejected => {
                self.rejections = self.rejections.saturating_add(1);
                let latch = LATCH.step(self.rejections - 1);
                Blocked { until: now + latch, by: Barrier::Latch }
            }
        });
    }

    /// What the answers so far demand.
    pub fn blocked(&self) -> Option<Blocked> {
        self.blocked
    }

    /// What must not be forgotten by a restart.
    pub fn snapshot(&self) -> Memory {
        Memory {
            blocked: self.blocked,
            failures: self.failures,
            rejections: self.rejections,
            quota_whole_again: self.all.whole_again(),
            forced_quota_whole_again: self.forced.whole_again(),
            ..Memory::default()
        }
    }

    /// Whether the last attempts were rejected.
    pub const fn is_rejected(&self) -> bool {
        self.rejections > 0
    }

    /// Goes on from a snapshot, whatever was known before.
    pub fn restore(&mut self, memory: Memory) {
        self.all.restore(memory.quota_whole_again);
        self.forced.restore(memory.forced_quota_whole_again);
        self.blocked = memory.blocked;
        self.failures = memory.failures;
        self.rejections = memory.rejections;
    }

    /// What was wrong may have been mended: the next request need not wait for the latch.
    pub fn release_latch(&mut self) {
        if self.blocked.is_some_and(|blocked| blocked.by == Barrier::Latch) {
            self.blocked = None;
            self.rejections = 0;
        }
    }
}

/// What is remembered once another grant takes the old one's place: what the old one came to is over, what the server
/// asked for and what was used of the quota is not.
pub fn authorized(memory: Memory) -> Memory {
    let blocked = memory.blocked.filter(|blocked| blocked.by == Barrier::RetryAfter);
    Memory { blocked, failures: 0, rejections: 0, ..memory }
}

fn check(budget: &Budget, now: Moment) -> Result<(), Blocked> {
    budget.take(now).map_err(|until| Blocked { until, by: Barrier::Quota })
}

#[cfg(test)]
mod tests;
