//! The configuration: `proxy.toml` and the environment, turned into values that are known to be good.
//!
//! Text comes in ([`document`]), is read as written ([`mod@file`]) and resolved ([`resolve`]) into a [`Config`];
//! everything wrong with it goes out at once as [`Diagnostics`]. The rest of the daemon sees only the
//! [`Config`], and reads neither the file nor the environment.

pub mod environment;
#[cfg(test)]
pub(crate) mod fixture;
pub mod model;
mod resolve;
pub mod source;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use ipnet::IpNet;
use tracing_subscriber::filter::Targets;

pub use environment::Environment;
pub use model::classification::IdentityDigest;
pub use model::credential::{ClientCertificate, Credential, Proxy, Quota, Roots, StatePlace};
pub use model::endpoint::{Endpoint, Issuer};
pub use model::fields::Fields;
pub use model::hosts::{Hosts, is_host};
pub use model::identity::Identity;
pub use model::listen::Listen;
pub use model::login::{Login, RedirectUri};
pub use model::pattern::Pattern;
pub use model::protection::{Breaker, Protection, Retry429};
pub use model::request::{AnswerFields, TokenParameters};
pub use model::route::{Address, Destination, Route, Rules, Upstream};
pub use model::secret::Secret;
pub use model::server_tls::ServerTls;
pub use source::diagnostics::Diagnostics;
pub use source::schema::{BasicEncoding, Forwarded, HttpVersion, LogFormat};

/// Scopes that servers take and do not list as granted.
pub const NEVER_LISTED: [&str; 2] = ["openid", "offline_access"];

/// Where the operator's address is unless it is written.
const DEFAULT_ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9090);

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
    pub listen: Vec<Listen>,
    /// What callers speak TLS with, where they do.
    pub tls: Option<ServerTls>,
    /// Networks that callers may be in.
    pub allow_from: Vec<IpNet>,
    /// Networks whose word on a caller's address is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Values of `Host` that are ours.
    pub hosts: Hosts,
    /// Browser origins that are let in, lower case.
    pub origins: Vec<String>,
    /// A field that every request must have.
    pub required_header: Option<RequiredHeader>,
    /// Threads that carry requests.
    pub workers: usize,
    /// How long everything goes on, but readiness, once the daemon is asked to stop.
    pub drain_delay: Duration,
    /// How long requests in flight may take then.
    pub drain: Duration,
    /// Whether the configuration is taken up anew when its file changes.
    pub watch: bool,
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections of callers at once; `None` is no limit but the system's.
    pub connections: Option<usize>,
    /// The same for one address; `None` is no limit.
    pub connections_per_address: Option<usize>,
    /// How long a connection is used; `None` is without end.
    pub connection_age: Option<Duration>,
    /// Largest request head, in bytes.
    pub header_bytes: usize,
    /// From accept to the end of the TLS handshake.
    pub tls_timeout: Duration,
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Where it listens.
    pub listen: SocketAddr,
    /// What an operator must show for all but the health checks.
    pub token: Option<Secret>,
}

/// The operator's address for those who talk to a daemon.
#[derive(Debug)]
pub struct AdminAccess {
    /// Where it listens.
    pub listen: SocketAddr,
    /// What to show there, or why it cannot be had.
    pub token: Option<Result<Secret, model::secret::SecretError>>,
}

/// What is written of the daemon's work.
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// Text or JSON.
    pub format: LogFormat,
    /// What `RUST_LOG` says, or the file.
    pub level: Targets,
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
    /// Where each credential's state is named.
    pub state_places: BTreeMap<String, Range<usize>>,
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
    let document =
        source::document::Document::read(source::diagnostics::Sources::new(path, text), environment);
    resolve::resolve(document, &folder, environment)
}

/// Where the configuration is: the flag, `$BEARERD_CONFIG`, `./proxy.toml`, `/etc/bearerd/proxy.toml`.
pub fn find(flag: Option<PathBuf>, environment: &Environment) -> PathBuf {
    let here = PathBuf::from("proxy.toml");
    flag.or_else(|| environment.get("BEARERD_CONFIG").map(PathBuf::from))
        .unwrap_or_else(|| if here.exists() { here } else { PathBuf::from("/etc/bearerd/proxy.toml") })
}

/// The admin address and its token as configured, as far as the file can be read: for commands that talk to a daemon.
pub fn admin_access(flag: Option<PathBuf>, environment: &Environment) -> AdminAccess {
    let path = find(flag, environment);
    // Without a file the environment may still say.
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    let folder = path.parent().map_or_else(PathBuf::new, Path::to_owned);
    let document =
        source::document::Document::read(source::diagnostics::Sources::new(&path, text), environment);
    let source::schema::Admin { listen, token } = document.file.admin;
    let listen = listen.and_then(|listen| listen.get_ref().parse().ok());
    AdminAccess {
        listen: listen.unwrap_or(DEFAULT_ADMIN),
        token: token.map(|source| Secret::load(source.get_ref(), &folder, environment)),
    }
}
