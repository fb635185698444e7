//! Why the daemon does not start, or does not take up another configuration.

use std::io;

use thiserror::Error;

use crate::config::Listen;
use crate::tls::client::TrustError;
use crate::tls::server::ServerTlsError;
use crate::token::ClientError;
use crate::token::state::file::OpenError;

/// Why the daemon did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address} ({key})")]
    Listen {
        /// Where the address is configured.
        key: &'static str,
        /// The address.
        address: Listen,
        /// Why not.
        source: io::Error,
    },
    /// An address cannot be listened on as long as another one is.
    #[error("cannot listen on {address} (server.listen) while {own} is listened on")]
    OwnPort {
        /// The address.
        address: Listen,
        /// The one that is in force.
        own: Listen,
    },
    /// A credential's client cannot be set up.
    #[error("the credential `{credential}` cannot be set up")]
    Credential {
        /// Its name.
        credential: String,
        /// Why not.
        source: ClientError,
    },
    /// A credential's state cannot be had.
    #[error("the credential `{credential}` has no state to work with")]
    State {
        /// Its name.
        credential: String,
        /// Why not.
        source: OpenError,
    },
    /// An upstream's authorities cannot be used.
    #[error("the upstream {upstream} cannot be set up")]
    Trust {
        /// Its address.
        upstream: String,
        /// Why not.
        source: TrustError,
    },
    /// An upstream's address cannot be used.
    #[error("the upstream {upstream} cannot be set up")]
    Upstream {
        /// Its address.
        upstream: String,
        /// Why not.
        source: io::Error,
    },
    /// Callers cannot be served over TLS.
    #[error("TLS towards callers cannot be set up")]
    ServerTls(#[from] ServerTlsError),
    /// Another configuration waits for a token request of this one.
    #[error("the token request of the credential `{0}` does not come to an end")]
    Busy(String),
    /// What it needs from the disk does not come.
    #[error("the disk does not answer")]
    Disk,
    /// The system refuses a thread or a socket.
    #[error("the system refused a thread or a socket")]
    System(#[from] io::Error),
}

impl StartError {
    /// Whether the configuration, or what it names on this machine, must change.
    pub const fn is_of_the_configuration(&self) -> bool {
        match self {
            Self::Credential { .. } | Self::Trust { .. } | Self::Upstream { .. } | Self::ServerTls(_) => true,
            Self::State { source, .. } => !matches!(source, OpenError::Held { .. }),
            Self::Listen { .. } | Self::OwnPort { .. } | Self::Busy(_) | Self::Disk | Self::System(_) => {
                false
            }
        }
    }

    /// What would mend it, where that is known.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::Listen { address: Listen::Unix(_), .. } => Some(
                "stop what listens there, or name another path, in a folder that the daemon's user may write to",
            ),
            Self::OwnPort { .. } => Some(
                "both have one port: restart, or take the one away with a reload of its own before the other is written",
            ),
            Self::State { source, .. } => Some(source.help()),
            _ => None,
        }
    }
}
