//! A log event as one JSON object in one line.
//!
//! Every member of an event is there in every line of that event: a value that is absent is null. Characters that end a
//! line, have no width or change the direction of text are escaped, so that a line stays one line in every tool.

use std::fmt::{self, Debug, Write};

use tracing::field::{Field, FieldSet, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// The target of events that come from the `log` crate; their own is a field.
const LOG_CRATE: &str = "log";
/// The field with the target of such an event.
const LOG_TARGET: &str = "log.target";

/// A line of the access log is a little shorter.
const USUAL_BYTES: usize = 1024;

/// Formats events as JSON.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Json;

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut line: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        // Written as one: each write to the writer is a dynamic call, and a line has some hundred pieces.
        let mut text = String::with_capacity(USUAL_BYTES);
        write(&mut text, event)?;
        line.write_str(&text)
    }
}

fn write(line: &mut String, event: &Event<'_>) -> fmt::Result {
    let metadata = event.metadata();
    line.push_str("{\"timestamp\":\"");
    SystemTime.format_time(&mut Writer::new(line))?;
    let level = match *metadata.level() {
        Level::ERROR => "ERROR",
        Level::WARN => "WARN",
        Level::INFO => "INFO",
        Level::DEBUG => "DEBUG",
        Level::TRACE => "TRACE",
    };
    for piece in ["\",\"level\":\"", level, "\",\"target\":"] {
        line.push_str(piece);
    }
    let mut target = Target(None);
    if metadata.target() == LOG_CRATE {
        event.record(&mut target);
    }
    string(line, target.0.as_deref().unwrap_or(metadata.target()))?;
    let mut members = Members { line, fields: metadata.fields(), next: 0, result: Ok(()) };
    event.record(&mut members);
    members.finish()?;
    line.push_str("}\n");
    Ok(())
}

/// The target of an event of the `log` crate.
struct Target(Option<String>);

impl Visit for Target {
    fn record_debug(&mut self, _: &Field, _: &dyn Debug) {}

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == LOG_TARGET {
            self.0 = Some(value.to_owned());
        }
    }
}

/// Writes the members of an event in their order. The event visits those that have a value.
struct Members<'a> {
    line: &'a mut String,
    fields: &'a FieldSet,
    /// The index of the first field that is not written yet.
    next: usize,
    result: fmt::Result,
}

impl Members<'_> {
    fn member(&mut self, field: &Field, value: impl FnOnce(&mut String) -> fmt::Result) {
        if self.result.is_ok() {
            self.result = self.write(field, value);
        }
    }

    fn write(&mut self, field: &Field, value: impl FnOnce(&mut String) -> fmt::Result) -> fmt::Result {
        self.nulls(field.index())?;
        self.next = field.index() + 1;
        if is_hidden(field) {
            return Ok(());
        }
        name(self.line, field.name())?;
        value(self.line)
    }

    /// Writes the fields before `end`, which have no value.
    fn nulls(&mut self, end: usize) -> fmt::Result {
        for field in self.fields.iter().take(end).skip(self.next).filter(|field| !is_hidden(field)) {
            name(self.line, field.name())?;
            self.line.write_str("null")?;
        }
        Ok(())
    }

    fn finish(mut self) -> fmt::Result {
        self.result?;
        self.nulls(self.fields.len())
    }
}

impl Visit for Members<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.member(field, |line| {
            if value.is_finite() { write!(line, "{value:?}") } else { line.write_str("null") }
        });
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.member(field, |line| write!(line, "{value}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.member(field, |line| write!(line, "{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.member(field, |line| write!(line, "{value}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.member(field, |line| string(line, value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.member(field, |line| {
            line.write_char('"')?;
            write!(Escaped(line), "{value:?}")?;
            line.write_char('"')
        });
    }
}

/// Whether a field says where in its source an event of the `log` crate comes from.
fn is_hidden(field: &Field) -> bool {
    field.name().starts_with("log.")
}

fn name(line: &mut String, name: &str) -> fmt::Result {
    line.push(',');
    // Of a raw identifier such as `r#type`.
    string(line, name.strip_prefix("r#").unwrap_or(name))?;
    line.push(':');
    Ok(())
}

fn string(line: &mut String, text: &str) -> fmt::Result {
    line.push('"');
    Escaped(line).write_str(text)?;
    line.push('"');
    Ok(())
}

/// Writes the inside of a JSON string.
pub(super) struct Escaped<'a>(pub(super) &'a mut String);

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if is_plain(text) {
            self.0.push_str(text);
            return Ok(());
        }
        let mut rest = text;
        while let Some(at) = rest.find(is_escaped) {
            let (plain, special) = rest.split_at(at);
            self.0.write_str(plain)?;
            let mut chars = special.chars();
            match chars.next() {
                Some(quoted @ ('"' | '\\')) => write!(self.0, "\\{quoted}")?,
                Some('\n') => self.0.write_str("\\n")?,
                Some(other) => write!(self.0, "\\u{:04x}", u32::from(other))?,
                None => {}
            }
            rest = chars.as_str();
        }
        self.0.write_str(rest)
    }
}

