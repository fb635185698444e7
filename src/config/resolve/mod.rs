//! From the written file to a checked configuration.
//!
//! Each check reports its problem and continues, so that one run finds all problems. A default that is safe on
//! loopback only must be set explicitly where the daemon listens on other addresses.

mod admin;
mod api_discovery;
mod assertion;
mod audit;
mod authorities;
mod caller_table;
mod conflicts;
mod credential;
mod fallback;
mod fields;
mod identity;
mod log;
mod login;
mod network;
mod own_address;
pub(in crate::config) mod own_token;
mod peers;
mod placeholder;
mod pool_table;
mod protection;
mod provider;
mod quotas;
mod region;
mod request;
mod route;
mod rules;
mod secret;
mod secret_text;
mod server;
mod server_tls;
mod shared_store;
mod state;
mod token_field;
mod tracing;
mod vendor_endpoint;
mod webhooks;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use toml::Spanned;
use url::Url;

use super::model::config::Config;
use super::model::endpoint::is_loopback;
use super::model::environment::Environment;
use super::model::listen::Listen;
use super::model::pem_file::with_cause;
use super::model::pool::Pool;
use super::source::diagnostics::{Diagnostics, Place, Problem, Severity};
use super::source::document::Document;
use super::source::key::Key;
use super::source::reader::Table;
use super::source::schema::{self, Texts};
use super::source::units;

/// A checked configuration with its warnings.
#[derive(Debug)]
pub struct Checked {
    /// The configuration.
    pub config: Config,
    /// The problems, none of them an error.
    pub warnings: Diagnostics,
    /// The place of each credential's `state_file`, or of the credential, by the credential's name.
    pub state_places: BTreeMap<String, Range<usize>>,
}

/// Checks the whole document; relative paths start at `folder`. Returns all problems if at least one is an error.
pub(super) fn resolve(
    document: Document,
    folder: &Path,
    environment: &Environment,
) -> Result<Checked, Box<Diagnostics>> {
    let Document { file, sources, problems } = document;
    let mut resolver = Resolver {
        folder: folder.to_owned(),
        environment,
        asks_for_certificates: false,
        caller_names: None,
        pools: None,
        is_shared: false,
        state_dir: Key::Absent,
        state_files: BTreeMap::new(),
        state_places: BTreeMap::new(),
        own_addresses: Vec::new(),
        regions: BTreeMap::new(),
        problems,
    };
    let config = resolver.config(file);
    let diagnostics = Diagnostics::new(sources, resolver.problems);
    match config {
        Some(config) => Ok(Checked { config, warnings: diagnostics, state_places: resolver.state_places }),
        None => Err(Box::new(diagnostics)),
    }
}

/// The names of the credentials, each with its place; `None` for the name of what is no table.
type Names = BTreeMap<String, Place>;

/// A pool, usable or not.
struct PoolEntry {
    /// Where its name is written.
    place: Range<usize>,
    /// The names of its credentials that exist.
    credentials: Vec<String>,
    /// The pool, if each of its credentials is usable.
    pool: Option<Arc<Pool>>,
}

/// The hosts of the routes.
struct RouteHosts {
    /// The usable ones.
    usable: Vec<String>,
    /// Whether a route has a host, usable or not, or may have one.
    has_any: bool,
}

impl RouteHosts {
    fn of(routes: &Key<schema::Routes>) -> Self {
        let entries = || routes.usable().into_iter().flat_map(|routes| &routes.get_ref().0);
        let hosts = || entries().flatten().map(|route| &route.get_ref().host);
        Self {
            usable: hosts().filter_map(Key::usable).map(|host| host.get_ref().clone()).collect(),
            has_any: matches!(routes, Key::Refused)
                || entries().any(Option::is_none)
                || hosts().any(|host| !host.is_absent()),
        }
    }
}

