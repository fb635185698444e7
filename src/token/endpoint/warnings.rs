//! Warnings about responses that are accepted: logged when a cause appears or changes, not at every refresh.

use std::time::{Duration, SystemTime};

use tracing::warn;

use super::metadata::Metadata;
use super::response::TokenResponse;
use super::validate;
use crate::config::Credential;
use crate::telemetry::throttle::OnChange;

/// The largest difference between two clocks that causes no warning. With a larger one JWTs end too late or begin too early.
pub const MAX_SKEW: Duration = Duration::from_mins(1);

/// The warnings about one credential's responses that still hold.
#[derive(Debug, Default)]
pub(crate) struct ResponseWarnings {
    is_cut: OnChange<bool>,
    is_mislabelled: OnChange<bool>,
    not_granted: OnChange<Vec<String>>,
    is_clamped: OnChange<bool>,
    /// Whether our clock is `ahead` of the server's or `behind`.
    skew: OnChange<Option<&'static str>>,
}

impl ResponseWarnings {
    /// Warns about a response that is accepted.
    pub(crate) fn of_grant(&mut self, grant: &TokenResponse, credential: &Credential, now: SystemTime) {
        let name = &credential.name;
        let theirs = grant.server_time.unwrap_or(now);
        let ours = if now > theirs { "ahead" } else { "behind" };
        let skew = now.duration_since(theirs).unwrap_or_else(|error| error.duration());
        if self.skew.begins((skew > MAX_SKEW).then_some(ours)) {
            let skew_seconds = skew.as_secs();
            warn!(credential = name, skew_seconds, ours, "clock differs from the authorization server's");
        }
        if self.is_cut.begins(grant.lifetime_was_cut) {
            warn!(credential = name, "lifetime longer than a year was cut to a year");
        }
        if self.is_mislabelled.begins(!grant.is_labelled_json) {
            warn!(credential = name, "token answer was JSON and its Content-Type was not");
        }
        let not_granted = grant.scopes.as_ref().map(|granted| validate::not_granted(granted, credential));
        if self.not_granted.begins(not_granted.unwrap_or_default()) {
            let scopes = self.not_granted.current().join(" ");
            warn!(credential = name, scopes, "fewer scopes were granted than asked for");
        }
    }

    /// Warns about a `Retry-After` that is longer than `retry_after_max`.
    pub(crate) fn of_wait(&mut self, asked: Duration, credential: &Credential) {
        let Credential { name, retry_after_max, .. } = credential;
        if self.is_clamped.begins(asked > *retry_after_max) {
            warn!(
                credential = name,
                asked_seconds = asked.as_secs(),
                retry_after_max_seconds = retry_after_max.as_secs(),
                "Retry-After was longer than retry_after_max"
            );
        }
    }
}

/// Warns about the methods of the credential's token requests that the issuer's metadata does not list, if they are others
/// than before.
pub(super) fn of_metadata(before: Option<&Metadata>, now: &Metadata, credential: &Credential) {
    let not_listed = now.not_listed_for_tokens(credential);
    let is_new = before.is_none_or(|before| before.not_listed_for_tokens(credential) != not_listed);
    if is_new && !not_listed.is_empty() {
        let not_listed = not_listed.join(", ");
        warn!(credential = credential.name, not_listed, "issuer's metadata does not list what is configured");
    }
}
