//! The networks of callers: of those that contain an address, the one with the longest prefix counts.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::identified::CallerIndex;

/// Networks, each with its caller. A lookup hashes once for each length of a prefix in use, however many networks there are.
#[derive(Debug, Default)]
pub(super) struct NetworkTable {
    networks: HashMap<IpNet, CallerIndex>,
    /// The lengths of the prefixes, the longest first.
    v4_lengths: Vec<u8>,
    v6_lengths: Vec<u8>,
}

impl NetworkTable {
    /// Adds a network without host bits.
    pub(super) fn add(&mut self, network: IpNet, caller: CallerIndex) {
        let lengths = match network {
            IpNet::V4(_) => &mut self.v4_lengths,
            IpNet::V6(_) => &mut self.v6_lengths,
        };
        if let Err(at) = lengths.binary_search_by(|length| network.prefix_len().cmp(length)) {
            lengths.insert(at, network.prefix_len());
        }
        self.networks.insert(network, caller);
    }

    /// The caller with the smallest network that contains an address.
    pub(super) fn of(&self, address: IpAddr) -> Option<CallerIndex> {
        let lengths = if address.is_ipv4() { &self.v4_lengths } else { &self.v6_lengths };
        lengths.iter().find_map(|length| {
            let network = IpNet::new(address, *length).ok()?.trunc();
            self.networks.get(&network).copied()
        })
    }
}
