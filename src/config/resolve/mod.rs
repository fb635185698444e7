//! From the written file to a checked configuration.
//!
//! Each check reports its problem and continues, so that one run finds all problems. A default that is safe on
//! loopback only must be set explicitly where the daemon listens on other addresses.

mod admin;
mod api_discovery;
mod assertion;
mod authorities;
mod callers;
mod conflicts;
mod credential;
mod fallback;
mod fields;
mod identity;
mod log;
mod login;
mod network;
mod own_address;
mod placeholder;
mod protection;
mod provider;
mod region;
mod request;
mod route;
mod rules;
mod secret;
mod secret_text;
mod server;
mod server_tls;
mod state;
mod token_field;
mod tutorial;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use url::Url;

use super::model::config::Config;
use super::model::endpoint::is_loopback;
use super::model::environment::Environment;
use super::model::listen::Listen;
use super::model::pem_file::with_cause;
use super::source::diagnostics::{Diagnostics, Place, Problem, Severity};
use super::source::document::Document;
use super::source::reader::Key;
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
    let Document { file, sources, problems, unusable, .. } = document;
    let mut resolver = Resolver {
        folder: folder.to_owned(),
        environment,
        unusable,
        asks_for_certificates: false,
        state_dir: None,
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

/// A table of the file, for problems of missing keys.
struct Owner {
    /// The path of the table, such as `credentials.NAME`.
    path: String,
    place: Range<usize>,
}

impl Owner {
    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.path)
    }
}

struct Resolver<'a> {
    folder: PathBuf,
    environment: &'a Environment,
    /// Paths of the keys that are present but unusable.
    unusable: BTreeSet<String>,
    /// Whether `client_ca` is set, usable or not.
    asks_for_certificates: bool,
    /// `server.state_dir`.
    state_dir: Option<PathBuf>,
    /// The state files so far, without symlinks and in one spelling, each with the name of its credential.
    state_files: BTreeMap<PathBuf, String>,
    /// See [`Checked::state_places`].
    state_places: BTreeMap<String, Range<usize>>,
    /// The addresses that the daemon listens on, each with its key.
    own_addresses: Vec<(SocketAddr, &'static str)>,
    /// The region of each credential that has one; `None` for an unknown region, which has been reported.
    regions: BTreeMap<String, Option<&'static str>>,
    problems: Vec<Problem>,
}

impl Resolver<'_> {
    /// The configuration, if there is no error.
    fn config(&mut self, file: schema::File) -> Option<Config> {
        let routes = or_default(file.routes);
        let hosts = routes.iter().filter_map(|route| route.get_ref().host.as_ref());
        let route_hosts: Vec<String> = hosts.map(|host| host.get_ref().clone()).collect();
        let server = self.server(or_default(file.server), &route_hosts);
        let admin = self.admin(or_default(file.admin), &server.listen);
        self.listens("server.listen", server.listen.iter().cloned());
        self.listens("admin.listen", admin.as_ref().map(|admin| Listen::Tcp(admin.listen)));
        let log = self.log(or_default(file.log));
        let (names, credentials) = self.credentials(or_default(file.credentials));
        let routes = self.routes(routes, &names, &credentials);
        if self.problems.iter().any(|problem| problem.severity == Severity::Error) {
            return None;
        }
        Some(Config { server, admin: admin?, credentials, routes: routes?, log })
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

    /// The value of a key without a default. An absent value is reported, unless the key is present but unusable.
    fn required<T>(&mut self, owner: &Owner, key: &str, value: Option<T>, help: &str) -> Option<T> {
        if value.is_none() && !self.unusable.contains(&owner.key(key)) {
            self.error(owner.place.clone(), format!("`{key}` is missing"), help);
        }
        value
    }

    /// All texts of a list; unusable texts are reported.
    fn texts(
        &mut self,
        texts: Key<Texts>,
        is_usable: impl Fn(&str) -> bool,
        title: &str,
        help: &str,
    ) -> Vec<String> {
        let texts = or_default(texts);
        for text in texts.iter().filter(|text| !is_usable(text.get_ref())) {
            self.error(text.span(), title, help);
        }
        texts.into_iter().map(Spanned::into_inner).collect()
    }

    fn address(&mut self, text: &str, place: &Range<usize>) -> Option<SocketAddr> {
        let help = "write an IP address and a port, such as \"127.0.0.1:8080\" or \"[::1]:8080\"; \":8080\" is every IPv4 \
                    address of this machine, and \"localhost:8080\" is 127.0.0.1";
        let written = match text.rsplit_once(':') {
            Some(("" | "*", port)) => Some(format!("0.0.0.0:{port}")),
            Some((host, port)) if host.eq_ignore_ascii_case("localhost") => Some(format!("127.0.0.1:{port}")),
            _ => None,
        };
        written
            .as_deref()
            .unwrap_or(text)
            .parse()
            .ok()
            .or_else(|| self.refuse(place.clone(), "not an address to listen on", help))
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
        if let Some(zero) = value.as_ref().filter(|value| value.get_ref().0.is_zero()) {
            self.error(zero.span(), "must be longer than zero", "write a duration such as \"10s\"");
        }
        duration(value, default_seconds)
    }

    fn at_least_one(&mut self, value: Key<u32>, default: u32) -> u32 {
        if let Some(zero) = value.as_ref().filter(|value| *value.get_ref() == 0) {
            self.problems.push(Problem::error(zero.span(), "must be at least 1"));
        }
        value.map_or(default, Spanned::into_inner)
    }

    fn bytes(&mut self, value: Key<units::Size>, default: usize, allowed: RangeInclusive<u64>) -> usize {
        let Some(value) = value else { return default };
        let bytes = value.get_ref().0;
        if !allowed.contains(&bytes) {
            let [least, most] = [allowed.start(), allowed.end()].map(|bytes| units::Size(*bytes));
            let title = format!("must be between {least} and {most}");
            self.problems.push(Problem::error(value.span(), title));
        }
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }
}

/// The value of a key, or the default of its type.
fn or_default<T: Default>(value: Key<T>) -> T {
    value.map(Spanned::into_inner).unwrap_or_default()
}

fn duration(value: Key<units::Duration>, default_seconds: u64) -> Duration {
    value.map_or(Duration::from_secs(default_seconds), |value| value.into_inner().0)
}

#[cfg(test)]
mod tests;
