//! The configuration as valid values: the types that [`resolve`](super::resolve) produces and the daemon reads.

pub mod certificate;
pub(in crate::config) mod classification;
pub(in crate::config) mod credential;
pub mod endpoint;
pub mod fields;
pub(in crate::config) mod hosts;
pub mod identity;
pub mod levels;
pub(in crate::config) mod listen;
pub mod login;
pub mod pattern;
pub mod protection;
pub mod request;
pub(in crate::config) mod route;
pub mod secret;
pub mod server_tls;
pub mod signing_key;
pub(in crate::config) mod small_file;
pub mod state_key;
