//! `bearerd demo`: the daemon between an authorization server and an API, all in one process, on loopback.
//!
//! - [`scenario`]: the three servers, and the steps of the demonstration;
//! - [`visits`]: what became of the requests of a visitor;
//! - [`platform`]: the authorization server and the API alone, for a daemon in another container.

pub mod platform;
pub mod scenario;
pub mod visits;

use std::net::SocketAddr;
use std::path::PathBuf;

use testkit::pki::PkiError;
use thiserror::Error;

use crate::app::StartError;
use crate::config::Diagnostics;

/// The client that the authorization server knows.
const CLIENT_ID: &str = "demo";

/// Why the demo did not start, or which step failed.
#[derive(Debug, Error)]
pub enum DemoError {
    /// The address is reachable from other machines.
    #[error("the demo listens on loopback only, and not on {0}")]
    OffLoopback(SocketAddr),
    /// The certificate of the platform's authority could not be written.
    #[error("{} cannot be written", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A server could not listen.
    #[error("a server of the demo could not start")]
    Server(#[from] std::io::Error),
    /// A certificate could not be made.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The daemon's configuration is wrong.
    #[error(transparent)]
    Configuration(#[from] Box<Diagnostics>),
    /// The daemon did not start.
    #[error("the daemon did not start")]
    Start(#[from] StartError),
    /// A request got no answer.
    #[error("a request was not answered")]
    Request(#[from] reqwest::Error),
    /// A step had another outcome than expected.
    #[error("{0}")]
    Unexpected(String),
}
