//! The other end of a client connection, and what its address alone allows.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::config;

/// The other end of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// The peer's address, an IPv4-mapped one as IPv4; `None` over a unix socket.
    address: Option<SocketAddr>,
    /// Whether `allow_from` has the address.
    pub is_allowed: bool,
    /// Whether `trusted_proxies` has the address: fields such as `Forwarded` are believed.
    pub is_trusted_proxy: bool,
    /// The number of the listening socket that accepted the connection.
    pub listen_socket: u32,
}

/// The networks by which addresses are judged.
#[derive(Clone, Debug, Default)]
pub struct Networks {
    /// The networks that may call.
    pub allow_from: Vec<IpNet>,
    /// The networks whose proxies may name the original caller.
    pub trusted_proxies: Vec<IpNet>,
}

impl Networks {
    /// The configured networks.
    pub fn of(server: &config::Server) -> Self {
        Self { allow_from: server.allow_from.clone(), trusted_proxies: server.trusted_proxies.clone() }
    }

    /// The peer at an address.
    pub fn judge(&self, address: SocketAddr) -> Peer {
        // An IPv4 peer of an IPv6 socket has an IPv4-mapped address (RFC 4291 §2.5.5.2).
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        Peer {
            address: Some(address),
            is_allowed: contain(&self.allow_from, address.ip()),
            is_trusted_proxy: contain(&self.trusted_proxies, address.ip()),
            listen_socket: 0,
        }
    }

    /// A peer that was judged by other networks before.
    pub fn judge_again(&self, peer: Peer) -> Peer {
        let judged = peer.address.map(|address| self.judge(address));
        judged.map_or(peer, |judged| Peer { listen_socket: peer.listen_socket, ..judged })
    }
}

/// Whether an address is in one of these networks.
pub fn contain(networks: &[IpNet], address: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(&address))
}

impl Peer {
    /// A process behind a unix socket, which has no address to judge: the file's mode decides who may call.
    pub const UNIX: Self =
        Self { address: None, is_allowed: true, is_trusted_proxy: false, listen_socket: 0 };

    /// The address without the port.
    pub fn ip(&self) -> Option<IpAddr> {
        self.address.map(|address| address.ip())
    }

    /// The address without the port as text, `unix` for a unix socket.
    pub fn host(&self) -> impl fmt::Display + use<> {
        Host(self.ip())
    }
}

/// The address with its port, if it has one.
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
    fn an_ipv4_mapped_address_is_judged_as_ipv4() {
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
    fn a_peer_behind_a_unix_socket_may_call_and_is_no_trusted_proxy() {
        let Peer { is_allowed, is_trusted_proxy, .. } = Peer::UNIX;

        assert!(is_allowed && !is_trusted_proxy);
        assert_eq!((Peer::UNIX.to_string(), Peer::UNIX.host().to_string()), ("unix".into(), "unix".into()));
    }
}
