//! Writing to standard output and standard error.
//!
//! `println!` panics when its reader has gone; a command whose output nobody wants any more just goes on to its
//! end.

use std::fmt::Display;
use std::io::{IsTerminal, Write};

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

/// Whether text for standard error may have colours (<https://no-color.org>).
pub fn may_colour(environment: &Environment) -> bool {
    std::io::stderr().is_terminal() && environment.get("NO_COLOR").is_none_or(str::is_empty)
}
