//! What differs between two statuses, in lines: `--watch` prints them where its output is no terminal.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::report::{MAX_HELP_CHARS, stage};
use crate::admin::status::{Credential, Finding, Status};
use crate::peer_text::{printable, printable_within};

/// The daemon as a subject.
const DAEMON: &str = "daemon";

/// The subjects of a status, each with what is said of it. Times and counts, which always change, are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen(BTreeMap<String, Fact>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Fact {
    /// The state, and its reasons.
    what: String,
    /// What a person can do.
    help: Option<String>,
}

impl Seen {
    /// What a status says.
    pub(super) fn of(status: &Status) -> Self {
        let fact = |what: &str| Fact { what: what.to_owned(), help: None };
        let mut facts = BTreeMap::from([(DAEMON.to_owned(), fact(stage(status)))]);
        facts.extend(
            status.credentials.iter().map(|one| (subject("credential", &one.name), of_credential(one))),
        );
        for finding in &status.attention {
            add(&mut facts, finding);
        }
        Self(facts)
    }

    /// The same, with a daemon that does not answer.
    pub(super) fn without_answer(&self, error: &str) -> Self {
        let mut facts = self.0.clone();
        facts.insert(DAEMON.to_owned(), Fact { what: error.to_owned(), help: None });
        Self(facts)
    }

    /// A line for each subject of which `later` says something else.
    pub(super) fn changes(&self, later: &Self) -> Vec<String> {
        let differs = |(subject, fact): &(&String, &Fact)| self.0.get(*subject) != Some(*fact);
        let changed = later.0.iter().filter(differs).map(|(subject, Fact { what, help })| match help {
            Some(help) => format!("{subject}: {what}; what to do: {help}"),
            None => format!("{subject}: {what}"),
        });
        let gone = self.0.keys().filter(|subject| !later.0.contains_key(*subject)).map(|subject| {
            let what = if subject.starts_with("credential ") { "removed" } else { "in order" };
            format!("{subject}: {what}")
        });
        changed.chain(gone).collect()
    }
}

fn subject(kind: &str, name: &str) -> String {
    if name.is_empty() { kind.to_owned() } else { format!("{kind} {}", printable(name)) }
}

fn of_credential(credential: &Credential) -> Fact {
    let state = printable(&credential.state);
    let what = match &credential.reason {
        Some(reason) => format!("{state}, {}", printable(reason)),
        None => state,
    };
    Fact { what, help: None }
}

fn add(facts: &mut BTreeMap<String, Fact>, finding: &Finding) {
    let (reason, help) = (printable(&finding.reason), Some(printable_within(&finding.help, MAX_HELP_CHARS)));
    match facts.entry(subject(&finding.subject, &finding.name)) {
        Entry::Vacant(entry) => {
            entry.insert(Fact { what: reason, help });
        }
        Entry::Occupied(mut entry) => {
            let fact = entry.get_mut();
            if !fact.what.split(", ").any(|one| one == reason) {
                fact.what = format!("{}, {reason}", fact.what);
            }
            fact.help = help;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(facts: &[(&str, &str, Option<&str>)]) -> Seen {
        let fact =
            |what: &str, help: Option<&str>| Fact { what: what.to_owned(), help: help.map(str::to_owned) };
        Seen(facts.iter().map(|(subject, what, help)| ((*subject).to_owned(), fact(what, *help))).collect())
    }

    #[test]
    fn only_what_changed_is_a_line() {
        let before = seen(&[
            ("daemon", "ready", None),
            ("credential a", "valid", None),
            ("credential b", "valid", None),
            ("upstream https://x", "upstream_tls", Some("check the certificate")),
        ]);
        let after = seen(&[
            ("daemon", "ready", None),
            ("credential a", "degraded, token_endpoint_unavailable", Some("wait")),
            ("configuration", "reload_failed", Some("correct it")),
        ]);

        assert_eq!(before.changes(&before), [""; 0]);
        assert_eq!(
            before.changes(&after),
            [
                "configuration: reload_failed; what to do: correct it",
                "credential a: degraded, token_endpoint_unavailable; what to do: wait",
                "credential b: removed",
                "upstream https://x: in order",
            ]
        );
        let lost = before.without_answer("does not answer: Connection refused");
        assert_eq!(before.changes(&lost), ["daemon: does not answer: Connection refused"]);
        assert_eq!(lost.changes(&before), ["daemon: ready"]);
    }

    #[test]
    fn a_finding_adds_its_reason_and_its_remedy_to_its_subject() {
        let mut facts = seen(&[("credential a", "degraded, token_endpoint_unavailable", None)]).0;
        let finding = |reason: &str| Finding {
            subject: "credential".to_owned(),
            name: "a".to_owned(),
            state: "degraded".to_owned(),
            reason: reason.to_owned(),
            since: None,
            until: None,
            needs_person: false,
            detail: None,
            help: "wait".to_owned(),
            documentation: String::new(),
        };

        add(&mut facts, &finding("token_endpoint_unavailable"));
        assert_eq!(facts["credential a"].what, "degraded, token_endpoint_unavailable");
        add(&mut facts, &finding("token_rejected"));
        assert_eq!(facts["credential a"].what, "degraded, token_endpoint_unavailable, token_rejected");
        assert_eq!(facts["credential a"].help.as_deref(), Some("wait"));

        let help = "check this and that; ".repeat(20);
        add(&mut facts, &Finding { help: help.clone(), ..finding("token_rejected") });
        assert_eq!(facts["credential a"].help.as_ref(), Some(&help), "a remedy is not cut");
    }
}
