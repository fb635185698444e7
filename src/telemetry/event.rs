//! Events: what happens to tokens, credentials, the configuration, operators, callers and the daemon itself.
//!
//! An event is made once and has many readers: the log, the audit trail, webhooks, `/status`, `/events` and the metrics.
//! No event contains a secret.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use serde::{Serialize, Serializer};
use tracing::{info, warn};

use crate::clock::wall_clock;

macro_rules! names {
    ($($(#[doc = $doc:literal])+ $variant:ident => $name:literal, $severity:ident, $message:literal;)+) => {
        /// The name of an event.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Name {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Name {
            /// All names.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name as log, audit trail, webhooks and metrics have it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// What has happened, in a few words.
            pub const fn message(self) -> &'static str {
                match self { $(Self::$variant => $message,)+ }
            }

            /// Whether the event is normal, or a warning.
            pub const fn severity(self) -> Severity {
                match self { $(Self::$variant => Severity::$severity,)+ }
            }
        }
    };
}

names! {
    /// A token request brought a token.
    TokenRefreshed => "token.refreshed", Info, "token refreshed";
    /// A token request failed.
    TokenRefreshFailed => "token.refresh_failed", Warning, "token refresh failed";
    /// An upstream rejected the current token.
    TokenRejected => "token.rejected", Warning, "token rejected upstream";
    /// A token from before the start, or of another replica, is in use.
    TokenResumed => "token.resumed", Info, "token resumed";
    /// A person has handed over a grant.
    Authorized => "credential.authorized", Info, "credential authorized";
    /// Token requests succeed again.
    Recovered => "credential.recovered", Info, "credential recovered";
    /// Token requests have stopped until a person authorizes the client again.
    ReauthorizationRequired => "credential.reauthorization_required", Warning, "reauthorization required";
    /// The server accepts no refresh token, and the fallback grant is in use.
    FallbackUsed => "credential.fallback_used", Warning, "refresh token not accepted, fallback used";
    /// The server accepts the other client secret.
    ClientSecretInUse => "credential.client_secret_in_use", Warning, "other client secret in use";
    /// A refresh token is in use of which nobody knows whether the server has replaced it.
    AtRisk => "credential.at_risk", Warning, "credential at risk";
    /// The refresh token ends soon, and no refresh moves its end.
    GrantExpiring => "credential.grant_expiring", Warning, "refresh token ends soon";
    /// The refresh token was replaced `max_rotations` times.
    RotationLimit => "rotation.limit_reached", Warning, "rotation limit reached";
    /// Requests were refused because what the API allows, or a caller may use, is used up.
    QuotaExhausted => "quota.exhausted", Warning, "quota exhausted";
    /// The shared store is not reachable.
    SharedLost => "shared.lost", Warning, "shared store lost";
    /// The shared store is reachable again.
    SharedRecovered => "shared.recovered", Info, "shared store recovered";
    /// An operator's request was carried out or begun.
    OperatorActed => "operator.acted", Info, "operator acted";
    /// An operator's request was refused.
    OperatorRefused => "operator.refused", Warning, "operator refused";
    /// Another configuration is in force.
    ConfigurationReloaded => "configuration.reloaded", Info, "configuration reloaded";
    /// A configuration was not accepted, and the last one stays.
    ConfigurationRejected => "configuration.rejected", Warning, "configuration not reloaded, kept the last one";
    /// A caller's requests were refused.
    CallerRefused => "caller.refused", Warning, "caller refused";
    /// Events are not in the audit trail.
    AuditLost => "audit.lost", Warning, "events lost";
    /// The daemon serves requests.
    DaemonStarted => "daemon.started", Info, "started";
    /// The daemon has stopped.
    DaemonStopped => "daemon.stopped", Info, "stopped";
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// How much an event matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing needs attention.
    Info,
    /// Somebody should know.
    #[serde(rename = "warn")]
    Warning,
}

/// An event. A member that is unknown, or that an event of its name does not have, is `None`.
#[derive(Clone, Debug)]
pub struct Event {
    /// When the event happened.
    pub timestamp: Timestamp,
    /// What has happened.
    pub name: Name,
    /// The credential's name.
    pub credential: Option<Arc<str>>,
    /// The tenant that the credential's token names.
    pub tenant: Option<String>,
    /// The credential's grant.
    pub grant: Option<&'static str>,
    /// Why a token was requested: `scheduled`, `forced` or `operator`.
    pub cause: Option<&'static str>,
    /// The result of a token request, or the status of an operator's request.
    pub outcome: Option<String>,
    /// Why the credential is not well, or the operator's request refused: a code.
    pub reason: Option<&'static str>,
    /// The generation of the current token; 0 before the first.
    pub generation: Option<u64>,
    /// How often the refresh token was replaced.
    pub rotations: Option<u64>,
    /// How often the refresh token may be replaced; 0 is without limit.
    pub max_rotations: Option<u64>,
    /// The share of the latest token requests that succeeded, from 0 to 1.
    pub success_rate: Option<f64>,
    /// The time that the latest token request took.
    pub latency: Option<Duration>,
    /// The fingerprint of the current token.
    pub fingerprint: Option<String>,
    /// The scopes of the current token.
    pub scopes: Vec<String>,
    /// When the next token request may be made or is due.
    pub next_attempt_at: Option<Timestamp>,
    /// Who acted: an operator's order, by its name; a caller, by name.
    pub actor: Option<String>,
    /// The address of the operator or caller.
    pub client_address: Option<IpAddr>,
    /// The id of the request that caused the event.
    pub request_id: Option<String>,
    /// Whether the credential does not recover until a person acts.
    pub needs_person: Option<bool>,
    /// The error, or another explanation, without secrets.
    pub detail: Option<String>,
    /// Members for the log alone.
    pub more: More,
}

