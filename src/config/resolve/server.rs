//! `[server]` and `[server.limits]`: the listeners, the requirements on callers, and the limits.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::str::FromStr;

use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue};
use ipnet::{IpNet, Ipv4Net};
use toml::Spanned;
use url::Url;

use super::{Resolver, RouteHosts, duration};
use crate::config::model::fields::{is_for_proxies, is_protected};
use crate::config::model::hosts::Hosts;
use crate::config::model::limits::Limits;
use crate::config::model::listen::Listen;
use crate::config::model::server::{Http1Options, RequiredHeader, Server};
use crate::config::source::diagnostics::Problem;
use crate::config::source::key::Key;
use crate::config::source::reader::Table;
use crate::config::source::schema::{self, Texts};
use crate::config::source::units::{OneOrMany, Size};

const LOOPBACK: [&str; 2] = ["127.0.0.0/8", "::1/128"];
const EVERYWHERE: [&str; 2] = ["0.0.0.0/0", "::/0"];
/// RFC 1918, RFC 4193, and loopback.
const PRIVATE: [&str; 6] =
    ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "127.0.0.0/8", "::1/128"];

/// Length of the prefix of IPv6 addresses that stand for IPv4 addresses (RFC 4291 §2.5.5.2).
const MAPPED_BITS: u8 = 96;

/// Most worker threads. More than cores slow the daemon down, and each has connections of its own.
const MAX_WORKERS: u16 = 1024;

