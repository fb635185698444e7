//! `bearerd demo`: the daemon between an authorization server and an API that run in the same process.
//!
//! Everything is on loopback and in memory. The two servers are those that the tests use.

pub mod scenario;

pub use testkit::pki;
