//! Refuses an upstream that is one of the daemon's own listeners.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;

use http::uri::Scheme;

use super::Resolver;
use crate::config::model::listen::Listen;
use crate::config::model::route::Address;

impl Resolver<'_> {
    /// Remembers the addresses that a key listens on.
    pub(super) fn listens(&mut self, key: &'static str, addresses: impl IntoIterator<Item = Listen>) {
        let tcp = |address| match address {
            Listen::Tcp(address) if address.port() != 0 => Some((address, key)),
            Listen::Tcp(_) | Listen::Unix(_) => None,
        };
        self.own_addresses.extend(addresses.into_iter().filter_map(tcp));
    }

    /// Refuses an upstream to which only the daemon itself can answer: each request would come back to the daemon.
    pub(super) fn refuse_own_address(&mut self, place: &Range<usize>, upstream: &Address) {
        let port = port_of(upstream);
        let host = upstream.authority.host();
        let Some(ip) = ip_of(host) else { return };
        let is_own =
            |(address, _): &&(SocketAddr, &str)| address.port() == port && is_reached(address.ip(), ip);
        if let Some((_, key)) = self.own_addresses.iter().find(is_own) {
            let title = format!("the upstream is this daemon's own `{key}`");
            let help = format!(
                "write the address of the API, or change `{key}`: requests would go round in a circle"
            );
            self.error(place.clone(), title, help);
        }
    }
}

/// The port, also where it is the default of the scheme.
fn port_of(upstream: &Address) -> u16 {
    let default = if upstream.scheme == Scheme::HTTP { 80 } else { 443 };
    upstream.authority.port().map_or(default, |port| port.as_u16())
}

/// The address of a host that is an address or `localhost`.
fn ip_of(host: &str) -> Option<IpAddr> {
    let host = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.');
    if host.eq_ignore_ascii_case("localhost") {
        return Some(Ipv4Addr::LOCALHOST.into());
    }
    host.parse().ok().map(|ip: IpAddr| ip.to_canonical())
}

/// Whether a connection to `ip` reaches a listener at `own`.
fn is_reached(own: IpAddr, ip: IpAddr) -> bool {
    let own = own.to_canonical();
    // `localhost`, 127.0.0.1 and ::1 stand for each other; a connection to an unspecified address reaches loopback.
    let is_here =
        |ip: IpAddr| ip.is_unspecified() || ip == Ipv4Addr::LOCALHOST || (ip.is_ipv6() && ip.is_loopback());
    own == ip || (is_here(own) && is_here(ip)) || (own.is_unspecified() && ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::{Environment, parse};

    /// The titles of the errors.
    fn errors(listen: &str, upstream: &str) -> Vec<String> {
        let text = format!(
            "[server]\nlisten = {listen}\nhosts = [\"gw\"]\nallow_from = [\"private\"]\n\
             [admin]\nlisten = \"127.0.0.1:9091\"\n\
             [[routes]]\nupstream = \"{upstream}\"\ncredential = \"none\"\n"
        );
        let checked = parse(Path::new("proxy.toml"), text, &Environment::from([]));
        let Err(problems) = checked else { return Vec::new() };
        let errors = problems.problems().iter();
        let errors =
            errors.filter(|problem| problem.help.as_ref().is_some_and(|help| help.contains("circle")));
        errors.map(|problem| problem.title.clone()).collect()
    }

    #[test]
    fn an_upstream_is_not_one_of_the_daemons_own_addresses() {
        for (listen, upstream) in [
            ("\"127.0.0.1:8080\"", "http://127.0.0.1:8080"),
            ("\"127.0.0.1:8080\"", "http://localhost:8080/api"),
            ("\"127.0.0.1:8080\"", "http://[::1]:8080"),
            ("\"127.0.0.1:8080\"", "https://0.0.0.0:8080"),
            ("\"[::1]:8080\"", "http://LOCALHOST:8080"),
            ("\"0.0.0.0:8080\"", "http://127.0.0.1:8080"),
            ("\"0.0.0.0:8080\"", "http://127.9.9.9:8080"),
            ("\"[::]:8080\"", "http://localhost:8080"),
            ("\"0.0.0.0:443\"", "https://localhost"),
            ("\"127.0.0.1:80\"", "http://localhost/"),
            ("\"10.0.0.5:8443\"", "https://10.0.0.5:8443"),
            ("[\"127.0.0.1:1\", \"unix:/run/b.sock\", \"127.0.0.1:8080\"]", "http://localhost:8080"),
        ] {
            let said = errors(listen, upstream);
            assert_eq!(said, ["the upstream is this daemon's own `server.listen`"], "{listen} {upstream}");
        }
        let said = errors("\"127.0.0.1:8080\"", "http://localhost:9091");
        assert_eq!(said, ["the upstream is this daemon's own `admin.listen`"]);
    }

    #[test]
    fn another_port_or_host_is_an_upstream() {
        for (listen, upstream) in [
            ("\"127.0.0.1:8080\"", "http://127.0.0.1:8081"),
            ("\"127.0.0.1:8080\"", "http://127.0.0.2:8080"),
            ("\"127.0.0.1:8080\"", "https://api.example.com:8080"),
            ("\"0.0.0.0:8080\"", "https://10.0.0.5:8080"),
            ("\"127.0.0.1:0\"", "http://127.0.0.1:80"),
            ("\"10.0.0.5:8443\"", "https://localhost:8443"),
            ("\"unix:/run/b.sock\"", "http://localhost:8080"),
        ] {
            assert_eq!(errors(listen, upstream), [""; 0], "{listen} {upstream}");
        }
    }
}
