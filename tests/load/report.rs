//! What is printed: a line for each check, and the figures.

use std::io::Write as _;
use std::process::ExitCode;

/// Counts the checks.
#[derive(Debug, Default)]
pub struct Report {
    passed: usize,
    failed: usize,
}

impl Report {
    /// One check, and what it was judged by.
    pub fn check(&mut self, what: &str, is_so: bool, figures: &str) {
        if is_so {
            self.passed += 1;
        } else {
            self.failed += 1;
        }
        let verdict = if is_so { "ok  " } else { "FAILED  " };
        let figures = if figures.is_empty() { String::new() } else { format!(": {figures}") };
        line(&format!("{verdict}{what}{figures}"));
    }

    /// A check that nothing of this is there; shows the first few.
    pub fn none(&mut self, what: &str, found: &[String]) {
        self.check(what, found.is_empty(), "");
        for one in found.iter().take(10) {
            line(&format!("        {one}"));
        }
        if found.len() > 10 {
            line(&format!("        and {} more", found.len() - 10));
        }
    }

    /// A figure that nothing is judged by.
    #[expect(clippy::unused_self, reason = "what is printed is printed by the report")]
    pub fn note(&self, what: &str) {
        line(&format!("    {what}"));
    }

    /// What the next checks are about.
    #[expect(clippy::unused_self, reason = "what is printed is printed by the report")]
    pub fn title(&self, what: &str) {
        line(&format!("\n---- {what}"));
    }

    /// The last line.
    pub fn end(self) -> ExitCode {
        line(&format!("\n{} passed, {} failed", self.passed, self.failed));
        if self.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// Nobody may be reading.
fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}
