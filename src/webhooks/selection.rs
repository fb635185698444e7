//! Which events a webhook is sent.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::EventPattern;
use crate::telemetry::Event;
use crate::telemetry::event::Name;

/// The choice of events, with what it must remember.
#[derive(Debug, Default)]
pub(super) struct Selection {
    /// The reason of the latest failure of each credential in a run of failures.
    failing: HashMap<Arc<str>, Option<&'static str>>,
}

impl Selection {
    /// Whether an event is sent: if a pattern has its name; without patterns, if it is a failure (the first of a run, then
    /// each with a new reason), a recovery, a limit, or a matter for a person.
    pub(super) fn takes(&mut self, event: &Event, patterns: Option<&[EventPattern]>) -> bool {
        let is_news = self.notes(event);
        let Some(patterns) = patterns else { return is_news };
        patterns.iter().any(|pattern| pattern.matches(event.name.as_str()))
    }

    fn notes(&mut self, event: &Event) -> bool {
        match event.name {
            Name::TokenRefreshFailed => {
                let Some(credential) = &event.credential else { return true };
                self.failing.insert(Arc::clone(credential), event.reason) != Some(event.reason)
            }
            Name::TokenRefreshed | Name::Authorized => {
                if let Some(credential) = &event.credential {
                    self.failing.remove(credential);
                }
                false
            }
            Name::Recovered
            | Name::ReauthorizationRequired
            | Name::FallbackUsed
            | Name::AtRisk
            | Name::GrantExpiring
            | Name::RotationLimit
            | Name::SharedLost
            | Name::SharedRecovered => true,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: Name, credential: &str, reason: Option<&'static str>) -> Event {
        Event { credential: Some(credential.into()), reason, ..Event::now(name) }
    }

    #[test]
    fn of_a_run_of_failures_the_first_and_each_new_reason_are_sent() {
        let mut selection = Selection::default();
        let mut failed = |credential, reason| {
            selection.takes(&event(Name::TokenRefreshFailed, credential, Some(reason)), None)
        };
        assert!(failed("a", "x"));
        assert!(!failed("a", "x"));
        assert!(failed("b", "x"));
        assert!(failed("a", "y"));
        assert!(failed("a", "x"));
        assert!(!selection.takes(&event(Name::TokenRefreshed, "a", None), None));
        assert!(selection.takes(&event(Name::Recovered, "a", None), None));
        assert!(selection.takes(&event(Name::TokenRefreshFailed, "a", Some("x")), None), "a run of its own");
        assert!(!selection.takes(&event(Name::TokenRefreshFailed, "b", Some("x")), None));
    }

    #[test]
    fn patterns_take_the_place_of_the_default() {
        let patterns = ["credential.*", "token.refreshed"].map(|text| EventPattern::new(text.to_owned()));
        let mut selection = Selection::default();
        let mut takes = |name| selection.takes(&event(name, "a", None), Some(&patterns));
        assert!(takes(Name::TokenRefreshed) && takes(Name::Recovered) && takes(Name::AtRisk));
        assert!(
            !takes(Name::TokenRefreshFailed) && !takes(Name::RotationLimit) && !takes(Name::DaemonStarted)
        );
    }
}
