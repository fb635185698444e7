//! The line of the access log: one for each exchange of a request and a response, always with the same members.
//!
//! A line holds no query, no field value but the request's identifier, and no body, because they may contain secrets.

use std::fmt::{self, Display, Write};
use std::net::IpAddr;
use std::time::Duration;

use tracing::field::{DisplayValue, display};
use tracing::{info, warn};

/// The members of a line. In JSON, what is unknown is null.
#[derive(Clone, Copy, Default)]
pub struct Line<'a> {
    /// The identifier of the request (`X-Request-Id`).
    pub request_id: &'a str,
    /// The trace that the caller names.
    pub trace_id: Option<&'a dyn Display>,
    /// The caller's name.
    pub caller: Option<&'a str>,
    /// The caller's address, according to a trusted proxy where there is one.
    pub client_address: Option<IpAddr>,
    /// The method.
    pub method: Option<&'a str>,
    /// The path without the query, as received.
    pub path: Option<&'a str>,
    /// The name of the route.
    pub route: Option<&'a str>,
    /// The name of the credential.
    pub credential: Option<&'a str>,
    /// The origin of the upstream.
    pub upstream: Option<&'a str>,
    /// The status that the caller was sent.
    pub status: Option<u16>,
    /// The code of an error of bearerd.
    pub code: Option<&'a str>,
    /// How often the request was sent to the upstream.
    pub attempts: u32,
    /// The consequence of a 401 of the upstream.
    pub unauthorized: Option<&'a str>,
    /// The fingerprint of the token that was sent last.
    pub token_fingerprint: Option<&'a dyn Display>,
    /// The generation of the token that was sent last.
    pub generation: Option<u64>,
    /// The size of the response body so far.
    pub bytes: u64,
    /// The time from the request's head to the end of the response.
    pub duration: Option<Duration>,
    /// How long the request waited for a token.
    pub token_wait: Option<Duration>,
    /// How long the request waited for its turn; `None` without a quota of the API.
    pub quota_wait: Option<Duration>,
    /// How long the upstream took to answer with a head, all attempts together.
    pub upstream_time: Option<Duration>,
    /// Whether the caller was sent a whole response.
    pub is_complete: bool,
    /// What went wrong, for a person.
    pub error: Option<&'a str>,
}

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// An exchange.
    Info,
    /// A failure that an operator should see even without an access log.
    Warning,
}

impl Line<'_> {
    /// Logs the line as an event.
    pub(super) fn log(&self, severity: Severity) {
        macro_rules! log {
            ($level:ident) => {
                $level!(
                    target: "bearerd::access",
                    request_id = self.request_id,
                    trace_id = self.trace_id.map(display),
                    caller = self.caller,
                    client_address = self.client_address.map(display),
                    http_request_method = self.method,
                    url_path = self.path.map(encoded),
                    http_route = self.route,
                    credential = self.credential,
                    upstream = self.upstream,
                    http_response_status_code = self.status,
                    code = self.code,
                    attempts = self.attempts,
                    unauthorized = self.unauthorized,
                    token_fingerprint = self.token_fingerprint.map(display),
                    generation = self.generation,
                    bytes = self.bytes,
                    duration_ms = self.duration.map(milliseconds),
                    token_wait_ms = self.token_wait.map(milliseconds),
                    quota_wait_ms = self.quota_wait.map(milliseconds),
                    upstream_ms = self.upstream_time.map(milliseconds),
                    complete = self.is_complete,
                    error = self.error,
                    "request"
                )
            };
        }
        match severity {
            Severity::Info => log!(info),
            Severity::Warning => log!(warn),
        }
    }
}

/// Rounded to microseconds.
pub(super) fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// A path whose bytes other than visible ASCII are percent-encoded. hyper accepts UTF-8 in a path.
pub(super) struct Encoded<'a>(pub(super) &'a str);

fn encoded(path: &str) -> DisplayValue<Encoded<'_>> {
    display(Encoded(path))
}

impl Display for Encoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.bytes().all(|byte| byte.is_ascii_graphic()) {
            return f.write_str(self.0);
        }
        for byte in self.0.bytes() {
            if byte.is_ascii_graphic() {
                f.write_char(char::from(byte))?;
            } else {
                write!(f, "%{byte:02X}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_shown_as_received_in_visible_ascii() {
        for (path, shown) in [
            ("/a/%2e%2E/b;c=d", "/a/%2e%2E/b;c=d"),
            ("/\u{2028}\u{1b}[31m", "/%E2%80%A8%1B[31m"),
            ("/\"\\ ", "/\"\\%20"),
            ("*", "*"),
        ] {
            assert_eq!(Encoded(path).to_string(), shown);
        }
    }

    #[test]
    fn a_duration_is_in_milliseconds_rounded_to_microseconds() {
        assert_eq!(milliseconds(Duration::from_nanos(1_234_567)).to_string(), "1.235");
        assert_eq!(milliseconds(Duration::ZERO).to_string(), "0");
    }
}
