//! `[[routes]]`: requests, their upstream and their credential.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http::uri::{Authority, Scheme};
use rustls::pki_types::ServerName;

use super::credential::{ClientCertificate, Credential, HttpVersion, Proxy, Roots};
use super::fields::Fields;
use super::pattern::Pattern;
use super::pem_file::PemFile;
use super::pool::Pool;
use super::protection::{Protection, Retry429};
use super::token_field::TokenField;

/// A route.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent keys")]
pub struct Route {
    /// The name in metrics, logs, traces and status, unique among the routes: the configured one, or host and path.
    pub name: String,
    /// The host of the requests, lower case and without a port; `None` for any.
    pub host: Option<String>,
    /// The path prefix of the requests, on segment boundaries: `/`, or `/…` without a slash at the end.
    pub path: String,
    /// The upstream.
    pub upstream: Upstream,
    /// The credential whose token the requests get, the first one of a pool; `None` for none.
    pub credential: Option<Arc<Credential>>,
    /// The pool that the credentials are of.
    pub pool: Option<Arc<Pool>>,
    /// Allowed and denied requests.
    pub rules: Rules,
    /// Whether `path` is removed from the path that the upstream receives.
    pub strip_prefix: bool,
    /// Changes to header fields.
    pub fields: Fields,
    /// Statuses by which the upstream rejects a token.
    pub retry_on: Vec<StatusCode>,
    /// Whether requests may switch to WebSocket.
    pub allows_websocket: bool,
    /// Retries after a 429.
    pub retry_429: Retry429,
    /// Whether an idempotent request whose reused connection closed without an answer is sent once more.
    pub retry_stale: bool,
    /// Time from the end of the request to the response head.
    pub timeout: Duration,
    /// Time for a new connection, TLS included.
    pub connect_timeout: Duration,
    /// Time between two pieces of the response body; `None` for no limit.
    pub read_timeout: Option<Duration>,
    /// The callers that may use the route.
    pub callers: Admitted,
    /// Header fields that tell the upstream about the caller.
    pub forwarded: Forwarded,
    /// Whether `Via` is sent to the upstream.
    pub via: bool,
    /// The `Host` that the upstream receives; `None` for that of its address.
    pub host_header: Option<Authority>,
    /// The field that carries the token.
    pub token_field: TokenField,
    /// Whether cookies of the API become cookies of the proxy.
    pub rewrite_cookies: bool,
    /// Links to the API that become links to the proxy.
    pub rewrite_links: RewrittenLinks,
    /// Longest pause of a request body; zero for no limit, `None` for that of the server.
    pub body_timeout: Option<Duration>,
    /// Least bytes a second of a request body; 0 for no limit, `None` for that of the server.
    pub body_rate: Option<u64>,
    /// Connection limits and circuit breaker.
    pub protection: Protection,
}

/// The callers that may use a route; every caller if there is none here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admitted {
    /// Names in client certificates.
    pub certificates: Vec<String>,
    /// Names of `[callers.NAME]`.
    pub named: Vec<String>,
}

impl Admitted {
    /// Whether every caller may use the route.
    pub const fn is_everyone(&self) -> bool {
        self.certificates.is_empty() && self.named.is_empty()
    }
}

/// The names, for people.
impl fmt::Display for Admitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<&str> = self.named.iter().chain(&self.certificates).map(String::as_str).collect();
        f.write_str(&all.join(", "))
    }
}

impl Route {
    /// The credentials, of which a request uses one: several for a pool.
    pub fn credentials(&self) -> &[Arc<Credential>] {
        self.pool.as_ref().map_or(self.credential.as_slice(), |pool| &pool.credentials)
    }
}

/// Links of an API that become links to the proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RewrittenLinks {
    /// The header fields with links.
    pub fields: Vec<LinkField>,
    /// Whether strings in JSON that begin with a URL of the API are links.
    pub json: bool,
}

impl Default for RewrittenLinks {
    fn default() -> Self {
        Self { fields: vec![LinkField::Location], json: false }
    }
}

/// A response field with links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkField {
    /// `Location` (RFC 9110 §10.2.2).
    Location,
    /// `Link` (RFC 8288).
    Link,
    /// `Content-Location` (RFC 9110 §8.7).
    ContentLocation,
    /// `Operation-Location` of Azure.
    OperationLocation,
    /// `Refresh` (HTML §4.2.5).
    Refresh,
}

/// Header fields that tell an upstream about the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarded {
    /// None.
    None,
    /// `X-Forwarded-For`, `X-Forwarded-Proto` and `X-Forwarded-Host`.
    XForwarded,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

/// Allowed and denied requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Allowed requests; `None` for all.
    pub allow: Option<Vec<Pattern>>,
    /// Denied requests, which take precedence.
    pub deny: Vec<Pattern>,
    /// Whether paths are refused that servers interpret differently.
    pub refuses_ambiguous: bool,
}

/// An API and how to reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// The address.
    pub destination: Destination,
    /// The trusted certificate authorities, also for an https proxy.
    pub roots: Roots,
    /// The file of these authorities, if they are from one.
    pub ca_file: Option<PemFile>,
    /// The certificate for the API, never for a proxy.
    pub client_certificate: Option<ClientCertificate>,
    /// The name in SNI and in the certificate of the API; `None` for the host of the address.
    pub server_name: Option<ServerName<'static>>,
    /// The proxy in front of the API.
    pub proxy: Option<Proxy>,
    /// The HTTP version.
    pub http_version: HttpVersion,
}

/// The address of an API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The configured address.
    Written(Address),
    /// The address that the issuer of the route's credential names.
    Discovered,
}

impl Destination {
    /// The configured prefix of each request's path: empty, or `/…` without a slash at the end.
    pub fn path(&self) -> &str {
        match self {
            Self::Written(address) => &address.path,
            Self::Discovered => "",
        }
    }
}

/// A configured address of an API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// `https`, or `http` on loopback.
    pub scheme: Scheme,
    /// The host, and the port unless it is the scheme's default.
    pub authority: Authority,
    /// The prefix of each request's path: empty, or `/…` without a slash at the end.
    pub path: String,
}

impl Address {
    /// The origin (RFC 6454 §6.2).
    pub fn origin(&self) -> String {
        format!("{}://{}", self.scheme, self.authority)
    }
}
