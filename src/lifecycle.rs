//! The daemon's life from start to stop: its stages, the signals that stop it, and its threads.
//!
//! The whole process has one [`Stage`], which the daemon alone advances. Threads report their end, so that the
//! process stops when one of them dies.

use std::convert::Infallible;
use std::future::pending;
use std::io;

use futures_util::future::join_all;
use rustix::process::Signal as Process;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
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
    pulse: Pulse,
}

/// Asks the threads for a proof that they make progress.
#[derive(Clone, Debug, Default)]
pub struct Pulse(Vec<mpsc::Sender<oneshot::Sender<()>>>);

/// A thread's side of the [`Pulse`].
#[derive(Debug)]
pub struct Beats(mpsc::Receiver<oneshot::Sender<()>>);

impl Pulse {
    /// Waits until each thread that has not ended has answered.
    pub async fn beat(&self) {
        let beats = self.0.iter().map(|thread| async move {
            let (answer, answered) = oneshot::channel();
            // Both fail only where the thread has ended.
            if thread.send(answer).await.is_ok() {
                let _ = answered.await;
            }
        });
        join_all(beats).await;
    }
}

impl Beats {
    /// Does the thread's work, and answers in between.
    pub async fn during<F: Future>(mut self, work: F) -> F::Output {
        tokio::select! {
            biased;
            output = work => output,
            never = self.answer() => match never {},
        }
    }

    async fn answer(&mut self) -> Infallible {
        while let Some(answer) = self.0.recv().await {
            // Fails only where nobody waits any more.
            let _ = answer.send(());
        }
        pending().await
    }
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
        Self { running: 0, reported: 0, ended, reports, pulse: Pulse::default() }
    }

    /// The pulse of the threads started so far.
    pub fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }

    /// Starts a thread, which must do its work within [`Beats::during`] to count as alive.
    ///
    /// # Errors
    ///
    /// The system refuses a thread.
    pub fn spawn(
        &mut self,
        name: String,
        run: impl FnOnce(Beats) -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        let (asks, beats) = mpsc::channel(1);
        let report = Report { name: name.clone(), reports: self.reports.clone() };
        std::thread::Builder::new().name(name.clone()).spawn(move || {
            let _report = report;
            if let Err(error) = run(Beats(beats)) {
                error!(thread = name, %error, "thread failed");
            }
        })?;
        self.pulse.0.push(asks);
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::runtime::Builder;
    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_millis(200);

    #[tokio::test]
    async fn a_pulse_needs_an_answer_of_each_thread_that_has_not_ended() {
        let mut threads = Threads::new(3);
        let (block, blocked) = std::sync::mpsc::sync_channel::<()>(0);
        let (end, ended) = oneshot::channel::<()>();
        let run = |work: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
            move |beats: Beats| {
                Builder::new_current_thread().build()?.block_on(beats.during(work));
                Ok(())
            }
        };
        threads.spawn("ends".to_owned(), |_| Ok(())).unwrap();
        threads.spawn("waits".to_owned(), run(Box::pin(async { drop(ended.await) }))).unwrap();
        assert_eq!(threads.one_ended().await, "ends");
        timeout(SOON * 10, threads.pulse().beat()).await.expect("both are well");

        let hangs = Box::pin(async move { assert!(blocked.recv().is_err()) });
        threads.spawn("hangs".to_owned(), run(hangs)).unwrap();
        assert!(timeout(SOON, threads.pulse().beat()).await.is_err());

        drop((block, end));
        threads.all_ended().await;
        timeout(SOON * 10, threads.pulse().beat()).await.expect("nobody is left");
    }
}
