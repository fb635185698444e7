//! The operator's own address: whether the daemon lives, whether it can serve, and what an operator may do to it.
//!
//! It is another listener than the callers', on the daemon's main thread; nothing of it can be reached through
//! the proxy.

mod access;
mod api;
mod credentials;
mod hand_over;
mod problem;
mod readiness;
mod reload;
pub mod server;
mod token;

pub use access::Access;
pub use api::serve;
pub use credentials::Credentials;
pub use readiness::Readiness;
pub use reload::Reloading;
