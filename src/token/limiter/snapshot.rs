//! Why token requests are blocked, and what a limiter knows at one moment.

use crate::clock::Moment;

/// A reason for which token requests are blocked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Barrier {
    /// The quota is used up.
    Quota,
    /// The server has asked for a wait.
    RetryAfter,
    /// The last attempt failed.
    Backoff,
    /// The last attempts all failed.
    Breaker,
    /// The server refused the refresh token, perhaps only in passing.
    InDoubt,
    /// The server rejected the last attempt.
    Latch,
    /// The store that the replicas share is away. No limiter has this barrier.
    SharedStore,
}

/// Until when token requests are blocked, and by what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// When a token request is allowed again.
    pub until: Moment,
    /// The reason for which token requests are blocked until then.
    pub by: Barrier,
}

/// The part of a [`Limiter`](super::Limiter) that a restart must not reset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Until when token requests are blocked, and by what.
    pub blocked: Option<Blocked>,
    /// Failures in a row.
    pub failures: u32,
    /// Rejections in a row.
    pub rejections: u32,
    /// When the quota is full again.
    pub quota_full_at: Moment,
    /// When the part of the quota for forced refreshes is full again.
    pub forced_quota_full_at: Moment,
}

impl Snapshot {
    /// The snapshot once a person has authorized the client anew. Failures and rejections of the old grant count no longer;
    /// the server's `Retry-After` and the used part of the quota still do.
    #[must_use]
    pub fn authorized(self) -> Self {
        let blocked = self.blocked.filter(|blocked| blocked.by == Barrier::RetryAfter);
        Self { blocked, failures: 0, rejections: 0, ..self }
    }
}
