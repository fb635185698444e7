//! What a running daemon shows of itself, and is told by the command that runs it.

use std::path::Path;
use std::sync::Arc;

use super::Daemon;
use crate::config::{Config, Listen};
use crate::lifecycle::Pulse;
use crate::reload::Outcome;
use crate::telemetry::Events;
use crate::telemetry::audit::AuditCounters;
use crate::telemetry::log::DroppedLines;
use crate::webhooks::Webhooks;

impl Daemon {
    /// The addresses that callers connect to.
    pub fn addresses(&self) -> Vec<Listen> {
        self.listen_sockets.addresses()
    }

    /// The readers of events, and the history of each credential.
    pub const fn events(&self) -> &Events {
        &self.events
    }

    /// The counts of the audit trail.
    pub const fn audit_counters(&self) -> &Arc<AuditCounters> {
        self.reports.audit_counters()
    }

    /// The webhooks.
    pub const fn webhooks(&self) -> &Arc<Webhooks> {
        self.reports.webhooks()
    }

    /// The admin address.
    pub const fn admin_address(&self) -> &Listen {
        self.admin.address()
    }

    /// The pulse of all threads.
    pub fn pulse(&self) -> Pulse {
        self.threads.pulse()
    }

    /// Names the file of the configuration for operators.
    pub fn configured_by(&self, file: &Path) {
        self.observed.configured_by(file);
    }

    /// Notes the outcome of a reload for operators.
    pub fn reload_ended(&self, outcome: &Outcome) {
        self.observed.reload_ended(outcome);
    }

    /// Shows operators how many lines of the log were dropped.
    pub fn show_dropped_lines(&self, dropped: DroppedLines) {
        self.observed.show_dropped_lines(dropped);
    }

    /// The configuration in force.
    pub const fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// Make the daemon read the certificates again at once when notified.
    pub fn look_at_certificates(&self) -> [Arc<tokio::sync::Notify>; 2] {
        [Arc::clone(&self.certificates.asked), self.admin.look_at_certificates()]
    }
}
