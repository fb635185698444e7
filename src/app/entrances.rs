//! Where callers and the operator come in: bound before anything is started.

use std::net::SocketAddr;

use super::StartError;
use crate::config::{self, Listen};
use crate::proxy::listener::{self, Bound, Entrances};
use crate::proxy::peer::Networks;

/// Binds an address of the network.
pub(super) fn bind(key: &'static str, address: SocketAddr) -> Result<Bound, StartError> {
    listener::bind(address).map_err(|source| StartError::Listen {
        key,
        address: Listen::Tcp(address),
        source,
    })
}

/// Binds all that callers connect to; answers what they are to be told.
pub(super) fn bind_all(server: &config::Server) -> Result<(Entrances, Vec<Listen>), StartError> {
    let networks =
        Networks { allow_from: server.allow_from.clone(), trusted_proxies: server.trusted_proxies.clone() };
    let mut entrances = Entrances { networks, ..Entrances::default() };
    let mut addresses = Vec::new();
    for address in &server.listen {
        match address {
            Listen::Tcp(address) => {
                let bound = bind("server.listen", *address)?;
                addresses.push(Listen::Tcp(bound.address));
                entrances.tcp.push(bound);
            }
            Listen::Unix(path) => {
                let bound = listener::bind_unix(path).map_err(|source| StartError::Listen {
                    key: "server.listen",
                    address: address.clone(),
                    source,
                })?;
                addresses.push(address.clone());
                entrances.unix.push(bound);
            }
        }
    }
    Ok((entrances, addresses))
}
