//! From start to stop: the stages everything obeys, and the signals that change them.
//!
//! There is one [`Stage`] for the whole process and one place that moves it on. Threads report their end, so
//! that one which dies ends the process instead of leaving it half alive.

use std::io;

use rustix::process::Signal as Process;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tracing::error;

/// How far the daemon's life has gone. It only moves forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Requests are taken and answered.
    Running,
    /// The same, but whoever asks is told that we are about to stop.
    Leaving,
    /// No new connections; what is in flight is finished.
    Draining,
    /// Connections that are left are cut, after a last word.
    Cutting,
    /// So is whatever else is left: nobody wants a token any more.
    Cut,
}

/// Moves the stage on.
#[derive(Debug)]
pub struct Stages(watch::Sender<Stage>);

impl Stages {
    /// Running.
    pub fn new() -> Self {
        Self(watch::Sender::new(Stage::Running))
    }

    /// Tells of each change.
    pub fn watch(&self) -> watch::Receiver<Stage> {
        self.0.subscribe()
    }

    /// Moves on, never back.
    pub fn enter(&self, stage: Stage) {
        self.0.send_if_modified(|current| {
            let moves = stage > *current;
            *current = stage.max(*current);
            moves
        });
    }
}

impl Default for Stages {
    fn default() -> Self {
        Self::new()
    }
}

/// Requests to stop, from the operating system.
#[derive(Debug)]
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    /// Only received, so that a limit on the size of files (`ulimit -f`) fails a write and does not end the process.
    _file_too_large: Signal,
}

impl StopSignals {
    /// Listens for SIGTERM, SIGINT and SIGHUP from now on.
    ///
    /// # Errors
    ///
    /// If the system refuses.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            _file_too_large: signal(SignalKind::from_raw(Process::XFSZ.as_raw()))?,
        })
    }

    /// Waits for the next one, and names it.
    ///
    /// # Cancel safety
    ///
    /// No signal is lost.
    pub async fn next(&mut self) -> &'static str {
        self.next_hearing(|| {}).await
    }

    /// The same, calling `on_hangup` at each SIGHUP meanwhile. Its default is to end the process: the last thing that
    /// whoever asks for a reload wants.
    pub async fn next_hearing(&mut self, mut on_hangup: impl FnMut()) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.hangup.recv() => on_hangup(),
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

/// Reports a thread's end by being dropped with it, panic or not.
#[derive(Debug)]
struct Report {
    name: String,
    reports: mpsc::Sender<String>,
}

impl Drop for Report {
    fn drop(&mut self) {
        // Room for every thread there is.
        let _ = self.reports.try_send(std::mem::take(&mut self.name));
    }
}

impl Threads {
    /// None yet; room for this many.
    pub fn new(capacity: usize) -> Self {
        let (reports, ended) = mpsc::channel(capacity.max(1));
        Self { running: 0, reported: 0, ended, reports }
    }

    /// Starts a thread.
    ///
    /// # Errors
    ///
    /// If the system refuses one.
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

    /// Waits until some thread has ended, and names it.
    ///
    /// # Cancel safety
    ///
    /// No end is lost.
    pub async fn one_ended(&mut self) -> String {
        let name = self.ended.recv().await.unwrap_or_default();
        self.reported += 1;
        name
    }

    /// Waits until all have ended.
    pub async fn all_ended(&mut self) {
        while self.reported < self.running {
            self.one_ended().await;
        }
    }
}
