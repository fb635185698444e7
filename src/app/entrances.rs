//! Where callers and the operator come in: bound before anything is started or changed.

use std::io::ErrorKind;
use std::net::SocketAddr;

use super::StartError;
use crate::config;
use crate::config::Listen;
use crate::proxy::listener;
use crate::proxy::listener::{Bound, Entrance, Listening, Renumbered};

/// The entrances that are open.
#[derive(Clone, Debug, Default)]
pub(super) struct Entrances {
    open: Vec<Open>,
    next_number: u32,
}

/// An entrance for callers.
#[derive(Clone, Debug)]
struct Open {
    number: u32,
    /// As it is configured.
    configured: Listen,
    /// As callers are to be told: with the port that the system chose.
    address: Listen,
}

/// What is done to get from some entrances to others.
#[derive(Debug)]
pub(super) struct Way {
    /// The others.
    pub(super) after: Entrances,
    /// Those that stay.
    pub(super) stay: Vec<Renumbered>,
    /// New ones, bound.
    pub(super) new: Vec<Entrance>,
    /// The addresses of new ones.
    pub(super) addresses: Vec<Listen>,
}

impl Entrances {
    /// To these addresses. Whatever is there already stays as it is; where connections of the network `begin_anew`, as
    /// they have to speak TLS now for example, those that are open there are not the new entrance's.
    ///
    /// # Errors
    ///
    /// [`StartError::Listen`] where one cannot be bound; nothing has changed then.
    pub(super) fn to(&self, server: &config::Server, begin_anew: bool) -> Result<Way, StartError> {
        let mut left = self.open.clone();
        let mut after = Self { open: Vec::new(), next_number: self.next_number };
        let (mut stay, mut new, mut addresses) = (Vec::new(), Vec::new(), Vec::new());
        for configured in &server.listen {
            let at = left.iter().position(|open| open.configured == *configured);
            if let Some(Open { number: before, address, .. }) = at.map(|at| left.remove(at)) {
                let is_another = begin_anew && matches!(configured, Listen::Tcp(_));
                let number = if is_another { after.number() } else { before };
                stay.push(Renumbered { before, after: number });
                after.open.push(Open { number, configured: configured.clone(), address });
                continue;
            }
            let (socket, address) = bind_one(configured).map_err(|error| self.explain(error, configured))?;
            let number = after.number();
            new.push(Entrance { number, socket });
            addresses.push(address.clone());
            after.open.push(Open { number, configured: configured.clone(), address });
        }
        Ok(Way { after, stay, new, addresses })
    }

    /// The system gives a port away once, whichever of its addresses is listened on: `0.0.0.0:80` is in use by
    /// `127.0.0.1:80`, even if that is about to be closed.
    fn explain(&self, error: StartError, wanted: &Listen) -> StartError {
        let (StartError::Listen { source, .. }, Listen::Tcp(address)) = (&error, wanted) else {
            return error;
        };
        let has_port =
            |open: &&Open| matches!(open.address, Listen::Tcp(own) if own.port() == address.port());
        match self.open.iter().find(has_port) {
            Some(own) if source.kind() == ErrorKind::AddrInUse => {
                StartError::OwnPort { address: wanted.clone(), own: own.address.clone() }
            }
            _ => error,
        }
    }

    /// Where callers connect.
    pub(super) fn addresses(&self) -> Vec<Listen> {
        self.open.iter().map(|open| open.address.clone()).collect()
    }

    /// Their numbers.
    pub(super) fn numbers(&self) -> Vec<u32> {
        self.open.iter().map(|open| open.number).collect()
    }

    fn number(&mut self) -> u32 {
        self.next_number += 1;
        self.next_number
    }
}

/// Binds an address of the network.
pub(super) fn bind(key: &'static str, address: SocketAddr) -> Result<Bound, StartError> {
    listener::bind(address).map_err(|source| StartError::Listen {
        key,
        address: Listen::Tcp(address),
        source,
    })
}

fn bind_one(address: &Listen) -> Result<(Listening, Listen), StartError> {
    match address {
        Listen::Tcp(address) => {
            let bound = bind("server.listen", *address)?;
            let address = Listen::Tcp(bound.address);
            Ok((Listening::Tcp(bound), address))
        }
        Listen::Unix(path) => {
            let bound = listener::bind_unix(path).map_err(|source| StartError::Listen {
                key: "server.listen",
                address: address.clone(),
                source,
            })?;
            Ok((Listening::Unix(bound), address.clone()))
        }
    }
}
