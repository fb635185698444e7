//! The configured callers, and which of them a request comes from: by its key, its client certificate, or its address.
//!
//! The table is immutable and holds configured values only: it does not grow with callers, addresses or keys that come.

mod identified;
mod keys;
mod networks;

use std::collections::HashMap;
use std::net::IpAddr;

use http::HeaderMap;

pub use self::identified::{CallerIndex, Identified, Unidentified};
pub use self::keys::X_API_KEY;

use self::keys::Keys;
use self::networks::NetworkTable;
use super::peer::Peer;
use crate::config::Caller;
use crate::config::model::caller::OTHER;

/// The callers by what stays the same on a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OfConnection {
    certificate: Option<CallerIndex>,
    address: Option<CallerIndex>,
}

/// The configured callers.
#[derive(Debug)]
pub struct Callers {
    names: Vec<String>,
    certificates: HashMap<String, CallerIndex>,
    networks: NetworkTable,
    keys: Keys,
    other: Option<CallerIndex>,
}

impl Callers {
    /// The configured callers; `None` without any.
    pub fn new(configured: &[Caller]) -> Option<Self> {
        if configured.is_empty() {
            return None;
        }
        let mut callers = Self {
            names: Vec::new(),
            certificates: HashMap::new(),
            networks: NetworkTable::default(),
            keys: Keys::default(),
            other: None,
        };
        for (caller, index) in configured.iter().zip(CallerIndex::all()) {
            callers.names.push(caller.name.clone());
            callers.certificates.extend(caller.certificates.iter().map(|name| (name.clone(), index)));
            caller.networks.iter().for_each(|network| callers.networks.add(*network, index));
            caller.keys.iter().for_each(|key| callers.keys.add(*key, index));
            if caller.name == OTHER {
                callers.other = Some(index);
            }
        }
        Some(callers)
    }

    /// The names, in the order of the indices.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The name of a caller.
    pub fn name(&self, caller: CallerIndex) -> &str {
        &self.names[caller.get()]
    }

    /// The caller of this name.
    pub fn find(&self, name: &str) -> Option<CallerIndex> {
        self.names.iter().zip(CallerIndex::all()).find_map(|(own, index)| (own == name).then_some(index))
    }

    /// The callers by the names in a client certificate, and by the address at the other end of the connection.
    pub fn of_connection(&self, certificate_names: &[String], peer: &Peer) -> OfConnection {
        OfConnection {
            certificate: certificate_names.iter().find_map(|name| self.certificates.get(name).copied()),
            address: peer.ip().and_then(|address| self.networks.of(address)),
        }
    }

    /// The caller of a request with these fields and this query. `forwarded` is the address of the client according to a
    /// trusted proxy.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub fn identify(
        &self,
        headers: &HeaderMap,
        query: Option<&str>,
        connection: OfConnection,
        forwarded: Option<IpAddr>,
    ) -> Result<Identified, Unidentified> {
        if query.is_some_and(|query| self.keys.are_in(query)) {
            return Err(Unidentified::KeyInQuery);
        }
        let proven = |caller| Identified { caller, is_proven: true };
        let unproven = |caller| Identified { caller, is_proven: false };
        let shown = self.keys.shown(headers)?.or(connection.certificate);
        let by_forwarded = || forwarded.and_then(|address| self.networks.of(address));
        // Behind a trusted proxy, the address of the client says more than that of the proxy.
        shown
            .map(proven)
            .or_else(|| by_forwarded().map(unproven))
            .or_else(|| connection.address.map(proven))
            .or_else(|| self.other.map(unproven))
            .ok_or(Unidentified::Unknown)
    }

    /// Removes the callers' key from the fields for an upstream, if there are keys. `has_odd_name` is whether a name has a
    /// character other than letters, digits and hyphens.
    pub fn remove_key(&self, headers: &mut HeaderMap, has_odd_name: bool) {
        self.keys.remove(headers, has_odd_name);
    }
}

#[cfg(test)]
mod tests;
