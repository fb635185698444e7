//! The log: events to standard error, as lines for a person or JSON for a machine.
//!
//! A thread of its own writes, from a bounded queue: whoever reads
//! the log slowly, or not at all, holds up nothing; what does not fit is dropped and counted. A panic is an event too.

use std::io::{BufWriter, IsTerminal};
use std::panic::{PanicHookInfo, set_hook};
use std::thread;

use tracing::error;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{Environment, Log, LogFormat};

/// Lines that may wait to be written. Each has its place from the beginning.
const QUEUE: usize = 16_384;

/// How much is written at once when there is so much.
const WRITE: usize = 64 * 1024;

/// The log while it is written; what waits in the queue is written when this is dropped.
#[must_use]
pub struct Writing {
    dropped: ErrorCounter,
    _flushes: WorkerGuard,
}

impl Writing {
    /// How many lines were dropped so far because nobody took them.
    pub fn dropped_lines(&self) -> usize {
        self.dropped.dropped_lines()
    }
}

/// Sends the process's events to standard error from now on.
pub fn start(log: &Log, environment: &Environment) -> Writing {
    let levels = log.level.clone();
    let is_text = match log.format {
        LogFormat::Auto => std::io::stderr().is_terminal(),
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    // The thread flushes when the queue is empty: many lines at once are one write.
    let lines = BufWriter::with_capacity(WRITE, std::io::stderr());
    let (queue, flushes) =
        NonBlockingBuilder::default().lossy(true).buffered_lines_limit(QUEUE).finish(lines);
    let dropped = queue.error_counter();
    // A reader of the log that has gone is no reason to complain on the same stream.
    let events = fmt::layer().with_writer(queue).log_internal_errors(false);
    if is_text {
        let colours =
            environment.get("NO_COLOR").is_none_or(str::is_empty) && std::io::stderr().is_terminal();
        registry().with(levels).with(events.with_ansi(colours)).init();
    } else {
        let events = events.json().flatten_event(true).with_current_span(false).with_span_list(false);
        registry().with(levels).with(events).init();
    }
    set_hook(Box::new(tell_of_panic));
    Writing { dropped, _flushes: flushes }
}

/// Says where a panic was, as an event like any other. What it says itself may quote what it could not read, and is left
/// out: that may be a secret.
fn tell_of_panic(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string);
    error!(thread = thread::current().name(), place, "panicked: this is a bug of ours");
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::panic::take_hook;
    use std::sync::{Arc, Mutex};

    use tracing::subscriber::with_default;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_panic_is_an_event_with_its_place_and_without_its_words() {
        const NAME: &str = "the one that panics";
        let before = take_hook();
        // The other tests of this process have theirs.
        set_hook(Box::new(move |panic| match thread::current().name() {
            Some(NAME) => tell_of_panic(panic),
            _ => before(panic),
        }));
        let lines = Lines::default();
        let writer = lines.clone();
        let log = fmt::Subscriber::builder().json().with_writer(move || writer.clone()).finish();

        let panics = || with_default(log, || panic!("cannot read hunter2"));
        let ended = thread::Builder::new().name(NAME.to_owned()).spawn(panics).unwrap().join();

        assert!(ended.is_err());
        let lines = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let event: serde_json::Value = serde_json::from_str(&lines).unwrap();
        assert_eq!((&event["level"], &event["fields"]["thread"]), (&"ERROR".into(), &NAME.into()), "{event}");
        assert!(event["fields"]["place"].as_str().unwrap().starts_with("src/telemetry/log.rs:"), "{event}");
        assert!(!lines.contains("hunter2"), "{lines}");
    }
}
