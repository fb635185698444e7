//! The configuration: `proxy.toml` and the environment, turned into values that are known to be good.
//!
//! Text comes in ([`document`]), is read as written ([`mod@file`]) and resolved ([`resolve`]) into a [`Config`];
//! everything wrong with it goes out at once as [`Diagnostics`]. The rest of the daemon sees only the
//! [`Config`], and reads neither the file nor the environment.

pub mod diagnostics;
mod document;
pub mod environment;
pub mod file;
#[cfg(test)]
pub(crate) mod fixture;
mod hosts;
pub mod identity;
mod mask;
mod overrides;
pub mod request;
mod resolve;
pub mod secret;
pub mod signing_key;
mod small_file;
pub mod state_key;
pub mod units;
mod wording;

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use http::uri::{Authority, Scheme};
use ipnet::IpNet;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use secrecy::SecretString;
use url::Url;

pub use diagnostics::Diagnostics;
pub use environment::Environment;
pub use file::{BasicEncoding, HttpVersion, LogFormat};
pub use hosts::{Hosts, is_host};
pub use identity::Identity;
pub use request::{AnswerFields, TokenParameters};
pub use secret::Secret;

/// Scopes that servers take and do not list as granted.
pub const NEVER_LISTED: [&str; 2] = ["openid", "offline_access"];

/// A configuration that has been checked as a whole.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who may call, and within which limits.
    pub server: Server,
    /// The operator's own address.
    pub admin: Admin,
    /// The identities, by name.
    pub credentials: Vec<Arc<Credential>>,
    /// Which requests go where.
    pub routes: Vec<Route>,
    /// What is written of all this.
    pub log: Log,
}

/// Who may call, and how.
#[derive(Clone, Debug)]
pub struct Server {
    /// Addresses to listen on.
    pub listen: Vec<SocketAddr>,
    /// Networks that callers may be in.
    pub allow_from: Vec<IpNet>,
    /// Values of `Host` that are ours.
    pub hosts: Hosts,
    /// Browser origins that are let in, lower case.
    pub origins: Vec<String>,
    /// A field that every request must have.
    pub required_header: Option<RequiredHeader>,
    /// Threads that carry requests.
    pub workers: usize,
    /// How long requests in flight may take once the daemon is asked to stop.
    pub drain: Duration,
    /// Bounds on what a caller may take.
    pub limits: Limits,
}

/// A field that a browser cannot be made to send across sites, such as `X-Bearerd: yes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequiredHeader {
    /// Its name.
    pub name: HeaderName,
    /// The value it must have; any, if empty.
    pub value: String,
}

/// Bounds on what a caller may take.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections of callers at once; `None` is no limit but the system's.
    pub connections: Option<usize>,
    /// The same for one address; `None` is no limit.
    pub connections_per_address: Option<usize>,
    /// How long a connection is used; `None` is without end.
    pub connection_age: Option<Duration>,
    /// Largest request head, in bytes.
    pub header_bytes: usize,
    /// From accept, later from a request's first byte, to the end of its head.
    pub header_timeout: Duration,
    /// Between two requests of a connection.
    pub idle_timeout: Duration,
    /// Between two pieces of a request body, until the response head is sent.
    pub body_timeout: Duration,
    /// Least bytes a second of a request body, averaged over the time that it is waited for; 0 is no bound.
    pub body_rate: u64,
    /// How long a caller may take nothing of what there is for it.
    pub write_timeout: Duration,
    /// Concurrent HTTP/2 streams of a connection.
    pub streams: u32,
    /// Largest request body, in bytes; `None` is no limit.
    pub body_bytes: Option<u64>,
    /// Largest part of one request body that is kept for a replay, in bytes.
    pub replay_body: usize,
    /// The same for all requests together.
    pub replay_total: usize,
    /// How long a request may wait for a usable token.
    pub token_wait: Duration,
    /// How many requests may do so at once.
    pub token_waiters: usize,
}

/// The operator's own address.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Where it listens.
    pub listen: SocketAddr,
}

/// A configured identity and how it gets tokens.
#[derive(Clone, Debug)]
pub struct Credential {
    /// Its name in the file.
    pub name: String,
    /// The token endpoint.
    pub token_url: Url,
    /// Who it is there: the OAuth client and its grant.
    pub identity: Identity<Secret>,
    /// The certificate that the connection to the token endpoint is authenticated with.
    pub client_certificate: Option<ClientCertificate>,
    /// What the request has besides.
    pub parameters: TokenParameters,
    /// What the members of its answer are called.
    pub fields: AnswerFields,
    /// Scopes to ask for.
    pub scopes: Vec<String>,
    /// Scopes that must have been granted.
    pub require_scopes: Vec<String>,
    /// Whether the token must have the form of a JWT.
    pub expect_jwt: bool,
    /// How long before its end a token is replaced; a fifth of its lifetime at the most.
    pub refresh_margin: Duration,
    /// A token's lifetime where the answer names none.
    pub default_lifetime: Duration,
    /// For a token request as a whole.
    pub timeout: Duration,
    /// For the connection to the token endpoint.
    pub connect_timeout: Duration,
    /// Token requests that may be made.
    pub quota: Quota,
    /// The longest wait that a `Retry-After` may ask for.
    pub retry_after_max: Duration,
    /// Which certificate authorities the token endpoint is checked against.
    pub roots: Roots,
    /// By way of which the token endpoint is reached.
    pub proxy: Option<Proxy>,
    /// What is spoken with it.
    pub http_version: HttpVersion,
    /// How often a refresh token may be replaced before someone must log in again; 0 is without limit.
    pub max_rotations: u64,
    /// Where it keeps what must outlive the process, if it does.
    pub state: Option<StatePlace>,
    /// Whether the daemon is ready only once this credential has had a token.
    pub required: bool,
    /// Paths at which applications log in, and are answered by ourselves.
    pub login_stub: Vec<String>,
}

