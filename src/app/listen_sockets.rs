//! The sockets that the daemon listens on, which are bound before anything is started or changed.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};

use super::StartError;
use crate::config;
use crate::config::Listen;
use crate::proxy::listener;
use crate::proxy::listener::{BoundSocket, LISTEN_BACKLOG, ListenSocket, unix_socket};

#[derive(Clone, Debug, Default)]
pub(super) struct ListenSockets {
    open: Vec<Open>,
    next_number: u32,
}

#[derive(Clone, Debug)]
struct Open {
    number: u32,
    /// The address as configured.
    configured: Listen,
    /// The address with the port that the system chose.
    address: Listen,
}

/// A change of the listening sockets at a reload.
#[derive(Debug)]
pub(super) struct Transition {
    pub(super) after: ListenSockets,
    /// The listening sockets that stay: their numbers before and after.
    pub(super) stay: HashMap<u32, u32>,
    /// New listening sockets, already bound.
    pub(super) new: Vec<ListenSocket>,
    pub(super) addresses: Vec<Listen>,
}

impl ListenSockets {
    /// Binds the configured addresses that are not open yet. Open listening sockets stay; with `begin_anew` (TCP connections
    /// must speak TLS from now on, for example) a listening socket gets a new number, to which its open connections do not
    /// belong.
    ///
    /// # Errors
    ///
    /// [`StartError::Listen`]: an address cannot be bound, and nothing has changed.
    pub(super) fn to(&self, server: &config::Server, begin_anew: bool) -> Result<Transition, StartError> {
        let mut left = self.open.clone();
        let mut after = Self { open: Vec::new(), next_number: self.next_number };
        let (mut stay, mut new, mut addresses) = (HashMap::new(), Vec::new(), Vec::new());
        for configured in &server.listen {
            let at = left.iter().position(|open| open.configured == *configured);
            if let Some(Open { number: before, address, .. }) = at.map(|at| left.remove(at)) {
                let is_another = begin_anew && matches!(configured, Listen::Tcp(_));
                let number = if is_another { after.number() } else { before };
                stay.insert(before, number);
                after.open.push(Open { number, configured: configured.clone(), address });
                continue;
            }
            let (socket, address) = bind_one(configured).map_err(|error| self.explain(error, configured))?;
            let number = after.number();
            new.push(ListenSocket { number, socket });
            addresses.push(address.clone());
            after.open.push(Open { number, configured: configured.clone(), address });
        }
        Ok(Transition { after, stay, new, addresses })
    }

    /// Explains a port in use by the daemon itself: `0.0.0.0:80` cannot be bound before a reload closes `127.0.0.1:80`.
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

    /// The addresses that callers connect to.
    pub(super) fn addresses(&self) -> Vec<Listen> {
        self.open.iter().map(|open| open.address.clone()).collect()
    }

    pub(super) fn numbers(&self) -> Vec<u32> {
        self.open.iter().map(|open| open.number).collect()
    }

    fn number(&mut self) -> u32 {
        self.next_number += 1;
        self.next_number
    }
}

pub(super) fn bind(key: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    listener::bind(address).map_err(|source| StartError::Listen {
        key,
        address: Listen::Tcp(address),
        source,
    })
}

fn bind_one(address: &Listen) -> Result<(BoundSocket, Listen), StartError> {
    const KEY: &str = "server.listen";
    Ok(match address {
        Listen::Tcp(address) => {
            let socket = bind(KEY, *address)?;
            let address = Listen::Tcp(socket.local_addr()?);
            (BoundSocket::Tcp(socket), address)
        }
        Listen::Unix(path) => {
            let refused = |source| StartError::Listen { key: KEY, address: address.clone(), source };
            let (socket, file) = unix_socket::bind(path, LISTEN_BACKLOG).map_err(refused)?;
            (BoundSocket::Unix(socket, file), address.clone())
        }
    })
}
