//! `[admin]` and `[health]`: the listeners of operators and of health checks, and access for commands that talk to a
//! running daemon.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use rustls::pki_types::CertificateDer;

use super::listen::Listen;
use super::secret::{Secret, SecretError};
use super::server_tls::ServerTls;

/// The admin listener's address unless `admin.listen` is set.
pub(in crate::config) const DEFAULT_LISTEN: SocketAddr =
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9090);
/// The name of the file of the daemon's own admin token.
pub(in crate::config) const TOKEN_FILE: &str = "admin.token";

/// The admin listener.
#[derive(Clone, Debug)]
pub struct Admin {
    /// The address to listen on.
    pub listen: Listen,
    /// The token that operators present.
    pub token: Option<Secret>,
    /// The file of the token that the daemon makes itself; `None` with a configured token, or without a state.
    pub token_file: Option<PathBuf>,
    /// Whether `/metrics` needs the token too.
    pub metrics_token: bool,
    /// Certificate and authorities for TLS with operators; `None` for plain HTTP.
    pub tls: Option<ServerTls>,
}

/// The listener of health checks and metrics alone.
#[derive(Clone, Debug)]
pub struct Health {
    /// The address to listen on; `None` if only the admin listener serves them.
    pub listen: Option<Listen>,
}

/// Access to the admin listener, for commands.
#[derive(Debug)]
pub struct AdminAccess {
    /// The address to connect to.
    pub listen: Listen,
    /// Where the address comes from.
    pub origin: AddressOrigin,
    /// The configured token, or why the token cannot be read.
    pub token: Option<Result<Secret, SecretError>>,
    /// The file of the daemon's own token, where no token is configured.
    pub token_file: Option<PathBuf>,
    /// Whether the listener speaks TLS.
    pub speaks_tls: bool,
    /// The certificate of the listener, if its file can be read.
    pub certificate: Option<CertificateDer<'static>>,
}

/// Where the admin address of a command comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressOrigin {
    /// The flag `--admin`.
    Flag,
    /// `admin.listen` in this file.
    File(PathBuf),
    /// The environment variable of this name.
    Variable(String),
    /// The default: this file does not set `admin.listen`.
    NotSet(PathBuf),
    /// The default: there is no configuration.
    NoFile,
}

/// As the part of a sentence that begins with "the address is".
impl fmt::Display for AddressOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("that of --admin"),
            Self::File(path) => write!(f, "`admin.listen` of {}", path.display()),
            Self::Variable(name) => write!(f, "that of the environment variable {name}"),
            Self::NotSet(path) => {
                write!(f, "the default, since {} does not set `admin.listen`", path.display())
            }
            Self::NoFile => {
                f.write_str("the default, since there is neither ./proxy.toml nor /etc/bearerd/proxy.toml")
            }
        }
    }
}
