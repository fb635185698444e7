//! The access log: one entry for each exchange of a request and a response.
//!
//! An exchange begins with the request head and ends when hyper has the last byte of the response, or when either side
//! aborts. An entry holds no query, no field value and no body, because they may contain secrets.

use std::net::IpAddr;
use std::rc::Rc;

use http::header::CONNECTION;
use http::uri::PathAndQuery;
use http::{Method, Request, StatusCode, Version};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::proxy::downstream::progress::{Progress, Side};
use crate::proxy::downstream::protocol::End;
use crate::proxy::downstream::state::ClientConnection;
use crate::proxy::error::ProxyError;
use crate::proxy::message::headers;
use crate::token::Generation;

const CALLER_STALLED: &str = "the caller stopped reading the response";

/// An exchange in progress. Dropping it writes the log entry.
#[derive(Debug)]
pub struct Exchange {
    /// The connection that the request came on.
    pub caller: Rc<ClientConnection>,
    /// The progress of the response.
    pub progress: Rc<Progress>,
    /// The protocol version of the request.
    pub version: Version,
    /// Whether a caller of HTTP/1.0 asked to keep the connection (RFC 9112 §9.3).
    pub keeps_http10: bool,
    /// The client's address according to a trusted proxy.
    client_address: Option<IpAddr>,
    started: Instant,
    method: Method,
    path: Option<PathAndQuery>,
    /// Whether every exchange is logged, or only failures.
    logs_success: bool,
    pub(super) outcome: Outcome,
}

/// The result so far.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    route: Option<String>,
    pub status: Option<StatusCode>,
    code: Option<&'static str>,
    error: Option<String>,
    generation: Option<Generation>,
    /// Whether the request was sent again with another token.
    pub is_replayed: bool,
    /// Whether the request was sent with the token before a scheduled renewal.
    pub used_previous_token: bool,
    /// How often the request was sent again after a 429, or after a reused connection closed without an answer.
    pub retries: u32,
    /// Why the upstream's 401 goes to the caller.
    pub why_401: Option<&'static str>,
    /// Whether hyper has the whole response.
    pub is_complete: bool,
    /// The size of what hyper has of the response body.
    pub bytes: u64,
}

impl Exchange {
    /// Begins an exchange; the last two parameters are fields of [`Exchange`].
    pub fn begin<B>(
        request: &Request<B>,
        caller: Rc<ClientConnection>,
        progress: Rc<Progress>,
        client_address: Option<IpAddr>,
        logs_success: bool,
    ) -> Self {
        caller.request_begun();
        progress.begin(None);
        Self {
            caller,
            progress,
            version: request.version(),
            keeps_http10: request.version() == Version::HTTP_10
                && headers::has_member(request.headers(), &CONNECTION, "keep-alive"),
            client_address,
            started: Instant::now(),
            method: request.method().clone(),
            path: request.uri().path_and_query().cloned(),
            logs_success,
            outcome: Outcome::default(),
        }
    }

    /// The client's address: according to a trusted proxy, else the peer's. `None` for a Unix socket.
    pub fn origin(&self) -> Option<IpAddr> {
        self.client_address.or_else(|| self.caller.peer.get().ip())
    }

    /// Records the route.
    pub fn routed(&mut self, route: &str) {
        if self.logs_success {
            self.outcome.route = Some(route.to_owned());
        }
    }

    /// Records an attempt to send the request, with the generation of its token.
    pub fn sent(&mut self, generation: Option<Generation>) {
        self.outcome.generation = generation;
        self.progress.is_sent.set(true);
    }

    /// Records an error response.
    pub fn failed(&mut self, error: &ProxyError) {
        self.outcome.status = Some(error.status());
        self.outcome.code = Some(error.code());
        self.outcome.error = Some(error.explain());
    }

    /// Which side stalled, if a stall ended the response.
    fn stalled(&self) -> Option<&'static str> {
        match self.progress.stalled() {
            Some(Side::Upstream) => Some("the upstream stopped sending its response"),
            Some(Side::Caller) => Some(CALLER_STALLED),
            None => (self.caller.wanted_end() == Some(End::WriteTimeout)).then_some(CALLER_STALLED),
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.progress.awaits_nobody();
        self.caller.request_ended();
        let stalled = self.stalled();
        let outcome = &mut self.outcome;
        if outcome.status.is_none() {
            outcome.error =
                Some("the caller disconnected, or its connection was cut, before a response".to_owned());
        }
        if let (Some(why), None) = (stalled, &outcome.error) {
            // hyper may have the whole response, but the caller did not read it.
            outcome.is_complete = false;
            outcome.error = Some(why.to_owned());
        }
        macro_rules! log {
            ($level:ident) => {
                $level!(
                    target: "bearerd::access",
                    peer = %self.caller.peer.get().host(),
                    caller = self.client_address.map(tracing::field::display),
                    certificate = joined(self.caller.names()),
                    method = %self.method,
                    path = self.path.as_ref().map_or("*", PathAndQuery::path),
                    version = ?self.version,
                    route = outcome.route,
                    status = outcome.status.map(|status| status.as_u16()),
                    code = outcome.code,
                    error = outcome.error,
                    generation = outcome.generation.map(Generation::number),
                    replayed = outcome.is_replayed,
                    previous_token = outcome.used_previous_token,
                    retries = outcome.retries,
                    why_401 = outcome.why_401,
                    complete = outcome.is_complete,
                    bytes = outcome.bytes,
                    // Rounded to microseconds.
                    duration_ms = (self.started.elapsed().as_secs_f64() * 1e6).round() / 1e3,
                    "request"
                )
            };
        }
        if outcome.code.is_some() && outcome.status.is_some_and(|status| status.is_server_error()) {
            log!(warn);
        } else if self.logs_success {
            log!(info);
        }
    }
}

fn joined(names: &[String]) -> Option<String> {
    (!names.is_empty()).then(|| names.join(", "))
}
