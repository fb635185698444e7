//! A credential as operators see it: its state, why it is not well, what happens next, and what a person can do.
//!
//! `/status`, the page, `bearerd status`, the metrics, events and error responses use this one vocabulary.

use std::sync::Arc;
use std::time::SystemTime;

use super::access_token::AccessToken;
use super::demand::Rejection;
use super::error::TokenError;
use super::help::{authorize, help, help_for_rejected_token};
use super::limiter::Barrier;
use super::progress::{Reason, RefreshProgress, Standing};
use super::source::TokenSource;
use crate::clock::{Moment, WallTimes};
use crate::config::Credential;
use crate::telemetry::history::{History, Record};

/// Why a credential with a usable token is degraded although token requests succeed: upstreams reject the token.
pub const TOKEN_REJECTED: &str = "token_rejected";

/// The refresh token ends soon, and no refresh moves its end.
const GRANT_EXPIRING: &str = "grant_expiring";
/// The state file cannot be written.
const STATE_NOT_DURABLE: &str = "state_not_durable";
/// The refresh token was replaced almost as often as `max_rotations` allows.
const ROTATION_LIMIT_NEAR: &str = "rotation_limit_near";

/// Why a credential that is otherwise well needs attention.
pub const WARNINGS: [&str; 3] = [GRANT_EXPIRING, STATE_NOT_DURABLE, ROTATION_LIMIT_NEAR];

/// Whether a credential is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialState {
    /// No token request has ended yet.
    Acquiring,
    /// The token is usable, and the latest refresh succeeded.
    Valid,
    /// The token is usable, but the latest refresh failed, or a route rejects the token.
    Degraded,
    /// No token is usable, or every upstream rejects the token and no refresh replaces it.
    Unusable,
}

impl CredentialState {
    /// All states.
    pub const ALL: [Self; 4] = [Self::Acquiring, Self::Valid, Self::Degraded, Self::Unusable];

    /// The state, as one word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Acquiring => "acquiring",
            Self::Valid => "valid",
            Self::Degraded => "degraded",
            Self::Unusable => "unusable",
        }
    }
}

/// A credential at one moment. Times are by the wall clock; `None` is unknown.
#[derive(Clone, Debug)]
pub struct CredentialStatus {
    /// Whether the credential is well.
    pub state: CredentialState,
    /// Why it is not: the code of an error response, or [`TOKEN_REJECTED`].
    pub reason: Option<&'static str>,
    /// Since when it has this state and this reason.
    pub since: SystemTime,
    /// Whether a person must act.
    pub needs_person: bool,
    /// What needs attention although token requests succeed: one of [`WARNINGS`].
    pub warning: Option<&'static str>,
    /// What a person can do.
    pub help: Option<String>,
    /// The generation of the latest token; 0 before the first.
    pub generation: u64,
    /// The tenant that the latest token names.
    pub tenant: Option<String>,
    /// When the latest token was requested.
    pub issued: Option<SystemTime>,
    /// When it ends or has ended.
    pub expires: Option<SystemTime>,
    /// When the token is replaced.
    pub next_refresh: Option<SystemTime>,
    /// Since when a token request has been under way: one of this replica, or of another one that has the turn.
    pub request_under_way: Option<SystemTime>,
    /// When the next token request is made after a failure.
    pub next_attempt: Option<SystemTime>,
    /// Before this moment the token endpoint wants no request (`Retry-After`).
    pub not_before: Option<SystemTime>,
    /// The scopes of the latest token.
    pub scopes: Vec<String>,
    /// How often the refresh token was replaced since a person authorized the client.
    pub rotations: u64,
    /// When the refresh token ends.
    pub refresh_token_expires: Option<SystemTime>,
    /// Whether the state outlives a restart.
    pub is_durable: bool,
    /// How many token requests the quota admits now.
    pub quota_remaining: u32,
    /// How many requests wait for a token.
    pub waiters: usize,
    /// Why the latest token request failed.
    pub failure: Option<Arc<TokenError>>,
    /// Counts, and the latest requests and events.
    pub record: Record,
}

impl CredentialStatus {
    /// The status now of the credential that `source` reads.
    pub(super) fn now(source: &TokenSource, credential: &Credential, history: &History) -> Self {
        let Noted { state, reason, since, progress, times, token, is_usable } = Noted::now(source, history);
        let standing = progress.standing;
        let is_failing = progress.failure.is_some();
        let blocked =
            progress.blocked.filter(|blocked| times.moment() < blocked.until && !is_never(blocked.until));
        // A token that a route rejects is due now, whatever the rest of its life.
        let due = standing.due.filter(|due| !is_never(*due));
        let due = if source.is_rejected() { due.map(|due| due.min(times.moment())) } else { due };
        let expires = token.as_deref().map(AccessToken::expires);
        let failure = progress.failure.clone();
        let record = history.record();
        let advice = advice(&progress, reason, credential, record.state_write_failures > 0);
        let (warning, help) = advice.unzip();
        Self {
            state,
            reason,
            since,
            needs_person: needs_person(&progress) || standing.is_grant_expiring,
            warning: warning.flatten(),
            help,
            generation: source.generation().number(),
            tenant: source.tenant(),
            issued: token.as_deref().map(|token| times.at(token.issued())),
            expires: expires.map(|end| times.at(end)),
            next_refresh: due.filter(|_| !is_failing).map(|due| times.at(due)),
            request_under_way: progress.underway.map(|since| times.at(since)),
            next_attempt: match (is_failing || !is_usable, due, blocked) {
                (false, ..) | (_, None, _) => None,
                (true, Some(due), None) => Some(times.at(due.max(times.moment()))),
                (true, Some(due), Some(blocked)) => Some(times.at(blocked.until.max(due))),
            },
            not_before: blocked
                .filter(|blocked| blocked.by == Barrier::RetryAfter)
                .map(|blocked| times.at(blocked.until)),
            scopes: token.as_deref().map(|token| token.scopes().to_vec()).unwrap_or_default(),
            rotations: standing.rotations,
            refresh_token_expires: source.refresh_token_expires(),
            is_durable: standing.is_durable,
            quota_remaining: quota_remaining(standing.quota_full_at, credential, times.moment()),
            waiters: source.waiters(),
            failure,
            record,
        }
    }
}

