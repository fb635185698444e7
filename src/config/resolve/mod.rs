//! From a file as written to a configuration that is known to be good.
//!
//! Every check reports and goes on, so that one reading finds all there is to find. A default that is only
//! safe on loopback is demanded where the daemon listens elsewhere.

mod authorities;
mod credential;
mod identity;
mod network;
mod provider;
mod request;
mod route;
mod state;
mod tutorial;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use http::HeaderName;
use ipnet::IpNet;
use toml::Spanned;
use url::Url;

use super::diagnostics::{Diagnostics, Problem};
use super::document::Document;
use super::environment::Environment;
use super::{Admin, Checked, Config, Hosts, Limits, Log, LogFormat, RequiredHeader, Server, file, units};

const LOOPBACK: [&str; 2] = ["127.0.0.0/8", "::1/128"];
/// RFC 1918, RFC 4193, and the machine itself.
const PRIVATE: [&str; 6] =
    ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "127.0.0.0/8", "::1/128"];

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
        state_dir: None,
        state_files: BTreeMap::new(),
        problems,
    };
    let config = resolver.config(file);
    let diagnostics = Diagnostics::new(sources, resolver.problems);
    match config {
        Some(config) if diagnostics.errors() == 0 => Ok(Checked { config, warnings: diagnostics }),
        _ => Err(Box::new(diagnostics)),
    }
}

struct Resolver<'a> {
    folder: PathBuf,
    environment: &'a Environment,
    unusable: BTreeSet<String>,
    /// Where states are by default.
    state_dir: Option<PathBuf>,
    /// The state files so far, each with its credential.
    state_files: BTreeMap<PathBuf, String>,
    problems: Vec<Problem>,
}

