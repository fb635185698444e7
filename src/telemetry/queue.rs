//! The queue between the threads that log and the one that writes, so that a slow reader of the log or a full disk delays
//! nothing. Lines that do not fit are dropped and counted; once the output takes lines again, the log tells how many.

use std::cell::RefCell;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use super::lines::Lines;

/// The most bytes that wait to be written.
const MAX_BYTES: usize = 16 << 20;
/// The most messages that wait, each of one line or several. The queue allocates a slot for each at the start.
const MAX_MESSAGES: usize = 16_384;
/// How long lines are collected after a write. A thread that waits for single lines has to be woken for each of them, which
/// costs the one that logs more than the line does.
const PAUSE: Duration = Duration::from_millis(5);
/// How long the end waits for the lines that are left, which may have no reader.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// The shortest time between two reports of dropped lines.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

thread_local! {
    /// What the thread that writes logs itself. Its lines go around the queue, which may be full.
    static OWN: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// Takes lines to be written.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    sender: SyncSender<Vec<u8>>,
    state: Arc<State>,
    dropped: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct State {
    /// The bytes that wait.
    waiting: AtomicUsize,
    is_ending: AtomicBool,
}

/// The thread that writes; dropping it writes the lines that still wait.
#[derive(Debug)]
pub(super) struct WritingThread {
    queue: Queue,
    ended: Receiver<()>,
}

impl Queue {
    /// Starts to write to `lines`. `dropped` counts the lines that do not fit.
    ///
    /// # Errors
    ///
    /// The system refuses a thread.
    pub(super) fn start(mut lines: Lines, dropped: Arc<AtomicUsize>) -> io::Result<(Self, WritingThread)> {
        let (sender, receiver) = sync_channel(MAX_MESSAGES);
        let (end, ended) = sync_channel(1);
        let queue = Self { sender, state: Arc::default(), dropped };
        let state = Arc::clone(&queue.state);
        let mut report = Report { dropped: Arc::clone(&queue.dropped), told: 0, at: None };
        thread::Builder::new().name("log".to_owned()).spawn(move || {
            write_until_the_end(&receiver, &mut lines, &state, &mut report);
            let _ = end.try_send(());
        })?;
        Ok((queue.clone(), WritingThread { queue, ended }))
    }

    /// Adds whole lines.
    pub(super) fn send(&self, lines: Vec<u8>) {
        let size = lines.len();
        let is_full = self.state.waiting.fetch_add(size, Ordering::Relaxed) + size > MAX_BYTES;
        let unsent = if is_full { Some(lines) } else { self.sender.try_send(lines).err().map(of_error) };
        if let Some(lines) = unsent {
            self.state.waiting.fetch_sub(size, Ordering::Relaxed);
            let count = lines.split_inclusive(|byte| *byte == b'\n').count();
            self.dropped.fetch_add(count, Ordering::Relaxed);
        }
    }
}

fn of_error(error: TrySendError<Vec<u8>>) -> Vec<u8> {
    match error {
        TrySendError::Full(lines) | TrySendError::Disconnected(lines) => lines,
    }
}

/// Each write is a line.
impl Write for Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let is_own = OWN.with_borrow_mut(|own| own.as_mut().map(|own| own.extend_from_slice(line)).is_some());
        if !is_own {
            self.send(line.to_vec());
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What the log has told of dropped lines.
struct Report {
    dropped: Arc<AtomicUsize>,
    /// How many of the dropped lines were reported, and when.
    told: usize,
    at: Option<Instant>,
}

impl Report {
    /// Whether lines were dropped that were not reported, and the output takes lines again.
    fn has_news(&self, lines: &Lines) -> bool {
        self.dropped.load(Ordering::Relaxed) != self.told && lines.are_taken()
    }

    /// Reports dropped lines, unless there was a report a moment ago and there will be another.
    fn tell(&mut self, lines: &mut Lines, is_last: bool) {
        if !self.has_news(lines) {
            return;
        }
        let now = Instant::now();
        if !is_last && self.at.is_some_and(|at| now.duration_since(at) < REPORT_INTERVAL) {
            return;
        }
        self.at = Some(now);
        let dropped = self.dropped.load(Ordering::Relaxed);
        OWN.set(Some(Vec::new()));
        warn!(lines = dropped - self.told, "log lines were dropped: the log could not be written in time");
        let _ = lines.write_all(&OWN.take().unwrap_or_default());
        let _ = lines.flush();
        if lines.are_taken() {
            self.told = dropped;
        }
    }
}

fn write_until_the_end(receiver: &Receiver<Vec<u8>>, lines: &mut Lines, state: &State, report: &mut Report) {
    loop {
        let first = if report.has_news(lines) {
            match receiver.recv_timeout(REPORT_INTERVAL) {
                Ok(first) => Some(first),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            }
        } else {
            let Ok(first) = receiver.recv() else { return };
            Some(first)
        };
        write_waiting(first, receiver, lines, (state, report));
        if state.is_ending.load(Ordering::Acquire) {
            write_waiting(None, receiver, lines, (state, report));
            return report.tell(lines, true);
        }
        report.tell(lines, false);
        thread::sleep(PAUSE);
    }
}

fn write_waiting(
    first: Option<Vec<u8>>,
    receiver: &Receiver<Vec<u8>>,
    lines: &mut Lines,
    (state, report): (&State, &mut Report),
) {
    for message in first.into_iter().chain(receiver.try_iter()) {
        state.waiting.fetch_sub(message.len(), Ordering::Relaxed);
        // What cannot be written is counted there.
        let _ = lines.write_all(&message);
        // Where lines keep coming, this loop does not end.
        report.tell(lines, false);
    }
    let _ = lines.flush();
}

impl Drop for WritingThread {
    fn drop(&mut self) {
        self.queue.state.is_ending.store(true, Ordering::Release);
        // Wakes the thread. One that has messages is awake.
        let _ = self.queue.sender.try_send(Vec::new());
        let _ = self.ended.recv_timeout(END_TIMEOUT);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{BufRead, BufReader};
    use std::os::fd::OwnedFd;

    use super::*;
    use crate::telemetry::lines::Output;

    fn started() -> (io::PipeReader, Queue, WritingThread, Arc<AtomicUsize>) {
        let (reader, writer) = io::pipe().unwrap();
        let dropped = Arc::default();
        let lines = Lines::new(Output::Stream(File::from(OwnedFd::from(writer))), Arc::clone(&dropped));
        let (queue, thread) = Queue::start(lines, Arc::clone(&dropped)).unwrap();
        (reader, queue, thread, dropped)
    }

    #[test]
    fn lines_of_all_threads_are_written_and_the_end_waits_for_them() {
        let (reader, queue, writing, dropped) = started();
        let read =
            thread::spawn(move || BufReader::new(reader).lines().map(Result::unwrap).collect::<Vec<_>>());
        thread::scope(|scope| {
            for number in 0..4 {
                let queue = queue.clone();
                scope.spawn(move || {
                    (0..1000).for_each(|line| queue.send(format!("{number} {line}\n").into_bytes()));
                });
            }
        });
        drop((queue, writing));

        let mut lines = read.join().unwrap();
        lines.sort_unstable();
        lines.dedup();
        assert_eq!((lines.len(), dropped.load(Ordering::Relaxed)), (4000, 0));
    }

    #[test]
    fn where_nobody_reads_lines_beyond_the_bound_are_dropped_and_counted_and_nobody_waits() {
        let (reader, queue, writing, dropped) = started();
        let line = [vec![b'x'; 1023], b"\n".to_vec()].concat();
        let total = 3 * MAX_BYTES / line.len();
        for _ in 0..total / 4 {
            queue.send(line.repeat(4));
        }
        assert!(queue.state.waiting.load(Ordering::Relaxed) <= MAX_BYTES);
        let lost = dropped.load(Ordering::Relaxed);
        assert!(lost >= total / 2, "{lost} of {total}");

        let read = thread::spawn(move || BufReader::new(reader).lines().count());
        drop((queue, writing));
        assert_eq!(read.join().unwrap(), total - lost);
    }
}
