//! Detects new content of `ca_file`, `client_certificate` and `client_key` by reading the files every few seconds: a
//! replaced symlink is a change too.
//!
//! The files are those of the configuration in force. A changed configuration file is not read.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior};
use tracing::{error, info, warn};

use crate::blocking::Blocking;
use crate::config::Config;
use crate::config::model::certificate_files::{Finding, Reading};
use crate::telemetry::throttle::OnChange;

/// The time between two readings.
const INTERVAL: Duration = Duration::from_secs(2);
/// How long reading the files may take.
const FILE_READ_TIMEOUT: Duration = Duration::from_secs(3);

/// Watches the files of certificates.
#[derive(Debug)]
pub(super) struct CertificateWatch {
    ticks: Interval,
    /// A reading, with the configuration whose files it has read.
    reading: Blocking<(Arc<Config>, Reading)>,
    /// The findings of the last reading.
    findings: Vec<Finding>,
    /// The unusable content that was logged.
    logged: Vec<Finding>,
    /// Why the files could not be read last time.
    unread: OnChange<Option<String>>,
    /// Why new content could not be taken up last time.
    refused: OnChange<Option<String>>,
}

/// New content that can be used.
pub(super) struct Renewed {
    pub(super) config: Config,
    findings: Vec<Finding>,
}

impl CertificateWatch {
    pub(super) fn new() -> Self {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            ticks,
            reading: Blocking::new(FILE_READ_TIMEOUT),
            findings: Vec::new(),
            logged: Vec::new(),
            unread: OnChange::default(),
            refused: OnChange::default(),
        }
    }

    /// Waits until two readings in a row find the same usable content, which is not the content in use. Logs unusable
    /// content once, when two readings in a row have found it.
    ///
    /// # Cancel safety
    ///
    /// A reading of the files of another configuration than `config` is ignored.
    pub(super) async fn due(&mut self, config: &Arc<Config>) -> Renewed {
        loop {
            self.ticks.tick().await;
            let (read, earlier) = (Arc::clone(config), self.findings.clone());
            let reading = move || {
                let reading = read.read_certificates_again(&earlier);
                (read, reading)
            };
            match self.reading.run(reading).await {
                Ok((of, _)) if !Arc::ptr_eq(&of, config) => {}
                Ok((_, Reading { findings, config })) => {
                    note_trouble(&mut self.unread, None);
                    self.note_unusable(&findings);
                    let earlier = std::mem::replace(&mut self.findings, findings);
                    if let Some(config) = config {
                        let is_usable =
                            |finding: &&Finding| finding.error.is_none() && earlier.contains(finding);
                        let findings = self.findings.iter().filter(is_usable).cloned().collect();
                        return Renewed { config, findings };
                    }
                }
                Err(error) => note_trouble(&mut self.unread, Some(format!("reading the files {error}"))),
            }
        }
    }

    /// Logs the outcome of taking up new content: a repeated failure once.
    pub(super) fn taken_up(
        &mut self,
        Renewed { findings, .. }: Renewed,
        outcome: Result<Vec<String>, String>,
    ) {
        match outcome {
            Ok(without_token) => {
                note_trouble(&mut self.refused, None);
                self.logged.retain(|logged| !findings.iter().any(|finding| finding.path == logged.path));
                for Finding { keys, path, warning, .. } in findings {
                    let (keys, file) = (keys.join(", "), path.display());
                    info!(keys, %file, "certificates reloaded");
                    if let Some(warning) = warning {
                        warn!(keys, %file, dates = warning, "reloaded certificates end soon or are not valid");
                    }
                }
                if !without_token.is_empty() {
                    let credentials = without_token.join(", ");
                    warn!(credentials, "credentials with a certificate of another subject have no token yet");
                }
            }
            Err(error) => note_trouble(&mut self.refused, Some(error)),
        }
    }

    fn note_unusable(&mut self, found: &[Finding]) {
        self.logged.retain(|logged| {
            let is_over = !found.iter().any(|finding| finding.path == logged.path);
            if is_over {
                info!(keys = logged.keys.join(", "), file = %logged.path.display(), "certificates usable again");
            }
            !is_over
        });
        for finding in found {
            let Finding { keys, path, error, .. } = finding;
            let Some(error) = error.as_ref().filter(|_| self.findings.contains(finding)) else { continue };
            let is_logged = |logged: &Finding| &logged.path == path && logged.error.as_ref() == Some(error);
            if self.logged.iter().any(is_logged) {
                continue;
            }
            warn!(keys = keys.join(", "), file = %path.display(), error, "certificates not reloaded, kept the last ones");
            self.logged.retain(|logged| &logged.path != path);
            self.logged.push(finding.clone());
        }
    }
}

fn note_trouble(trouble: &mut OnChange<Option<String>>, now: Option<String>) {
    if trouble.begins(now)
        && let Some(error) = trouble.current()
    {
        error!(error, "certificates not reloaded, kept the last ones");
    }
}
