//! The readers of events that must not miss one, as the configuration has them.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};

use super::StartError;
use crate::config::Config;
use crate::proxy::service::settings::ServiceSettings;
use crate::telemetry::audit::{Audit, AuditCounters};
use crate::telemetry::refused::{Counts, RefusedCallers};
use crate::telemetry::{Events, Sink};

/// The audit trail, and the reports about refused callers.
#[derive(Debug)]
pub(super) struct Reports {
    audit: Option<Arc<Audit>>,
    audit_counters: Arc<AuditCounters>,
    refused: Counts,
    /// Ends the task that reports refused callers.
    end: oneshot::Sender<()>,
    refused_callers: JoinHandle<()>,
}

impl Reports {
    /// Opens what the configuration has, and lets `events` reach it.
    ///
    /// # Errors
    ///
    /// [`StartError::Audit`].
    pub(super) fn start(
        config: &Config,
        events: &Events,
        tasks: &mut JoinSet<&'static str>,
    ) -> Result<Self, StartError> {
        let audit_counters = Arc::<AuditCounters>::default();
        let instance = events.instance().to_owned();
        let audit =
            Audit::start(&config.audit, instance, Arc::clone(&audit_counters)).map_err(StartError::Audit)?;
        if let Some(audit) = &audit {
            events.set_sinks(vec![Arc::clone(audit) as Arc<dyn Sink>]);
            let watched = Arc::clone(audit);
            tasks.spawn(async move {
                watched.watch().await;
                "the audit trail"
            });
        }
        let (refused, callers) = RefusedCallers::new(events.clone());
        let (end, ended) = oneshot::channel();
        let refused_callers = tokio::spawn(callers.run(ended));
        Ok(Self { audit, audit_counters, refused, end, refused_callers })
    }

    /// The counts of the audit trail.
    pub(super) const fn audit_counters(&self) -> &Arc<AuditCounters> {
        &self.audit_counters
    }

    /// Follows another configuration.
    pub(super) fn change(&self, config: &Config) {
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
        let _ = (&mut self.refused_callers).await;
    }

    /// Writes what waits.
    pub(super) async fn finish(&self) {
        if let Some(audit) = &self.audit {
            audit.finish().await;
        }
    }
}