impl Resolver<'_> {
    pub(super) fn server(&mut self, server: schema::Server, route_hosts: &RouteHosts) -> Server {
        let listen_place = server.listen.place();
        let listen = match server.listen {
            Key::Absent => vec![Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 8080)))],
            Key::Refused => Vec::new(),
            Key::Written(listen) => self.addresses(listen),
        };
        let speaks_plain_http = server.tls.is_absent();
        let tls = self.server_tls(server.tls);
        if !listen.iter().all(Listen::is_local) {
            self.require_beyond_loopback(
                listen_place.as_ref(),
                "server.allow_from",
                !server.allow_from.is_absent() || self.asks_for_certificates,
                "write the networks of your applications, for example allow_from = [\"10.0.0.0/8\"], or require \
                 client certificates (client_ca in [server.tls])",
            );
            self.require_beyond_loopback(
                listen_place.as_ref(),
                "server.hosts",
                !server.hosts.is_absent() || route_hosts.has_any,
                "write the host names that applications use, for example hosts = [\"gateway.internal\"]",
            );
            if !server.allow_from.is_absent() && speaks_plain_http {
                self.warning(
                    listen_place,
                    "callers' requests cross the network in the clear",
                    "add [server.tls] with `certificate` and `private_key`, unless something else encrypts them",
                );
            }
        }
        self.state_dir = self.state_path(server.state_dir);
        let allow_from = match server.allow_from.into_usable() {
            Some(texts) => self.caller_networks(texts.into_inner()),
            // A client certificate identifies a caller better than an address.
            None if self.asks_for_certificates => parse_networks(&EVERYWHERE),
            None => parse_networks(&LOOPBACK),
        };
        let trusted_proxies = self.trusted_proxies(server.trusted_proxies);
        let hosts = self.hosts(server.hosts, &route_hosts.usable);
        let origins = server.origins.or_default();
        let origins = origins.into_iter().flatten().filter_map(|origin| self.origin(&origin)).collect();
        let required_header = server.required_header.usable().and_then(|field| self.required_header(field));
        let workers = self.workers(server.workers);
        Server {
            listen,
            tls,
            allow_from,
            trusted_proxies,
            hosts,
            origins,
            required_header,
            workers,
            drain_delay: duration(server.drain_delay, 0),
            drain: duration(server.drain, 20),
            watch: server.watch.or_default(),
            http1: Http1Options {
                header_case: server.header_case.or_default(),
                half_closed: server.half_closed.or_default(),
            },
            limits: self.limits(schema::Limits::of(server.limits)),
        }
    }

    fn workers(&mut self, workers: Key<u16>) -> usize {
        if let Some(many) = workers.usable().filter(|workers| *workers.get_ref() > MAX_WORKERS) {
            let title = format!("more worker threads than {MAX_WORKERS}");
            self.error(many.span(), title, "write 0 for one worker thread per CPU core");
        }
        match workers.or(0) {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            workers => usize::from(workers),
        }
    }

    /// Reports a key whose default is for loopback only.
    fn require_beyond_loopback(&mut self, place: Option<&Range<usize>>, key: &str, is_set: bool, help: &str) {
        if !is_set {
            self.error(
                place.cloned(),
                format!("`{key}` is required when listening beyond loopback"),
                format!("anyone who can reach this address can use its tokens: {help}"),
            );
        }
    }

    fn limits(&mut self, limits: schema::Limits) -> Limits {
        let token_waiters = self.at_least_one(limits.token_waiters, 10_000);
        Limits {
            connections: count(limits.connections, 10_000),
            connections_per_address: count(limits.connections_per_address, 0),
            connection_age: Some(duration(limits.connection_age, 3600)).filter(|age| !age.is_zero()),
            header_bytes: self.bytes(limits.header_bytes, 64 * 1024, 1024..=1024 * 1024),
            tls_timeout: self.positive(limits.tls_timeout, 5),
            header_timeout: self.positive(limits.header_timeout, 10),
            idle_timeout: self.positive(limits.idle_timeout, 75),
            body_timeout: self.positive(limits.body_timeout, 15),
            body_rate: limits.body_rate.or(Size(240)).0,
            write_timeout: self.positive(limits.write_timeout, 30),
            streams: self.at_least_one(limits.streams, 100),
            body_bytes: Some(limits.body_bytes.or(Size(0)).0).filter(|bytes| *bytes > 0),
            replay_body: self.bytes(limits.replay_body, 1024 * 1024, 0..=1 << 30),
            replay_total: self.bytes(limits.replay_total, 64 * 1024 * 1024, 0..=1 << 40),
            token_wait: duration(limits.token_wait, 10),
            token_waiters: usize::try_from(token_waiters).unwrap_or(usize::MAX),
        }
    }

    fn caller_networks(&mut self, texts: Texts) -> Vec<IpNet> {
        let is_everywhere = |text: &&Spanned<String>| {
            text.get_ref().parse::<IpNet>().is_ok_and(|network| compared(network).prefix_len() == 0)
        };
        if let Some(text) = texts.iter().flatten().find(is_everywhere) {
            self.warning(
                text.span(),
                "callers from every network may use the credentials",
                "write the networks of your applications, or \"private\"",
            );
        }
        self.networks(texts)
    }

    pub(super) fn networks(&mut self, texts: Texts) -> Vec<IpNet> {
        let mut networks = Vec::new();
        for text in texts.into_iter().flatten() {
            match text.get_ref().as_str() {
                "private" => networks.extend(parse_networks(&PRIVATE)),
                other => match IpNet::from_str(other).or_else(|_| IpAddr::from_str(other).map(IpNet::from)) {
                    Ok(network) => networks.push(self.network(network, &text.span())),
                    Err(_) => self.error(
                        text.span(),
                        "not a network",
                        "write a network such as \"10.0.0.0/8\", an address, or \"private\"",
                    ),
                },
            }
        }
        networks
    }

    /// The network as callers' addresses are compared with it. Warns if it is written as another.
    fn network(&mut self, written: IpNet, place: &Range<usize>) -> IpNet {
        let network = compared(written);
        if matches!((written, network), (IpNet::V6(_), IpNet::V4(_))) {
            let help = format!("write \"{network}\", as which bearerd reads it");
            self.warning(place.clone(), "an IPv4 network written as IPv6", help);
        } else if network != written {
            let help = format!(
                "write \"{network}\", as which bearerd reads it, or \"{}\" for one address",
                written.addr()
            );
            self.warning(place.clone(), "an address within a network, not a network", help);
        }
        network
    }

    fn hosts(&mut self, texts: Key<Texts>, route_hosts: &[String]) -> Hosts {
        let mut hosts = Hosts::default();
        let has_texts = !texts.is_absent();
        for text in texts.or_default().into_iter().flatten() {
            if let Err(error) = hosts.add(text.get_ref()) {
                self.problems.push(Problem::error(text.span(), error));
            }
        }
        let defaults = ["localhost", "127.0.0.1", "[::1]"].into_iter().filter(|_| !has_texts);
        // A wrong host of a route is reported with the route.
        for host in defaults.chain(route_hosts.iter().map(String::as_str)) {
            hosts.add(host).unwrap_or_default();
        }
        hosts
    }

    fn origin(&mut self, origin: &Spanned<String>) -> Option<String> {
        let parsed = Url::parse(origin.get_ref()).ok().filter(|url| {
            matches!(url.scheme(), "http" | "https")
                && url.path() == "/"
                && url.query().is_none()
                && url.fragment().is_none()
        });
        let help = "write scheme and host as a browser sends them, such as \"https://desk.example.com\"";
        let parsed = parsed.or_else(|| self.refuse(origin.span(), "not an origin", help));
        parsed.map(|url| url.origin().ascii_serialization())
    }

    fn required_header(&mut self, field: &Spanned<String>) -> Option<RequiredHeader> {
        let text = field.get_ref();
        if text.is_empty() {
            return None;
        }
        let (name, value) = text.split_once(':').unwrap_or((text, ""));
        let (title, help) = match HeaderName::from_str(name.trim()) {
            Ok(name) if (is_protected(&name) && name != AUTHORIZATION) || is_for_proxies(&name) => (
                "either every caller sends this field, or no caller may",
                "require a field that only your applications send, such as \"X-Bearerd: yes\"",
            ),
            // A field value has no control character (RFC 9110 §5.5).
            Ok(name) => match HeaderValue::from_bytes(value.trim().as_bytes()) {
                Ok(_) => return Some(RequiredHeader { name, value: value.trim().to_owned() }),
                Err(_) => (
                    "no request can carry this field value",
                    "write one line of text, such as \"X-Bearerd: yes\"",
                ),
            },
            Err(_) => ("not a header field", "write a name and a value, such as \"X-Bearerd: yes\""),
        };
        self.refuse(field.span(), title, help)
    }

    fn addresses(&mut self, texts: Spanned<OneOrMany<String>>) -> Vec<Listen> {
        if texts.get_ref().0.is_empty() {
            self.error(
                texts.span(),
                "no address to listen on",
                "write an address, such as \"127.0.0.1:8080\"",
            );
        }
        let mut addresses = Vec::new();
        for text in texts.into_inner().0.into_iter().flatten() {
            let Some(listen) = self.listen_address(&text) else { continue };
            self.refuse_conflict(&addresses, &listen, text.span());
            addresses.push(listen);
        }
        addresses
    }
}

/// A number of connections; `None` for 0, which stands for no limit.
fn count(value: Key<u32>, default: u32) -> Option<usize> {
    usize::try_from(value.or(default)).ok().filter(|count| *count > 0)
}

/// A network as callers' addresses are compared with it: without host bits, and IPv4 for mapped IPv6 addresses.
fn compared(written: IpNet) -> IpNet {
    let v4 = match written {
        IpNet::V6(network) if network.prefix_len() >= MAPPED_BITS => {
            let v4 = network.addr().to_ipv4_mapped();
            v4.and_then(|v4| Ipv4Net::new(v4, network.prefix_len() - MAPPED_BITS).ok())
        }
        _ => None,
    };
    v4.map_or(written, IpNet::V4).trunc()
}

fn parse_networks(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}
