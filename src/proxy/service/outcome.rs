//! The outcome of an exchange, which the access log and the metrics read at its end.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{Method, StatusCode};
use tokio::time::Instant;

use crate::http::{RequestId, TraceId};
use crate::proxy::auth::authorize::Authorization;
use crate::proxy::route::Route;
use crate::proxy::upstream::Upstream;
use crate::telemetry::metrics::callers::CallerMeter;
use crate::telemetry::metrics::pool_members::MemberMeter;
use crate::telemetry::metrics::traffic::{Key, Meter, MethodLabel, RouteMeter};
pub use crate::telemetry::metrics::traffic::{Retry as RetryCause, Unauthorized};
use crate::token::{Fingerprint, Generation};

/// The outcome so far.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The status of the response.
    pub status: Option<StatusCode>,
    /// The code of an error response of the proxy.
    pub code: Option<&'static str>,
    /// What went wrong, for a person.
    pub error: Option<Cow<'static, str>>,
    /// The place of the credential that the request uses, among those of the route.
    pub member: usize,
    /// The generation of the token that was sent last.
    pub generation: Option<Generation>,
    /// The fingerprint of the token that was sent last.
    pub fingerprint: Option<Fingerprint>,
    /// How often the request was sent.
    pub attempts: u32,
    /// Why the request was sent more than once.
    pub retries: Retries,
    /// The consequence of a 401 of the upstream.
    pub unauthorized: Option<Unauthorized>,
    /// Whether hyper has the whole response.
    pub is_complete: bool,
    /// The size of what hyper has of the response body.
    pub bytes: u64,
}

impl Outcome {
    /// Records an attempt to send the request.
    pub fn sent(&mut self, authorization: Option<&Authorization>) {
        self.attempts += 1;
        self.generation = authorization.map(|authorization| authorization.generation);
        self.fingerprint = authorization.and_then(|authorization| authorization.fingerprint);
    }

    /// Takes back the latest attempt: nothing of the request was sent.
    pub const fn was_not_sent(&mut self) {
        self.attempts = self.attempts.saturating_sub(1);
    }

    /// Records that the request is sent again.
    pub const fn retried(&mut self, cause: RetryCause) {
        self.retries.0[cause as usize] += 1;
    }
}

/// How often a request was sent again, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retries([u32; RetryCause::ALL.len()]);

impl Retries {
    /// How often the request was sent again for this cause.
    pub const fn of(&self, cause: RetryCause) -> u32 {
        self.0[cause as usize]
    }
}

/// The names of a route, for operators. Each worker has its own, so that counting their references moves nothing between
/// processor caches.
#[derive(Debug)]
pub struct RouteLabels {
    /// The name of the route.
    pub route: String,
    /// The names of the credentials; several for a pool, none for a route without one.
    pub credentials: Vec<String>,
    /// Counts the requests that go out with the tokens of each credential of a pool; empty without one.
    pub members: Vec<MemberMeter>,
    /// The upstream.
    pub upstream: Arc<Upstream>,
    /// Counts the requests of the route.
    pub meter: RouteMeter,
}

impl RouteLabels {
    /// The name of the credential that a request uses.
    pub fn credential(&self, outcome: &Outcome) -> Option<&str> {
        self.credentials.get(outcome.member).map(String::as_str)
    }

    /// The names of a route, whose requests `meter` counts.
    pub fn of(route: &Route, meter: &Meter) -> Self {
        Self {
            route: route.name.clone(),
            credentials: route.members.iter().map(|member| member.source.name().to_owned()).collect(),
            members: route.pool_members().map(|(pool, member)| meter.member(&pool, &member)).collect(),
            upstream: Arc::clone(&route.upstream),
            meter: meter.route(&route.name),
        }
    }
}

/// A configured caller, for operators. Each worker has its own, as of [`RouteLabels`].
#[derive(Debug)]
pub struct CallerLabels {
    /// The configured name; `None` for requests of no caller.
    pub name: Option<String>,
    /// Counts the requests of the caller.
    pub meter: CallerMeter,
}

/// A time that is measured in parts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stopwatch {
    total: Duration,
    since: Option<Instant>,
}

impl Stopwatch {
    /// Begins a part at this time.
    pub const fn start(&mut self, now: Instant) {
        self.since = Some(now);
    }

    /// Ends the part that was begun, and answers how long it took.
    pub fn stop(&mut self) -> Duration {
        let part = self.since.take().map_or(Duration::ZERO, |since| since.elapsed());
        self.total += part;
        part
    }

    /// The parts so far, with the one that was begun.
    pub fn elapsed(&self) -> Duration {
        self.total + self.since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

/// An exchange that has ended.
#[derive(Debug)]
pub struct Finished<'a> {
    /// The identifier of the request.
    pub request_id: &'a RequestId,
    /// The trace: of the caller, or of the daemon itself.
    pub trace_id: Option<TraceId>,
    /// The caller's name.
    pub caller: Option<&'a str>,
    /// The counts of the configured caller; `None` where none is configured.
    pub caller_labels: Option<&'a CallerLabels>,
    /// The caller's address; `None` for a Unix socket.
    pub client_address: Option<IpAddr>,
    /// The method.
    pub method: &'a Method,
    /// The path and query.
    pub target: Option<&'a PathAndQuery>,
    /// The names of the route, once there is one.
    pub labels: Option<&'a RouteLabels>,
    /// The outcome.
    pub outcome: &'a Outcome,
    /// The time since the request head was complete.
    pub duration: Duration,
    /// How long the request waited for tokens.
    pub token_wait: Duration,
    /// How long the request waited for its turn; `None` without a quota of the API.
    pub quota_wait: Option<Duration>,
    /// How long the upstream took to answer with a head, all attempts together.
    pub upstream: &'a Stopwatch,
}

impl Finished<'_> {
    /// The name of the credential.
    pub fn credential(&self) -> Option<&str> {
        self.labels?.credential(self.outcome)
    }

    /// Counts the exchange.
    pub fn count(&self, meter: &Meter) {
        let Outcome { status, code, attempts, retries, unauthorized, .. } = self.outcome;
        let status = status.map_or(0, |status| status.as_u16());
        if let Some(caller) = self.caller_labels {
            caller.meter.answered(status, code.is_some() && (400..500).contains(&status));
        }
        let key = Key { method: MethodLabel::of(self.method), status, code: *code };
        let Some(RouteLabels { meter: route, .. }) = self.labels else {
            return meter.refused(key, self.duration);
        };
        route.answered(key, self.duration);
        if let Some(outcome) = unauthorized {
            route.unauthorized(*outcome);
        }
        if *attempts > 1 {
            for cause in RetryCause::ALL {
                route.retried(*cause, retries.of(*cause));
            }
        }
    }
}
