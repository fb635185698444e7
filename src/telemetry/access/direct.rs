//! Lines of the access log in JSON, written without an event of `tracing` for each: a line as an event costs more than a
//! tenth of the request.
//!
//! A thread collects its lines, and hands them over when it has nothing else to do ([`hand_over`]).

use std::cell::RefCell;
use std::fmt::{Display, Write};
use std::sync::OnceLock;
use std::time::{Duration, UNIX_EPOCH};

use itoa::Buffer;
use tracing::{Level, enabled};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time;
use tracing_subscriber::fmt::time::FormatTime;

use super::line::{Encoded, Line, Severity};
use crate::clock::wall_clock;
use crate::telemetry::json::Escaped;
use crate::telemetry::queue::Queue;

/// The target of the lines, by which they are filtered.
const TARGET: &str = "bearerd::access";
/// The most bytes that a thread collects.
const MAX_BYTES: usize = 16 * 1024;
/// The digits after the second in a timestamp, and the `Z`.
const FRACTION: usize = "123456Z".len();

/// Where the lines go; unset where there is no log in JSON.
static QUEUE: OnceLock<Queue> = OnceLock::new();

thread_local! {
    static LINES: RefCell<Lines> = const { RefCell::new(Lines { waiting: String::new(), clock: Timestamps::NEW }) };
}

/// The lines of a thread.
struct Lines {
    waiting: String,
    clock: Timestamps,
}

/// Lines are written to this queue from now on. Only the first call has an effect.
pub(in crate::telemetry) fn write_directly_to(queue: Queue) {
    let _ = QUEUE.set(queue);
}

/// Writes a line, and answers whether lines are written here.
pub(super) fn write(line: &Line<'_>, severity: Severity) -> bool {
    let Some(queue) = QUEUE.get() else { return false };
    let is_enabled = match severity {
        Severity::Info => enabled!(target: TARGET, Level::INFO),
        Severity::Warning => enabled!(target: TARGET, Level::WARN),
    };
    if is_enabled {
        LINES.with_borrow_mut(|lines| {
            lines.waiting.push_str("{\"timestamp\":\"");
            lines.clock.write(&mut lines.waiting);
            members(&mut lines.waiting, line, severity);
            if lines.waiting.len() >= MAX_BYTES {
                lines.hand_over(queue);
            }
        });
    }
    true
}

/// Hands the lines of this thread over to be written. A thread calls this before it waits.
pub fn hand_over() {
    if let Some(queue) = QUEUE.get() {
        LINES.with_borrow_mut(|lines| lines.hand_over(queue));
    }
}

impl Lines {
    fn hand_over(&mut self, queue: &Queue) {
        if !self.waiting.is_empty() {
            let next = String::with_capacity(self.waiting.len());
            queue.send(std::mem::replace(&mut self.waiting, next).into_bytes());
        }
    }
}

/// The thread ends.
impl Drop for Lines {
    fn drop(&mut self) {
        if let Some(queue) = QUEUE.get() {
            self.hand_over(queue);
        }
    }
}

/// Writes timestamps as `tracing_subscriber` does. The text of a second is kept.
struct Timestamps {
    /// Since 1970.
    second: u64,
    /// Up to the point before the fraction of the second.
    text: String,
}

impl Timestamps {
    const NEW: Self = Self { second: u64::MAX, text: String::new() };

    fn write(&mut self, to: &mut String) {
        let now = loop {
            let now = since_epoch();
            if now.as_secs() == self.second {
                break now;
            }
            self.renew();
        };
        to.push_str(&self.text);
        padded(to, "000000", now.subsec_micros());
        to.push('Z');
    }

    /// Learns the text of the current second, unless the clock ticks meanwhile.
    fn renew(&mut self) {
        let before = since_epoch().as_secs();
        self.text.clear();
        let written = time::SystemTime.format_time(&mut Writer::new(&mut self.text));
        self.text.truncate(self.text.len().saturating_sub(FRACTION));
        if written.is_ok() && since_epoch().as_secs() == before {
            self.second = before;
        }
    }
}

