//! The audit trail: every event as a line of its own, chained to the line before.
//!
//! A thread writes from a bounded queue, so that a slow or full disk and a pipe that nobody reads delay nothing. A line holds a
//! digest of the line before ([`chain`]); [`verify`] finds lines that were altered or removed. Events that are not in the
//! trail are counted, and their count becomes a line.

pub mod chain;
mod output;
mod state;
pub mod verify;
mod writer;

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use secrecy::ExposeSecret;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::error;

use self::chain::Digest;
use self::output::Output;
use self::state::Shared;
pub use self::state::{AuditCounters, AuditGate};
use self::writer::Writer;
use super::event::Event;
use super::events::Sink;
use crate::config::{Audit as Settings, AuditOutput, OnAuditFailure};

/// The most events that wait to be written.
const QUEUE_EVENTS: usize = 1024;
/// How long a write may take before it counts as failed.
const STALLED: Duration = Duration::from_secs(2);
/// How often the time of a write is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// How long the last lines may take at a stop.
const LAST_LINES_TIMEOUT: Duration = Duration::from_secs(2);

/// The open audit trail.
#[derive(Debug)]
pub struct Audit {
    shared: Arc<Shared>,
    /// `None` wakes the thread.
    queue: SyncSender<Option<Arc<Event>>>,
    /// Closed when the thread has ended.
    ended: watch::Receiver<()>,
}

impl Audit {
    /// Opens the trail of the daemon `instance`, unless it is off. `counters` counts its lines.
    ///
    /// # Errors
    ///
    /// The system's, if the output cannot be opened or no thread is to be had.
    pub fn start(
        settings: &Settings,
        instance: String,
        counters: Arc<AuditCounters>,
    ) -> io::Result<Option<Arc<Self>>> {
        let (output, last) = match &settings.output {
            AuditOutput::Off => return Ok(None),
            AuditOutput::Stdout => {
                (Output::stdout(File::from(io::stdout().as_fd().try_clone_to_owned()?)), None)
            }
            AuditOutput::File(path) => Output::file(path.clone())?,
        };
        let key = settings.key.as_ref().map(|key| key.initial().expose_secret().as_bytes());
        let shared = Arc::new(Shared::new(counters));
        let (queue, events) = sync_channel(QUEUE_EVENTS);
        let (ending, ended) = watch::channel(());
        let writer = Writer::new(output, Digest::new(key), last.as_deref(), instance, Arc::clone(&shared));
        thread::Builder::new().name("audit".to_owned()).spawn(move || {
            let _ending = ending;
            writer.run(&events);
        })?;
        let audit = Self { shared, queue, ended };
        audit.change(settings.on_failure);
        Ok(Some(Arc::new(audit)))
    }

    /// Changes what follows when nothing can be written.
    pub fn change(&self, on_failure: OnAuditFailure) {
        self.shared.refuses.store(on_failure == OnAuditFailure::Refuse, Ordering::Relaxed);
    }

    /// The gate of requests, if they are refused while nothing can be written.
    pub fn gate(&self) -> Option<AuditGate> {
        self.shared.refuses.load(Ordering::Relaxed).then(|| AuditGate(Arc::clone(&self.shared)))
    }

    /// Watches for a write that does not return, such as on a disk that hangs. Never ends.
    pub async fn watch(self: Arc<Self>) {
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        loop {
            looks.tick().await;
            let since = self.shared.writing_since.load(Ordering::Relaxed);
            let stalled = u64::try_from(STALLED.as_millis()).unwrap_or(u64::MAX);
            let is_stalled = since > 0 && self.shared.now().saturating_sub(since) > stalled;
            if is_stalled && !self.shared.is_failing.swap(true, Ordering::Relaxed) {
                error!("audit trail not written: a write does not return");
            }
        }
    }

    /// Writes what waits, and ends the thread. Returns after a bounded time, whatever the output does.
    pub async fn finish(&self) {
        self.shared.is_ending.store(true, Ordering::Relaxed);
        // With a full queue, the thread needs no wake-up.
        let _ = self.queue.try_send(None);
        let mut ended = self.ended.clone();
        if timeout(LAST_LINES_TIMEOUT, ended.changed()).await.is_err() {
            error!("the last lines of the audit trail were not written in time");
        }
    }
}

impl Sink for Audit {
    fn take(&self, event: &Arc<Event>) {
        if self.queue.try_send(Some(Arc::clone(event))).is_err() {
            self.shared.lose();
            self.shared.is_failing.store(true, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests;
