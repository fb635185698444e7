//! `/status`: the daemon and its parts at one moment, in JSON.
//!
//! [`Status`] is what `/status`, `/events`, the page and `bearerd status` show. Every member is always present, and `null`
//! is unknown. No member holds a secret.

use serde::{Deserialize, Serialize};

use crate::documentation;
use crate::telemetry::event::milliseconds;
use crate::telemetry::history::{LastError, RecentEvent, Record};
use crate::token::{CredentialStatus, Operator, TokenSource};

pub use super::api_quota::{ApiQuota, CallerQuota, QuotaLine};
pub use super::callers::Caller;
pub use super::deliveries::{Audit, Webhook};
pub use super::pools::{Member as PoolMember, Pool};
pub use crate::telemetry::time::Time;
pub use crate::token::replicas::SharedStatus;

/// The daemon at one moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The version.
    pub version: String,
    /// The commit that the build was made from.
    pub commit: Option<String>,
    /// The daemon's name in events.
    pub instance: String,
    /// When the daemon started.
    pub started_at: Time,
    /// Whether the daemon is ready.
    pub ready: bool,
    /// Whether the daemon is stopping.
    pub draining: bool,
    /// The configuration in force.
    pub configuration: Configuration,
    /// What needs attention, the most urgent first.
    #[serde(default)]
    pub attention: Vec<Finding>,
    /// The credentials, in the order of the configuration.
    pub credentials: Vec<Credential>,
    /// The configured callers, in the order of their names.
    #[serde(default)]
    pub callers: Vec<Caller>,
    /// The pools that routes use, in the order of their names.
    #[serde(default)]
    pub pools: Vec<Pool>,
    /// The upstreams.
    pub upstreams: Vec<Upstream>,
    /// The routes, in the order of the configuration.
    pub routes: Vec<Route>,
    /// The certificates that the daemon shows.
    pub certificates: Vec<Certificate>,
    /// The store that replicas share.
    pub shared: Option<SharedStatus>,
    /// The audit trail.
    pub audit: Audit,
    /// The webhooks.
    pub webhooks: Vec<Webhook>,
}

/// Something that an operator should look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The kind of its subject: `credential`, `pool`, `route`, `upstream`, `certificate`, `configuration`, `shared` or `audit`.
    pub subject: String,
    /// Which credential, pool, route, upstream or certificate; empty where there is one of its kind.
    pub name: String,
    /// `unusable` if requests fail for this reason, or else `degraded`.
    pub state: String,
    /// Why: a code.
    pub reason: String,
    /// Since when.
    pub since: Option<Time>,
    /// When bearerd tries again, or when it ends.
    pub until: Option<Time>,
    /// Whether a person must act.
    pub needs_person: bool,
    /// The error, or what happens.
    pub detail: Option<String>,
    /// What a person can do.
    pub help: String,
    /// The address of the documentation of the reason.
    pub documentation: String,
}

/// The configuration in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// The file.
    pub file: Option<String>,
    /// Since when the configuration has been in force.
    pub loaded_at: Time,
    /// The latest reload.
    pub last_reload: Option<LastReload>,
}

/// A reload of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastReload {
    /// When it ended.
    pub at: Time,
    /// Whether it put the configuration in force.
    pub successful: bool,
    /// Why it did not.
    pub detail: Option<String>,
}

/// A credential.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Credential {
    /// Its name in the configuration.
    pub name: String,
    /// Its platform.
    pub provider: String,
    /// Its grant.
    pub grant: String,
    /// The tenant that the latest token names.
    pub tenant: Option<String>,
    /// `acquiring`, `valid`, `degraded` or `unusable`.
    pub state: String,
    /// Why the state is not `valid`: a code.
    pub reason: Option<String>,
    /// Since when state and reason are so.
    pub since: Option<Time>,
    /// Whether the credential needs a person.
    pub needs_person: bool,
    /// What needs attention although token requests succeed.
    #[serde(skip)]
    pub(super) warning: Option<&'static str>,
    /// What a person can do.
    pub help: Option<String>,
    /// The address of the documentation of the reason.
    pub documentation: Option<String>,
    /// The generation of the latest token; 0 before the first.
    pub generation: u64,
    /// The fingerprint of the latest token.
    pub fingerprint: Option<String>,
    /// When the latest token was requested.
    pub issued_at: Option<Time>,
    /// When the latest token ends.
    pub expires_at: Option<Time>,
    /// When the token is replaced.
    pub next_refresh_at: Option<Time>,
    /// Since when a token request has been under way: one of this replica, or of another one that has the turn.
    pub request_under_way_since: Option<Time>,
    /// When the next token request is made after a failure.
    pub next_attempt_at: Option<Time>,
    /// Before this moment the token endpoint wants no request.
    pub not_before: Option<Time>,
    /// The scopes of the latest token.
    pub scopes: Vec<String>,
    /// How often the refresh token was replaced since a person authorized the client.
    pub rotations: u64,
    /// How often it may be replaced; 0 is without limit.
    pub max_rotations: u64,
    /// When the refresh token ends.
    pub refresh_token_expires_at: Option<Time>,
    /// Whether the state outlives a restart.
    pub durable: bool,
    /// Token requests since the start.
    pub token_requests: u64,
    /// The share of the last 100 token requests that succeeded.
    pub success_rate: Option<f64>,
    /// The average time of the last 100 token requests.
    pub average_latency_ms: Option<f64>,
    /// The time of the latest token request.
    pub last_latency_ms: Option<f64>,
    /// How many token requests the quota admits now.
    pub quota_remaining: u32,
    /// How many requests wait for a token.
    pub waiters: usize,
    /// The rate limit of the API, and its use.
    pub api_quota: Option<ApiQuota>,
    /// The latest failure of a token request.
    pub last_error: Option<Failure>,
    /// The latest events, the oldest first.
    pub events: Vec<Event>,
}

