//! `[audit]`: the output of the audit trail, and what follows when nothing can be written.

use std::path::PathBuf;

use super::secret::Secret;

/// The settings of the audit trail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    /// Where the trail is written.
    pub output: AuditOutput,
    /// What follows when nothing can be written.
    pub on_failure: OnAuditFailure,
    /// The key of the chain of lines.
    pub key: Option<Secret>,
}

/// Where the audit trail is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuditOutput {
    /// Nowhere.
    Off,
    /// Standard output.
    Stdout,
    /// A file, which is appended to.
    File(PathBuf),
}

/// What follows when nothing can be written to the audit trail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnAuditFailure {
    /// Requests go on; lost events are counted.
    GoOn,
    /// Requests are refused.
    Refuse,
}
