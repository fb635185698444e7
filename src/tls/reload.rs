//! Reloads the server certificate, its key and the client authorities when their files change.
//!
//! The files' content is read every few seconds, so that a replaced symlink is noticed like an edited file. New connections
//! use the new files; open connections stay. Unusable files change nothing.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::sign::CertifiedKey;
use tokio::sync::Notify;
use tracing::{error, info, warn};

use super::client::Alpn;
use super::server::{ServerTlsError, server_config};
use crate::blocking::Blocking;
use crate::causes::in_one_line;
use crate::config::ServerTls;
use crate::config::model::certificate::now;
use crate::config::model::server_tls::{Fingerprint, TlsFileError, TlsFiles, TlsMaterial};

/// The time between two readings of the files.
const INTERVAL: Duration = Duration::from_secs(2);
/// How long reading the files may take.
const FILE_READ_TIMEOUT: Duration = Duration::from_secs(3);

type Reading = (Fingerprint, Result<TlsMaterial, Vec<TlsFileError>>);

/// The TLS configuration of new connections, replaced as a whole.
pub type CurrentTls = Arc<ArcSwap<ServerConfig>>;

/// The certificate of new connections.
pub type CurrentCertificate = Arc<ArcSwap<CertifiedKey>>;

/// Keeps the TLS configuration up to date.
#[derive(Debug)]
pub struct Reload {
    /// The configuration key of the files.
    key: &'static str,
    files: TlsFiles,
    alpn: Alpn,
    current: CurrentTls,
    certificate: CurrentCertificate,
    /// The fingerprint and the content of the files in use.
    fingerprint: Fingerprint,
    material: TlsMaterial,
    reading: Blocking<Reading>,
    /// The fingerprint of the files that the last reading found unusable, and the error.
    unusable: Option<(Fingerprint, String)>,
    /// The error that was logged.
    logged: Option<String>,
    expiry_warning: ExpiryWarning,
}

/// The last log entry about the certificate's expiry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum ExpiryWarning {
    None,
    Soon,
    Ended,
}

impl Reload {
    /// Begins with the files of the configuration key `key` as the configuration has read them, for the protocols `alpn`.
    ///
    /// # Errors
    ///
    /// [`ServerTlsError`] if the files cannot be used.
    pub fn new(key: &'static str, tls: &ServerTls, alpn: Alpn) -> Result<Self, ServerTlsError> {
        let ServerTls { files, initial, fingerprint } = tls.clone();
        let current = Arc::new(ArcSwap::from(server_config(&initial, alpn)?));
        let certificate = Arc::new(ArcSwap::from(Arc::clone(&initial.certified)));
        // The configuration has a warning of its own.
        let expiry_warning = if initial.ends_soon() { ExpiryWarning::Soon } else { ExpiryWarning::None };
        Ok(Self {
            key,
            files,
            alpn,
            current,
            certificate,
            fingerprint,
            material: initial,
            reading: Blocking::new(FILE_READ_TIMEOUT),
            unusable: None,
            logged: None,
            expiry_warning,
        })
    }

    /// The TLS configuration of new connections.
    pub fn current(&self) -> CurrentTls {
        Arc::clone(&self.current)
    }

    /// The certificate of new connections.
    pub fn certificate(&self) -> CurrentCertificate {
        Arc::clone(&self.certificate)
    }

    /// Reads the files every few seconds, and at once when `asked` is notified. Never returns.
    ///
    /// # Cancel safety
    ///
    /// The TLS configuration in use stays whole.
    pub async fn run(mut self, asked: Arc<Notify>) {
        loop {
            let is_asked = tokio::select! {
                () = tokio::time::sleep(INTERVAL) => false,
                () = asked.notified() => true,
            };
            self.read(is_asked).await;
            self.warn_of_expiry();
        }
    }

    /// Reads the files once. An error is logged if a second reading confirms it, as files that belong together are not
    /// written in one moment; if `is_asked`, at once.
    async fn read(&mut self, is_asked: bool) {
        let files = self.files.clone();
        let (fingerprint, outcome) = match self.reading.run(move || files.read()).await {
            Ok(reading) => reading,
            Err(error) => return self.failed(None, format!("reading the files {error}"), is_asked),
        };
        match outcome {
            Ok(_) if fingerprint == self.fingerprint => {
                self.unusable = None;
                if self.logged.take().is_some() || is_asked {
                    info!(key = self.key, ends = self.material.end_date(), "server certificate unchanged");
                }
            }
            Ok(material) => match server_config(&material, self.alpn) {
                Ok(config) => self.replace(fingerprint, material, config),
                Err(error) => self.failed(fingerprint, in_one_line(&error), is_asked),
            },
            Err(errors) => {
                let errors: Vec<String> = errors.iter().map(|error| in_one_line(error)).collect();
                self.failed(fingerprint, errors.join("; "), is_asked);
            }
        }
    }

    fn replace(&mut self, fingerprint: Fingerprint, material: TlsMaterial, config: Arc<ServerConfig>) {
        self.current.store(config);
        self.certificate.store(Arc::clone(&material.certified));
        info!(key = self.key, ends = material.end_date(), "server certificate reloaded");
        self.fingerprint = fingerprint;
        self.material = material;
        self.unusable = None;
        self.logged = None;
        self.expiry_warning = ExpiryWarning::None;
    }

    fn failed(&mut self, fingerprint: Fingerprint, error: String, is_asked: bool) {
        let unusable = Some((fingerprint, error.clone()));
        let is_confirmed = self.unusable == unusable;
        self.unusable = unusable;
        if (is_confirmed || is_asked) && self.logged.as_ref() != Some(&error) {
            warn!(key = self.key, error, "server certificate not reloaded, kept the last one");
            self.logged = Some(error);
        }
    }

    /// Logs once that the certificate ends soon, and once that it has ended.
    fn warn_of_expiry(&mut self) {
        let has_ended = self.material.end.is_some_and(|end| end <= now());
        let ends = self.material.end_date();
        if has_ended && self.expiry_warning < ExpiryWarning::Ended {
            error!(key = self.key, ends, "server certificate has ended");
            self.expiry_warning = ExpiryWarning::Ended;
        } else if self.material.ends_soon() && self.expiry_warning < ExpiryWarning::Soon {
            warn!(key = self.key, ends, "server certificate ends soon");
            self.expiry_warning = ExpiryWarning::Soon;
        }
    }
}
