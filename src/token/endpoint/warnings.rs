//! Warnings about responses that are accepted: logged when a cause appears or changes, not at every refresh.

use std::time::{Duration, SystemTime};

use tracing::warn;

use super::metadata::Metadata;
use super::response::TokenResponse;
use super::validate;
use crate::config::Credential;

/// The largest difference between two clocks that causes no warning. With a larger one JWTs end too late or begin too early.
pub const MAX_SKEW: Duration = Duration::from_mins(1);

/// The warnings about one credential's responses that still hold.
#[derive(Debug, Default)]
pub struct ResponseWarnings {
    is_cut: bool,
    is_mislabelled: bool,
    not_granted: Vec<String>,
    is_clamped: bool,
    skew: Option<Skew>,
}

impl ResponseWarnings {
    /// Warns about a response that is accepted.
    pub fn of_grant(&mut self, grant: &TokenResponse, credential: &Credential, now: SystemTime) {
        let name = &credential.name;
        if is_news(&mut self.skew, grant.server_time.and_then(|theirs| Skew::between(now, theirs))) {
            let ours = self.skew.as_ref().map(|skew| format!("{skew:?}").to_ascii_lowercase());
            let skew_seconds = grant.server_time.map_or(0, |theirs| apart(theirs, now).as_secs());
            warn!(credential = name, skew_seconds, ours, "clock differs from the authorization server's");
        }
        if is_news(&mut self.is_cut, grant.lifetime_was_cut) {
            warn!(credential = name, "lifetime longer than a year was cut to a year");
        }
        if is_news(&mut self.is_mislabelled, !grant.is_labelled_json) {
            warn!(credential = name, "token answer was JSON and its Content-Type was not");
        }
        let not_granted = grant.scopes.as_ref().map(|granted| validate::not_granted(granted, credential));
        if is_news(&mut self.not_granted, not_granted.unwrap_or_default()) {
            let scopes = self.not_granted.join(" ");
            warn!(credential = name, scopes, "fewer scopes were granted than asked for");
        }
    }

    /// Warns about a `Retry-After` that is longer than `retry_after_max`.
    pub fn of_wait(&mut self, asked: Duration, credential: &Credential) {
        let Credential { name, retry_after_max, .. } = credential;
        if is_news(&mut self.is_clamped, asked > *retry_after_max) {
            warn!(
                credential = name,
                asked_seconds = asked.as_secs(),
                retry_after_max_seconds = retry_after_max.as_secs(),
                "Retry-After was longer than retry_after_max"
            );
        }
    }
}

/// Warns about the credential's methods that the issuer's metadata does not list, if they are others than before.
pub fn of_metadata(before: Option<&Metadata>, now: &Metadata, credential: &Credential) {
    let mut told = before.map(|before| before.not_supported(credential)).unwrap_or_default();
    if is_news(&mut told, now.not_supported(credential)) {
        let not_listed = told.join(", ");
        warn!(credential = credential.name, not_listed, "issuer's metadata does not list what is configured");
    }
}

/// Whether our clock is ahead of the server's or behind.
#[derive(Debug, PartialEq, Eq)]
enum Skew {
    Ahead,
    Behind,
}

impl Skew {
    fn between(ours: SystemTime, theirs: SystemTime) -> Option<Self> {
        let skew = if ours > theirs { Self::Ahead } else { Self::Behind };
        (apart(ours, theirs) > MAX_SKEW).then_some(skew)
    }
}

fn apart(one: SystemTime, other: SystemTime) -> Duration {
    one.duration_since(other).unwrap_or_else(|error| error.duration())
}

/// Whether there is something now, and it was not the same before.
fn is_news<T: PartialEq + Default>(told: &mut T, now: T) -> bool {
    let is_news = now != *told && now != T::default();
    *told = now;
    is_news
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lasting_warning_is_logged_once_and_a_changed_one_again() {
        let mut told = Vec::new();

        let news =
            [vec![], vec!["a"], vec!["a"], vec!["b"], vec![], vec!["b"]].map(|now| is_news(&mut told, now));

        assert_eq!(news, [false, true, false, true, false, true]);
    }
}
