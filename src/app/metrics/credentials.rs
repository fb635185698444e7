//! The metrics of credentials and their tokens.

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::family::{as_f64, counters, gauges, is, labels, seconds, timestamps, unix};
use crate::admin::Credentials;
use crate::telemetry::history::CAUSES;
use crate::telemetry::metrics::exposition::{Family, Labels};
use crate::token::error::TokenError;
use crate::token::{CredentialState, CredentialStatus, Operator};

/// A credential with its status at the scrape.
struct Seen {
    name: String,
    operator: Operator,
    status: CredentialStatus,
}

/// The metrics of all credentials; histograms count since `started`.
pub(super) fn families(credentials: &Credentials, started: SystemTime) -> Vec<Family> {
    let all: Vec<Seen> = credentials
        .all()
        .into_iter()
        .map(|(source, operator)| Seen {
            name: source.name().to_owned(),
            status: operator.status(&source),
            operator,
        })
        .collect();
    let mut families = of_token_requests(&all, started);
    families.extend(of_tokens(&all));
    families
}

fn of_token_requests(all: &[Seen], started: SystemTime) -> Vec<Family> {
    let requests = all.iter().flat_map(|seen| {
        // Every series begins at 0: the first failure is an increase.
        let outcomes = || ["refreshed", "same_token"].iter().chain(TokenError::OUTCOMES);
        let every = CAUSES.iter().flat_map(|cause| outcomes().map(move |outcome| ((*cause, *outcome), 0)));
        let mut counts: BTreeMap<_, u64> = every.collect();
        counts.extend(seen.status.record.requests.iter().map(|(key, count)| (*key, *count)));
        counts.into_iter().map(|((cause, outcome), count)| {
            let labels = labels([("credential", &seen.name), ("cause", cause), ("outcome", outcome)]);
            (labels, as_f64(count))
        })
    });
    let durations = all
        .iter()
        .map(|seen| (labels([("credential", &*seen.name)]), seen.operator.token_request_durations()));
    vec![
        counters("bearerd_token_requests", "Token requests, by cause and outcome.", requests.collect()),
        seconds(
            started,
            "bearerd_token_request_duration",
            "Duration of token requests.",
            durations.collect(),
        ),
    ]
}

fn of_tokens(all: &[Seen]) -> Vec<Family> {
    let states = all.iter().flat_map(|seen| {
        CredentialState::ALL.iter().map(|state| {
            (
                labels([("credential", &*seen.name), ("state", state.as_str())]),
                is(seen.status.state == *state),
            )
        })
    });
    let of_each = |value: &dyn Fn(&Seen) -> Option<f64>| -> Vec<(Labels, f64)> {
        let series = |seen: &Seen| Some((labels([("credential", &*seen.name)]), value(seen)?));
        all.iter().filter_map(series).collect()
    };
    let time = |name, help, moment: &dyn Fn(&CredentialStatus) -> Option<SystemTime>| {
        timestamps(name, help, of_each(&|seen| moment(&seen.status).map(unix)))
    };
    vec![
        time("bearerd_token_expiry_timestamp", "When the access token ends.", &|status| status.expires),
        time("bearerd_token_issued_timestamp", "When the access token was requested.", &|status| {
            status.issued
        }),
        time("bearerd_token_next_refresh_timestamp", "When the token is replaced.", &|status| {
            status.next_refresh
        }),
        time(
            "bearerd_token_next_attempt_timestamp",
            "When the next token request is made after a failure.",
            &|status| status.next_attempt,
        ),
        time(
            "bearerd_token_not_before_timestamp",
            "Before this moment the token endpoint wants no request (Retry-After).",
            &|status| status.not_before,
        ),
        time("bearerd_token_last_success_timestamp", "When a token request succeeded last.", &|status| {
            status.record.last_success
        }),
        time("bearerd_refresh_token_expiry_timestamp", "When the refresh token ends.", &|status| {
            status.refresh_token_expires
        }),
        gauges(
            "bearerd_credential_state",
            "The state of the credential: 1 for the one it is in.",
            states.collect(),
        ),
        gauges(
            "bearerd_credential_needs_person",
            "Whether the credential needs a person.",
            of_each(&|seen| Some(is(seen.status.needs_person))),
        ),
        counters(
            "bearerd_token_rotations",
            "How often the refresh token was replaced since a person authorized the client.",
            of_each(&|seen| Some(as_f64(seen.status.rotations))),
        ),
        gauges(
            "bearerd_token_rotation_limit",
            "How often the refresh token may be replaced; 0 is without limit.",
            of_each(&|seen| Some(as_f64(seen.operator.credential().max_rotations))),
        ),
        gauges(
            "bearerd_token_quota_remaining",
            "Token requests that the quota admits now.",
            of_each(&|seen| Some(seen.status.quota_remaining.into())),
        ),
        gauges(
            "bearerd_token_waiters",
            "Requests that wait for a token.",
            of_each(&|seen| Some(as_f64(seen.status.waiters))),
        ),
        gauges(
            "bearerd_state_durable",
            "Whether the state of the credential outlives a restart.",
            of_each(&|seen| Some(is(seen.status.is_durable))),
        ),
        counters(
            "bearerd_state_write_failures",
            "Failed writes of the state.",
            of_each(&|seen| Some(as_f64(seen.status.record.state_write_failures))),
        ),
    ]
}