/// The state of a credential, and what it follows from.
struct Noted {
    state: CredentialState,
    reason: Option<&'static str>,
    since: SystemTime,
    progress: RefreshProgress,
    times: WallTimes,
    token: Option<Arc<AccessToken>>,
    is_usable: bool,
}

impl Noted {
    /// The state now. The history notes since when it holds.
    fn now(source: &TokenSource, history: &History) -> Self {
        let (progress, rejection, clock) = source.seen();
        let times = WallTimes::now(clock);
        let token = source.latest();
        let is_usable = source.current().is_some();
        let (state, reason) = standing(&progress, rejection, token.is_some(), is_usable, times.moment());
        let changed = match token.as_deref().map(AccessToken::expires) {
            // Nothing happens when a token ends, so the change may be observed later.
            Some(end) if state == CredentialState::Unusable && end <= times.moment() => times.at(end),
            _ => times.wall(),
        };
        let since = history.since((state.as_str(), reason), changed);
        Self { state, reason, since, progress, times, token, is_usable }
    }
}

/// Notes the state of a credential, so that a later status tells since when it holds.
pub(super) fn note(source: &TokenSource, history: &History) {
    Noted::now(source, history);
}

const fn is_never(moment: Moment) -> bool {
    moment.as_nanos() == u64::MAX
}

/// The state, and why it is not `valid`.
fn standing(
    progress: &RefreshProgress,
    rejection: Rejection,
    has_token: bool,
    is_usable: bool,
    now: Moment,
) -> (CredentialState, Option<&'static str>) {
    let failure = progress.failure.as_ref().map(|_| progress.unavailable(now).reason.code());
    match (is_usable, rejection, failure) {
        (true, Rejection::None, None) => (CredentialState::Valid, None),
        (true, Rejection::All, Some(reason)) | (false, _, Some(reason)) => {
            (CredentialState::Unusable, Some(reason))
        }
        (true, _, Some(reason)) => (CredentialState::Degraded, Some(reason)),
        (true, _, None) => (CredentialState::Degraded, Some(TOKEN_REJECTED)),
        (false, _, None) => {
            let has_begun = has_token || progress.finished > 0;
            let state = if has_begun { CredentialState::Unusable } else { CredentialState::Acquiring };
            (state, Some(progress.unavailable(now).reason.code()))
        }
    }
}

fn needs_person(progress: &RefreshProgress) -> bool {
    progress.failure.as_deref().is_some_and(|failure| Reason::of(failure).needs_person())
}

/// Whether the rest of the rotations is a fifth of `max_rotations` or less.
const fn is_rotation_limit_near(rotations: u64, max_rotations: u64) -> bool {
    max_rotations > 0 && max_rotations.saturating_sub(rotations) <= max_rotations.div_ceil(5)
}

/// What a person can do, in one sentence, and the warning that calls for it.
fn advice(
    progress: &RefreshProgress,
    reason: Option<&'static str>,
    credential: &Credential,
    has_failed_to_write: bool,
) -> Option<(Option<&'static str>, String)> {
    if let Some(failure) = &progress.failure {
        return Some((None, help(failure, credential)));
    }
    let Standing { rotations, is_durable, is_grant_expiring, .. } = progress.standing;
    let (warning, text) = match reason {
        _ if is_grant_expiring => (
            Some(GRANT_EXPIRING),
            format!(
                "{} before the refresh token ends: no refresh moves its end",
                authorize(credential)
            ),
        ),
        Some(TOKEN_REJECTED) => (None, help_for_rejected_token().to_owned()),
        Some(reason) if reason == Reason::QuotaExhausted.code() => (
            None,
            "wait, or raise `quota` of the credential if the authorization server allows more token requests".to_owned(),
        ),
        _ if has_failed_to_write && !is_durable => (
            Some(STATE_NOT_DURABLE),
            "let bearerd write the state file of the credential: check the free space, the owner and the mode of its \
             folder; a restart before that loses the newest refresh token"
                .to_owned(),
        ),
        _ if is_rotation_limit_near(rotations, credential.max_rotations) => (
            Some(ROTATION_LIMIT_NEAR),
            format!(
                "{}, or raise `max_rotations`: the refresh token was replaced {rotations} of {} times",
                authorize(credential),
                credential.max_rotations
            ),
        ),
        _ => return None,
    };
    Some((warning, text))
}

/// How many requests the quota admits now.
fn quota_remaining(full_at: Moment, credential: &Credential, now: Moment) -> u32 {
    let quota = credential.quota;
    let one = quota.per / quota.requests.get();
    if one.is_zero() {
        return quota.requests.get();
    }
    let missing = now.until(full_at).as_nanos().div_ceil(one.as_nanos());
    quota.requests.get().saturating_sub(u32::try_from(missing).unwrap_or(u32::MAX))
}
