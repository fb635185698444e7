//! TLS: how peers are checked.

pub mod certificate;
pub mod client;
