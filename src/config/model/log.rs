//! `[log]`: what the daemon logs, and how.

use tracing_subscriber::filter::Targets;

/// What is written of the daemon's work.
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// Text or JSON.
    pub format: LogFormat,
    /// What `RUST_LOG` says, or the file.
    pub level: Targets,
    /// Whether each request is written.
    pub access: bool,
}

/// How log events are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text for a terminal, JSON elsewhere.
    Auto,
    /// One JSON object a line.
    Json,
    /// Lines for a person.
    Text,
}
