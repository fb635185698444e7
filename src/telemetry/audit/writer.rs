//! The thread of the audit trail.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::thread;
use std::time::Duration;

use tracing::{error, info};

use super::chain::Digest;
use super::output::Output;
use super::state::Shared;
use crate::telemetry::event::{Event, Name};
use crate::telemetry::files;
use crate::telemetry::record::{Record, in_one_line};

/// How often a failed write is repeated, and how soon a file is opened again after SIGUSR1.
const PAUSE: Duration = Duration::from_millis(250);

/// Writes events, one after the other.
#[derive(Debug)]
pub(super) struct Writer {
    output: Output,
    digest: Digest,
    /// The digest of the last line.
    previous: Option<String>,
    instance: String,
    shared: Arc<Shared>,
    /// The reopenings that the output has followed.
    followed: u64,
}

impl Writer {
    /// A writer that continues behind the line `last`.
    pub(super) fn new(
        output: Output,
        digest: Digest,
        last: Option<&[u8]>,
        instance: String,
        shared: Arc<Shared>,
    ) -> Self {
        let previous = last.map(|last| digest.of(last));
        Self { output, digest, previous, instance, shared, followed: files::reopenings() }
    }

    /// Writes events until the trail ends.
    pub(super) fn run(mut self, events: &Receiver<Option<Arc<Event>>>) {
        // An event that must be written before any other.
        let mut kept = None;
        loop {
            let next = match kept.take() {
                Some(event) => Some(event),
                None if self.shared.is_ending.load(Ordering::Relaxed) => match events.try_recv() {
                    Ok(next) => next,
                    Err(TryRecvError::Empty | TryRecvError::Disconnected) => return,
                },
                None => match events.recv_timeout(PAUSE) {
                    Ok(next) => next,
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => return,
                },
            };
            self.follow();
            kept = self.take(next);
            if kept.is_some() && !self.shared.is_ending.load(Ordering::Relaxed) {
                thread::sleep(PAUSE);
            }
        }
    }

    /// Opens the output again if that was asked for.
    fn follow(&mut self) {
        let asked = files::reopenings();
        if std::mem::replace(&mut self.followed, asked) != asked {
            // An error shows at the next write.
            let _ = self.output.follow();
        }
    }

    /// Writes an event, and the count of lost events before it. Returns the event if it must be written first of all later.
    fn take(&mut self, event: Option<Arc<Event>>) -> Option<Arc<Event>> {
        let is_complete = self.admit_loss();
        let event = event?;
        if is_complete && self.write(&event) {
            return None;
        }
        let is_ending = self.shared.is_ending.load(Ordering::Relaxed);
        if self.shared.refuses.load(Ordering::Relaxed) && !is_ending {
            self.shared.fail();
            return Some(event);
        }
        self.shared.lose();
        None
    }

    /// Writes how many events were lost, if any were. Answers whether the trail says all that it can.
    fn admit_loss(&mut self) -> bool {
        let lost = self.shared.lost.load(Ordering::Relaxed);
        if lost == 0 {
            return true;
        }
        let detail = Some(format!("events: {lost}"));
        let is_written = self.write(&Event { detail, ..Event::now(Name::AuditLost) });
        if is_written {
            self.shared.lost.fetch_sub(lost, Ordering::Relaxed);
        }
        is_written
    }

    fn write(&mut self, event: &Event) -> bool {
        let mut line = in_one_line(&Record::new(event, &self.instance, self.previous.as_deref()));
        let digest = self.digest.of(line.as_bytes());
        line.push('\n');
        self.shared.writing_since.store(self.shared.now(), Ordering::Relaxed);
        let written = self.output.write_line(line.as_bytes());
        self.shared.writing_since.store(0, Ordering::Relaxed);
        if written.is_ok() {
            self.previous = Some(digest);
            self.shared.written(event.name);
        }
        self.report(&written);
        written.is_ok()
    }

    /// Logs a failure when it begins and when it ends.
    fn report(&self, written: &io::Result<()>) {
        let was_failing = self.shared.is_failing.swap(written.is_err(), Ordering::Relaxed);
        match written {
            Err(error) if !was_failing => error!(%error, "audit trail not written"),
            Ok(()) if was_failing => info!("audit trail written again"),
            _ => {}
        }
    }
}
