//! The servers that bearerd is shown and tested with.
//!
//! Everything runs on loopback and in memory. The servers are real ones, and can be told to revoke tokens, to answer late
//! or to refuse; they record what they received.
//!
//! - [`authorization_server`]: an OAuth 2.0 authorization server, with its [`refresh_tokens`] and [`authorization_codes`];
//! - [`api`]: a protected API, whose answers are a script;
//! - [`pki`]: a certificate authority;
//! - [`server`]: the HTTP server below both.
//!
//! `bearerd demo` uses these alone. The feature `harness` adds what only tests need: the daemon as a process between
//! scripted peers, callers that check every response, and peers that break the protocol.

pub mod access_token;
pub mod api;
pub mod authorization_codes;
pub mod authorization_server;
#[cfg(feature = "harness")]
pub mod harness;
pub mod pki;
pub mod refresh_tokens;
pub mod server;
