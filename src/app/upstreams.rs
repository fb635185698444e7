//! The upstreams of all routes, and the discoveries of upstreams whose address is discovered.
//!
//! Routes with the same destination and the same connection settings share an upstream.

use std::collections::BTreeSet;
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::HeaderValue;
use http::uri::Scheme;
use rustls::pki_types::CertificateDer;
use tokio::task::{AbortHandle, JoinSet};

use super::StartError;
use super::budgets::PlannedBudgets;
use crate::clock::Clock;
use crate::config;
use crate::config::HttpVersion;
use crate::config::{Address, Destination as At};
use crate::proxy::limits::slots::Slots;
use crate::proxy::upstream::breaker::Breaker;
use crate::proxy::upstream::connect::{TcpConnect, Tls};
use crate::proxy::upstream::connections::ConnectionLimits;
use crate::proxy::upstream::{Destination, Upstream};
use crate::tls::client::{HTTP_1, HTTP_2, HTTP_2_OR_1, Trust};
use crate::token::TokenSource;
use crate::token::api_discovery::{
    AddressRefusal, DiscoveredApi, Discovery, DiscoverySource, IssuerClient, Reach,
};

/// A discovery to be started, and the source of its results.
pub(super) type Discovering = (Discovery<IssuerClient>, DiscoverySource);

/// A discovery that continues with its address.
pub(super) struct Continued {
    credential: String,
    /// The new client of the issuer, with the current proxy, authorities and timeouts.
    client: Option<IssuerClient>,
}

/// The upstreams of the routing table in force.
#[derive(Clone, Debug, Default)]
pub(super) struct InForce {
    /// Each upstream with a route that leads to it.
    routes: Vec<(config::Route, Arc<Upstream>)>,
    /// The upstreams in the order of their indices. An unused index holds any upstream until a new one takes its place.
    pub(super) all: Vec<Arc<Upstream>>,
}

/// Collects the upstreams of all routes. An upstream in force keeps its connections, circuit breaker and limits.
pub(super) struct Upstreams<'c> {
    resources: Resources<'c>,
    before: &'c InForce,
    /// The indices of kept and new upstreams.
    taken: BTreeSet<usize>,
    /// Credentials whose discoveries continue.
    discovered: BTreeSet<&'c str>,
    known: Vec<(&'c config::Route, Arc<Upstream>)>,
    discoveries: Vec<Discovering>,
}

/// The parts that routes and upstreams are built with.
#[derive(Clone, Copy)]
pub(super) struct Resources<'c> {
    pub(super) trust: &'c Trust,
    pub(super) sources: &'c [TokenSource],
    pub(super) budgets: &'c PlannedBudgets,
    pub(super) clock: Clock,
    /// File descriptors that connections to all upstreams may take.
    pub(super) descriptors: &'c Arc<Slots>,
    pub(super) workers: usize,
}

impl<'c> Upstreams<'c> {
    /// An empty collection for these routes.
    pub(super) fn new(resources: Resources<'c>, routes: &'c [config::Route], before: &'c InForce) -> Self {
        let is_discovered = |route: &&config::Route| matches!(route.upstream.destination, At::Discovered);
        let name = |route: &'c config::Route| route.credential.as_ref().map(|one| one.name.as_str());
        let moving = || routes.iter().filter(is_discovered);
        // A discovery sets the address of all upstreams of its credential, and continues only if all of them stay.
        let ends: BTreeSet<_> =
            moving().filter(|route| before.of(route).is_none()).filter_map(name).collect();
        let discovered: BTreeSet<_> = moving().filter_map(name).filter(|name| !ends.contains(name)).collect();
        let mut all = Self {
            resources,
            before,
            taken: BTreeSet::new(),
            discovered,
            known: Vec::new(),
            discoveries: Vec::new(),
        };
        all.taken =
            routes.iter().filter_map(|route| all.kept(route)).map(|upstream| upstream.index).collect();
        all
    }

