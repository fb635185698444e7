//! From a file as written to a configuration that is known to be good.
//!
//! Every check reports and goes on, so that one reading finds all there is to find. A default that is only
//! safe on loopback is demanded where the daemon listens elsewhere.

mod admin;
mod api_discovery;
mod authorities;
mod callers;
mod credential;
mod fallback;
mod fields;
mod identity;
mod log;
mod login;
mod network;
mod protection;
mod provider;
mod request;
mod route;
mod rules;
mod server;
mod server_tls;
mod state;
mod tutorial;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use url::Url;

use super::model::config::Config;
use super::model::endpoint::is_loopback;
use super::model::environment::Environment;
use super::source::diagnostics::{Diagnostics, Problem};
use super::source::document::Document;
use super::source::reader::Key;
use super::source::{schema, units};

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

/// Checks the whole document.
///
/// # Errors
///
/// All problems, if one of them is an error.
pub(super) fn resolve(
    document: Document,
    folder: &Path,
    environment: &Environment,
) -> Result<Checked, Box<Diagnostics>> {
    let Document { file, sources, problems, unusable } = document;
    let mut resolver = Resolver {
        folder: folder.to_owned(),
        environment,
        unusable,
        asks_for_certificates: false,
        state_dir: None,
        state_files: BTreeMap::new(),
        state_places: BTreeMap::new(),
        problems,
    };
    let config = resolver.config(file);
    let diagnostics = Diagnostics::new(sources, resolver.problems);
    match config {
        Some(config) if diagnostics.errors() == 0 => {
            Ok(Checked { config, warnings: diagnostics, state_places: resolver.state_places })
        }
        _ => Err(Box::new(diagnostics)),
    }
}

struct Resolver<'a> {
    folder: PathBuf,
    environment: &'a Environment,
    unusable: BTreeSet<String>,
    /// Whether callers must show a certificate, well configured or not.
    asks_for_certificates: bool,
    /// Where states are by default.
    state_dir: Option<PathBuf>,
    /// The state files so far, each with its credential.
    state_files: BTreeMap<PathBuf, String>,
    /// Where each credential's state is named.
    state_places: BTreeMap<String, Range<usize>>,
    problems: Vec<Problem>,
}

impl Resolver<'_> {
    fn config(&mut self, file: schema::File) -> Option<Config> {
        let routes = file.routes.map(Spanned::into_inner).unwrap_or_default();
        let route_hosts: Vec<String> = routes
            .iter()
            .filter_map(|route| Some(route.get_ref().host.as_ref()?.get_ref().clone()))
            .collect();
        let server = self.server(file.server.map(Spanned::into_inner).unwrap_or_default(), &route_hosts);
        let admin = self.admin(file.admin.map(Spanned::into_inner).unwrap_or_default(), &server.listen);
        let log = self.log(file.log.map(Spanned::into_inner).unwrap_or_default());
        let (names, credentials) =
            self.credentials(file.credentials.map(Spanned::into_inner).unwrap_or_default());
        let routes = self.routes(routes, &names, &credentials);
        if self.problems.iter().any(|problem| problem.severity == super::source::diagnostics::Severity::Error)
        {
            return None;
        }
        Some(Config { server, admin: admin?, credentials, routes: routes?, log })
    }

    fn address(&mut self, text: &str, place: &Range<usize>) -> Option<SocketAddr> {
        let address = text.parse();
        if address.is_err() {
            self.problems.push(
                Problem::error(place.clone(), "not an address to listen on")
                    .help("write an IP address and a port, such as \"127.0.0.1:8080\" or \"[::1]:8080\""),
            );
        }
        address.ok()
    }

    /// A URL that a credential may be sent to: https, or plain http that stays on this machine.
    fn endpoint(&mut self, text: &Spanned<String>) -> Option<Url> {
        let place = text.span();
        let Ok(url) = Url::parse(text.get_ref()) else {
            self.problems.push(
                Problem::error(place, "not a URL")
                    .help("write it whole, such as \"https://api.example.com\""),
            );
            return None;
        };
        let problem = match url.scheme() {
            "https" => None,
            "http" if is_loopback(&url) => None,
            "http" => Some(
                Problem::error(place.clone(), "plain http:// would show the credential to the network")
                    .help("use https://; http:// is allowed for 127.0.0.1, [::1] and localhost only"),
            ),
            _ => Some(
                Problem::error(place.clone(), "neither an https:// nor an http:// URL")
                    .help("write it whole, such as \"https://api.example.com\""),
            ),
        };
        let problem = problem.or_else(|| {
            if !url.username().is_empty() || url.password().is_some() {
                Some(Problem::error(place.clone(), "a URL must not hold a user or a password"))
            } else if url.fragment().is_some() {
                Some(Problem::error(place.clone(), "a URL that requests go to has no fragment"))
            } else {
                None
            }
        });
        match problem {
            Some(problem) => {
                self.problems.push(problem);
                None
            }
            None => Some(url),
        }
    }

    /// Reports a key that has no default, unless it is there and was refused already.
    fn missing(&mut self, path: &str, place: &Range<usize>, help: &str) {
        if !self.unusable.contains(path) {
            let key = path.rsplit('.').next().unwrap_or(path);
            self.problems.push(Problem::error(place.clone(), format!("`{key}` is missing")).help(help));
        }
    }

    fn positive(&mut self, value: Key<units::Duration>, default_seconds: u64) -> Duration {
        if let Some(zero) = value.as_ref().filter(|value| value.get_ref().0.is_zero()) {
            self.problems.push(
                Problem::error(zero.span(), "must be longer than zero")
                    .help("write a duration such as \"10s\""),
            );
        }
        duration(value, default_seconds)
    }

    fn at_least_one(&mut self, value: Key<u32>, default: u32) -> u32 {
        if let Some(zero) = value.as_ref().filter(|value| *value.get_ref() == 0) {
            self.problems.push(Problem::error(zero.span(), "must be at least 1"));
        }
        value.map_or(default, Spanned::into_inner)
    }

    fn bytes(
        &mut self,
        value: Key<units::Size>,
        default: usize,
        allowed: std::ops::RangeInclusive<u64>,
    ) -> usize {
        let Some(value) = value else { return default };
        let bytes = value.get_ref().0;
        if !allowed.contains(&bytes) {
            self.problems.push(Problem::error(
                value.span(),
                format!(
                    "must be between {} and {}",
                    units::Size(*allowed.start()),
                    units::Size(*allowed.end())
                ),
            ));
        }
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }
}

fn duration(value: Key<units::Duration>, default_seconds: u64) -> Duration {
    value.map_or(Duration::from_secs(default_seconds), |value| value.into_inner().0)
}

#[cfg(test)]
mod tests;
