//! The spans of an exchange: one of the request, and one of each attempt to send it (OpenTelemetry's conventions for HTTP).
//!
//! No span has a query, a token, or the value of a header field other than `Host`, `traceparent` and `X-Request-Id`.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::SystemTime;

use http::request::Parts;
use http::{HeaderValue, Method, StatusCode, Version};

use super::outcome::{Finished, Outcome, RouteLabels};
use crate::clock::wall_clock;
use crate::http::{Authority, TRACEPARENT, TRACESTATE, TraceContext, TraceId};
use crate::proxy::upstream::Destination;
use crate::telemetry::spans::{Kind, Parent, Span, SpanContext, Spans, Value, span_id};

/// The flag "sampled" of `traceparent`.
const SAMPLED: u8 = 1;

/// The attributes of a span.
type Attributes = Vec<(&'static str, Value)>;

/// The span of a request that is not answered yet.
#[derive(Debug)]
pub(super) struct RequestSpan {
    spans: Spans,
    context: SpanContext,
    /// The trace that the caller names.
    parent: Option<TraceContext>,
    started: SystemTime,
    /// The authority that the request is for.
    authority: Option<String>,
    is_tls: bool,
    attempt: Option<Attempt>,
    /// The token requests that the request waited for.
    waited_for: Vec<SpanContext>,
}

/// An attempt to send the request that has not ended.
#[derive(Debug)]
struct Attempt {
    span_id: u64,
    started: SystemTime,
    /// How often the request was sent before.
    resent: u32,
    origin: String,
    path: String,
}

impl RequestSpan {
    /// Begins the span of a request, and names the span in the request's head. The field rules of a route may remove that.
    pub(super) fn begin(spans: &Spans, head: &mut Parts, parent: Option<TraceContext>, is_tls: bool) -> Self {
        let decision = |trace: TraceContext| (trace.trace_id.0, trace.flags & SAMPLED != 0);
        let context = spans.begin(parent.map(decision));
        let authority = Authority::of(head).ok().map(|authority| authority.text.to_owned());
        let span = Self {
            spans: spans.clone(),
            context,
            parent,
            started: wall_clock(),
            authority: authority.filter(|_| context.is_sampled),
            is_tls,
            attempt: None,
            waited_for: Vec::new(),
        };
        // Without a span that is sent to the collector, the upstream's span has no other parent than the caller's.
        let named = if context.is_sampled { None } else { parent.map(|parent| parent.parent_id) };
        head.headers.insert(TRACEPARENT, span.traceparent(named.unwrap_or(context.span_id)));
        if parent.is_none() {
            head.headers.remove(TRACESTATE);
        }
        span
    }

    /// The field that names a span of this trace.
    fn traceparent(&self, span_id: u64) -> HeaderValue {
        let flags =
            self.parent.map_or(0, |parent| parent.flags & !SAMPLED) | u8::from(self.context.is_sampled);
        let text = format!("00-{}-{span_id:016x}-{flags:02x}", self.trace_id());
        HeaderValue::try_from(text).expect("digits and hyphens are visible ASCII")
    }

    /// The trace.
    pub(super) const fn trace_id(&self) -> TraceId {
        TraceId(self.context.trace_id)
    }

    /// Begins an attempt, in the place of one that sent nothing, and names it to the upstream.
    pub(super) fn begin_attempt(&mut self, head: &mut Parts, destination: &Destination, resent: u32) {
        if !self.context.is_sampled {
            return;
        }
        let (origin, path) = (destination.origin.clone(), head.uri.path().to_owned());
        let attempt = Attempt { span_id: span_id(), started: wall_clock(), resent, origin, path };
        let value = self.traceparent(attempt.span_id);
        self.attempt = Some(attempt);
        // A field that the route's rules have removed or replaced stays so.
        let is_ours = |field: &HeaderValue| field.as_bytes()[..36] == value.as_bytes()[..36];
        if let Some(field) = head.headers.get_mut(TRACEPARENT).filter(|field| field.len() == value.len())
            && is_ours(field)
        {
            *field = value;
        }
    }

    /// Ends the attempt, with a status or the code of an error.
    pub(super) fn end_attempt(
        &mut self,
        method: &Method,
        labels: Option<&RouteLabels>,
        sent: &Outcome,
        outcome: Result<StatusCode, &'static str>,
    ) {
        let Some(attempt) = self.attempt.take() else { return };
        let mut attributes = Attributes::with_capacity(10);
        describe_method(&mut attributes, method);
        attributes.push(("url.full", Value::text(&format!("{}{}", attempt.origin, attempt.path))));
        let authority = attempt.origin.split_once("://").map_or("", |(_, authority)| authority);
        describe_server(&mut attributes, authority, attempt.origin.starts_with("https:"));
        if attempt.resent > 0 {
            attributes.push(("http.request.resend_count", u64::from(attempt.resent).into()));
        }
        let is_failed = match outcome {
            Ok(status) => {
                attributes.push(("http.response.status_code", status.as_u16().into()));
                let is_failed = status.is_client_error() || status.is_server_error();
                if is_failed {
                    attributes.push(("error.type", Value::text(status.as_str())));
                }
                is_failed
            }
            Err(code) => {
                attributes.push(("error.type", code.into()));
                true
            }
        };
        describe_token(&mut attributes, labels, sent);
        self.spans.end(Span {
            context: SpanContext { span_id: attempt.span_id, ..self.context },
            parent: Some(Parent { span_id: self.context.span_id, is_remote: false }),
            kind: Kind::Client,
            name: known_name(method).unwrap_or("HTTP").to_owned().into(),
            started: attempt.started,
            ended: wall_clock(),
            attributes,
            links: Vec::new(),
            is_failed,
        });
    }

    /// Links the spans of token requests that the request waited for.
    pub(super) fn waited_for(&mut self, requests: &[SpanContext]) {
        self.waited_for.extend_from_slice(requests);
    }

    /// Ends the span, and an attempt that the end of the exchange cut off.
    pub(super) fn end(mut self, finished: &Finished<'_>, version: Version) {
        if !self.context.is_sampled {
            return;
        }
        let Finished { method, labels, outcome, .. } = *finished;
        self.end_attempt(method, labels, outcome, Err("cancelled"));
        let error = error_of(outcome);
        self.spans.end(Span {
            context: self.context,
            parent: self.parent.map(|parent| Parent { span_id: parent.parent_id, is_remote: true }),
            kind: Kind::Server,
            name: name(method, labels),
            started: self.started,
            ended: wall_clock(),
            attributes: self.attributes(finished, error.as_ref(), version),
            links: std::mem::take(&mut self.waited_for),
            is_failed: error.is_some(),
        });
    }

    fn attributes(&self, finished: &Finished<'_>, error: Option<&Value>, version: Version) -> Attributes {
        let Finished { method, labels, outcome, .. } = *finished;
        let mut attributes = Attributes::with_capacity(16);
        describe_method(&mut attributes, method);
        attributes.push(("url.scheme", if self.is_tls { "https" } else { "http" }.into()));
        if let Some(target) = finished.target {
            attributes.push(("url.path", Value::text(target.path())));
        }
        // Only the Host of a routed request was checked.
        if let (Some(authority), Some(labels)) = (&self.authority, labels) {
            attributes.push(("http.route", Value::text(&labels.route)));
            describe_server(&mut attributes, authority, self.is_tls);
        }
        if let Some(status) = outcome.status {
            attributes.push(("http.response.status_code", status.as_u16().into()));
        }
        if let Some(error) = error {
            attributes.push(("error.type", error.clone()));
        }
        if let Some(address) = finished.client_address.map(|address: IpAddr| address.to_string()) {
            attributes.push(("client.address", Value::text(&address)));
        }
        let version = match version {
            Version::HTTP_10 => "1.0",
            Version::HTTP_2 => "2",
            _ => "1.1",
        };
        attributes.push(("network.protocol.version", version.into()));
        describe_token(&mut attributes, labels, outcome);
        if let Some(caller) = finished.caller_labels.and_then(|caller| caller.name.as_deref()) {
            attributes.push(("bearerd.caller", Value::text(caller)));
        }
        attributes.push(("bearerd.request_id", Value::text(finished.request_id.as_str())));
        if let Some(unauthorized) = outcome.unauthorized {
            attributes.push(("bearerd.unauthorized", unauthorized.as_str().into()));
        }
        attributes
    }
}

/// The error of a request, for its caller: our own code, a server error of the API, or a response that is not whole.
fn error_of(outcome: &Outcome) -> Option<Value> {
    let is_server_error = outcome.status.is_some_and(|status| status.is_server_error());
    match (outcome.code, outcome.status) {
        (Some(code), _) => Some(code.into()),
        (None, Some(status)) if is_server_error => Some(Value::text(status.as_str())),
        (None, None) => Some("cancelled".into()),
        _ => (!outcome.is_complete).then(|| "incomplete".into()),
    }
}

/// `{method} {route}`, or the method alone before there is a route.
fn name(method: &Method, labels: Option<&RouteLabels>) -> Cow<'static, str> {
    let method = known_name(method).unwrap_or("HTTP");
    match labels {
        Some(labels) => Cow::Owned(format!("{method} {}", labels.route)),
        None => Cow::Owned(method.to_owned()),
    }
}

/// The name of a method of RFC 9110 or RFC 5789.
fn known_name(method: &Method) -> Option<&str> {
    let known = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    Some(method.as_str()).filter(|method| known.contains(method))
}

fn describe_method(attributes: &mut Attributes, method: &Method) {
    match known_name(method) {
        Some(known) => attributes.push(("http.request.method", Value::text(known))),
        None => {
            attributes.push(("http.request.method", "_OTHER".into()));
            attributes.push(("http.request.method_original", Value::text(method.as_str())));
        }
    }
}

fn describe_server(attributes: &mut Attributes, authority: &str, is_tls: bool) {
    let Some(Authority { host, port, .. }) = Authority::parse(authority) else { return };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    attributes.push(("server.address", Value::text(host)));
    attributes.push(("server.port", port.unwrap_or(if is_tls { 443 } else { 80 }).into()));
}

fn describe_token(attributes: &mut Attributes, labels: Option<&RouteLabels>, sent: &Outcome) {
    if let Some(credential) = labels.and_then(|labels| labels.credential(sent)) {
        attributes.push(("bearerd.credential", Value::text(credential)));
    }
    if let Some(generation) = sent.generation {
        attributes.push(("bearerd.generation", generation.number().into()));
    }
}