fn since_epoch() -> Duration {
    wall_clock().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// A number with zeros before it.
fn padded(to: &mut String, zeros: &str, number: u32) {
    let mut digits = Buffer::new();
    let digits = digits.format(number);
    to.push_str(&zeros[digits.len()..]);
    to.push_str(digits);
}

/// Writes the rest of a line after its timestamp, with the members in the order of [`Line::log`].
fn members(to: &mut String, line: &Line<'_>, severity: Severity) {
    to.push_str("\",\"level\":\"");
    to.push_str(match severity {
        Severity::Info => "INFO",
        Severity::Warning => "WARN",
    });
    to.push_str("\",\"target\":\"bearerd::access\",\"message\":\"request\"");
    text(to, ",\"request_id\":", Some(line.request_id));
    display(to, ",\"trace_id\":", line.trace_id);
    text(to, ",\"caller\":", line.caller);
    display(to, ",\"client_address\":", line.client_address);
    text(to, ",\"http_request_method\":", line.method);
    display(to, ",\"url_path\":", line.path.map(Encoded));
    text(to, ",\"http_route\":", line.route);
    text(to, ",\"credential\":", line.credential);
    text(to, ",\"upstream\":", line.upstream);
    number(to, ",\"http_response_status_code\":", line.status.map(u64::from));
    text(to, ",\"code\":", line.code);
    number(to, ",\"attempts\":", Some(u64::from(line.attempts)));
    text(to, ",\"unauthorized\":", line.unauthorized);
    display(to, ",\"token_fingerprint\":", line.token_fingerprint);
    number(to, ",\"generation\":", line.generation);
    number(to, ",\"bytes\":", Some(line.bytes));
    milliseconds(to, ",\"duration_ms\":", line.duration);
    milliseconds(to, ",\"token_wait_ms\":", line.token_wait);
    milliseconds(to, ",\"quota_wait_ms\":", line.quota_wait);
    milliseconds(to, ",\"upstream_ms\":", line.upstream_time);
    to.push_str(if line.is_complete { ",\"complete\":true" } else { ",\"complete\":false" });
    text(to, ",\"error\":", line.error);
    to.push_str("}\n");
}

fn text(to: &mut String, name: &str, value: Option<&str>) {
    display(to, name, value);
}

fn display(to: &mut String, name: &str, value: Option<impl Display>) {
    to.push_str(name);
    match value {
        Some(value) => {
            to.push('"');
            let _ = write!(Escaped(to), "{value}");
            to.push('"');
        }
        None => to.push_str("null"),
    }
}

fn number(to: &mut String, name: &str, value: Option<u64>) {
    to.push_str(name);
    match value {
        Some(value) => to.push_str(Buffer::new().format(value)),
        None => to.push_str("null"),
    }
}

/// Rounded to microseconds.
fn milliseconds(to: &mut String, name: &str, value: Option<Duration>) {
    let Some(value) = value else { return number(to, name, None) };
    let micros = value.as_nanos().saturating_add(500) / 1000;
    number(to, name, u64::try_from(micros / 1000).ok());
    to.push('.');
    padded(to, "000", u32::try_from(micros % 1000).unwrap_or_default());
    let unpadded = to.trim_end_matches('0').len();
    // One digit at least.
    to.truncate(unpadded + usize::from(to.as_bytes()[unpadded - 1] == b'.'));
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use proptest::prelude::*;
    use tracing::subscriber::with_default;
    use tracing_subscriber::fmt::Subscriber as Events;

    use super::*;
    use crate::telemetry::json::Json;

    #[derive(Clone, Default)]
    struct Logged(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Logged {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The line as an event, without its timestamp.
    fn event(line: &Line<'_>, severity: Severity) -> String {
        let logged = Logged::default();
        let writer = logged.clone();
        let log = Events::builder().event_format(Json).with_writer(move || writer.clone()).finish();
        with_default(log, || line.log(severity));
        let text = String::from_utf8(logged.0.lock().unwrap().clone()).unwrap();
        text[text.find("\",\"level\"").unwrap()..].to_owned()
    }

    proptest! {
        #[test]
        fn a_line_is_the_same_as_an_event(
            texts in prop::collection::vec(prop::option::of(any::<String>()), 10),
            numbers in prop::collection::vec(prop::option::of(any::<u64>()), 5),
            durations in prop::collection::vec(prop::option::of(0_u64..100_000_000_000_000), 3),
            address in any::<Option<std::net::IpAddr>>(),
            is_complete in any::<bool>(),
        ) {
            let text = |at: usize| texts[at].as_deref();
            let small = |at: usize| numbers[at].map(|number| u16::try_from(number & 0xffff).unwrap());
            let duration = |at: usize| durations[at].map(Duration::from_nanos);
            let (trace, print) = (numbers[3].map(|id| format!("{id:032x}")), numbers[4].map(|id| format!("{id:016x}")));
            let line = Line {
                request_id: text(0).unwrap_or_default(),
                trace_id: trace.as_ref().map(|id| id as _),
                caller: text(1),
                client_address: address,
                method: text(2),
                path: text(3),
                route: text(4),
                credential: text(5),
                upstream: text(6),
                status: small(0),
                code: text(7),
                attempts: u32::from(small(1).unwrap_or_default()),
                unauthorized: text(8),
                token_fingerprint: print.as_ref().map(|id| id as _),
                generation: numbers[2],
                bytes: numbers[3].unwrap_or_default(),
                duration: duration(0),
                token_wait: duration(1),
                quota_wait: duration(1),
                upstream_time: duration(2),
                is_complete,
                error: text(9),
            };
            for severity in [Severity::Info, Severity::Warning] {
                let mut direct = String::new();
                members(&mut direct, &line, severity);
                prop_assert_eq!(direct, event(&line, severity));
            }
        }

        #[test]
        fn a_duration_has_the_digits_of_an_event(nanos in 0_u64..10_000_000_000_000) {
            let mut direct = String::new();
            let duration = Duration::from_nanos(nanos);
            milliseconds(&mut direct, "", Some(duration));
            prop_assert_eq!(direct, format!("{:?}", super::super::line::milliseconds(duration)));
        }
    }

    #[test]
    fn a_timestamp_is_that_of_an_event() {
        let mut clock = Timestamps::NEW;
        let theirs = || {
            let mut theirs = String::new();
            time::SystemTime.format_time(&mut Writer::new(&mut theirs)).unwrap();
            theirs
        };
        for _ in 0..10_000 {
            let (before, mut ours) = (theirs(), String::new());
            clock.write(&mut ours);
            assert!(before <= ours && ours <= theirs(), "{ours}");
            assert_eq!(ours.len(), before.len());
        }
    }
}