struct Resolver<'a> {
    folder: PathBuf,
    environment: &'a Environment,
    /// Whether `client_ca` is set, usable or not.
    asks_for_certificates: bool,
    /// The names of the callers; `None` if the section is unusable.
    caller_names: Option<Vec<String>>,
    /// The pools by name; `None` if the section is unusable.
    pools: Option<BTreeMap<String, PoolEntry>>,
    /// Whether replicas share tokens, or would if the section had no error.
    is_shared: bool,
    /// `server.state_dir`.
    state_dir: Key<PathBuf>,
    /// The state files so far, without symlinks and in one spelling, each with the name of its credential.
    state_files: BTreeMap<PathBuf, String>,
    /// See [`Checked::state_places`].
    state_places: BTreeMap<String, Range<usize>>,
    /// The addresses that the daemon listens on, each with its key, if they are known.
    own_addresses: Vec<(SocketAddr, &'static str)>,
    /// The region of each credential that has one; `None` for a refused one, and where the provider is refused.
    regions: BTreeMap<String, Option<&'static str>>,
    problems: Vec<Problem>,
}

impl Resolver<'_> {
    /// The configuration, if there is no error.
    fn config(&mut self, file: schema::File) -> Option<Config> {
        let token_file = own_token::path(&file, &self.folder);
        let route_hosts = RouteHosts::of(&file.routes);
        let server = self.server(schema::Server::of(file.server), &route_hosts);
        let admin = self.admin(schema::Admin::of(file.admin), token_file.clone(), &server.listen);
        let health = self.health(schema::Health::of(file.health), &server.listen, admin.as_ref());
        self.listens("server.listen", server.listen.iter().cloned());
        self.listens("admin.listen", admin.as_ref().map(|admin| admin.listen.clone()));
        self.listens("health.listen", health.listen.clone());
        let keys_in_clear = server.tls.is_none() && !server.listen.iter().all(Listen::is_local);
        let callers = self.caller_table(file.callers, keys_in_clear);
        let log = self.log(schema::Log::of(file.log));
        let audit = self.audit(schema::Audit::of(file.audit), &log);
        let tracing = self.tracing(schema::Tracing::of(file.tracing));
        self.is_shared = !file.shared.is_absent();
        let shared = self.shared(file.shared);
        let (names, credentials) = self.credentials(file.credentials);
        self.refuse_state_in_token_file(token_file.as_deref());
        let webhooks = self.webhooks(file.webhooks);
        self.pools = self.pool_table(file.pools, names.as_ref(), &credentials);
        let routes = self.routes(file.routes, names.as_ref(), &credentials);
        if self.problems.iter().any(|problem| problem.severity == Severity::Error) {
            return None;
        }
        let pools = self.pools.take().into_iter().flatten().filter_map(|(_, entry)| entry.pool).collect();
        Some(Config {
            server,
            health,
            admin: admin?,
            callers,
            pools,
            shared,
            credentials,
            routes: routes?,
            log,
            audit,
            webhooks,
            tracing,
        })
    }

    fn error(&mut self, place: impl Into<Place>, title: impl Into<String>, help: impl Into<String>) {
        self.problems.push(Problem::error(place, title).help(help));
    }

    fn warning(&mut self, place: impl Into<Place>, title: impl Into<String>, help: impl Into<String>) {
        self.problems.push(Problem::warning(place, title).help(help));
    }

    /// Reports an error in the place of a value.
    fn refuse<T>(
        &mut self,
        place: impl Into<Place>,
        title: impl Into<String>,
        help: impl Into<String>,
    ) -> Option<T> {
        self.error(place, title, help);
        None
    }

    /// The usable value of a key without a default. An absent key is reported in the place of its table, the `owner`.
    fn required<'k, T>(
        &mut self,
        owner: &Range<usize>,
        key: &str,
        value: &'k Key<T>,
        help: &str,
    ) -> Option<&'k Spanned<T>> {
        if value.is_absent() {
            self.error(owner.clone(), format!("`{key}` is missing"), help);
        }
        value.usable()
    }

    /// All texts of a list; unusable texts are reported.
    fn texts(
        &mut self,
        texts: Key<Texts>,
        is_usable: impl Fn(&str) -> bool,
        title: &str,
        help: &str,
    ) -> Vec<String> {
        let texts: Vec<Spanned<String>> = texts.or_default().into_iter().flatten().collect();
        for text in texts.iter().filter(|text| !is_usable(text.get_ref())) {
            self.error(text.span(), title, help);
        }
        texts.into_iter().map(Spanned::into_inner).collect()
    }

    /// An address to listen on: an IP address with a port, or `unix:` with a path.
    fn listen_address(&mut self, text: &Spanned<String>) -> Option<Listen> {
        match text.get_ref().strip_prefix("unix:") {
            Some(path) => self.unix_socket(path, &text.span()),
            None => self.address(text).map(Listen::Tcp),
        }
    }

    fn address(&mut self, text: &Spanned<String>) -> Option<SocketAddr> {
        let help = "write an IP address and a port, such as \"127.0.0.1:8080\" or \"[::1]:8080\"; \":8080\" is every IPv4 \
                    address of this machine, and \"localhost:8080\" is 127.0.0.1";
        socket_address(text.get_ref())
            .or_else(|| self.refuse(text.span(), "not an address to listen on", help))
    }

    /// A URL that a credential may be sent to: https, or http on loopback.
    fn endpoint(&mut self, text: &Spanned<String>) -> Option<Url> {
        const WHOLE_URL: &str = "write a whole URL, such as \"https://api.example.com\"";
        let Ok(url) = Url::parse(text.get_ref()) else {
            self.refuse::<Url>(text.span(), "not a URL", WHOLE_URL);
            self.name_placeholder(text);
            return None;
        };
        let has_user = !url.username().is_empty() || url.password().is_some();
        let (title, help) = match url.scheme() {
            "http" if !is_loopback(&url) => (
                "plain http:// would show the credential to the network",
                "use https://; http:// is allowed for 127.0.0.1, [::1] and localhost only",
            ),
            "http" | "https" if has_user => {
                ("a URL must not hold a user or a password", "remove the part before the `@`")
            }
            "http" | "https" if url.fragment().is_some() => {
                ("a URL for requests has no fragment", "remove the part from `#` on")
            }
            "http" | "https" => return Some(url),
            _ => ("neither an https:// nor an http:// URL", WHOLE_URL),
        };
        self.refuse(text.span(), title, help)
    }

    fn positive(&mut self, value: Key<units::Duration>, default_seconds: u64) -> Duration {
        if let Some(zero) = value.usable().filter(|value| value.get_ref().0.is_zero()) {
            self.error(zero.span(), "must be longer than zero", "write a duration such as \"10s\"");
        }
        duration(value, default_seconds)
    }

    fn at_least_one(&mut self, value: Key<u32>, default: u32) -> u32 {
        if let Some(zero) = value.usable().filter(|value| *value.get_ref() == 0) {
            self.problems.push(Problem::error(zero.span(), "must be at least 1"));
        }
        value.or(default)
    }

    fn bytes(&mut self, value: Key<units::Size>, default: usize, allowed: RangeInclusive<u64>) -> usize {
        let Some(value) = value.into_usable() else { return default };
        let bytes = value.get_ref().0;
        if !allowed.contains(&bytes) {
            let [least, most] = [allowed.start(), allowed.end()].map(|bytes| units::Size(*bytes));
            let title = format!("must be between {least} and {most}");
            self.problems.push(Problem::error(value.span(), title));
        }
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }
}

/// Reads an address to listen on, also without a host or with the host `localhost`.
pub(in crate::config) fn socket_address(text: &str) -> Option<SocketAddr> {
    let written = match text.rsplit_once(':') {
        Some(("" | "*", port)) => Some(format!("0.0.0.0:{port}")),
        Some((host, port)) if host.eq_ignore_ascii_case("localhost") => Some(format!("127.0.0.1:{port}")),
        _ => None,
    };
    written.as_deref().unwrap_or(text).parse().ok()
}

fn duration(value: Key<units::Duration>, default_seconds: u64) -> Duration {
    value.or(units::Duration(Duration::from_secs(default_seconds))).0
}

#[cfg(test)]
mod tests;
