//! TLS towards authorization servers and upstreams, and towards callers.

pub mod client;
pub mod diagnosis;
mod pinned;
pub mod reload;
pub mod server;
