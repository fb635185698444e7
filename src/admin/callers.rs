//! The configured callers in `/status`.

use serde::{Deserialize, Serialize};

use super::api_quota::CallerQuota;

/// A configured caller, with counts since the start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Caller {
    /// The name.
    pub name: String,
    /// Its weight where the requests that an API allows are scarce.
    pub weight: u16,
    /// Requests that were answered or broke off.
    pub requests: u64,
    /// Requests that bearerd refused.
    pub refused: u64,
    /// Requests that wait for their turn: in the caller's own quota, or in what an API allows.
    pub waiting: u64,
    /// The share of what an API allows that is kept for the caller, from 0 to 1; `null` where nothing is counted.
    pub share: Option<f64>,
    /// Its own budget; `null` without a quota.
    pub quota: Option<CallerQuota>,
}

impl Caller {
    /// The share, in percent.
    pub fn share_in_words(&self) -> Option<String> {
        self.share.map(|share| format!("{:.0} %", share * 100.0))
    }

    /// The requests left of its own budget.
    pub fn quota_in_words(&self) -> Option<String> {
        self.quota.as_ref().map(|quota| format!("{} of {}", quota.left, quota.requests))
    }
}
