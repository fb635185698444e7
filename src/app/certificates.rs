//! What callers speak TLS with, and the task that keeps it up to date.

use std::sync::Arc;

use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};

use super::StartError;
use crate::config::ServerTls;
use crate::config::model::server_tls::TlsFiles;
use crate::tls::reload::{CurrentTls, Reload};

/// What callers speak TLS with, if they do.
#[derive(Debug, Default)]
pub(super) struct Certificates {
    current: Option<(TlsFiles, CurrentTls)>,
    /// Tells that the files should be looked at now.
    asked: Arc<Notify>,
    task: Option<AbortHandle>,
}

impl Certificates {
    /// Whether these could be used.
    pub(super) fn try_out(tls: Option<&ServerTls>) -> Result<(), StartError> {
        Self::new(tls).map(|_| ())
    }

    /// These, and what keeps them up to date once it runs.
    pub(super) fn new(tls: Option<&ServerTls>) -> Result<(Self, Option<Reload>), StartError> {
        let reload = tls.map(Reload::new).transpose()?;
        let current = tls.zip(reload.as_ref());
        let current = current.map(|(tls, reload)| (tls.files.clone(), reload.current()));
        Ok((Self { current, ..Self::default() }, reload))
    }

    /// Those of another configuration; `None` if they are in the same files, which are looked at anyway.
    pub(super) fn next(&self, tls: Option<&ServerTls>) -> Result<Option<(Self, Option<Reload>)>, StartError> {
        if tls.map(|tls| &tls.files) == self.files() {
            return Ok(None);
        }
        let (next, reload) = Self::new(tls)?;
        Ok(Some((Self { asked: Arc::clone(&self.asked), ..next }, reload)))
    }

    /// Whether callers have to show something else with those: a connection of before says less then.
    pub(super) fn ask_otherwise_than(&self, other: &Self) -> bool {
        let asked = |of: &Self| of.files().map(|files| files.client_ca.clone());
        asked(self) != asked(other)
    }

    /// Keeps them up to date from now on.
    pub(super) fn keep(&mut self, reload: Option<Reload>, tasks: &mut JoinSet<&'static str>) {
        self.task = reload.map(|reload| {
            let asked = Arc::clone(&self.asked);
            tasks.spawn(async move {
                reload.run(asked).await;
                "the reloading of certificates"
            })
        });
    }

    /// Does not keep them up to date any more.
    pub(super) fn end(&self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }

    /// What connections are accepted with.
    pub(super) fn current(&self) -> Option<CurrentTls> {
        self.current.as_ref().map(|(_, current)| Arc::clone(current))
    }

    /// By what a look at the files is asked for.
    pub(super) fn asked(&self) -> Arc<Notify> {
        Arc::clone(&self.asked)
    }

    fn files(&self) -> Option<&TlsFiles> {
        self.current.as_ref().map(|(files, _)| files)
    }
}
