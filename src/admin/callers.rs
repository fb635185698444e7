//! The configured callers in `/status`.

use serde::{Deserialize, Serialize};

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
    /// Requests that wait for their turn.
    pub waiting: u64,
    /// The share of what an API allows that is kept for the caller, from 0 to 1; `null` where nothing is counted.
    pub share: Option<f64>,
}
