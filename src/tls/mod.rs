//! TLS towards authorization servers and upstreams, and towards callers.

pub mod client;
pub mod diagnosis;
pub mod reload;
pub mod server;
