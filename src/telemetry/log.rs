//! The log: writes events to standard error, as text or as JSON.
//!
//! A separate thread writes from a bounded queue, so that a slow reader of the log delays nothing; lines that do not
//! fit are dropped and counted. Panics are logged too.

use std::io::{BufWriter, IsTerminal};
use std::panic::{PanicHookInfo, set_hook};
use std::thread;

use tracing::error;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry;
use tracing_subscriber::util::SubscriberInitExt;

use super::json::Json;
use crate::config::{Environment, Log, LogFormat};

/// The most lines that may wait to be written. The queue allocates a slot for each at the start.
const QUEUE_LINES: usize = 16_384;

/// The most bytes of one write.
const WRITE_BYTES: usize = 64 * 1024;

/// Keeps the log written; dropping it writes the lines that still wait.
#[must_use]
pub struct Writing {
    dropped: ErrorCounter,
    _flushes: WorkerGuard,
}

impl Writing {
    /// How many lines were dropped so far because the queue was full.
    pub fn dropped_lines(&self) -> usize {
        self.dropped.dropped_lines()
    }
}

/// Starts to write the process's events to standard error.
pub fn start(log: &Log, environment: &Environment) -> Writing {
    let levels = log.level.clone();
    let is_text = match log.format {
        LogFormat::Auto => std::io::stderr().is_terminal(),
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    // The thread flushes when the queue is empty, so that many waiting lines become one write.
    let lines = BufWriter::with_capacity(WRITE_BYTES, std::io::stderr());
    let (queue, flushes) =
        NonBlockingBuilder::default().lossy(true).buffered_lines_limit(QUEUE_LINES).finish(lines);
    let dropped = queue.error_counter();
    // A failed write is not reported on the stream that failed.
    let events = fmt::layer().with_writer(queue).log_internal_errors(false);
    if is_text {
        let colours =
            environment.get("NO_COLOR").is_none_or(str::is_empty) && std::io::stderr().is_terminal();
        registry().with(levels).with(events.with_ansi(colours)).init();
    } else {
        registry().with(levels).with(events.event_format(Json)).init();
    }
    set_hook(Box::new(log_panic));
    Writing { dropped, _flushes: flushes }
}

/// Logs the place of a panic. The panic's own message is omitted, as it may quote a secret that could not be parsed.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string);
    error!(thread = thread::current().name(), place, "panicked: this is a bug in bearerd");
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
    fn a_panic_is_logged_with_its_place_and_without_its_message() {
        const NAME: &str = "the one that panics";
        let before = take_hook();
        // Other tests of this process keep their own hook.
        set_hook(Box::new(move |panic| match thread::current().name() {
            Some(NAME) => log_panic(panic),
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
