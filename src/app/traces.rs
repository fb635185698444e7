//! The traces of a daemon: where its spans end, and the thread that sends them to the collector.

#[cfg(feature = "otlp")]
use tracing::warn;

#[cfg(feature = "otlp")]
use crate::causes::in_one_line;
use crate::config::Tracing;
use crate::telemetry::spans::Spans;
#[cfg(feature = "otlp")]
use crate::telemetry::spans::export::{Export, TIMEOUT};
#[cfg(feature = "otlp")]
use crate::tls::client::{HTTP_2_OR_1, Trust};

/// Where spans end, and what sends them.
#[derive(Debug, Default)]
pub(super) struct Traces {
    /// `None` without traces.
    pub(super) spans: Option<Spans>,
    #[cfg(feature = "otlp")]
    export: Option<Export>,
}

impl Traces {
    /// Starts the thread that sends spans, if there is a collector. Without the thread there are no traces: the daemon
    /// serves without them.
    #[cfg(feature = "otlp")]
    pub(super) fn start(settings: Option<&Tracing>, instance: &str) -> Self {
        let Some(settings) = settings else { return Self::default() };
        let (spans, queued) = Spans::new(settings.sampler);
        let client = match client() {
            Ok(client) => client,
            Err(error) => {
                warn!(error, "no traces are sent");
                return Self::default();
            }
        };
        match Export::start(settings, client, instance, spans.clone(), queued) {
            Ok(export) => Self { spans: Some(spans), export: Some(export) },
            Err(error) => {
                warn!(error = in_one_line(&error), "no traces are sent");
                Self::default()
            }
        }
    }

    /// No traces: this build sends none, and its configuration has no collector.
    #[cfg(not(feature = "otlp"))]
    pub(super) fn start(_: Option<&Tracing>, _: &str) -> Self {
        Self::default()
    }

    /// Sends the last spans, for a bounded time.
    #[cfg(feature = "otlp")]
    pub(super) async fn stop(&mut self) {
        if let Some(export) = self.export.take() {
            export.stop().await;
        }
    }

    /// There are no spans.
    #[cfg(not(feature = "otlp"))]
    pub(super) fn stop(&mut self) -> std::future::Ready<()> {
        self.spans = None;
        std::future::ready(())
    }
}

/// The client of the collector.
#[cfg(feature = "otlp")]
fn client() -> Result<reqwest::Client, String> {
    let roots = &crate::config::Roots::System;
    let tls =
        Trust::default().client_config(None, roots, HTTP_2_OR_1).map_err(|error| in_one_line(&error))?;
    #[expect(clippy::disallowed_methods, reason = "the one place that makes the client of the collector")]
    let builder = reqwest::Client::builder();
    builder
        .no_proxy()
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .user_agent(concat!("bearerd/", env!("CARGO_PKG_VERSION")))
        .timeout(TIMEOUT)
        .build()
        .map_err(|error| in_one_line(&error))
}
