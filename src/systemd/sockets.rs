//! The listening sockets that systemd passes to the daemon (`sd_listen_fds(3)`), for the addresses that they belong to.
//!
//! systemd keeps each socket open while the daemon restarts, so that no connection is refused. The daemon therefore never
//! shuts such a socket down, and never removes the file of a unix socket.

use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::Path;

use listenfd::ListenFd;
use socket2::SockRef;
use thiserror::Error;

use crate::config::{Environment, Listen};

/// The descriptor of the first socket.
const FIRST: usize = 3;
/// The names by which a socket belongs to the key `NAME.listen` and to no other.
const KEYS: [&str; 3] = ["server", "admin", "health"];

/// The sockets that were passed.
#[derive(Debug, Default)]
pub struct PassedSockets(Vec<PassedSocket>);

/// A socket that listens, and that systemd holds too.
#[derive(Debug)]
pub struct PassedSocket {
    /// The address that the socket listens on.
    pub address: Listen,
    /// The socket.
    pub listener: PassedListener,
    /// The name by `FileDescriptorName=` of the .socket unit; by default that of the unit.
    name: String,
}

/// A socket that listens.
#[derive(Debug)]
pub enum PassedListener {
    /// An address of the network.
    Tcp(TcpListener),
    /// A unix socket.
    Unix(UnixListener),
}

/// The configured addresses of a key, each of which may get a passed socket.
#[derive(Debug)]
pub struct Wanted {
    key: &'static str,
    addresses: Vec<(Listen, Option<PassedSocket>)>,
}

/// Why a passed socket cannot be used.
#[derive(Debug, Error)]
pub enum PassedSocketError {
    /// A descriptor is none of a listening stream socket.
    #[error("the descriptor {descriptor} ({name}) that systemd passes is no stream socket that listens")]
    NotListening {
        /// The descriptor's number.
        descriptor: usize,
        /// The descriptor's name.
        name: String,
        /// The cause.
        source: io::Error,
    },
    /// No address is that of the socket.
    #[error("systemd passes a socket ({name}) that listens on {address}, which is no address of {keys}")]
    NotConfigured {
        /// The socket's name.
        name: String,
        /// The socket's address.
        address: Listen,
        /// The keys whose addresses were compared.
        keys: String,
    },
}

impl PassedSocketError {
    /// How to fix the error.
    pub const fn help(&self) -> &'static str {
        match self {
            Self::NotListening { .. } => {
                "pass sockets of ListenStream= only, without Accept=yes; on a unix socket, one with a path"
            }
            Self::NotConfigured { .. } => {
                "write the address of the .socket unit (ListenStream=) into the configuration, or name the unit's \
                 sockets after the key whose address they replace: FileDescriptorName=server, =admin or =health"
            }
        }
    }
}

impl PassedSockets {
    /// Takes the sockets that were passed to this process. Only the first call returns any.
    ///
    /// # Errors
    ///
    /// [`PassedSocketError::NotListening`].
    pub fn take(environment: &Environment) -> Result<Self, PassedSocketError> {
        let mut descriptors = ListenFd::from_env();
        let mut names = environment.get("LISTEN_FDNAMES").unwrap_or_default().split(':');
        let mut all = Vec::new();
        for index in 0..descriptors.len() {
            let name = names.next().filter(|name| !name.is_empty()).unwrap_or("unknown").to_owned();
            let taken = take(&mut descriptors, index);
            let (address, listener) = taken.map_err(|source| PassedSocketError::NotListening {
                descriptor: FIRST + index,
                name: name.clone(),
                source,
            })?;
            all.push(PassedSocket { address, listener, name });
        }
        Ok(Self(all))
    }

    /// Gives each socket to the configured address that it listens on or, if the socket has the name of a key without
    /// `.listen`, to one of that key that got none.
    ///
    /// # Errors
    ///
    /// [`PassedSocketError::NotConfigured`].
    pub fn give_to(self, wanted: &mut [Wanted]) -> Result<(), PassedSocketError> {
        let (mut named, mut refused) = (Vec::new(), None);
        for socket in self.0 {
            let is_for_one_key = KEYS.contains(&socket.name.as_str());
            let is_meant = |one: &&mut Wanted| !is_for_one_key || one.name() == socket.name;
            let mut places = wanted.iter_mut().filter(is_meant).flat_map(|one| &mut one.addresses);
            match places.find(|(address, taken)| taken.is_none() && is_same(address, &socket.address)) {
                Some((_, place)) => *place = Some(socket),
                None => named.push(socket),
            }
        }
        for socket in named {
            let places = wanted.iter_mut().filter(|one| one.name() == socket.name);
            match places.flat_map(|one| &mut one.addresses).find(|(_, taken)| taken.is_none()) {
                Some((_, place)) => *place = Some(socket),
                None => refused = refused.or(Some(socket)),
            }
        }
        let Some(PassedSocket { address, name, .. }) = refused else { return Ok(()) };
        let keys: Vec<_> = wanted.iter().map(|one| one.key).collect();
        Err(PassedSocketError::NotConfigured { name, address, keys: keys.join(" or ") })
    }
}

