//! The checked configuration: the types that `resolve` produces and the daemon reads.

pub(in crate::config) mod admin;
pub mod certificate;
pub mod certificate_files;
pub(in crate::config) mod classification;
pub(in crate::config) mod config;
pub(in crate::config) mod credential;
pub mod endpoint;
pub(in crate::config) mod environment;
pub mod fields;
pub(in crate::config) mod hosts;
pub mod identity;
pub mod levels;
pub(in crate::config) mod limits;
pub(in crate::config) mod listen;
pub(in crate::config) mod log;
pub mod login;
pub mod pattern;
pub(in crate::config) mod pem_file;
pub mod protection;
pub mod request;
pub(in crate::config) mod route;
pub mod secret;
pub(in crate::config) mod server;
pub mod server_tls;
pub mod signing_key;
pub(in crate::config) mod small_file;
pub mod state_key;
