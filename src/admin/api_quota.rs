//! The rate limit of an API for the tokens of a credential, and the quota of a caller, as `/status` shows them.

use serde::{Deserialize, Serialize};

use super::status::Time;

/// A budget at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ApiQuota {
    /// The most requests in any interval: less than configured if the API says so, or replicas share it.
    pub requests: u32,
    /// The interval.
    pub per_ms: f64,
    /// The requests that count against the limit now.
    pub used: u64,
    /// How many requests may still go out.
    pub left: u64,
    /// How many requests wait for their turn.
    pub waiting: usize,
    /// Until when the API wants no requests.
    pub blocked_until: Option<Time>,
    /// Requests that went out since the start.
    pub granted: u64,
    /// How many of them were beyond the share of their caller.
    pub borrowed: u64,
    /// Requests that were refused since the start.
    pub refused: u64,
    /// The lines of callers that use most.
    pub lines: Vec<QuotaLine>,
}

/// The quota of a caller at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CallerQuota {
    /// The most requests in any interval: less than configured if replicas share it.
    pub requests: u32,
    /// The interval.
    pub per_ms: f64,
    /// The requests that count against the limit now.
    pub used: u64,
    /// How many requests may still go out.
    pub left: u64,
    /// How many requests wait for their turn.
    pub waiting: usize,
    /// Requests that went out since the start.
    pub granted: u64,
    /// Requests that were refused since the start.
    pub refused: u64,
}

/// The line of a caller.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QuotaLine {
    /// The caller: its name, that of its certificate, or its address.
    pub name: String,
    /// Its weight.
    pub weight: u32,
    /// Its share of the limit.
    pub share: f64,
    /// Its requests in the interval.
    pub used: u64,
    /// How much of that was beyond its share.
    pub borrowed: u64,
    /// How many of its requests wait.
    pub waiting: usize,
    /// How many of its requests were refused, as long as bearerd knows it.
    pub refused: u64,
}
