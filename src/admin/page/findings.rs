//! The findings on the page, and how the page writes times and sentences.

use super::drawing::icon;
use crate::admin::status::{Credential, Finding, Time};
use crate::admin::words::{ahead, relative, under_way_for};

/// Something that needs attention.
pub(super) struct FindingView {
    pub(super) seen: Finding,
    pub(super) icon: &'static str,
    pub(super) since: Option<When>,
    pub(super) until: Option<(&'static str, When)>,
    /// What a person can do: pieces of text, and whether each is a name of the configuration or a command.
    pub(super) help: Vec<(bool, String)>,
    /// The part of the page with more about it.
    pub(super) more: String,
}

/// The findings, each with a link to the part of the page that says more.
pub(super) fn views(findings: Vec<Finding>, credentials: &[Credential], now: Time) -> Vec<FindingView> {
    let view = |seen: Finding| FindingView {
        icon: icon(&seen.state),
        since: seen.since.map(|since| When::past(since, now)),
        until: seen.until.map(|until| (seen.until_name(), When::past(until, now))),
        help: pieces(&seen.help),
        more: match seen.subject.as_str() {
            "credential" => {
                let place = credentials.iter().position(|one| one.name == seen.name);
                format!("credential-{}", place.map_or(0, |place| place + 1))
            }
            "configuration" | "audit" => "daemon".to_owned(),
            subject => format!("{subject}s"),
        },
        seen,
    };
    findings.into_iter().map(view).collect()
}

/// A time: exact, and as people read it.
pub(super) struct When {
    pub(super) exact: String,
    pub(super) words: String,
}

impl When {
    pub(super) fn past(time: Time, now: Time) -> Self {
        Self { exact: time.to_string(), words: relative(time, now) }
    }

    pub(super) fn coming(time: Time, now: Time) -> Self {
        Self { exact: time.to_string(), words: ahead(time, now) }
    }

    pub(super) fn under_way(since: Time, now: Time) -> Self {
        Self { exact: since.to_string(), words: under_way_for(since, now) }
    }
}

/// A sentence with its first letter upper case, in pieces; every second piece stood between backticks.
fn pieces(sentence: &str) -> Vec<(bool, String)> {
    let mut pieces: Vec<_> =
        sentence.split('`').enumerate().map(|(at, piece)| (at % 2 == 1, piece.to_owned())).collect();
    if let Some((false, first)) = pieces.first_mut()
        && let Some(letter) = first.chars().next()
    {
        first.replace_range(..letter.len_utf8(), &letter.to_uppercase().to_string());
    }
    pieces
}
