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
    /// Whether the upstream rejected the token, and the request was sent again with a new one.
    is_replayed: bool,
    /// Whether the request was sent again with the token before the last renewal.
    used_previous_token: bool,
    /// How often the request was sent again for another reason.
    retries: u64,
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
        if field.name() == "method" {
            self.method = format!("{value:?}");
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "path" => value.clone_into(&mut self.path),
            "code" => self.code = Some(value.to_owned()),
            _ => {}
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        match field.name() {
            "replayed" => self.is_replayed = value,
            "previous_token" => self.used_previous_token = value,
            "complete" => self.is_complete = value,
            _ => {}
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "status" => self.status = Some(value),
            "retries" => self.retries = value,
            _ => {}
        }
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if field.name() == "duration_ms" {
            self.milliseconds = value;
        }
    }
}

/// A line such as `GET /hello   401 → refreshed → 200   12 ms`.
impl fmt::Display for Visit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut way = Vec::new();
        if self.is_replayed {
            way.extend(["401", "refreshed"]);
        } else if self.used_previous_token {
            way.extend(["401", "previous token"]);
        }
        if self.retries > 0 {
            way.push("sent again");
        }
        let status = self.status.map_or_else(|| "no answer".to_owned(), |status| status.to_string());
        way.push(&status);
        let code = self.code.as_ref().map(|code| format!(" {code}")).unwrap_or_default();
        let end = if self.is_complete { "" } else { " (the client left)" };
        let request = format!("{} {}", self.method, self.path);
        let way = way.join(" → ") + &code + end;
        write!(f, "{request:<28} {way:<24} {:.0} ms", self.milliseconds.max(1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visit() -> Visit {
        let (method, path) = ("GET".to_owned(), "/hello".to_owned());
        Visit { method, path, status: Some(200), is_complete: true, milliseconds: 12.3, ..Visit::default() }
    }

    fn line(visit: &Visit) -> String {
        visit.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_line_tells_the_way_of_a_request() {
        assert_eq!(line(&visit()), "GET /hello 200 12 ms");
        let replayed = Visit { is_replayed: true, ..visit() };
        assert_eq!(line(&replayed), "GET /hello 401 → refreshed → 200 12 ms");
        let refused = Visit { status: Some(421), code: Some("host_not_allowed".to_owned()), ..visit() };
        assert_eq!(line(&refused), "GET /hello 421 host_not_allowed 12 ms");
        let left = Visit { status: None, is_complete: false, ..visit() };
        assert_eq!(line(&left), "GET /hello no answer (the client left) 12 ms");
    }
}
