//! `[log]`: the format and the levels of the log.

use tracing_subscriber::filter::Targets;

/// The settings of the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// The format.
    pub format: LogFormat,
    /// Levels from `RUST_LOG`, else from the file.
    pub level: Targets,
    /// Whether each request is logged.
    pub access: bool,
}

/// The format of log events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// One JSON object per line.
    Json,
    /// Human-readable lines.
    Text,
}
