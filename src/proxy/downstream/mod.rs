//! The side of the caller: one connection, its socket, TLS, protocol and time limits.

pub mod connection;
pub(in crate::proxy) mod http2_streams;
pub mod io;
pub mod progress;
pub mod state;
pub(in crate::proxy) mod tls;
pub mod upgrade;
pub(in crate::proxy) mod wrong_protocol;
