//! The daemon's life from start to stop: its stages, the signals that stop it, and its threads.
//!
//! The whole process has one [`Stage`], which the daemon alone advances. Threads report their end, so that the
//! process stops when one of them dies.

use std::io;

use rustix::process::Signal as Process;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tracing::error;

/// The stage of the daemon's life, which only moves forward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The daemon accepts requests.
    #[default]
    Running,
    /// The daemon accepts requests and reports "not ready".
    Leaving,
    /// The daemon accepts no connections, and finishes the requests in flight.
    Draining,
    /// The daemon answers the requests that still wait with an error, and closes the remaining connections.
    Cutting,
    /// Nothing waits for a token any more, and everything else stops too.
    Cut,
}

/// Advances the stage.
#[derive(Debug, Default)]
pub struct Stages(watch::Sender<Stage>);

impl Stages {
    /// A receiver that sees each change.
    pub fn watch(&self) -> watch::Receiver<Stage> {
        self.0.subscribe()
    }

    /// Advances to a stage; an earlier one changes nothing.
    pub fn enter(&self, stage: Stage) {
        self.0.send_if_modified(|current| {
            let moves = stage > *current;
            *current = stage.max(*current);
            moves
        });
    }
}

/// A signal that does not ask the process to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtherSignal {
    /// SIGHUP: read the configuration again.
    Hangup,
    /// SIGUSR1: open the files of the log again.
    Reopen,
}

/// The signals that ask the process to stop.
#[derive(Debug)]
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    reopen: Signal,
    /// Received so that a limit on the size of files (`ulimit -f`) fails a write instead of ending the process.
    _file_too_large: Signal,
}

impl StopSignals {
    /// Listens for SIGTERM, SIGINT, SIGHUP and SIGUSR1 from now on.
    ///
    /// # Errors
    ///
    /// The system refuses a signal handler.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            reopen: signal(SignalKind::user_defined1())?,
            _file_too_large: signal(SignalKind::from_raw(Process::XFSZ.as_raw()))?,
        })
    }

    /// Waits for the next signal that asks the process to stop, and names it.
    ///
    /// # Cancel safety
    ///
    /// No signal is lost.
    pub async fn next(&mut self) -> &'static str {
        self.next_hearing(|_| {}).await
    }

    /// Waits like [`StopSignals::next`], and calls `on_other` at each other signal. By default these would end the process.
    pub async fn next_hearing(&mut self, mut on_other: impl FnMut(OtherSignal)) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.hangup.recv() => on_other(OtherSignal::Hangup),
                _ = self.reopen.recv() => on_other(OtherSignal::Reopen),
            }
        }
    }
}

/// Threads that live as long as the daemon.
#[derive(Debug)]
pub struct Threads {
    running: usize,
    reported: usize,
    ended: mpsc::Receiver<String>,
    reports: mpsc::Sender<String>,
}

/// Reports a thread's end when dropped, also after a panic.
#[derive(Debug)]
struct Report {
    name: String,
    reports: mpsc::Sender<String>,
}

impl Drop for Report {
    fn drop(&mut self) {
        // The channel has room for every thread.
        let _ = self.reports.try_send(std::mem::take(&mut self.name));
    }
}

impl Threads {
    /// Room for at most `capacity` threads.
    pub fn new(capacity: usize) -> Self {
        let (reports, ended) = mpsc::channel(capacity.max(1));
        Self { running: 0, reported: 0, ended, reports }
    }

    /// Starts a thread.
    ///
    /// # Errors
    ///
    /// The system refuses a thread.
    pub fn spawn(
        &mut self,
        name: String,
        run: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        let report = Report { name: name.clone(), reports: self.reports.clone() };
        std::thread::Builder::new().name(name.clone()).spawn(move || {
            let _report = report;
            if let Err(error) = run() {
                error!(thread = name, %error, "thread failed");
            }
        })?;
        self.running += 1;
        Ok(())
    }

    /// Waits until a thread has ended, and names it.
    ///
    /// # Cancel safety
    ///
    /// No end is lost.
    pub async fn one_ended(&mut self) -> String {
        let name = self.ended.recv().await.unwrap_or_default();
        self.reported += 1;
        name
    }

    /// Waits until all threads have ended.
    pub async fn all_ended(&mut self) {
        while self.reported < self.running {
            self.one_ended().await;
        }
    }
}
