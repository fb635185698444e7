//! An exchange of a request and its response, from the request head to the end of the response.
//!
//! An exchange ends when hyper has the last byte of the response, or when either side aborts.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use http::header::CONNECTION;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Request, StatusCode, Version};
use tokio::time::Instant;

use super::access_log;
use super::outcome::{CallerLabels, Finished, Outcome, RouteLabels, Stopwatch};
use super::trace::RequestSpan;
use crate::config::Sampling;
use crate::http::{RequestId, TraceContext};
use crate::proxy::auth::authorize::{Authorization, TokenWait};
use crate::proxy::callers::{Identified, Unidentified};
use crate::proxy::downstream::progress::{Progress, Side};
use crate::proxy::downstream::protocol::End;
use crate::proxy::downstream::state::ClientConnection;
use crate::proxy::error::ProxyError;
use crate::proxy::message::headers;
use crate::proxy::route::guard::Present;
use crate::proxy::upstream::Destination;
use crate::telemetry::metrics::traffic::{Key, Meter, MethodLabel};
use crate::telemetry::spans::Spans;

const CALLER_STALLED: &str = "the caller stopped reading the response";

/// An exchange in progress. Dropping it ends it, counts it and writes the log entry.
#[derive(Debug)]
pub struct Exchange {
    /// The connection that the request came on.
    pub caller: Rc<ClientConnection>,
    /// The progress of the response.
    pub progress: Rc<Progress>,
    /// The protocol version of the request.
    pub version: Version,
    /// Whether a caller of HTTP/1.0 asked to keep the connection (RFC 9112 §9.3).
    pub keeps_http10: bool,
    /// The identifier of the request, for the upstream, the caller and the log.
    pub request_id: RequestId,
    /// The trace that the caller names.
    pub trace: Option<TraceContext>,
    /// The time that the request may wait for tokens.
    pub token_wait: TokenWait,
    /// How long the request has waited for its turn; `None` before its first permit, and without a quota of the API.
    pub quota_wait: Option<Duration>,
    /// The configured caller; `None` where none is configured.
    pub identity: Option<Identity>,
    /// The client's address according to a trusted proxy.
    client_address: Option<IpAddr>,
    started: Instant,
    method: Method,
    target: Option<PathAndQuery>,
    labels: Option<Rc<RouteLabels>>,
    meter: Rc<Meter>,
    sampling: Sampling,
    /// The time until the upstream's response head.
    upstream: Stopwatch,
    /// The span of the request; `None` without traces.
    span: Option<Box<RequestSpan>>,
    pub(super) outcome: Outcome,
}

/// Which of the configured callers sent a request.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The caller, or why there is none.
    pub caller: Result<Identified, Unidentified>,
    /// Its name and its counts.
    pub labels: Rc<CallerLabels>,
}

/// What an exchange needs to know of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct ExchangeSettings {
    /// Which exchanges are logged.
    pub sampling: Sampling,
    /// How long a request may wait for tokens.
    pub token_wait: Duration,
}

impl Exchange {
    /// Begins an exchange; these fields are `present` in the head, and `client_address` is the caller's according to a
    /// trusted proxy.
    pub fn begin<B>(
        request: &Request<B>,
        present: Present,
        caller: Rc<ClientConnection>,
        progress: Rc<Progress>,
        client_address: Option<IpAddr>,
        settings: ExchangeSettings,
        meter: &Rc<Meter>,
    ) -> Box<Self> {
        meter.begins();
        caller.request_begun();
        progress.begin(None);
        Box::new(Self {
            caller,
            progress,
            version: request.version(),
            keeps_http10: request.version() == Version::HTTP_10
                && headers::has_member(request.headers(), &CONNECTION, "keep-alive"),
            request_id: if present.has_request_id() {
                RequestId::of(request.headers())
            } else {
                RequestId::random()
            },
            trace: if present.has_trace() { TraceContext::of(request.headers()) } else { None },
            token_wait: TokenWait::new(settings.token_wait),
            quota_wait: None,
            identity: None,
            client_address,
            started: Instant::now(),
            method: request.method().clone(),
            target: request.uri().path_and_query().cloned(),
            labels: None,
            meter: Rc::clone(meter),
            sampling: settings.sampling,
            upstream: Stopwatch::default(),
            span: None,
            outcome: Outcome::default(),
        })
    }

    /// The client's address according to a trusted proxy.
    pub const fn forwarded_address(&self) -> Option<IpAddr> {
        self.client_address
    }

    /// The caller's name: the configured one, else the first in its certificate.
    pub fn caller_name(&self) -> Option<&str> {
        let configured = self.identity.as_ref().and_then(|identity| identity.labels.name.as_deref());
        configured.or_else(|| self.caller.names().first().map(String::as_str))
    }

