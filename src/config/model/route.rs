//! A route: which requests go where, with which credential, and how.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http::uri::{Authority, Scheme};

use super::credential::{Credential, Proxy, Roots};
use super::fields::Fields;
use super::forwarded::Forwarded;
use super::http_version::HttpVersion;
use super::pattern::Pattern;
use super::protection::{Protection, Retry429};

/// Which requests go where, with which credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Only requests for this host, lower case and without a port.
    pub host: Option<String>,
    /// Path prefix on segment boundaries; starts with `/` and, unless it is `/`, does not end with one.
    pub path: String,
    /// Where they go.
    pub upstream: Upstream,
    /// Whose token they get; `None` for none.
    pub credential: Option<Arc<Credential>>,
    /// What is let through.
    pub rules: Rules,
    /// Whether `path` is taken off before the upstream sees a path.
    pub strip_prefix: bool,
    /// What is done with header fields.
    pub fields: Fields,
    /// Statuses by which the upstream says that a token is dead.
    pub retry_on: Vec<StatusCode>,
    /// Whether callers may speak WebSocket with it.
    pub allows_websocket: bool,
    /// What is done about a 429.
    pub retry_429: Retry429,
    /// From the end of the request to the response head.
    pub timeout: Duration,
    /// For a new connection, TLS included.
    pub connect_timeout: Duration,
    /// Between two pieces of the response body; `None` is without end.
    pub read_timeout: Option<Duration>,
    /// Names of client certificates, of which a caller must have one; empty for anybody.
    pub callers: Vec<String>,
    /// What the upstream learns of the caller.
    pub forwarded: Forwarded,
    /// How the upstream is spared.
    pub protection: Protection,
}

/// What a route lets through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// These requests and no others; `None` is all.
    pub allow: Option<Vec<Pattern>>,
    /// None of these, whatever is allowed.
    pub deny: Vec<Pattern>,
    /// No path that servers read in more than one way.
    pub refuses_ambiguous: bool,
}

/// An API, and the way there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Where it is.
    pub destination: Destination,
    /// Which certificate authorities it is checked against, and an https proxy with it.
    pub roots: Roots,
    /// By way of which it is reached.
    pub proxy: Option<Proxy>,
    /// What is spoken with it.
    pub http_version: HttpVersion,
}

/// Where an API is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Here.
    Written(Address),
    /// Where the issuer of the route's credential says.
    Discovered,
}

impl Destination {
    /// What is put in front of each request's path, as far as it is written; empty or `/…` without a slash at its end.
    pub fn path(&self) -> &str {
        match self {
            Self::Written(address) => &address.path,
            Self::Discovered => "",
        }
    }
}

/// An API's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// `https`, or `http` on loopback.
    pub scheme: Scheme,
    /// Host, and port if it is not the scheme's own.
    pub authority: Authority,
    /// Put in front of each request's path; empty or `/…` without a slash at its end.
    pub path: String,
}

impl Address {
    /// Scheme and authority, as an origin is written (RFC 6454 §6.2).
    pub fn origin(&self) -> String {
        format!("{}://{}", self.scheme, self.authority)
    }
}
