//! TLS: how peers are checked.

pub mod client;