impl Resolver<'_> {
    fn config(&mut self, file: file::File) -> Option<Config> {
        let route_hosts: Vec<String> = file
            .routes
            .iter()
            .filter_map(|route| Some(route.get_ref().host.as_ref()?.get_ref().clone()))
            .collect();
        let server = self.server(file.server, &route_hosts);
        let admin = self.admin(file.admin, &server.listen);
        let log = self.log(file.log);
        let (names, credentials) = self.credentials(file.credentials);
        let routes = self.routes(file.routes, &names, &credentials);
        if self.problems.iter().any(|problem| problem.severity == super::diagnostics::Severity::Error) {
            return None;
        }
        Some(Config { server, admin: admin?, credentials, routes: routes?, log })
    }

    fn server(&mut self, server: file::Server, route_hosts: &[String]) -> Server {
        let (listen, listen_place) = match server.listen {
            Some(listen) => {
                let place = listen.span();
                (self.addresses(&listen.into_inner().0, &place), Some(place))
            }
            None => (vec![SocketAddr::from(([127, 0, 0, 1], 8080))], None),
        };
        let on_loopback = listen.iter().all(|address| address.ip().is_loopback());
        if !on_loopback {
            self.demand_off_loopback(
                listen_place.as_ref(),
                "server.allow_from",
                server.allow_from.is_some(),
                "say from which networks applications call, for example allow_from = [\"10.0.0.0/8\"]",
            );
            self.demand_off_loopback(
                listen_place.as_ref(),
                "server.hosts",
                server.hosts.is_some() || !route_hosts.is_empty(),
                "say by which names they call, for example hosts = [\"gateway.internal\"]",
            );
        }
        self.state_dir = self.state_path(server.state_dir);
        let allow_from = match server.allow_from {
            Some(networks) => self.networks(networks),
            None => parse_networks(&LOOPBACK),
        };
        let hosts = self.hosts(server.hosts, route_hosts);
        let origins = server.origins.map(Spanned::into_inner).unwrap_or_default();
        let origins = origins.into_iter().filter_map(|origin| self.origin(&origin)).collect();
        let required_header = server.required_header.and_then(|field| self.required_header(&field));
        let workers = match server.workers.map(Spanned::into_inner) {
            None | Some(0) => std::thread::available_parallelism().map_or(1, usize::from),
            Some(workers) => usize::from(workers),
        };
        Server {
            listen,
            allow_from,
            hosts,
            origins,
            required_header,
            workers,
            drain: duration(server.drain, 20),
            limits: self.limits(server.limits),
        }
    }

    /// What has a default on loopback only must be said anywhere else.
    fn demand_off_loopback(&mut self, place: Option<&Range<usize>>, key: &str, is_set: bool, help: &str) {
        if !is_set && !self.unusable.contains(key) {
            self.problems.push(
                Problem::error(
                    place.cloned(),
                    format!("`{key}` is required when the daemon does not listen on loopback"),
                )
                .help(format!("whoever reaches this address uses its tokens: {help}")),
            );
        }
    }

    fn limits(&mut self, limits: file::Limits) -> Limits {
        Limits {
            header_bytes: self.bytes(limits.header_bytes, 64 * 1024, 1024..=1024 * 1024),
            header_timeout: self.positive(limits.header_timeout, 10),
            idle_timeout: self.positive(limits.idle_timeout, 75),
            body_timeout: self.positive(limits.body_timeout, 15),
            streams: self.at_least_one(limits.streams, 100),
            body_bytes: limits.body_bytes.map(|size| size.into_inner().0).filter(|bytes| *bytes > 0),
            replay_body: self.bytes(limits.replay_body, 1024 * 1024, 0..=1 << 30),
            replay_total: self.bytes(limits.replay_total, 64 * 1024 * 1024, 0..=1 << 40),
            token_wait: duration(limits.token_wait, 10),
        }
    }

    fn admin(&mut self, admin: file::Admin, callers: &[SocketAddr]) -> Option<Admin> {
        let place = admin.listen.as_ref().map(Spanned::span);
        let listen = match admin.listen {
            Some(listen) => self.address(listen.get_ref(), &listen.span())?,
            None => SocketAddr::from(([127, 0, 0, 1], 9090)),
        };
        if listen.port() != 0 && callers.contains(&listen) {
            self.problems.push(
                Problem::error(place.clone(), "`admin.listen` and `server.listen` are the same address")
                    .help("give the operator's address a port of its own"),
            );
        }
        if !listen.ip().is_loopback() {
            self.problems.push(
                Problem::warning(place, "the admin address does not ask who calls, and is not on loopback")
                    .help("it shows no secret; let only your health checks reach it"),
            );
        }
        Some(Admin { listen })
    }

    fn log(&mut self, log: file::Log) -> Log {
        let directives = self.environment.get("RUST_LOG").filter(|directives| !directives.is_empty());
        if directives.is_some_and(|directives| tracing_subscriber::EnvFilter::try_new(directives).is_err()) {
            self.problems.push(
                Problem::warning(None, "RUST_LOG is not understood, and `log.level` counts instead")
                    .help("write directives such as bearerd=debug,info"),
            );
        }
        let level = match log.level {
            Some(level) => {
                // A word alone that is no level would be taken for the name of a module.
                let is_word = level.get_ref().chars().all(|c| c.is_ascii_alphanumeric());
                let is_level = level.get_ref().parse::<tracing_subscriber::filter::LevelFilter>().is_ok();
                let is_filter = tracing_subscriber::EnvFilter::try_new(level.get_ref()).is_ok();
                if !(is_level || is_filter && !is_word) {
                    self.problems.push(
                        Problem::error(level.span(), "not a log level")
                            .help("write error, warn, info, debug or trace, or directives as in RUST_LOG"),
                    );
                }
                level.into_inner()
            }
            None => "info".to_owned(),
        };
        Log {
            format: log.format.map_or(LogFormat::Auto, Spanned::into_inner),
            level,
            access: log.access.is_none_or(Spanned::into_inner),
        }
    }

    fn addresses(&mut self, texts: &[String], place: &Range<usize>) -> Vec<SocketAddr> {
        if texts.is_empty() {
            self.problems.push(Problem::error(place.clone(), "no address to listen on"));
        }
        texts.iter().filter_map(|text| self.address(text, place)).collect()
    }

    fn address(&mut self, text: &str, place: &Range<usize>) -> Option<SocketAddr> {
        if text.starts_with("unix:") {
            let title = "a unix socket is not supported yet by this version";
            self.problems.push(Problem::error(place.clone(), title).help("listen on 127.0.0.1 instead"));
            return None;
        }
        let address = text.parse();
        if address.is_err() {
            self.problems.push(
                Problem::error(place.clone(), "not an address to listen on")
                    .help("write an IP address and a port, such as \"127.0.0.1:8080\" or \"[::1]:8080\""),
            );
        }
        address.ok()
    }

    fn networks(&mut self, texts: Spanned<Vec<Spanned<String>>>) -> Vec<IpNet> {
        let mut networks = Vec::new();
        for text in texts.into_inner() {
            match text.get_ref().as_str() {
                "private" => networks.extend(parse_networks(&PRIVATE)),
                other => match IpNet::from_str(other).or_else(|_| IpAddr::from_str(other).map(IpNet::from)) {
                    Ok(network) => networks.push(network.trunc()),
                    Err(_) => self.problems.push(
                        Problem::error(text.span(), "not a network")
                            .help("write a network such as \"10.0.0.0/8\", an address, or \"private\""),
                    ),
                },
            }
        }
        networks
    }

    fn hosts(&mut self, texts: Option<Spanned<Vec<Spanned<String>>>>, route_hosts: &[String]) -> Hosts {
        let mut hosts = Hosts::default();
        match texts {
            Some(texts) => {
                for text in texts.into_inner() {
                    if let Err(error) = hosts.add(text.get_ref()) {
                        self.problems.push(Problem::error(text.span(), error));
                    }
                }
            }
            None => {
                for host in ["localhost", "127.0.0.1", "[::1]"] {
                    hosts.add(host).unwrap_or_default();
                }
            }
        }
        // A wrong one is reported with its route.
        for host in route_hosts {
            hosts.add(host).unwrap_or_default();
        }
        hosts
    }

    fn origin(&mut self, origin: &Spanned<String>) -> Option<String> {
        let parsed = Url::parse(origin.get_ref()).ok().filter(|url| {
            url.has_host() && url.path() == "/" && url.query().is_none() && url.fragment().is_none()
        });
        if parsed.is_none() {
            self.problems.push(
                Problem::error(origin.span(), "not an origin")
                    .help("write scheme and host as a browser does, such as \"https://desk.example.com\""),
            );
        }
        parsed.map(|url| url.origin().ascii_serialization())
    }

    fn required_header(&mut self, field: &Spanned<String>) -> Option<RequiredHeader> {
        let text = field.get_ref();
        if text.is_empty() {
            return None;
        }
        let (name, value) = text.split_once(':').unwrap_or((text, ""));
        match HeaderName::from_str(name.trim()) {
            Ok(name) => Some(RequiredHeader { name, value: value.trim().to_owned() }),
            Err(_) => {
                self.problems.push(
                    Problem::error(field.span(), "not a header field")
                        .help("write a name and a value, such as \"X-Bearerd: yes\""),
                );
                None
            }
        }
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

    fn positive(&mut self, value: Option<Spanned<units::Duration>>, default_seconds: u64) -> Duration {
        if let Some(zero) = value.as_ref().filter(|value| value.get_ref().0.is_zero()) {
            self.problems.push(
                Problem::error(zero.span(), "must be longer than zero")
                    .help("write a duration such as \"10s\""),
            );
        }
        duration(value, default_seconds)
    }

    fn at_least_one(&mut self, value: Option<Spanned<u32>>, default: u32) -> u32 {
        if let Some(zero) = value.as_ref().filter(|value| *value.get_ref() == 0) {
            self.problems.push(Problem::error(zero.span(), "must be at least 1"));
        }
        value.map_or(default, Spanned::into_inner)
    }

    fn bytes(
        &mut self,
        value: Option<Spanned<units::Size>>,
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
                    bytesize::ByteSize(*allowed.start()),
                    bytesize::ByteSize(*allowed.end())
                ),
            ));
        }
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }
}

fn duration(value: Option<Spanned<units::Duration>>, default_seconds: u64) -> Duration {
    value.map_or(Duration::from_secs(default_seconds), |value| value.into_inner().0)
}

fn parse_networks(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

#[cfg(test)]
mod tests;
