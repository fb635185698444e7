//! Why the daemon cannot start or cannot apply another configuration.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::path::PathBuf;

use thiserror::Error;

use crate::admin::token_file::TokenFileError;
use crate::config::Listen;
use crate::systemd::sockets::PassedSocketError;
use crate::tls::server::ServerTlsError;
use crate::token::ClientError;
use crate::token::state::file::OpenError;
use crate::webhooks::WebhookError;

/// Why the daemon cannot start.
#[derive(Debug, Error)]
pub enum StartError {
    /// An address cannot be bound.
    #[error("cannot listen on {address} ({key})")]
    Listen {
        /// The configuration key of the address.
        key: &'static str,
        /// The address.
        address: Listen,
        /// The cause.
        source: io::Error,
    },
    /// An address cannot be bound while bearerd itself uses its port.
    #[error("cannot listen on {address} ({key}) while bearerd listens on {own}")]
    OwnPort {
        /// The configuration key of the address.
        key: &'static str,
        /// The address.
        address: Listen,
        /// The open address with the same port.
        own: Listen,
    },
    /// A socket that systemd passes cannot be used.
    #[error(transparent)]
    PassedSocket(#[from] PassedSocketError),
    /// The token client of a credential cannot be set up.
    #[error("the credential `{credential}` cannot be set up")]
    Credential {
        /// The credential's name.
        credential: String,
        /// The cause.
        source: ClientError,
    },
    /// The state of a credential cannot be opened.
    #[error("the state of the credential `{credential}` cannot be opened")]
    State {
        /// The credential's name.
        credential: String,
        /// The cause.
        source: OpenError,
    },
    /// The address or the certificate authorities of an upstream are unusable.
    #[error("the upstream {upstream} cannot be set up")]
    Upstream {
        /// The upstream's address.
        upstream: String,
        /// The cause.
        source: Box<dyn Error + Send + Sync>,
    },
    /// TLS towards callers or operators cannot be set up.
    #[error("TLS of {key} cannot be set up")]
    ServerTls {
        /// The configuration key of the files.
        key: &'static str,
        /// The cause.
        source: ServerTlsError,
    },
    /// The file of the daemon's own admin token cannot be used.
    #[error("the admin token {} cannot be used", path.display())]
    AdminToken {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: TokenFileError,
    },
    /// The audit trail cannot be opened.
    #[error("the audit trail cannot be opened (`audit.output`)")]
    Audit(#[source] io::Error),
    /// The log cannot be opened.
    #[error("the log cannot be written (`log.output`)")]
    Log(#[source] io::Error),
    /// The client of a webhook cannot be set up.
    #[error("the webhook `{webhook}` cannot be set up")]
    Webhook {
        /// The webhook's name.
        webhook: String,
        /// The cause.
        source: WebhookError,
    },
    /// A reload waited for a token request of the configuration in force.
    #[error("the token request of the credential `{0}` did not finish in time")]
    Busy(String),
    /// The disk did not answer in time.
    #[error("the disk did not answer in time")]
    Disk,
    /// The system refuses a thread or a socket.
    #[error("the system refused to create a thread or a socket")]
    System(#[from] io::Error),
}

impl StartError {
    /// Whether the configuration, or a file or address that it names, must change.
    pub const fn is_of_the_configuration(&self) -> bool {
        match self {
            Self::PassedSocket(_)
            | Self::Credential { .. }
            | Self::Upstream { .. }
            | Self::Webhook { .. }
            | Self::ServerTls { .. }
            | Self::AdminToken { .. } => true,
            Self::State { source, .. } => !matches!(source, OpenError::Held(..)),
            Self::Listen { .. }
            | Self::OwnPort { .. }
            | Self::Busy(_)
            | Self::Disk
            | Self::Audit(_)
            | Self::Log(_)
            | Self::System(_) => false,
        }
    }

    /// How to fix the error, if that is known.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::Listen { address: Listen::Unix(_), .. } => Some(
                "stop the process that listens there, or choose another path in a folder that the daemon's user may \
                 write to",
            ),
            Self::Listen { address: Listen::Tcp(_), source, .. } => help_for_port(source.kind()),
            Self::OwnPort { .. } => Some(
                "both addresses use the same port: restart bearerd, or remove the old address with one reload and \
                 add the new one with the next",
            ),
            Self::State { source, .. } => Some(source.help()),
            Self::PassedSocket(error) => Some(error.help()),
            Self::AdminToken { source, .. } => Some(source.help()),
            _ => None,
        }
    }
}

/// How to fix an IP address and port that cannot be bound, if that is known. The error names the key in parentheses.
const fn help_for_port(failure: ErrorKind) -> Option<&'static str> {
    Some(match failure {
        ErrorKind::AddrInUse => {
            "another process listens on the port, perhaps another bearerd or `bearerd demo` (`ss -ltnp` names it): stop it, \
             or set the key in parentheses to another port"
        }
        ErrorKind::AddrNotAvailable => {
            "no interface of this machine has the address (`ip address` lists them): set the key in parentheses to another \
             one, such as 127.0.0.1"
        }
        ErrorKind::PermissionDenied => {
            "a port below 1024 needs CAP_NET_BIND_SERVICE: set the key in parentheses to a higher port, or let systemd open \
             the port (bearerd.socket)"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_cannot_be_bound_has_its_key_and_a_remedy() {
        for failure in [ErrorKind::AddrInUse, ErrorKind::AddrNotAvailable, ErrorKind::PermissionDenied] {
            let address = Listen::Tcp(([127, 0, 0, 1], 80).into());
            let error = StartError::Listen { key: "health.listen", address, source: failure.into() };
            assert!(error.to_string().ends_with("(health.listen)"), "{error}");
            assert!(error.help().unwrap().contains("set the key in parentheses to "), "{failure}");
        }
    }
}