    /// The upstream that a route led to before, if it can be kept.
    fn kept(&self, route: &config::Route) -> Option<Arc<Upstream>> {
        let goes_on = match (&route.upstream.destination, &route.credential) {
            (At::Discovered, Some(credential)) => self.discovered.contains(credential.name.as_str()),
            _ => true,
        };
        self.before.of(route).filter(|_| goes_on)
    }

    fn free_index(&mut self) -> usize {
        // Among one more indices than are taken, one is free.
        let free = (0..=self.taken.len()).find(|index| !self.taken.contains(index)).unwrap_or_default();
        self.taken.insert(free);
        free
    }

    /// The upstream of a route, which other routes may share.
    pub(super) fn of(&mut self, route: &'c config::Route) -> Result<Arc<Upstream>, StartError> {
        if let Some((_, upstream)) = self.known.iter().find(|(other, _)| shares_connections(other, route)) {
            return Ok(Arc::clone(upstream));
        }
        if let Some(upstream) = self.kept(route) {
            self.known.push((route, Arc::clone(&upstream)));
            return Ok(upstream);
        }
        let index = self.free_index();
        let upstream = match (&route.upstream.destination, &route.credential) {
            (At::Written(address), _) => {
                let connector = Connector::new(route, self.resources.trust)?;
                let destination =
                    connector.destination(address, None).map_err(|source| unusable(route, source))?;
                let upstream = Upstream::written(index, destination, Arc::clone(self.resources.descriptors));
                Arc::new(protected(upstream, route, &self.resources))
            }
            (At::Discovered, Some(credential)) => self.discovered(index, route, credential)?,
            (At::Discovered, None) => return Err(no_issuer(route)),
        };
        self.known.push((route, Arc::clone(&upstream)));
        Ok(upstream)
    }

    /// A new upstream whose address the discovery of its credential sets.
    fn discovered(
        &mut self,
        index: usize,
        route: &config::Route,
        credential: &config::Credential,
    ) -> Result<Arc<Upstream>, StartError> {
        let known = self.discoveries.iter().position(|(_, source)| source.credential() == credential.name);
        let at = match known {
            Some(at) => at,
            None => {
                self.discoveries.push(self.discovery(credential)?.ok_or_else(|| no_issuer(route))?);
                self.discoveries.len() - 1
            }
        };
        let (discovery, source) = &mut self.discoveries[at];
        let upstream = Upstream::discovered(index, source.clone(), Arc::clone(self.resources.descriptors));
        let upstream = Arc::new(protected(upstream, route, &self.resources));
        let (connector, led) = (Connector::new(route, self.resources.trust)?, Arc::clone(&upstream));
        discovery.publish_to(Box::new(move |DiscoveredApi { address, reach }: &DiscoveredApi| {
            let destination =
                connector.destination(address, Some(*reach)).map_err(|_| AddressRefusal::NotPlain)?;
            led.set_destination(Destination { base_path: address.path.clone(), ..destination });
            Ok(())
        }));
        Ok(upstream)
    }

    fn discovery(&self, credential: &config::Credential) -> Result<Option<Discovering>, StartError> {
        let client = self.issuer_client(credential)?;
        let token = self.resources.sources.iter().find(|source| source.name() == credential.name);
        Ok(token
            .zip(client)
            .map(|(token, client)| Discovery::new(token.clone(), client, self.resources.clock)))
    }

    fn issuer_client(&self, credential: &config::Credential) -> Result<Option<IssuerClient>, StartError> {
        IssuerClient::new(credential, self.resources.trust)
            .map_err(|source| StartError::Credential { credential: credential.name.clone(), source })
    }

