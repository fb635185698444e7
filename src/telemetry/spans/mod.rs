//! Spans, the parts of traces: begun and ended by the request loop and the refreshers, and queued for a collector.
//!
//! Nothing here waits: a span that finds the queue full is dropped and counted. Only [`export`], behind the feature `otlp`,
//! knows OpenTelemetry's own types.

#[cfg(feature = "otlp")]
pub mod export;

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use tokio::sync::mpsc;

use crate::clock::wall_clock;
use crate::config::Sampler;

/// How many ended spans wait for the collector at most.
const QUEUED_SPANS: usize = 8192;
/// The longest text of an attribute, in bytes.
const MAX_TEXT: usize = 1024;

/// Where spans begin and end. Clones share one queue.
#[derive(Clone, Debug)]
pub struct Spans {
    sampler: Sampler,
    queue: mpsc::Sender<Span>,
    lost: Arc<AtomicU64>,
}

/// The name of a span: its trace, its number, and whether it is sent to the collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanContext {
    /// The trace; never 0.
    pub trace_id: u128,
    /// The span; never 0.
    pub span_id: u64,
    /// Whether the span is sent to the collector.
    pub is_sampled: bool,
}

/// A span that has ended.
#[derive(Debug)]
pub struct Span {
    /// The name of the span for machines.
    pub context: SpanContext,
    /// The span that caused this one; `None` for the first of a trace.
    pub parent: Option<Parent>,
    /// The side of the exchange.
    pub kind: Kind,
    /// The name for people, of few values.
    pub name: Cow<'static, str>,
    /// When the span began.
    pub started: SystemTime,
    /// When the span ended.
    pub ended: SystemTime,
    /// The properties.
    pub attributes: Vec<(&'static str, Value)>,
    /// Spans of other traces that this one waited for.
    pub links: Vec<SpanContext>,
    /// Whether the span ended with an error.
    pub is_failed: bool,
}

/// The span that caused another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    /// The number of the span.
    pub span_id: u64,
    /// Whether the span is of another process.
    pub is_remote: bool,
}

/// The side of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The one that answers.
    Server,
    /// The one that asks.
    Client,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Text.
    Text(Cow<'static, str>),
    /// A number.
    Number(i64),
}

impl Value {
    /// Text of a peer, cut where it is very long.
    pub fn text(text: &str) -> Self {
        let end = text.floor_char_boundary(MAX_TEXT);
        Self::Text(Cow::Owned(text[..end].to_owned()))
    }
}

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

impl From<u16> for Value {
    fn from(number: u16) -> Self {
        Self::Number(number.into())
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl Spans {
    /// The beginning of the queue, and its end.
    pub fn new(sampler: Sampler) -> (Self, mpsc::Receiver<Span>) {
        let (queue, queued) = mpsc::channel(QUEUED_SPANS);
        (Self { sampler, queue, lost: Arc::default() }, queued)
    }

    /// Names a new span in a caller's trace, whose decision the caller has made, or else in a trace of its own.
    pub fn begin(&self, trace: Option<(u128, bool)>) -> SpanContext {
        let trace_id = trace.map_or_else(|| fastrand::u128(1..), |(trace_id, _)| trace_id);
        let is_sampled = self.sampler.takes(trace_id, trace.map(|(_, decision)| decision));
        SpanContext { trace_id, span_id: span_id(), is_sampled }
    }

    /// Names the span of a token request, which is a trace of its own. The share of requests does not apply: token requests
    /// are few, and many traces link to each.
    pub fn begin_token_request(&self) -> SpanContext {
        SpanContext { trace_id: fastrand::u128(1..), span_id: span_id(), is_sampled: self.sampler.is_on() }
    }

    /// Sends a span to the collector, if it is sampled.
    pub fn end(&self, span: Span) {
        if span.context.is_sampled && self.queue.try_send(span).is_err() {
            self.lose(1);
        }
    }

    /// Counts spans that do not reach the collector.
    pub fn lose(&self, spans: u64) {
        self.lost.fetch_add(spans, Ordering::Relaxed);
    }

    /// How many spans did not reach the collector.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

/// A number for a span.
pub fn span_id() -> u64 {
    fastrand::u64(1..)
}

/// A token request under way.
#[derive(Debug)]
pub struct TokenRequestSpan {
    spans: Spans,
    context: SpanContext,
    started: SystemTime,
}

impl TokenRequestSpan {
    /// The request begins.
    pub fn begin(spans: &Spans) -> Self {
        Self { spans: spans.clone(), context: spans.begin_token_request(), started: wall_clock() }
    }

    /// The name of the span, for those who wait for the token.
    pub const fn context(&self) -> SpanContext {
        self.context
    }

    /// The request has ended, with this generation of the token if it succeeded.
    pub fn end(self, credential: &str, cause: &'static str, outcome: &'static str, generation: Option<u64>) {
        let mut attributes = vec![
            ("bearerd.credential", Value::text(credential)),
            ("bearerd.token_request.cause", cause.into()),
            ("bearerd.token_request.outcome", outcome.into()),
        ];
        attributes.push(match generation {
            Some(generation) => ("bearerd.generation", generation.into()),
            None => ("error.type", outcome.into()),
        });
        self.spans.end(Span {
            context: self.context,
            parent: None,
            kind: Kind::Client,
            name: Cow::Borrowed("token request"),
            started: self.started,
            ended: wall_clock(),
            attributes,
            links: Vec::new(),
            is_failed: generation.is_none(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Sampler = Sampler { is_parent_based: true, share: 1.0 };

    #[test]
    fn a_full_queue_drops_spans_and_counts_them() {
        let (spans, mut queued) = Spans::new(ALL);
        for _ in 0..QUEUED_SPANS + 3 {
            TokenRequestSpan::begin(&spans).end("c", "scheduled", "refreshed", Some(1));
        }
        assert_eq!(spans.lost(), 3);
        assert_eq!(queued.try_recv().unwrap().name, "token request");
        TokenRequestSpan::begin(&spans).end("c", "scheduled", "network", None);
        assert_eq!(spans.lost(), 3);
    }

    #[test]
    fn a_span_that_is_not_sampled_is_not_queued() {
        let (spans, mut queued) = Spans::new(Sampler { share: 0.0, ..ALL });
        TokenRequestSpan::begin(&spans).end("c", "scheduled", "refreshed", Some(1));
        assert!(queued.try_recv().is_err());
        assert!(spans.begin(Some((7, true))).is_sampled && !spans.begin(None).is_sampled);
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let Value::Text(text) = Value::text(&"ü".repeat(1000)) else { unreachable!() };
        assert_eq!(text.len(), MAX_TEXT);
        let Value::Text(text) = Value::text(&format!("a{}", "ü".repeat(1000))) else { unreachable!() };
        assert_eq!(text.len(), MAX_TEXT - 1);
    }
}
