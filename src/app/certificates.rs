//! The certificate of a server, and the task that keeps it up to date.

use std::sync::Arc;

use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};

use super::StartError;
use crate::config::ServerTls;
use crate::config::model::server_tls::TlsFiles;
use crate::tls::client::{Alpn, HTTP_1, HTTP_2_OR_1};
use crate::tls::reload::{CurrentCertificate, CurrentTls, Reload};

/// Whom a certificate is shown to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ShownTo {
    Callers,
    Operators,
}

impl ShownTo {
    /// The configuration key of the files.
    const fn key(self) -> &'static str {
        match self {
            Self::Callers => "server.tls",
            Self::Operators => "admin.tls",
        }
    }

    /// The protocols of the server.
    const fn alpn(self) -> Alpn {
        match self {
            Self::Callers => HTTP_2_OR_1,
            Self::Operators => HTTP_1,
        }
    }
}

/// The certificate of a server, if it speaks TLS.
#[derive(Debug)]
pub(super) struct Certificates {
    shown_to: ShownTo,
    current: Option<(TlsFiles, CurrentTls, CurrentCertificate)>,
    /// Requests that the files are read now.
    pub(super) asked: Arc<Notify>,
    task: Option<AbortHandle>,
}

impl Certificates {
    /// The certificate, and the work of keeping it up to date, for [`Certificates::keep`].
    pub(super) fn new(
        shown_to: ShownTo,
        tls: Option<&ServerTls>,
    ) -> Result<(Self, Option<Reload>), StartError> {
        let reload = tls.map(|tls| Reload::new(shown_to.key(), tls, shown_to.alpn())).transpose();
        let reload = reload.map_err(|source| StartError::ServerTls { key: shown_to.key(), source })?;
        let current = tls.zip(reload.as_ref());
        let current =
            current.map(|(tls, reload)| (tls.files.clone(), reload.current(), reload.certificate()));
        Ok((Self { shown_to, current, asked: Arc::default(), task: None }, reload))
    }

    /// The certificate of another configuration; `None` if the files are the same, as they are read anyway.
    pub(super) fn next(&self, tls: Option<&ServerTls>) -> Result<Option<(Self, Option<Reload>)>, StartError> {
        if tls.map(|tls| &tls.files) == self.files() {
            return Ok(None);
        }
        self.anew(tls).map(Some)
    }

    /// The certificate of another configuration, also if the files are the same.
    pub(super) fn anew(&self, tls: Option<&ServerTls>) -> Result<(Self, Option<Reload>), StartError> {
        let (next, reload) = Self::new(self.shown_to, tls)?;
        Ok((Self { asked: Arc::clone(&self.asked), ..next }, reload))
    }

    /// Whether the client authorities differ, so that connections accepted with `other` were not checked against these.
    pub(super) fn differs_in_client_ca(&self, other: &Self) -> bool {
        let client_ca = |of: &Self| of.files().map(|files| files.client_ca.clone());
        client_ca(self) != client_ca(other)
    }

    /// Keeps the certificate up to date from now on.
    pub(super) fn keep(&mut self, reload: Option<Reload>, tasks: &mut JoinSet<&'static str>) {
        self.task = reload.map(|reload| {
            let asked = Arc::clone(&self.asked);
            tasks.spawn(async move {
                reload.run(asked).await;
                "the reloading of certificates"
            })
        });
    }

    /// Stops keeping the certificate up to date.
    pub(super) fn end(&self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }

    /// The TLS configuration of new connections.
    pub(super) fn current(&self) -> Option<CurrentTls> {
        self.current.as_ref().map(|(_, current, _)| Arc::clone(current))
    }

    /// The certificate of new connections.
    pub(super) fn certificate(&self) -> Option<CurrentCertificate> {
        self.current.as_ref().map(|(_, _, certificate)| Arc::clone(certificate))
    }

    fn files(&self) -> Option<&TlsFiles> {
        self.current.as_ref().map(|(files, _, _)| files)
    }
}
