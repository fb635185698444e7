//! Sends spans to a collector: OTLP over http/protobuf, on a thread of its own.
//!
//! A collector that is away, slow or refuses delays nothing else: the queue of spans is bounded, and what does not reach the
//! collector is counted. The thread has a runtime of its own, since asynchronous HTTP clients need one.

use std::error::Error;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry::trace::{Link, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{ExporterBuildError, Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::{Kind, Span, SpanContext, Spans, Value};
use crate::config::Tracing;

/// How often queued spans are sent.
const PERIOD: Duration = Duration::from_millis(500);
/// How many spans one request carries at most.
const BATCH: usize = 512;
/// How long a request may take, with its repetitions.
pub const TIMEOUT: Duration = Duration::from_secs(5);
/// How long the last spans may take at the stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// How often lost spans are logged.
const WARNING_INTERVAL: Duration = Duration::from_mins(1);
/// The most that is read of a collector's response.
const MAX_RESPONSE: usize = 64 * 1024;

/// Why no spans can be sent.
#[derive(Debug, Error)]
pub enum ExportError {
    /// The exporter cannot be set up.
    #[error(transparent)]
    Exporter(#[from] ExporterBuildError),
    /// The thread cannot be started.
    #[error("the thread of traces cannot be started")]
    Thread(#[from] io::Error),
}

/// The thread that sends spans.
#[derive(Debug)]
pub struct Export {
    stop: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

impl Export {
    /// Starts the thread, which sends spans by `http` for the daemon of this name.
    ///
    /// # Errors
    ///
    /// [`ExportError`].
    pub fn start(
        settings: &Tracing,
        http: reqwest::Client,
        instance: &str,
        spans: Spans,
        queued: mpsc::Receiver<Span>,
    ) -> Result<Self, ExportError> {
        let failure = Arc::default();
        let client = Client { http, headers: settings.headers.clone(), failure: Arc::clone(&failure) };
        let mut exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_endpoint(settings.endpoint.as_str())
            .with_protocol(Protocol::HttpBinary)
            .with_timeout(TIMEOUT)
            .build()?;
        let attributes = settings.attributes.iter();
        let resource = Resource::builder_empty()
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .with_attribute(KeyValue::new("service.instance.id", instance.to_owned()))
            .with_attributes(attributes.map(|(name, value)| KeyValue::new(name.clone(), value.clone())))
            .with_service_name(settings.service_name.clone())
            .build();
        exporter.set_resource(&resource);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let ((stop, stopping), (ending, ended)) = (oneshot::channel(), oneshot::channel());
        let sending = Sending { exporter, spans, queued, failure, logged: None, lost: 0 };
        std::thread::Builder::new().name("bearerd-traces".to_owned()).spawn(move || {
            runtime.block_on(sending.run(stopping));
            let _ = ending.send(());
        })?;
        info!(collector = settings.endpoint.origin().ascii_serialization(), "traces are sent");
        Ok(Self { stop, ended })
    }

    /// Sends what is queued, for a bounded time, and ends the thread.
    pub async fn stop(self) {
        let _ = self.stop.send(());
        if timeout(STOP_TIMEOUT, self.ended).await.is_err() {
            warn!("the last traces were not sent in time");
        }
    }
}

struct Sending {
    exporter: SpanExporter,
    spans: Spans,
    queued: mpsc::Receiver<Span>,
    failure: Arc<Mutex<Option<String>>>,
    /// When lost spans were logged last, and how many had been lost then.
    logged: Option<Instant>,
    lost: u64,
}

impl Sending {
    async fn run(mut self, mut stopping: oneshot::Receiver<()>) {
        let mut stops = false;
        while !stops {
            stops = tokio::select! {
                _ = &mut stopping => true,
                () = sleep(PERIOD) => false,
            };
            self.send_queued().await;
            self.report_lost();
        }
    }

    async fn send_queued(&mut self) {
        loop {
            let batch: Vec<_> = std::iter::from_fn(|| self.queued.try_recv().ok()).take(BATCH).collect();
            let spans = batch.len();
            if spans == 0 {
                return;
            }
            let batch = batch.into_iter().map(span_data).collect();
            if let Err(error) = self.exporter.export(batch).await {
                self.spans.lose(u64::try_from(spans).unwrap_or(u64::MAX));
                let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
                failure.get_or_insert_with(|| error.to_string());
            }
            if spans < BATCH {
                return;
            }
        }
    }

    /// Logs how many spans were lost, once a minute.
    fn report_lost(&mut self) {
        let lost = self.spans.lost();
        let is_due = self.logged.is_none_or(|logged| logged.elapsed() >= WARNING_INTERVAL);
        if lost > self.lost && is_due {
            let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
            let error = failure.as_deref().unwrap_or("spans ended faster than the collector took them");
            warn!(spans = lost - self.lost, error, "traces were lost");
            (self.logged, self.lost) = (Some(Instant::now()), lost);
        }
    }
}

/// Speaks HTTP with the collector.
#[derive(Debug)]
struct Client {
    http: reqwest::Client,
    headers: http::HeaderMap,
    /// The failure of the latest request, without the URL.
    failure: Arc<Mutex<Option<String>>>,
}

type Sent<'a> = Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'a>>;

impl HttpClient for Client {
    fn send_bytes<'a, 'f>(&'a self, request: Request<Bytes>) -> Sent<'f>
    where
        'a: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            let answer = self.exchange(request).await;
            let failure = match &answer {
                Ok(response) if response.status().is_success() => None,
                Ok(response) => Some(format!("the collector answered {}", response.status().as_u16())),
                Err(error) => Some(in_one_line(error)),
            };
            *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
            answer.map_err(Into::into)
        })
    }
}

impl Client {
    async fn exchange(&self, request: Request<Bytes>) -> Result<Response<Bytes>, reqwest::Error> {
        let mut request: reqwest::Request = request.try_into()?;
        request.headers_mut().extend(self.headers.clone());
        let mut response = self.http.execute(request).await.map_err(reqwest::Error::without_url)?;
        let mut answer = Response::new(Bytes::new());
        *answer.status_mut() = response.status();
        *answer.headers_mut() = std::mem::take(response.headers_mut());
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(reqwest::Error::without_url)? {
            let left = MAX_RESPONSE - body.len();
            body.extend_from_slice(&chunk[..chunk.len().min(left)]);
            if body.len() == MAX_RESPONSE {
                break;
            }
        }
        *answer.body_mut() = body.into();
        Ok(answer)
    }
}

/// An error with its causes.
fn in_one_line(error: &dyn Error) -> String {
    let (mut text, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// A span in the form of OpenTelemetry.
fn span_data(span: Span) -> SpanData {
    let mut links = SpanLinks::default();
    let link = |to| Link::new(context(to), Vec::new(), 0);
    links.links = span.links.into_iter().map(link).collect();
    let attributes = span.attributes.into_iter().map(|(name, value)| match value {
        Value::Text(text) => KeyValue::new(name, text),
        Value::Number(number) => KeyValue::new(name, number),
    });
    SpanData {
        span_context: context(span.context),
        parent_span_id: span.parent.map_or(SpanId::INVALID, |parent| id(parent.span_id)),
        parent_span_is_remote: span.parent.is_some_and(|parent| parent.is_remote),
        span_kind: match span.kind {
            Kind::Server => SpanKind::Server,
            Kind::Client => SpanKind::Client,
        },
        name: span.name,
        start_time: span.started,
        end_time: span.ended.max(span.started),
        attributes: attributes.collect(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links,
        status: if span.is_failed { Status::error("") } else { Status::Unset },
        instrumentation_scope: InstrumentationScope::builder("bearerd")
            .with_version(env!("CARGO_PKG_VERSION"))
            .build(),
    }
}

fn context(of: SpanContext) -> opentelemetry::trace::SpanContext {
    let flags = if of.is_sampled { TraceFlags::SAMPLED } else { TraceFlags::NOT_SAMPLED };
    let trace_id = TraceId::from_bytes(of.trace_id.to_be_bytes());
    opentelemetry::trace::SpanContext::new(trace_id, id(of.span_id), flags, false, TraceState::NONE)
}

fn id(number: u64) -> SpanId {
    SpanId::from_bytes(number.to_be_bytes())
}
