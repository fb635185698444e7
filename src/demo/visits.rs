//! What became of the requests of a visitor, read from the entries of the access log.

use std::fmt;

use tokio::sync::mpsc;
use tracing::field::{Field, Visit as Fields};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry;
use tracing_subscriber::util::SubscriberInitExt;

/// The target of the access log.
const ACCESS: &str = "bearerd::access";
/// Requests that may wait to be printed; further ones are left out.
const WAITING: usize = 1024;

/// A request that has been answered, or has ended without an answer.
#[derive(Debug, Default)]
pub struct Visit {
    method: String,
    path: String,
    status: Option<u64>,
    /// The code of bearerd's own response.
    code: Option<String>,
    /// The consequence of a 401 of the upstream.
    unauthorized: Option<String>,
    /// How often the request was sent to the upstream.
    attempts: u64,
    is_complete: bool,
    milliseconds: f64,
}

/// Receives all further requests of this process's daemon. Call it once.
pub fn listen() -> mpsc::Receiver<Visit> {
    let (sender, visits) = mpsc::channel(WAITING);
    let log = AccessLog(sender).with_filter(filter_fn(|metadata| metadata.target() == ACCESS));
    // Fails only where the process writes a log already; then no requests are shown.
    let _ = registry().with(log).try_init();
    visits
}

struct AccessLog(mpsc::Sender<Visit>);

impl<S: Subscriber> Layer<S> for AccessLog {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut visit = Visit::default();
        event.record(&mut visit);
        // A full queue must not delay the daemon.
        let _ = self.0.try_send(visit);
    }
}

impl Fields for Visit {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "url_path" {
            self.path = format!("{value:?}");
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "http_request_method" => value.clone_into(&mut self.method),
            "code" => self.code = Some(value.to_owned()),
            "unauthorized" => self.unauthorized = Some(value.to_owned()),
            _ => {}
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        if field.name() == "complete" {
            self.is_complete = value;
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "http_response_status_code" => self.status = Some(value),
            "attempts" => self.attempts = value,
            _ => {}
        }
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if field.name() == "duration_ms" {
            self.milliseconds = value;
        }
    }
}

/// A line such as `GET /hello → 401 → refreshed → 200 in 12 ms`.
impl fmt::Display for Visit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} → ", self.method, self.path)?;
        match self.unauthorized.as_deref() {
            Some("replayed") => f.write_str("401 → refreshed → ")?,
            Some("previous_token") => f.write_str("401 → previous token → ")?,
            None if self.attempts > 1 => f.write_str("sent again → ")?,
            // The 401 is the response.
            _ => {}
        }
        match (self.status, &self.code) {
            (None, _) => return f.write_str("no answer: the client left"),
            (Some(status), None) => write!(f, "{status}")?,
            (Some(status), Some(code)) => write!(f, "{status} {code}")?,
        }
        let end = if self.is_complete { "" } else { ", not to the end" };
        write!(f, " in {:.0} ms{end}", self.milliseconds.max(1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_the_way_of_a_request() {
        let visit = || {
            let (method, path) = ("GET".to_owned(), "/hello".to_owned());
            Visit {
                method,
                path,
                status: Some(200),
                is_complete: true,
                milliseconds: 12.3,
                ..Visit::default()
            }
        };
        let code = Some("host_not_allowed".to_owned());
        let unauthorized = Some("replayed".to_owned());
        for (visit, line) in [
            (visit(), "GET /hello → 200 in 12 ms"),
            (Visit { unauthorized, attempts: 2, ..visit() }, "GET /hello → 401 → refreshed → 200 in 12 ms"),
            (Visit { attempts: 2, ..visit() }, "GET /hello → sent again → 200 in 12 ms"),
            (Visit { status: Some(421), code, ..visit() }, "GET /hello → 421 host_not_allowed in 12 ms"),
            (Visit { is_complete: false, ..visit() }, "GET /hello → 200 in 12 ms, not to the end"),
            (
                Visit { status: None, is_complete: false, ..visit() },
                "GET /hello → no answer: the client left",
            ),
        ] {
            assert_eq!(visit.to_string(), line);
        }
    }
}
