//! The readers of events that must not miss one, as the configuration has them.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::StartError;
use crate::config::{AuditOutput, Config, LogOutput};
use crate::proxy::service::settings::ServiceSettings;
use crate::telemetry::audit::{Audit, AuditCounters};
use crate::telemetry::refused::{Counts, RefusedCallers};
use crate::telemetry::{Events, Sink, files};
use crate::tls::client::Trust;
use crate::webhooks::{Receivers, Webhooks};

/// The audit trail, the webhooks, and the reports about refused callers.
#[derive(Debug)]
pub(super) struct Reports {
    audit: Option<Arc<Audit>>,
    audit_counters: Arc<AuditCounters>,
    webhooks: Arc<Webhooks>,
    refused: Counts,
    /// Ends the task that reports refused callers.
    end: oneshot::Sender<()>,
    refused_callers: JoinSet<()>,
}

impl Reports {
    /// Opens what the configuration has, and lets `events` reach it.
    ///
    /// # Errors
    ///
    /// [`StartError`] about the audit trail or a webhook.
    pub(super) fn start(
        config: &Config,
        trust: &Trust,
        events: &Events,
        tasks: &mut JoinSet<&'static str>,
    ) -> Result<Self, StartError> {
        let receivers = receivers(config, trust)?;
        let audit_counters = Arc::<AuditCounters>::default();
        let instance = events.instance().to_owned();
        let webhooks = Arc::new(Webhooks::new(instance.clone()));
        webhooks.change(receivers);
        let audit =
            Audit::start(&config.audit, instance, Arc::clone(&audit_counters)).map_err(StartError::Audit)?;
        if let Some(audit) = &audit {
            let watched = Arc::clone(audit);
            tasks.spawn(async move {
                watched.watch().await;
                "the audit trail"
            });
        }
        let trail = audit.iter().map(|audit| Arc::clone(audit) as Arc<dyn Sink>);
        events.set_sinks(trail.chain([Arc::clone(&webhooks) as Arc<dyn Sink>]).collect());
        let (refused, callers) = RefusedCallers::new(events.clone());
        let (end, ended) = oneshot::channel();
        let mut refused_callers = JoinSet::new();
        refused_callers.spawn(callers.run(ended));
        Ok(Self { audit, audit_counters, webhooks, refused, end, refused_callers })
    }

    /// The counts of the audit trail.
    pub(super) const fn audit_counters(&self) -> &Arc<AuditCounters> {
        &self.audit_counters
    }

    /// The webhooks.
    pub(super) const fn webhooks(&self) -> &Arc<Webhooks> {
        &self.webhooks
    }

    /// Follows another configuration, with its receivers.
    pub(super) fn change(&self, config: &Config, receivers: Receivers) {
        self.webhooks.change(receivers);
        if let Some(audit) = &self.audit {
            audit.change(config.audit.on_failure);
        }
    }

    /// Lets the workers report refused callers, and refuse requests as the audit trail demands.
    pub(super) fn connect(&self, settings: ServiceSettings) -> ServiceSettings {
        let gate = self.audit.as_ref().and_then(|audit| audit.gate());
        settings.with_reports(gate, self.refused.clone())
    }

    /// Reports the callers that workers have refused until now.
    pub(super) async fn end_of_requests(&mut self) {
        let (end, _) = oneshot::channel();
        let _ = std::mem::replace(&mut self.end, end).send(());
        while self.refused_callers.join_next().await.is_some() {}
    }

    /// Writes and delivers what waits.
    pub(super) async fn finish(&self) {
        let trail = async {
            if let Some(audit) = &self.audit {
                audit.finish().await;
            }
        };
        tokio::join!(trail, self.webhooks.finish());
    }
}

/// Finds out whether the log and the audit trail could be written and the webhooks be set up. Opens no file.
///
/// # Errors
///
/// [`StartError::Log`], [`StartError::Audit`] and [`StartError::Webhook`].
pub(super) fn check(config: &Config) -> Result<(), StartError> {
    if let LogOutput::File(path) = &config.log.output {
        files::check(path).map_err(StartError::Log)?;
    }
    if let AuditOutput::File(path) = &config.audit.output {
        files::check(path).map_err(StartError::Audit)?;
    }
    receivers(config, &Trust::default()).map(|_| ())
}

/// The receivers of a configuration's webhooks.
///
/// # Errors
///
/// [`StartError::Webhook`].
pub(super) fn receivers(config: &Config, trust: &Trust) -> Result<Receivers, StartError> {
    Receivers::new(&config.webhooks, trust)
        .map_err(|(webhook, source)| StartError::Webhook { webhook, source })
}
