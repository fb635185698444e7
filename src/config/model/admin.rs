//! `[admin]`: the admin listener, and access to it for commands that talk to a running daemon.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::secret::{Secret, SecretError};

/// The admin listener's address unless `admin.listen` is set.
pub(in crate::config) const DEFAULT_LISTEN: SocketAddr =
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9090);

/// The admin listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// The address to listen on.
    pub listen: SocketAddr,
    /// The bearer token for all requests except health checks.
    pub token: Option<Secret>,
}

/// Access to the admin listener, for commands.
#[derive(Debug)]
pub struct AdminAccess {
    /// The address to connect to.
    pub listen: SocketAddr,
    /// The token, or why the token cannot be read.
    pub token: Option<Result<Secret, SecretError>>,
}
