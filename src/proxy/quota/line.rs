//! Lines: whose requests wait one behind the other, and share a part of a budget.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::Equivalent;

use crate::network::client_network;

/// The line of a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LineKey {
    /// A configured caller.
    Caller(Arc<str>),
    /// The first name of a client certificate.
    Certificate(Arc<str>),
    /// An address; of an IPv6 address its /64 network.
    Address(IpAddr),
    /// All processes behind a unix socket.
    Unix,
    /// Newcomers for whom no line is left.
    Others,
}

/// The line of a request, borrowed from the request. Hashes as its [`LineKey`], which a map finds by it without an allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LineOf<'a> {
    /// As [`LineKey::Caller`].
    Caller(&'a str),
    /// As [`LineKey::Certificate`].
    Certificate(&'a str),
    /// As [`LineKey::Address`].
    Address(IpAddr),
    /// As [`LineKey::Unix`].
    Unix,
}

impl<'a> LineOf<'a> {
    /// The line of a request of this configured caller, with this first name of a client certificate, from this address.
    pub fn new(caller: Option<&'a str>, certificate: Option<&'a str>, address: Option<IpAddr>) -> Self {
        match (caller, certificate, address) {
            (Some(name), _, _) => Self::Caller(name),
            (None, Some(name), _) => Self::Certificate(name),
            (None, None, Some(address)) => Self::Address(client_network(address)),
            (None, None, None) => Self::Unix,
        }
    }

    /// The same, to be kept.
    pub fn key(self) -> LineKey {
        match self {
            Self::Caller(name) => LineKey::Caller(Arc::from(name)),
            Self::Certificate(name) => LineKey::Certificate(Arc::from(name)),
            Self::Address(address) => LineKey::Address(address),
            Self::Unix => LineKey::Unix,
        }
    }
}

impl Equivalent<LineKey> for LineOf<'_> {
    fn equivalent(&self, key: &LineKey) -> bool {
        match (self, key) {
            (Self::Caller(name), LineKey::Caller(key))
            | (Self::Certificate(name), LineKey::Certificate(key)) => **name == **key,
            (Self::Address(address), LineKey::Address(key)) => address == key,
            (Self::Unix, LineKey::Unix) => true,
            _ => false,
        }
    }
}

/// The name for operators.
impl fmt::Display for LineKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Caller(name) | Self::Certificate(name) => f.write_str(name),
            Self::Address(address) => address.fmt(f),
            Self::Unix => f.write_str("unix"),
            Self::Others => f.write_str("others"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::hash::RandomState;

    use hashbrown::HashMap;

    use super::*;

    #[test]
    fn the_line_is_the_caller_else_the_certificate_else_the_address_else_the_unix_socket() {
        let address = "2001:db8::1:2:3:4".parse().ok();
        for (caller, certificate, address, name) in [
            (Some("billing"), Some("CN=billing"), address, "billing"),
            (None, Some("CN=billing"), address, "CN=billing"),
            (None, None, address, "2001:db8::"),
            (None, None, "::ffff:192.0.2.7".parse().ok(), "192.0.2.7"),
            (None, None, None, "unix"),
        ] {
            assert_eq!(LineOf::new(caller, certificate, address).key().to_string(), name);
        }
        assert_ne!(LineOf::Caller("a").key(), LineOf::Certificate("a").key());
    }

    #[test]
    fn a_map_finds_each_line_by_what_a_request_holds() {
        let addresses = ["192.0.2.7", "2001:db8::"].map(|text| text.parse::<IpAddr>().unwrap());
        let mut lines =
            vec![LineOf::Caller("a"), LineOf::Certificate("a"), LineOf::Caller("b"), LineOf::Unix];
        lines.extend(addresses.map(LineOf::Address));
        let map: HashMap<LineKey, usize, RandomState> =
            lines.iter().enumerate().map(|(place, line)| (line.key(), place)).collect();

        let found: Vec<_> = lines.iter().map(|line| map.get(line).copied()).collect();
        assert_eq!(found, (0..lines.len()).map(Some).collect::<Vec<_>>());
        assert_eq!(map.get(&LineOf::Certificate("b")), None);
    }
}