/// Where a credential's state is, and what it is encrypted with.
#[derive(Clone, Debug)]
pub struct StatePlace {
    /// The file.
    pub path: PathBuf,
    /// The key, known to be one; without it no token is written.
    pub key: Option<Secret>,
}

/// A proxy that tunnels TLS (RFC 9110 §9.3.6).
#[derive(Clone, Debug)]
pub struct Proxy {
    /// Its URL, which may hold a password.
    pub url: SecretString,
    /// Hosts that are reached without it, as in `NO_PROXY`.
    pub except: String,
}

/// A certificate with its key, for TLS connections that we open.
#[derive(Clone)]
pub struct ClientCertificate {
    /// The certificate and those that lead from it to its authority.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its private key.
    pub key: Arc<PrivateKeyDer<'static>>,
}

/// Without the key.
impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCertificate").field("chain", &self.chain.len()).finish_non_exhaustive()
    }
}

/// At most `requests` at once, refilled over `per`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// The burst, and how many are refilled over `per`.
    pub requests: NonZeroU32,
    /// Never zero.
    pub per: Duration,
}

/// Which certificate authorities are trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Roots {
    /// Those of the operating system.
    System,
    /// These and no others; none where a URL is plain http and speaks no TLS.
    Only(Vec<CertificateDer<'static>>),
}

/// Which requests go where, with which credential.
#[derive(Clone, Debug)]
pub struct Route {
    /// Only requests for this host, lower case and without a port.
    pub host: Option<String>,
    /// Path prefix on segment boundaries; starts with `/` and, unless it is `/`, does not end with one.
    pub path: String,
    /// Where they go.
    pub upstream: Upstream,
    /// Whose token they get; `None` for none.
    pub credential: Option<Arc<Credential>>,
    /// From the end of the request to the response head.
    pub timeout: Duration,
    /// For a new connection, TLS included.
    pub connect_timeout: Duration,
    /// Between two pieces of the response body; `None` is without end.
    pub read_timeout: Option<Duration>,
}

/// An API's address.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// `https`, or `http` on loopback.
    pub scheme: Scheme,
    /// Host, and port if it is not the scheme's own.
    pub authority: Authority,
    /// Put in front of each request's path; empty or `/…` without a slash at its end.
    pub path: String,
    /// Which certificate authorities it is checked against.
    pub roots: Roots,
}

impl Upstream {
    /// Scheme and authority, as an origin is written (RFC 6454 §6.2).
    pub fn origin(&self) -> String {
        format!("{}://{}", self.scheme, self.authority)
    }
}

/// What is written of the daemon's work.
#[derive(Clone, Debug)]
pub struct Log {
    /// Text or JSON.
    pub format: LogFormat,
    /// A level, or directives as in `RUST_LOG`.
    pub level: String,
    /// Whether each request is written.
    pub access: bool,
}

/// A configuration with the warnings that it gave rise to.
#[derive(Debug)]
pub struct Checked {
    /// The configuration.
    pub config: Config,
    /// Its problems, none of them an error.
    pub warnings: Diagnostics,
}

/// Reads and checks the file at `path`.
///
/// # Errors
///
/// All problems, if one of them is an error.
pub fn load(path: &Path, environment: &Environment) -> Result<Checked, Box<Diagnostics>> {
    let text = std::fs::read_to_string(path).map_err(|error| Diagnostics::unreadable(path, &error))?;
    parse(path, text, environment)
}

/// Checks a configuration that is there as text; relative paths start at the folder of `path`.
///
/// # Errors
///
/// All problems, if one of them is an error.
pub fn parse(path: &Path, text: String, environment: &Environment) -> Result<Checked, Box<Diagnostics>> {
    let folder = path.parent().map_or_else(PathBuf::new, Path::to_owned);
    let document = document::Document::read(diagnostics::Sources::new(path, text), environment);
    resolve::resolve(document, &folder, environment)
}

/// Where the configuration is: the flag, `$BEARERD_CONFIG`, `./proxy.toml`, `/etc/bearerd/proxy.toml`.
pub fn find(flag: Option<PathBuf>, environment: &Environment) -> PathBuf {
    let here = PathBuf::from("proxy.toml");
    flag.or_else(|| environment.get("BEARERD_CONFIG").map(PathBuf::from))
        .unwrap_or_else(|| if here.exists() { here } else { PathBuf::from("/etc/bearerd/proxy.toml") })
}

/// The admin address as configured, as far as the file can be read: for commands that talk to a daemon.
pub fn admin_address(flag: Option<PathBuf>, environment: &Environment) -> SocketAddr {
    let default = SocketAddr::from(([127, 0, 0, 1], 9090));
    let path = find(flag, environment);
    let Ok(text) = std::fs::read_to_string(&path) else {
        return default;
    };
    let document = document::Document::read(diagnostics::Sources::new(&path, text), environment);
    document.file.admin.listen.and_then(|listen| listen.get_ref().parse().ok()).unwrap_or(default)
}