    /// The upstreams, the discoveries to be started, and those that continue.
    pub(super) fn into_parts(self) -> Result<(InForce, Vec<Discovering>, Vec<Continued>), StartError> {
        let count = self.taken.last().map_or(0, |last| last + 1);
        let known = || self.known.iter().map(|(_, upstream)| upstream);
        let at = |index: usize| {
            known().find(|upstream| upstream.index == index).or_else(|| known().next()).cloned()
        };
        let all = (0..count).filter_map(at).collect();
        let credentials = self.known.iter().filter_map(|(route, _)| route.credential.as_ref());
        let credential = |name: &str| credentials.clone().find(|credential| credential.name == name);
        let continued = self.discovered.iter().filter_map(|name| credential(name)).map(|credential| {
            Ok(Continued { credential: credential.name.clone(), client: self.issuer_client(credential)? })
        });
        let continued = continued.collect::<Result<_, StartError>>()?;
        let mut discoveries = self.discoveries;
        for (discovery, source) in &mut discoveries {
            let found = credential(source.credential()).and_then(|credential| self.before.found(credential));
            if let Some(found) = found {
                discovery.resume(found);
            }
        }
        let routes =
            self.known.iter().map(|(route, upstream)| ((*route).clone(), Arc::clone(upstream))).collect();
        Ok((InForce { routes, all }, discoveries, continued))
    }
}

impl InForce {
    /// The address that the discovery of a credential has found, if the credential's tokens are those of before.
    fn found(&self, credential: &config::Credential) -> Option<DiscoveredApi> {
        let is_of = |route: &config::Route| {
            let used = route.credential.as_ref().filter(|one| one.name == credential.name);
            used.is_some_and(|used| used.shares_tokens_with(credential))
        };
        let mut of_credential = self.routes.iter().filter(|(route, _)| is_of(route));
        of_credential.find_map(|(_, upstream)| upstream.discovery()?.found())
    }

    /// The upstream in force that a route could use. For a discovered upstream both credentials must share tokens.
    fn of(&self, route: &config::Route) -> Option<Arc<Upstream>> {
        let shares_tokens = |other: &config::Route| {
            let both = other.credential.as_ref().zip(route.credential.as_ref());
            both.is_some_and(|(one, other)| one.shares_tokens_with(other))
        };
        let is_discovered = matches!(route.upstream.destination, At::Discovered);
        let mut known = self.routes.iter();
        let found = known
            .find(|(other, _)| shares_connections(other, route) && (!is_discovered || shares_tokens(other)));
        found.map(|(_, upstream)| Arc::clone(upstream))
    }
}

/// Whether requests of both routes may use the same connections.
pub(crate) fn shares_connections(one: &config::Route, other: &config::Route) -> bool {
    let (a, b) = (&one.upstream, &other.upstream);
    let credential = |route: &config::Route| route.credential.as_ref().map(|one| one.name.clone());
    let is_same_place = match (&a.destination, &b.destination) {
        (At::Written(a), At::Written(b)) => (&a.scheme, &a.authority) == (&b.scheme, &b.authority),
        (At::Discovered, At::Discovered) => credential(one) == credential(other),
        _ => false,
    };
    is_same_place
        && (&a.roots, &a.proxy, a.http_version) == (&b.roots, &b.proxy, b.http_version)
        && (shown(one), &a.server_name) == (shown(other), &b.server_name)
        && one.connect_timeout == other.connect_timeout
        && one.protection == other.protection
}

/// The certificate that a route shows, in whatever file.
fn shown(route: &config::Route) -> Option<&[CertificateDer<'static>]> {
    route.upstream.client_certificate.as_ref().map(|certificate| &*certificate.chain)
}

/// Adds the circuit breaker and the connection limits of a route to an upstream.
fn protected(upstream: Upstream, route: &config::Route, resources: &Resources<'_>) -> Upstream {
    let config::Protection { connections, connection_age, idle_timeout, breaker } = &route.protection;
    let limits = ConnectionLimits {
        connections: *connections,
        workers: resources.workers,
        max_age: *connection_age,
        idle_timeout: *idle_timeout,
        wait_timeout: route.connect_timeout,
    };
    upstream.with_limits(Breaker::new(*breaker, resources.clock), limits)
}

/// The connection settings of a route's upstream, independent of its address.
pub(crate) struct Connector {
    tls: Option<Tls>,
    proxy: Option<config::Proxy>,
    http_version: HttpVersion,
    timeout: Duration,
}

