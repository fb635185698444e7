//! Certificate, key and callers' authorities, taken up anew when their files change.
//!
//! The files' content is looked at every few seconds, so that a swapped symlink is seen like an edited file. New
//! connections get the new ones; those that are there stay. Whatever cannot be used changes nothing.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tokio::sync::Notify;
use tracing::{error, info, warn};

use super::server::{ServerTlsError, server_config};
use crate::blocking::Blocking;
use crate::causes::in_one_line;
use crate::config::ServerTls;
use crate::config::model::certificate::now;
use crate::config::model::server_tls::{Fingerprint, TlsFileError, TlsFiles, TlsMaterial};

/// Between two looks at the files.
const INTERVAL: Duration = Duration::from_secs(2);
/// How long reading the files is waited for.
const FILE_READ_TIMEOUT: Duration = Duration::from_secs(3);

type Look = (Fingerprint, Result<TlsMaterial, TlsFileError>);

/// What callers are served with: swapped as a whole.
pub type CurrentTls = Arc<ArcSwap<ServerConfig>>;

/// Keeps what callers are served with up to date.
#[derive(Debug)]
pub struct Reload {
    files: TlsFiles,
    current: CurrentTls,
    /// What is in use.
    fingerprint: Fingerprint,
    material: TlsMaterial,
    reading: Blocking<Look>,
    /// What could not be used: the files as they were, and why.
    trouble: Option<(Fingerprint, String)>,
    /// The trouble that was told of.
    told: Option<String>,
    /// What has been said of the certificate's end.
    said: Said,
}

/// What has been said of the certificate's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Said {
    Nothing,
    Soon,
    Ended,
}

impl Reload {
    /// Begins with what the configuration found.
    ///
    /// # Errors
    ///
    /// If it cannot be used.
    pub fn new(tls: &ServerTls) -> Result<Self, ServerTlsError> {
        let ServerTls { files, initial, fingerprint } = tls.clone();
        let current = Arc::new(ArcSwap::from(server_config(&initial)?));
        // A warning of the configuration has said so.
        let said = if initial.ends_soon() { Said::Soon } else { Said::Nothing };
        Ok(Self {
            files,
            current,
            fingerprint,
            material: initial,
            reading: Blocking::new(FILE_READ_TIMEOUT),
            trouble: None,
            told: None,
            said,
        })
    }

    /// What new connections are to be accepted with.
    pub fn current(&self) -> CurrentTls {
        Arc::clone(&self.current)
    }

    /// Looks every few seconds, and at once when `asked`; never ends.
    ///
    /// # Cancel safety
    ///
    /// What is in use stays whole.
    pub async fn run(mut self, asked: Arc<Notify>) {
        loop {
            let is_asked = tokio::select! {
                () = tokio::time::sleep(INTERVAL) => false,
                () = asked.notified() => true,
            };
            self.look(is_asked).await;
            self.mind_the_end();
        }
    }

    /// Looks once. What is wrong is told at the second look that finds it so, as files that belong together are not
    /// written in one moment, and at once to whom `is_asked` for it.
    async fn look(&mut self, is_asked: bool) {
        let files = self.files.clone();
        let (fingerprint, outcome) = match self.reading.run(move || files.read()).await {
            Ok(look) => look,
            Err(error) => return self.complain(None, format!("reading the files {error}"), is_asked),
        };
        match outcome {
            Ok(_) if fingerprint == self.fingerprint => {
                self.trouble = None;
                if self.told.take().is_some() || is_asked {
                    info!(ends = self.material.end_date(), "server certificate unchanged");
                }
            }
            Ok(material) => match server_config(&material) {
                Ok(config) => self.take_up(fingerprint, material, config),
                Err(error) => self.complain(fingerprint, in_one_line(&error), is_asked),
            },
            Err(error) => self.complain(fingerprint, in_one_line(&error), is_asked),
        }
    }

    fn take_up(&mut self, fingerprint: Fingerprint, material: TlsMaterial, config: Arc<ServerConfig>) {
        self.current.store(config);
        info!(ends = material.end_date(), "server certificate reloaded");
        self.fingerprint = fingerprint;
        self.material = material;
        self.trouble = None;
        self.told = None;
        self.said = Said::Nothing;
    }

    fn complain(&mut self, fingerprint: Fingerprint, why: String, is_asked: bool) {
        let trouble = Some((fingerprint, why.clone()));
        let is_settled = self.trouble == trouble;
        self.trouble = trouble;
        if (is_settled || is_asked) && self.told.as_ref() != Some(&why) {
            warn!(error = why, "server certificate not reloaded, kept the last one");
            self.told = Some(why);
        }
    }

    /// Says once that the certificate ends soon, and once that it has ended.
    fn mind_the_end(&mut self) {
        let has_ended = self.material.end.is_some_and(|end| end <= now());
        let ends = self.material.end_date();
        if has_ended && self.said < Said::Ended {
            error!(ends, "server certificate has ended");
            self.said = Said::Ended;
        } else if self.material.ends_soon() && self.said < Said::Soon {
            warn!(ends, "server certificate ends soon");
            self.said = Said::Soon;
        }
    }
}
