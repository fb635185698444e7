//! TLS: how peers are checked, and what callers are shown.

pub mod client;
pub mod reload;
pub mod server;
