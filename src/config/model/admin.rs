//! `[admin]`: the admin listener, and access to it for commands that talk to a running daemon.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::secret::{Secret, SecretError};

/// The admin listener's address unless `admin.listen` is set.
pub(in crate::config) const DEFAULT_LISTEN: SocketAddr =
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9090);

/// The operator's own address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Where it listens.
    pub listen: SocketAddr,
    /// What an operator must show for all but the health checks.
    pub token: Option<Secret>,
}

/// The operator's address for those who talk to a daemon.
#[derive(Debug)]
pub struct AdminAccess {
    /// Where it listens.
    pub listen: SocketAddr,
    /// What to show there, or why it cannot be had.
    pub token: Option<Result<Secret, SecretError>>,
}
