//! Groups IP addresses into the networks that limits treat as one client.

use std::net::{IpAddr, Ipv6Addr};

/// The network of a client: the IPv4 address, also if it is mapped to IPv6, or the /64 network of the IPv6
/// address. An IPv6 host commonly has all addresses of such a network (RFC 6177 §2).
pub fn client_network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_of_an_ipv6_host_are_one_client() {
        let network = |text: &str| client_network(text.parse().unwrap());

        assert_eq!(network("2001:db8::1"), network("2001:db8::ffff:1"));
        assert_ne!(network("2001:db8::1"), network("2001:db8:0:1::1"));
        assert_eq!(network("::ffff:192.0.2.1"), network("192.0.2.1"));
    }
}
