//! The output: a line for each check, and the figures.

use std::io::Write as _;
use std::process::ExitCode;

/// Counts the checks.
#[derive(Debug, Default)]
pub(crate) struct Report {
    passed: usize,
    failed: usize,
}

impl Report {
    /// Prints a check with its figures.
    pub(crate) fn check(&mut self, what: &str, is_so: bool, figures: &str) {
        if is_so {
            self.passed += 1;
        } else {
            self.failed += 1;
        }
        let verdict = if is_so { "ok  " } else { "FAILED  " };
        let figures = if figures.is_empty() { String::new() } else { format!(": {figures}") };
        line(&format!("{verdict}{what}{figures}"));
    }

    /// Checks that a list is empty; prints the first few entries.
    pub(crate) fn none(&mut self, what: &str, found: &[String]) {
        self.check(what, found.is_empty(), "");
        for one in found.iter().take(10) {
            line(&format!("        {one}"));
        }
        if found.len() > 10 {
            line(&format!("        and {} more", found.len() - 10));
        }
    }

    /// Prints a figure that is not checked.
    #[expect(clippy::unused_self, reason = "what is printed is printed by the report")]
    pub(crate) fn note(&self, what: &str) {
        line(&format!("    {what}"));
    }

    /// Prints a heading.
    #[expect(clippy::unused_self, reason = "what is printed is printed by the report")]
    pub(crate) fn title(&self, what: &str) {
        line(&format!("\n---- {what}"));
    }

    /// Prints the summary.
    pub(crate) fn end(self) -> ExitCode {
        line(&format!("\n{} passed, {} failed", self.passed, self.failed));
        if self.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// Prints a line; ignores a closed output.
fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}
