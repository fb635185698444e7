//! Writes text to standard output and standard error.
//!
//! `println!` panics when the reader has closed the stream; these functions ignore that, and the command continues. Any
//! other failure to write standard output, such as a full disk, fails the command: see [`exit_code`].

use std::error::Error;
use std::fmt::Display;
use std::io::{ErrorKind, IsTerminal, Write};
use std::sync::OnceLock;
use std::time::Duration;

use jiff::SignedDuration;

use super::exit_code::{FAILED, OK};
use crate::causes::in_one_line;
use crate::config::{Diagnostics, Environment};
use crate::documentation;

/// Why text for standard output is lost, if so.
static LOST: OnceLock<std::io::Error> = OnceLock::new();

/// Writes a line to standard output.
pub fn line(text: impl Display) {
    let mut out = std::io::stdout().lock();
    written(writeln!(out, "{text}").and_then(|()| out.flush()));
}

/// Writes whole text to standard output.
pub(super) fn bytes(text: &[u8]) {
    let mut out = std::io::stdout().lock();
    written(out.write_all(text).and_then(|()| out.flush()));
}

/// Remembers a failure to write standard output, unless the reader has closed the stream.
pub(super) fn written(outcome: std::io::Result<()>) {
    if let Err(error) = outcome
        && error.kind() != ErrorKind::BrokenPipe
    {
        // The first failure is the cause of the others.
        let _ = LOST.set(error);
    }
}

/// The exit code of a command that ends with `code`: a failure if its output is lost.
pub(super) fn exit_code(code: u8) -> u8 {
    let Some(error) = LOST.get() else { return code };
    error_line(format_args!("bearerd: the output was not written: {error}"));
    if code == OK { FAILED } else { code }
}

/// Writes a line to standard error, in one piece: the log may write there too.
pub fn error_line(text: impl Display) {
    let mut out = std::io::stderr().lock();
    let _ = out.write_all(format!("{text}\n").as_bytes()).and_then(|()| out.flush());
}

/// Writes why a command has failed to standard error, and what the operator can do.
pub fn failure(error: &(dyn Error + 'static), help: Option<&str>) {
    error_line(format_args!("bearerd: {}", in_one_line(error)));
    if let Some(help) = help {
        error_line(format_args!("  help: {help}"));
    }
}

/// Writes the problems of a configuration to standard error.
pub(super) fn problems(diagnostics: &Diagnostics, environment: &Environment) {
    error_line(diagnostics.render(may_colour(environment)).trim_end());
}

/// Writes the address of the documentation of an exit code to standard error.
pub(super) fn see(code: u8) {
    error_line(format_args!("  see {}", documentation::of_exit_code(code)));
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