impl Wanted {
    /// The addresses of a key that ends in `.listen`.
    pub fn new(key: &'static str, addresses: impl IntoIterator<Item = Listen>) -> Self {
        Self { key, addresses: addresses.into_iter().map(|address| (address, None)).collect() }
    }

    /// The sockets that the addresses got.
    pub fn sockets(self) -> Vec<(Listen, PassedSocket)> {
        self.addresses.into_iter().filter_map(|(address, socket)| Some((address, socket?))).collect()
    }

    fn name(&self) -> &str {
        self.key.trim_end_matches(".listen")
    }
}

impl PassedListener {
    /// Another descriptor of the same socket.
    ///
    /// # Errors
    ///
    /// The system has no more descriptors.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(listener) => Self::Tcp(listener.try_clone()?),
            Self::Unix(listener) => Self::Unix(listener.try_clone()?),
        })
    }
}

fn take(descriptors: &mut ListenFd, index: usize) -> io::Result<(Listen, PassedListener)> {
    if let Ok(Some(listener)) = descriptors.take_tcp_listener(index) {
        is_listening(&SockRef::from(&listener))?;
        return Ok((Listen::Tcp(listener.local_addr()?), PassedListener::Tcp(listener)));
    }
    let Some(listener) = descriptors.take_unix_listener(index)? else {
        return Err(io::Error::other("the descriptor was taken before"));
    };
    is_listening(&SockRef::from(&listener))?;
    let address = listener.local_addr()?;
    let path = address.as_pathname().ok_or_else(|| io::Error::other("the unix socket has no path"))?;
    Ok((Listen::Unix(path.to_owned()), PassedListener::Unix(listener)))
}

fn is_listening(socket: &SockRef<'_>) -> io::Result<()> {
    if socket.is_listener()? { Ok(()) } else { Err(io::Error::other("the socket does not listen")) }
}

fn is_same(configured: &Listen, passed: &Listen) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    match (configured, passed) {
        (Listen::Unix(configured), Listen::Unix(passed)) => real(configured) == real(passed),
        _ => configured == passed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(name: &str) -> PassedSocket {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Listen::Tcp(listener.local_addr().unwrap());
        PassedSocket { address, listener: PassedListener::Tcp(listener), name: name.to_owned() }
    }

    fn elsewhere() -> Listen {
        Listen::Tcp("192.0.2.1:80".parse().unwrap())
    }

    /// How many sockets `server.listen` and `admin.listen` get.
    fn given(sockets: Vec<PassedSocket>, server: &[Listen], admin: &Listen) -> Result<[usize; 2], String> {
        let mut wanted = [
            Wanted::new("server.listen", server.iter().cloned()),
            Wanted::new("admin.listen", [admin.clone()]),
        ];
        PassedSockets(sockets).give_to(&mut wanted).map_err(|error| error.to_string())?;
        Ok(wanted.map(|one| one.sockets().len()))
    }

    #[test]
    fn a_socket_belongs_to_the_address_that_it_listens_on() {
        let (one, other) = (passed("bearerd.socket"), passed("unknown"));
        let (server, admin) = (one.address.clone(), other.address.clone());
        assert_eq!(given(vec![other, one], &[elsewhere(), server], &admin), Ok([1, 1]));
    }

    #[test]
    fn a_socket_with_the_name_of_a_key_replaces_an_address_of_that_key() {
        assert_eq!(given(vec![passed("server"), passed("admin")], &[elsewhere()], &elsewhere()), Ok([1, 1]));
        let both = [elsewhere(), elsewhere()];
        assert_eq!(given(vec![passed("server"), passed("server")], &both, &elsewhere()), Ok([2, 0]));
    }

    #[test]
    fn a_socket_that_belongs_to_no_address_is_refused() {
        for (name, twice) in [("bearerd.socket", false), ("health", false), ("admin", true)] {
            let mut sockets = vec![passed(name)];
            sockets.extend(twice.then(|| passed(name)));
            let address = sockets.last().unwrap().address.clone();

            let error = given(sockets, &[elsewhere()], &elsewhere()).unwrap_err();

            let said = format!("({name}) that listens on {address}, which is no address of server.listen or");
            assert!(error.contains(&said), "{error}");
        }
        // The name says that the socket is not for the address that it listens on.
        let socket = passed("admin");
        let address = socket.address.clone();
        assert_eq!(given(vec![socket], &[address], &elsewhere()), Ok([0, 1]));
    }
}
