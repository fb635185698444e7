//! The log: writes events to standard error, to standard output or to a file, as text or as JSON.
//!
//! A separate thread writes from a bounded queue (`queue`). Panics are logged too.

use std::io;
use std::io::IsTerminal;
use std::panic::{PanicHookInfo, set_hook};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tracing::error;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry;
use tracing_subscriber::util::SubscriberInitExt;

use super::access;
use super::files::AppendFile;
use super::json::Json;
use super::lines::{Lines, Output};
use super::queue::{Queue, WritingThread};
use crate::config::{Environment, Log, LogFormat, LogOutput};

/// Keeps the log written; dropping it writes the lines that still wait.
#[must_use]
pub struct Writing {
    dropped: DroppedLines,
    _thread: WritingThread,
}

/// Counts the lines that are not in the log.
#[derive(Clone, Debug)]
pub struct DroppedLines(Arc<AtomicUsize>);

impl Writing {
    /// The count of lines that are not in the log.
    pub const fn dropped(&self) -> &DroppedLines {
        &self.dropped
    }
}

impl DroppedLines {
    /// How many lines were dropped so far because the queue was full or the output failed.
    pub fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// Starts to write the process's events.
///
/// # Errors
///
/// The system's, if the output cannot be opened.
pub fn start(log: &Log, environment: &Environment) -> io::Result<Writing> {
    let levels = log.level.clone();
    let (output, is_terminal) = match &log.output {
        LogOutput::Stderr => (Output::stream(&io::stderr())?, io::stderr().is_terminal()),
        LogOutput::Stdout => (Output::stream(&io::stdout())?, io::stdout().is_terminal()),
        LogOutput::File(path) => (Output::File(AppendFile::open(path.clone())?), false),
    };
    let is_text = match log.format {
        LogFormat::Auto => is_terminal,
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    let dropped = Arc::default();
    let lines = Lines::new(output, Arc::clone(&dropped));
    let (queue, thread) = Queue::start(lines, Arc::clone(&dropped))?;
    // A failed write is not reported on the stream that failed.
    let make_writer = queue.clone();
    let events = fmt::layer().with_writer(move || make_writer.clone()).log_internal_errors(false);
    if is_text {
        let colours = environment.get("NO_COLOR").is_none_or(str::is_empty) && is_terminal;
        registry().with(levels).with(events.with_ansi(colours)).init();
    } else {
        access::write_directly_to(queue);
        registry().with(levels).with(events.event_format(Json)).init();
    }
    set_hook(Box::new(log_panic));
    Ok(Writing { dropped: DroppedLines(dropped), _thread: thread })
}

/// Logs the place of a panic. The panic's own message is omitted, as it may quote a secret that could not be parsed.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string);
    error!(thread = thread::current().name(), place, "panicked: this is a bug in bearerd");
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::panic::take_hook;
    use std::sync::Mutex;

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
