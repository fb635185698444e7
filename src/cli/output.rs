//! Writes text to standard output and standard error.
//!
//! `println!` panics when the reader has closed the stream; these functions ignore that, and the command continues.

use std::error::Error;
use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use jiff::SignedDuration;

use crate::causes::in_one_line;
use crate::config::Environment;

/// Writes a line to standard output.
pub fn line(text: impl Display) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Writes a line to standard error.
pub fn error_line(text: impl Display) {
    let mut out = std::io::stderr().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Writes why a command has failed to standard error, and what the operator can do.
pub fn failure(error: &(dyn Error + 'static), help: Option<&str>) {
    error_line(format_args!("bearerd: {}", in_one_line(error)));
    if let Some(help) = help {
        error_line(format_args!("  help: {help}"));
    }
}

/// A duration in whole seconds, as text such as `1h 5m`.
pub fn duration(duration: Duration) -> String {
    let whole =
        SignedDuration::try_from(Duration::from_secs(duration.as_secs())).unwrap_or(SignedDuration::MAX);
    format!("{whole:#}")
}

/// Whether text for standard error may have colours (<https://no-color.org>).
pub fn may_colour(environment: &Environment) -> bool {
    std::io::stderr().is_terminal() && environment.get("NO_COLOR").is_none_or(str::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_text_in_whole_seconds() {
        assert_eq!(duration(Duration::from_millis(3_600_900)), "1h");
        assert_eq!(duration(Duration::ZERO), "0s");
    }
}