    /// The client's address: according to a trusted proxy, else the peer's. `None` for a Unix socket.
    pub fn origin(&self) -> Option<IpAddr> {
        self.client_address.or_else(|| self.caller.peer.get().ip())
    }

    /// Whether there is an access log.
    pub const fn is_logged(&self) -> bool {
        self.sampling.is_on()
    }

    /// Begins the span of the request, and names it in the head.
    pub fn begin_span(&mut self, spans: &Spans, head: &mut Parts) {
        let span = RequestSpan::begin(spans, head, self.trace, self.caller.is_tls());
        self.span = Some(Box::new(span));
    }

    /// Whether the request has a `traceparent` to send.
    pub const fn has_trace(&self) -> bool {
        self.trace.is_some() || self.span.is_some()
    }

    /// Begins the span of an attempt to send the request, and names it to the upstream.
    pub fn begin_attempt(&mut self, head: &mut Parts, destination: &Destination) {
        if let Some(span) = &mut self.span {
            span.begin_attempt(head, destination, self.outcome.attempts);
        }
    }

    /// Records the route.
    pub fn routed(&mut self, labels: &Rc<RouteLabels>) {
        self.labels = Some(Rc::clone(labels));
    }

    /// Records an attempt to send the request `now`, with this token.
    pub fn sent(&mut self, authorization: Option<&Authorization>, now: Instant) {
        self.outcome.sent(authorization);
        self.progress.is_sent.set(true);
        self.awaits_upstream(now);
    }

    /// The request begins `now` to wait for the upstream: for a connection, or for its response head.
    pub fn awaits_upstream(&mut self, now: Instant) {
        self.upstream.start(now);
    }

    /// The wait for the upstream has ended.
    pub fn awaited_upstream(&mut self) -> Duration {
        self.upstream.stop()
    }

    /// Ends the span of an attempt, with a status or the code of an error.
    pub fn end_attempt(&mut self, outcome: Result<StatusCode, &'static str>) {
        if let Some(span) = &mut self.span {
            span.end_attempt(&self.method, self.labels.as_deref(), &self.outcome, outcome);
        }
    }

    /// Counts an attempt to send the request, which took `duration` until the upstream answered or failed, and ends its span.
    pub fn attempted(&mut self, outcome: Result<StatusCode, &'static str>, duration: Duration) {
        self.end_attempt(outcome);
        let (status, code) = match outcome {
            Ok(status) => (status.as_u16(), None),
            Err(code) => (0, Some(code)),
        };
        if let Some(labels) = &self.labels {
            labels.meter.attempted(Key { method: MethodLabel::of(&self.method), status, code }, duration);
            if let Some(member) = labels.members.get(self.outcome.member) {
                member.sent();
            }
        }
    }

    /// Records an error response.
    pub fn failed(&mut self, error: &ProxyError) {
        self.outcome.status = Some(error.status());
        self.outcome.code = Some(error.code());
        self.outcome.error = Some(error.explain().into());
    }

    /// Which side stalled, if a stall ended the response.
    fn stalled(&self) -> Option<&'static str> {
        match self.progress.stalled() {
            Some(Side::Upstream) => Some("the upstream stopped sending its response"),
            Some(Side::Caller) => Some(CALLER_STALLED),
            None => (self.caller.wanted_end() == Some(End::WriteTimeout)).then_some(CALLER_STALLED),
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.progress.awaits_nobody();
        self.caller.request_ended();
        let stalled = self.stalled();
        let outcome = &mut self.outcome;
        if outcome.status.is_none() {
            outcome.error =
                Some("the caller disconnected, or its connection was cut, before a response".into());
        }
        if let (Some(why), None) = (stalled, &outcome.error) {
            // hyper may have the whole response, but the caller did not read it.
            outcome.is_complete = false;
            outcome.error = Some(why.into());
        }
        let span = self.span.take();
        let callers = self.trace.map(|trace| trace.trace_id);
        let finished = Finished {
            request_id: &self.request_id,
            trace_id: span.as_ref().map(|span| span.trace_id()).or(callers),
            caller: self.caller_name(),
            caller_labels: self.identity.as_ref().map(|identity| &*identity.labels),
            client_address: self.origin(),
            method: &self.method,
            target: self.target.as_ref(),
            labels: self.labels.as_deref(),
            outcome: &self.outcome,
            duration: self.started.elapsed(),
            token_wait: self.token_wait.spent(),
            quota_wait: self.quota_wait,
            upstream: &self.upstream,
        };
        finished.count(&self.meter);
        self.meter.ends();
        access_log::write(&finished, self.sampling);
        if let Some(mut span) = span {
            span.waited_for(self.token_wait.requests());
            span.end(&finished, self.version);
        }
    }
}
