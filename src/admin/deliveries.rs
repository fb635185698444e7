//! The counts of events in the audit trail and of deliveries to webhooks, as `/status` shows them.

use serde::{Deserialize, Serialize};

/// The audit trail since the start.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Audit {
    /// Events that were recorded.
    pub events: u64,
    /// Events that were lost.
    pub failures: u64,
}

/// A webhook, with counts since the start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Webhook {
    /// The name.
    pub name: String,
    /// Scheme and authority of its URL.
    pub origin: String,
    /// Events that were delivered.
    pub delivered: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Events that wait.
    pub queued: usize,
}