/// Members of an event that only the log has.
#[derive(Clone, Debug, Default)]
pub struct More {
    /// The seconds from the request of the token to its end.
    pub lifetime_seconds: Option<u64>,
    /// The seconds until the next token request.
    pub next_seconds: Option<u64>,
    /// Whether a grant that was handed over came with a token.
    pub has_token: Option<bool>,
    /// Whether the state outlives a restart.
    pub is_durable: Option<bool>,
    /// The configuration key of the client secret that is now in use.
    pub in_use: Option<String>,
    /// The fallback grant.
    pub fallback: Option<&'static str>,
    /// The seconds until the refresh token ends.
    pub ends_in_seconds: Option<u64>,
    /// The status of the response to an operator.
    pub status: Option<u16>,
}

impl Event {
    /// An event of this name that happens now.
    pub fn now(name: Name) -> Self {
        Self {
            timestamp: timestamp(wall_clock()),
            name,
            credential: None,
            tenant: None,
            grant: None,
            cause: None,
            outcome: None,
            reason: None,
            generation: None,
            rotations: None,
            max_rotations: None,
            success_rate: None,
            latency: None,
            fingerprint: None,
            scopes: Vec::new(),
            next_attempt_at: None,
            actor: None,
            client_address: None,
            request_id: None,
            needs_person: None,
            detail: None,
            more: More::default(),
        }
    }

    /// The time that the latest token request took, in milliseconds.
    pub fn latency_ms(&self) -> Option<f64> {
        self.latency.map(milliseconds)
    }

    /// Writes the event to the log. Members that are `None` are left out.
    pub(super) fn log(&self) {
        macro_rules! log {
            ($level:ident) => {
                $level!(
                    target: "bearerd::audit",
                    event = self.name.as_str(),
                    credential = self.credential.as_deref(),
                    grant = self.grant,
                    cause = self.cause,
                    outcome = self.outcome,
                    reason = self.reason,
                    generation = self.generation,
                    rotations = self.rotations,
                    latency_ms = self.latency_ms(),
                    success_rate = self.success_rate,
                    fingerprint = self.fingerprint,
                    lifetime_seconds = self.more.lifetime_seconds,
                    next_attempt_at = self.next_attempt_at.map(tracing::field::display),
                    next_attempt_seconds = self.more.next_seconds,
                    needs_person = self.needs_person,
                    has_token = self.more.has_token,
                    is_durable = self.more.is_durable,
                    in_use = self.more.in_use,
                    fallback = self.more.fallback,
                    ends_in_seconds = self.more.ends_in_seconds,
                    actor = self.actor,
                    client_address = self.client_address.map(tracing::field::display),
                    request_id = self.request_id,
                    status = self.more.status,
                    error = self.detail,
                    "{}",
                    self.name.message()
                )
            };
        }
        match self.name.severity() {
            Severity::Info => log!(info),
            Severity::Warning => log!(warn),
        }
    }
}

/// A duration in milliseconds, to the microsecond.
pub fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// A wall-clock time, to the millisecond; the epoch for one that RFC 3339 cannot express.
pub fn timestamp(time: SystemTime) -> Timestamp {
    let exact = Timestamp::try_from(time).unwrap_or_default();
    Timestamp::from_millisecond(exact.as_millisecond()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_has_a_name_of_its_own_below_its_subject() {
        let names: std::collections::BTreeSet<_> = Name::ALL.iter().map(|name| name.as_str()).collect();
        assert_eq!(names.len(), Name::ALL.len());
        for name in names {
            let (subject, what) = name.split_once('.').unwrap();
            let subjects = [
                "token",
                "credential",
                "rotation",
                "quota",
                "shared",
                "operator",
                "configuration",
                "caller",
                "audit",
                "daemon",
            ];
            assert!(subjects.contains(&subject) && !what.is_empty(), "{name}");
        }
    }

    #[test]
    fn a_duration_is_rounded_to_microseconds() {
        assert!((milliseconds(Duration::from_nanos(11_912_345)) - 11.912).abs() < 1e-9);
    }
}
