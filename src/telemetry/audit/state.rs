//! What the thread of the audit trail shares with the rest of the daemon.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::time::Instant;

use crate::telemetry::event::Name;

/// The counts of the audit trail.
#[derive(Debug)]
pub struct AuditCounters {
    written: [AtomicU64; Name::ALL.len()],
    failures: AtomicU64,
}

impl Default for AuditCounters {
    fn default() -> Self {
        Self { written: std::array::from_fn(|_| AtomicU64::default()), failures: AtomicU64::default() }
    }
}

impl AuditCounters {
    /// The number of lines of each name.
    pub fn of_each(&self) -> impl Iterator<Item = (Name, u64)> {
        let count = |name: &Name| (*name, self.written[*name as usize].load(Ordering::Relaxed));
        Name::ALL.iter().map(count)
    }

    /// The number of all lines.
    pub fn events(&self) -> u64 {
        self.of_each().map(|(_, count)| count).sum()
    }

    /// How often an event could not be written: with `go_on` the lost events, with `refuse` also attempts that were repeated.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }
}

/// The state that the thread shares with the rest of the daemon.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) counters: Arc<AuditCounters>,
    /// Whether requests are refused while nothing can be written.
    pub(super) refuses: AtomicBool,
    /// Whether the last attempt to write failed, or takes too long.
    pub(super) is_failing: AtomicBool,
    /// Events that are not in the trail, and whose count is not either.
    pub(super) lost: AtomicU64,
    pub(super) is_ending: AtomicBool,
    started: Instant,
    /// When the write under way began, in milliseconds since `started`; 0 without one.
    pub(super) writing_since: AtomicU64,
}

impl Shared {
    /// The state before the first event.
    pub(super) fn new(counters: Arc<AuditCounters>) -> Self {
        Self {
            counters,
            refuses: AtomicBool::new(false),
            is_failing: AtomicBool::new(false),
            lost: AtomicU64::new(0),
            is_ending: AtomicBool::new(false),
            started: Instant::now(),
            writing_since: AtomicU64::new(0),
        }
    }

    /// Counts a line.
    pub(super) fn written(&self, name: Name) {
        self.counters.written[name as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a lost event.
    pub(super) fn lose(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
        self.fail();
    }

    /// Counts a failed attempt.
    pub(super) fn fail(&self) {
        self.counters.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Milliseconds, never 0.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX).max(1)
    }
}

/// Whether requests are refused because nothing can be written to the audit trail.
#[derive(Clone, Debug)]
pub struct AuditGate(pub(super) Arc<Shared>);

impl AuditGate {
    /// Whether requests are refused.
    pub fn is_closed(&self) -> bool {
        self.0.is_failing.load(Ordering::Relaxed)
    }
}