/// JSON without the characters that are [escaped](is_escaped) in strings.
pub(super) fn escape_hidden(json: String) -> String {
    // Outside of strings JSON is ASCII, and inside of them the controls and quotes of ASCII are escaped already.
    let is_hidden = |c: char| c >= '\u{7f}' && is_escaped(c);
    if !json.contains(is_hidden) {
        return json;
    }
    json.chars().fold(String::with_capacity(json.len() + 16), |mut escaped, c| {
        if is_hidden(c) {
            let _ = write!(escaped, "\\u{:04x}", u32::from(c));
        } else {
            escaped.push(c);
        }
        escaped
    })
}

/// Whether a text is visible ASCII and blanks without a character that is [escaped](is_escaped). Looks at every byte, so that
/// the compiler can look at many at once.
fn is_plain(text: &str) -> bool {
    let is_special = |byte: u8| !(b' '..=b'~').contains(&byte) || byte == b'"' || byte == b'\\';
    !text.bytes().fold(false, |found, byte| found | is_special(byte))
}

/// All of these are in the basic multilingual plane: one `\u` escape is enough.
const fn is_escaped(c: char) -> bool {
    matches!(c,
        '"' | '\\' | '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{61c}' | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use proptest::prelude::*;
    use serde_json::Value;
    use tracing::subscriber::with_default;
    use tracing::{info, warn};
    use tracing_subscriber::fmt::Subscriber as Events;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is logged meanwhile.
    fn logged(logs: impl FnOnce()) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let log = Events::builder().event_format(Json).with_writer(move || writer.clone()).finish();
        with_default(log, logs);
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn an_event_is_an_object_with_every_member_in_order() {
        let none: Option<u64> = None;
        let line = logged(|| {
            warn!(target: "a", one = none, two = "x", three = none, four = 1.5, five = f64::NAN, six = -3, seven = none, "said");
        });
        let (head, members) = line.split_at(line.find("\"level\"").unwrap());
        assert!(head.starts_with("{\"timestamp\":\"20") && head.ends_with("Z\","), "{head}");
        assert_eq!(
            members,
            "\"level\":\"WARN\",\"target\":\"a\",\"message\":\"said\",\"one\":null,\"two\":\"x\",\"three\":null,\
             \"four\":1.5,\"five\":null,\"six\":-3,\"seven\":null}\n"
        );
    }

    #[test]
    fn a_text_cannot_end_its_string_or_its_line() {
        let text = "\"\\\r\n\t\0\x1b[31m\u{7f}\u{85}\u{2028}\u{2029}\u{202e}\u{feff}ä😀";
        let line = logged(|| info!(text, debug = ?text, display = %text, "{text}"));

        assert_eq!(line.lines().count(), 1);
        let is_plain = |c: char| c == 'ä' || c == '😀' || (' '..='~').contains(&c);
        assert!(line.trim_end_matches('\n').chars().all(is_plain), "{line}");
        let event: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            (&event["text"], &event["display"], &event["message"]),
            (&text.into(), &text.into(), &text.into())
        );
        assert_eq!(event["debug"], format!("{text:?}"));
    }

    proptest! {
        #[test]
        fn every_text_is_read_back(text in any::<String>()) {
            let line = logged(|| info!(text));
            let event: Value = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(event["text"].as_str(), Some(&*text));
            prop_assert!(!line.trim_end_matches('\n').contains(is_control));
        }
    }

    fn is_control(c: char) -> bool {
        c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
    }
}
