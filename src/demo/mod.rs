//! `bearerd demo`: an authorization server and an API of our own, and the daemon between them.
//!
//! Everything is on loopback and in memory. The servers are real ones, small and obedient: they can be told to
//! revoke tokens, to answer late or to refuse, and they remember what they saw. The tests are built on them too.

mod access_token;
mod api;
mod authorization_codes;
pub mod authorization_server;
pub mod pki;
pub mod refresh_tokens;
pub mod scenario;
pub mod server;
