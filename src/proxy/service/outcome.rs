//! The outcome of an exchange, which the access log and the metrics read at its end.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{Method, StatusCode};
use tokio::time::Instant;

use crate::http::{RequestId, TraceContext};
use crate::proxy::auth::authorize::Authorization;
use crate::proxy::route::Route;
use crate::proxy::upstream::Upstream;
use crate::token::{Fingerprint, Generation, TokenSource};

/// The outcome so far.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The status of the response.
    pub status: Option<StatusCode>,
    /// The code of an error response of the proxy.
    pub code: Option<&'static str>,
    /// What went wrong, for a person.
    pub error: Option<Cow<'static, str>>,
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

/// The consequence of a 401 of the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unauthorized {
    /// The request was sent again with the current token.
    Replayed,
    /// The request was sent again with the token before a scheduled renewal.
    PreviousToken,
    /// The 401 went to the caller: the route is held.
    Held,
    /// The 401 went to the caller: the upstream rejected a fresh token too.
    FreshTokenRejected,
    /// The 401 went to the caller: there is no other token than the rejected one.
    SameTokenAgain,
    /// The 401 went to the caller: the request body is not in the replay buffer.
    BodyNotKept,
}

impl Unauthorized {
    /// The outcome as one word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Replayed => "replayed",
            Self::PreviousToken => "previous_token",
            Self::Held => "held",
            Self::FreshTokenRejected => "fresh_token_rejected",
            Self::SameTokenAgain => "same_token_again",
            Self::BodyNotKept => "body_not_kept",
        }
    }
}

/// Why a request is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryCause {
    /// The upstream rejected the token.
    Unauthorized,
    /// A reused connection closed without an answer.
    StaleConnection,
    /// An HTTP/2 upstream refused the stream unprocessed.
    RefusedStream,
    /// The upstream answered 429.
    Throttled,
}

impl RetryCause {
    /// Every cause.
    pub const ALL: [Self; 4] =
        [Self::Unauthorized, Self::StaleConnection, Self::RefusedStream, Self::Throttled];
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
    /// The name of the credential; `None` for a route without one.
    pub credential: Option<String>,
    /// The upstream.
    pub upstream: Arc<Upstream>,
}

impl RouteLabels {
    /// The names of a route.
    pub fn of(route: &Route) -> Self {
        Self {
            route: route.name.clone(),
            credential: route.token.as_ref().map(TokenSource::name).map(str::to_owned),
            upstream: Arc::clone(&route.upstream),
        }
    }
}

/// A time that is measured in parts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stopwatch {
    total: Duration,
    since: Option<Instant>,
}

impl Stopwatch {
    /// Begins a part.
    pub fn start(&mut self) {
        self.since = Some(Instant::now());
    }

    /// Ends the part that was begun.
    pub fn stop(&mut self) {
        self.total += self.since.take().map_or(Duration::ZERO, |since| since.elapsed());
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
    /// The trace that the caller names.
    pub trace: Option<&'a TraceContext>,
    /// The caller's name.
    pub caller: Option<&'a str>,
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
    /// When the request head was complete.
    pub started: Instant,
    /// How long the request waited for tokens.
    pub token_wait: Duration,
    /// How long the upstream took to answer with a head, all attempts together.
    pub upstream: &'a Stopwatch,
}