/// A failed request to a token endpoint or an upstream.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// When it failed.
    pub at: Option<Time>,
    /// The outcome, as its code.
    pub outcome: String,
    /// The error.
    pub detail: String,
}

/// An event.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Event {
    /// When it happened.
    pub at: Time,
    /// The name.
    pub event: String,
    /// The explanation.
    pub detail: Option<String>,
}

/// An upstream.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Upstream {
    /// Scheme and authority; unknown before the first discovery.
    pub origin: Option<String>,
    /// The circuit breaker: `closed`, `open` or `probing`.
    pub breaker: String,
    /// Until when an open breaker admits no request.
    pub breaker_until: Option<Time>,
    /// The connections that are open or being made.
    pub connections: usize,
    /// The requests that wait for a connection.
    pub waiting: usize,
    /// The latest failure, if no request has succeeded since.
    pub last_error: Option<Failure>,
}

/// A route, with counts since the start and latencies of the last minutes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Route {
    /// The name.
    pub name: String,
    /// Requests that were answered or broke off.
    pub requests: u64,
    /// Requests without an answer, or answered with 5xx.
    pub errors: u64,
    /// Responses by which the upstream rejected a token.
    pub unauthorized: u64,
    /// Requests that were sent again with another token.
    pub replays: u64,
    /// The median time of a request.
    pub p50_ms: Option<f64>,
    /// The time within which 99 of 100 requests were answered.
    pub p99_ms: Option<f64>,
    /// The rejection hold in force.
    pub hold: Option<Hold>,
}

/// A rejection hold: the upstream rejects the credential's token, and no refresh helps. Until its end, rejections pass to
/// the callers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hold {
    /// The credential.
    pub credential: String,
    /// When the hold began.
    pub since: Option<Time>,
    /// When the next rejection causes a refresh again.
    pub until: Option<Time>,
    /// Why no refresh helps: `fresh_token_rejected` or `same_token_again`.
    pub outcome: String,
    /// The statuses by which the upstream rejects a token, which callers get.
    pub status_codes: Vec<u16>,
}

/// A certificate that the daemon shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// To whom: `server` to callers, `admin` to operators, `client` to a token endpoint, `upstream_client` to an upstream.
    #[serde(rename = "use")]
    pub purpose: String,
    /// The first name in it, or the credential or route that it belongs to.
    pub name: String,
    /// When it ends.
    pub expires_at: Option<Time>,
}

impl Finding {
    /// What happens at `until`.
    pub fn until_name(&self) -> &'static str {
        match self.subject.as_str() {
            "certificate" => "ends",
            "route" => "hold ends",
            "pool" => "usable",
            _ => "next attempt",
        }
    }

    /// Whether requests fail for this reason.
    pub fn is_unusable(&self) -> bool {
        self.state == "unusable"
    }
}

impl Credential {
    /// The credential that `source` reads, now.
    pub fn now(source: &TokenSource, operator: &Operator) -> Self {
        let status = operator.status(source);
        let CredentialStatus { record, .. } = &status;
        let credential = operator.credential();
        let last_error = last_error(&status);
        let has_token = status.generation > 0;
        Self {
            name: source.name().to_owned(),
            provider: credential.provider.to_owned(),
            grant: operator.grant.to_owned(),
            state: status.state.as_str().to_owned(),
            reason: status.reason.map(str::to_owned),
            since: Time::new(status.since),
            needs_person: status.needs_person,
            warning: status.warning,
            generation: status.generation,
            fingerprint: record.fingerprint.clone().filter(|_| has_token),
            issued_at: status.issued.and_then(Time::new),
            expires_at: status.expires.and_then(Time::new),
            next_refresh_at: status.next_refresh.and_then(Time::new),
            request_under_way_since: status.request_under_way.and_then(Time::new),
            next_attempt_at: status.next_attempt.and_then(Time::new),
            not_before: status.not_before.and_then(Time::new),
            rotations: status.rotations,
            max_rotations: credential.max_rotations,
            refresh_token_expires_at: status.refresh_token_expires.and_then(Time::new),
            durable: status.is_durable,
            token_requests: record.token_requests(),
            success_rate: record.success_rate(),
            average_latency_ms: record.average_latency().map(milliseconds),
            last_latency_ms: record.last_latency().map(milliseconds),
            quota_remaining: status.quota_remaining,
            waiters: status.waiters,
            api_quota: None,
            last_error,
            events: recent(record),
            tenant: status.tenant,
            help: status.help,
            documentation: status.reason.map(documentation::of_code),
            scopes: status.scopes,
        }
    }

    /// Whether an operator should look at the credential.
    pub fn is_well(&self) -> bool {
        matches!(self.state.as_str(), "valid" | "acquiring") && !self.needs_person
    }
}

/// The latest failure; one that the state kept from before the start has no time.
fn last_error(status: &CredentialStatus) -> Option<Failure> {
    match (&status.record.last_error, &status.failure) {
        (Some(LastError { at, outcome, detail }), _) => {
            Some(Failure { at: Some(Time(*at)), outcome: outcome.clone(), detail: detail.clone() })
        }
        (None, Some(error)) => {
            Some(Failure { at: None, outcome: error.outcome().to_owned(), detail: error.to_string() })
        }
        (None, None) => None,
    }
}

fn recent(record: &Record) -> Vec<Event> {
    let event = |RecentEvent { at, name, detail }: &RecentEvent| Event {
        at: Time(*at),
        event: name.as_str().to_owned(),
        detail: detail.clone(),
    };
    record.events.iter().map(event).collect()
}
