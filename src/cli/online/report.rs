//! What is told of one peer: how it went, the facts, and what to do about it.

use std::fmt;
use std::time::{Duration, SystemTime};

use jiff::{SignedDuration, Timestamp};

/// One block of the output.
#[derive(Debug)]
pub(super) struct Report {
    peer: String,
    took: Duration,
    facts: Vec<(&'static str, String)>,
    warnings: Vec<(String, String)>,
    failure: Option<(String, String)>,
    is_needed: bool,
}

impl Report {
    pub(super) const fn new(peer: String, took: Duration) -> Self {
        Self { peer, took, facts: Vec::new(), warnings: Vec::new(), failure: None, is_needed: true }
    }

    /// No request depends on it.
    pub(super) const fn not_needed(&mut self) {
        self.is_needed = false;
    }

    pub(super) fn fact(&mut self, name: &'static str, what: impl Into<String>) {
        self.facts.push((name, what.into()));
    }

    /// Something to look at, and what to do about it.
    pub(super) fn warn(&mut self, what: impl Into<String>, remedy: impl Into<String>) {
        self.warnings.push((what.into(), remedy.into()));
    }

    /// Something that requests would fail for, and what to do about it.
    pub(super) fn fail(&mut self, what: impl Into<String>, remedy: impl Into<String>) {
        self.failure = Some((what.into(), remedy.into()));
    }

    /// Whether a request would fail.
    pub(super) const fn is_failure(&self) -> bool {
        self.failure.is_some() && self.is_needed
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = if self.failure.is_some() { "FAILED" } else { "ok" };
        let note = if self.is_needed { "" } else { "; no route uses it" };
        write!(f, "{}: {outcome} ({} ms{note})", self.peer, self.took.as_millis())?;
        for (name, what) in &self.facts {
            write!(f, "\n  {name:<12} {what}")?;
        }
        let warnings = self.warnings.iter().map(|told| ("warning", told));
        for (kind, (what, remedy)) in self.failure.iter().map(|told| ("error", told)).chain(warnings) {
            write!(f, "\n  {kind}: {what}\n    help: {remedy}")?;
        }
        Ok(())
    }
}

/// A duration in words, whole seconds.
pub(in crate::cli) fn in_words(duration: Duration) -> String {
    let whole =
        SignedDuration::try_from(Duration::from_secs(duration.as_secs())).unwrap_or(SignedDuration::MAX);
    format!("{whole:#}")
}

/// The day of a moment, in UTC.
pub(super) fn day(moment: SystemTime) -> String {
    Timestamp::try_from(moment)
        .map_or_else(|_| "after the year 9999".to_owned(), |moment| moment.strftime("%Y-%m-%d").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_comes_before_warnings_and_counts_only_where_a_request_depends_on_it() {
        let mut report = Report::new("peer".to_owned(), Duration::from_millis(5));
        report.fact("name", "what");
        report.warn("odd", "look");
        assert_eq!(
            report.to_string(),
            "peer: ok (5 ms)\n  name         what\n  warning: odd\n    help: look"
        );
        assert!(!report.is_failure());

        report.fail("broken", "mend");
        assert!(report.is_failure());
        assert!(report.to_string().contains("FAILED (5 ms)"), "{report}");
        assert!(report.to_string().find("broken") < report.to_string().find("odd"), "{report}");

        report.not_needed();
        assert!(!report.is_failure());
        assert!(report.to_string().contains("FAILED (5 ms; no route uses it)"), "{report}");
    }

    #[test]
    fn the_longest_name_of_a_fact_is_apart_from_what_is_said_of_it() {
        let mut report = Report::new("peer".to_owned(), Duration::ZERO);
        report.fact("authorize_url", "https://login.example.com/");
        assert!(report.to_string().contains("authorize_url https://"), "{report}");
    }

    #[test]
    fn days_and_durations_are_words() {
        assert_eq!(in_words(Duration::from_millis(3_600_900)), "1h");
        assert_eq!(in_words(Duration::ZERO), "0s");
        assert_eq!(day(SystemTime::UNIX_EPOCH), "1970-01-01");
        assert_eq!(day(SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40)), "after the year 9999");
    }
}
