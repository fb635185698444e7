//! The downstream side: one client connection, its socket, TLS, protocol and time limits.

pub mod connection;
mod early_resets;
mod http2;
pub(in crate::proxy) mod http2_stream;
mod interim;
pub mod io;
pub mod progress;
pub mod protocol;
mod read_ahead;
pub mod request_body;
pub mod serve;
mod since;
pub mod state;
pub mod stream;
pub(in crate::proxy) mod tls;
mod until_ended;
pub mod upgrade;
pub(in crate::proxy) mod wrong_protocol;
