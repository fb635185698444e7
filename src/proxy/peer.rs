//! Where a connection comes from, and what its address alone says of it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::config;

/// The other end of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Its address, an IPv4 one as such even where it came in over IPv6; none behind a unix socket.
    address: Option<SocketAddr>,
    /// Whether requests from there are answered.
    pub is_allowed: bool,
    /// Whether its word on whom it calls for is believed.
    pub is_trusted_proxy: bool,
    /// The number of the entrance that it came in by.
    pub entrance: u32,
}

/// What addresses are worth.
#[derive(Clone, Debug, Default)]
pub struct Networks {
    /// Who may call.
    pub allow_from: Vec<IpNet>,
    /// Who may say for whom it calls.
    pub trusted_proxies: Vec<IpNet>,
}

impl Networks {
    /// As they are configured.
    pub fn of(server: &config::Server) -> Self {
        Self { allow_from: server.allow_from.clone(), trusted_proxies: server.trusted_proxies.clone() }
    }

    /// A peer of the network.
    pub fn judge(&self, address: SocketAddr) -> Peer {
        // An IPv4 caller is one however it came in (RFC 4291 §2.5.5.2).
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        Peer {
            address: Some(address),
            is_allowed: contain(&self.allow_from, address.ip()),
            is_trusted_proxy: contain(&self.trusted_proxies, address.ip()),
            entrance: 0,
        }
    }

    /// A peer that was judged by others before.
    pub fn judge_again(&self, peer: Peer) -> Peer {
        let judged = peer.address.map(|address| self.judge(address));
        judged.map_or(peer, |judged| Peer { entrance: peer.entrance, ..judged })
    }
}

/// Whether an address is in one of these networks.
pub fn contain(networks: &[IpNet], address: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(&address))
}

impl Peer {
    /// A process behind a unix socket: whoever may open the file may call, and it has no address to judge by.
    pub const UNIX: Self = Self { address: None, is_allowed: true, is_trusted_proxy: false, entrance: 0 };

    /// The same, which came in by this entrance.
    #[must_use]
    pub const fn by(self, entrance: u32) -> Self {
        Self { entrance, ..self }
    }

    /// Its address without the port.
    pub fn ip(&self) -> Option<IpAddr> {
        self.address.map(|address| address.ip())
    }

    /// How the access log calls it.
    pub fn host(&self) -> impl fmt::Display + use<> {
        Host(self.ip())
    }
}

/// With the port, where there is one.
impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Some(address) => address.fmt(f),
            None => Host(None).fmt(f),
        }
    }
}

struct Host(Option<IpAddr>);

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(address) => address.fmt(f),
            None => f.write_str("unix"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks() -> Networks {
        Networks {
            allow_from: vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()],
            trusted_proxies: vec!["10.0.0.7/32".parse().unwrap()],
        }
    }

    #[test]
    fn an_address_is_judged_without_its_ipv6_dress() {
        for (address, shown, is_allowed, is_trusted) in [
            ("10.1.2.3:4", "10.1.2.3:4", true, false),
            ("[::ffff:10.0.0.7]:4", "10.0.0.7:4", true, true),
            ("[::1]:4", "[::1]:4", true, false),
            ("192.0.2.1:4", "192.0.2.1:4", false, false),
        ] {
            let peer = networks().judge(address.parse().unwrap());
            assert_eq!((peer.to_string().as_str(), peer.is_allowed), (shown, is_allowed));
            assert_eq!(peer.is_trusted_proxy, is_trusted, "{address}");
        }
    }

    #[test]
    fn whoever_opens_the_socket_may_call_and_speaks_for_nobody_else() {
        let Peer { is_allowed, is_trusted_proxy, .. } = Peer::UNIX;

        assert!(is_allowed && !is_trusted_proxy);
        assert_eq!((Peer::UNIX.to_string(), Peer::UNIX.host().to_string()), ("unix".into(), "unix".into()));
    }
}