impl Connector {
    pub(crate) fn new(route: &config::Route, trust: &Trust) -> Result<Self, StartError> {
        let config::Upstream {
            destination,
            roots,
            proxy,
            http_version,
            ca_file: _,
            client_certificate,
            server_name,
        } = &route.upstream;
        let alpn = match http_version {
            HttpVersion::Auto => HTTP_2_OR_1,
            HttpVersion::Http1 => HTTP_1,
            HttpVersion::Http2 => HTTP_2,
        };
        let tls = match destination {
            At::Written(address) if address.scheme == Scheme::HTTP => None,
            _ => {
                let config = |certificate| {
                    let tls = trust.client_config(certificate, roots, alpn);
                    tls.map(Arc::new).map_err(|source| unusable(route, source))
                };
                let of_proxy = config(None)?;
                let of_upstream = match client_certificate {
                    Some(certificate) => config(Some(certificate))?,
                    None => Arc::clone(&of_proxy),
                };
                Some(Tls { of_upstream, of_proxy, server_name: server_name.clone() })
            }
        };
        Ok(Self { tls, proxy: proxy.clone(), http_version: *http_version, timeout: route.connect_timeout })
    }

    /// Opens connections to an address; `may_reach` limits a discovered one.
    pub(crate) fn connect(&self, address: &Address, may_reach: Option<Reach>) -> io::Result<TcpConnect> {
        let tls = self.tls.clone().filter(|_| address.scheme == Scheme::HTTPS);
        TcpConnect::new(address, tls, self.proxy.as_ref(), may_reach, self.http_version, self.timeout)
    }

    fn destination(&self, address: &Address, may_reach: Option<Reach>) -> io::Result<Destination> {
        let host = HeaderValue::from_str(address.authority.as_str());
        let host = host.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        Ok(Destination::new(address.origin(), host, Box::new(self.connect(address, may_reach)?)))
    }
}

/// The name of a route's upstream in messages.
pub(crate) fn name(route: &config::Route) -> String {
    match (&route.upstream.destination, &route.credential) {
        (At::Written(address), _) => address.origin(),
        (At::Discovered, Some(credential)) => format!("of the credential `{}`", credential.name),
        (At::Discovered, None) => "with a discovered address".to_owned(),
    }
}

fn no_issuer(route: &config::Route) -> StartError {
    unusable(route, "the route has no credential with an `issuer` that could tell its address")
}

fn unusable(route: &config::Route, source: impl Into<Box<dyn Error + Send + Sync>>) -> StartError {
    StartError::Upstream { upstream: name(route), source: source.into() }
}

#[derive(Debug, Default)]
pub(super) struct Discoveries(Vec<Running>);

#[derive(Clone, Debug)]
struct Running {
    source: DiscoverySource,
    client: Arc<ArcSwap<IssuerClient>>,
    task: AbortHandle,
}

impl Discoveries {
    /// Continues some discoveries and starts new ones. The others run until [`Discoveries::end_without`].
    pub(super) fn continued_with(
        &self,
        continued: Vec<Continued>,
        new: Vec<Discovering>,
        tasks: &mut JoinSet<&'static str>,
    ) -> Self {
        let mut all = Vec::new();
        for Continued { credential, client } in continued {
            let Some(running) = self.0.iter().find(|running| running.source.credential() == credential)
            else {
                continue;
            };
            if let Some(client) = client {
                running.client.store(Arc::new(client));
            }
            all.push(running.clone());
        }
        all.extend(new.into_iter().map(|(discovery, source)| {
            let client = discovery.documents();
            let task = tasks.spawn(async move {
                discovery.run().await;
                "a discovery"
            });
            Running { source, client, task }
        }));
        Self(all)
    }

    /// Ends the discoveries that `others` does not contain.
    pub(super) fn end_without(&self, others: &Self) {
        for Running { task, .. } in &self.0 {
            if !others.0.iter().any(|other| other.task.id() == task.id()) {
                task.abort();
            }
        }
    }

    /// The sources of the discoveries' results.
    pub(super) fn sources(&self) -> Vec<DiscoverySource> {
        self.0.iter().map(|running| running.source.clone()).collect()
    }
}
