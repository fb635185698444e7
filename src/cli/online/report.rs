//! The report about one peer: the outcome, facts, and errors and warnings with their remedies.

use std::fmt;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;

use crate::documentation;

#[derive(Debug)]
pub(super) struct Report {
    peer: String,
    took: Duration,
    facts: Vec<(&'static str, String)>,
    warnings: Vec<(String, String)>,
    failure: Option<(String, String)>,
    /// The code with which requests of a route would fail.
    code: Option<&'static str>,
    is_used: bool,
}

impl Report {
    /// An empty report; `is_used` states whether a route uses the peer.
    pub(super) const fn new(peer: String, took: Duration, is_used: bool) -> Self {
        Self { peer, took, facts: Vec::new(), warnings: Vec::new(), failure: None, code: None, is_used }
    }

    pub(super) fn fact(&mut self, name: &'static str, what: impl Into<String>) {
        self.facts.push((name, what.into()));
    }

    pub(super) fn warn(&mut self, what: impl Into<String>, remedy: impl Into<String>) {
        self.warnings.push((what.into(), remedy.into()));
    }

    /// Sets the error that would make requests fail with this code, and its remedy, which the error's text may end with.
    pub(super) fn fail(&mut self, code: &'static str, what: impl Into<String>, remedy: impl Into<String>) {
        let (what, remedy) = (what.into(), remedy.into());
        let cause = what.strip_suffix(&remedy).and_then(|cause| cause.strip_suffix("; "));
        self.failure = Some((cause.unwrap_or(&what).to_owned(), remedy));
        self.code = Some(code);
    }

    /// Whether requests of a route would fail.
    pub(super) const fn is_failure(&self) -> bool {
        self.failure.is_some() && self.is_used
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = if self.failure.is_some() { "FAILED" } else { "ok" };
        let note = if self.is_used { "" } else { "; no route uses it" };
        write!(f, "{}: {outcome} ({} ms{note})", self.peer, self.took.as_millis())?;
        for (name, what) in &self.facts {
            write!(f, "\n  {name:<12} {what}")?;
        }
        if let Some((what, remedy)) = &self.failure {
            write!(f, "\n  error: {what}\n    help: {remedy}")?;
        }
        if let Some(code) = self.code {
            write!(f, "\n    see {}", documentation::of_code(code))?;
        }
        for (what, remedy) in &self.warnings {
            write!(f, "\n  warning: {what}\n    help: {remedy}")?;
        }
        Ok(())
    }
}

/// The date of a moment, in UTC.
pub(super) fn day(moment: SystemTime) -> String {
    Timestamp::try_from(moment)
        .map_or_else(|_| "after the year 9999".to_owned(), |moment| moment.strftime("%Y-%m-%d").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_precedes_warnings_and_counts_only_if_a_route_uses_the_peer() {
        let mut report = Report::new("peer".to_owned(), Duration::from_millis(5), true);
        report.fact("name", "what");
        report.warn("odd", "look");
        assert_eq!(
            report.to_string(),
            "peer: ok (5 ms)\n  name         what\n  warning: odd\n    help: look"
        );
        assert!(!report.is_failure());

        report.fail("overloaded", "broken", "mend");
        assert!(report.is_failure());
        assert!(report.to_string().contains("FAILED (5 ms)"), "{report}");
        assert!(report.to_string().contains("    help: mend\n    see https://"), "{report}");
        assert!(report.to_string().find("broken") < report.to_string().find("odd"), "{report}");

        report.is_used = false;
        assert!(!report.is_failure());
        assert!(report.to_string().contains("FAILED (5 ms; no route uses it)"), "{report}");
    }

    #[test]
    fn the_longest_name_of_a_fact_is_separated_from_its_value() {
        let mut report = Report::new("peer".to_owned(), Duration::ZERO, true);
        report.fact("authorize_url", "https://login.example.com/");
        assert!(report.to_string().contains("authorize_url https://"), "{report}");
    }

    #[test]
    fn a_day_is_a_date_even_beyond_the_calendar() {
        assert_eq!(day(SystemTime::UNIX_EPOCH), "1970-01-01");
        assert_eq!(day(SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40)), "after the year 9999");
    }
}
