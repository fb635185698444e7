//! A ledger as operators see it.

use std::time::Duration;

use tokio::time::Instant;

use super::{Ledger, Ticket};
use crate::proxy::quota::line::LineKey;

/// Counts of a ledger since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Permits, those of batches by how many were used.
    pub granted: u64,
    /// Permits beyond the share of their line.
    pub borrowed: u64,
    /// Requests that were refused.
    pub refused: u64,
}

/// A ledger at one moment, for operators.
#[derive(Clone, Debug)]
pub struct Status {
    /// The limit in force.
    pub requests: u32,
    /// The interval.
    pub per: Duration,
    /// The requests that count against the limit now.
    pub used: u64,
    /// Requests that wait.
    pub waiting: usize,
    /// Until when the API wants no requests.
    pub blocked_until: Option<Instant>,
    /// The lines, those that use most first.
    pub lines: Vec<LineStatus>,
    /// The counts since the start.
    pub counts: Counts,
}

impl Status {
    /// How many requests may still go out.
    pub fn left(&self) -> u64 {
        u64::from(self.requests).saturating_sub(self.used)
    }
}

/// A line at one moment.
#[derive(Clone, Debug)]
pub struct LineStatus {
    /// Whose line.
    pub key: LineKey,
    /// Its weight.
    pub weight: u32,
    /// Its share of the limit.
    pub share: f64,
    /// Its requests in the interval.
    pub used: u64,
    /// How much of that was beyond its share.
    pub borrowed: u64,
    /// Requests that wait.
    pub waiting: usize,
    /// Requests that were granted so far.
    pub granted: u64,
    /// Requests that were refused so far.
    pub refused: u64,
}

impl<T: Ticket> Ledger<T> {
    /// The ledger now, with the lines of configured callers and at most `lines` others.
    pub fn status(&mut self, lines: usize, now: Instant) -> Status {
        self.leave(now);
        let shown = self.lines.iter().map(|line| LineStatus {
            key: line.key.clone(),
            weight: line.weight,
            share: self.share(line.weight),
            used: line.used(),
            borrowed: line.borrowed(),
            waiting: line.waiting.len(),
            granted: line.granted,
            refused: line.refused,
        });
        let mut shown: Vec<_> = shown.collect();
        shown.sort_by_key(|line| std::cmp::Reverse((line.used, line.waiting, line.weight)));
        let mut others = 0..lines;
        shown.retain(|line| matches!(line.key, LineKey::Caller(_)) || others.next().is_some());
        Status {
            requests: self.limit(),
            per: self.settings.per,
            used: self.used(),
            waiting: self.waiting,
            blocked_until: self.blocked_until,
            lines: shown,
            counts: self.counts,
        }
    }
}
