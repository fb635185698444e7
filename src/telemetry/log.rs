//! The log: events to standard error, as lines for a person or JSON for a machine.
//!
//! `RUST_LOG` wins over the configuration's level. Standard output is left to the audit.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{Environment, Log, LogFormat};

/// Sends the process's events to standard error from now on.
pub fn start(log: &Log, environment: &Environment) {
    let directives = environment.get("RUST_LOG").filter(|directives| !directives.is_empty());
    let filter = directives
        .and_then(|directives| EnvFilter::try_new(directives).ok())
        .unwrap_or_else(|| EnvFilter::new(&log.level));
    let is_text = match log.format {
        LogFormat::Auto => std::io::stderr().is_terminal(),
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    // A reader of the log that has gone is no reason to complain on the same stream.
    let events = fmt::Subscriber::builder()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .log_internal_errors(false);
    if is_text {
        let colours =
            environment.get("NO_COLOR").is_none_or(str::is_empty) && std::io::stderr().is_terminal();
        events.with_ansi(colours).finish().init();
    } else {
        events.json().flatten_event(true).with_current_span(false).with_span_list(false).finish().init();
    }
}
