//! The operator's own address: whether the daemon lives, and whether it can serve.
//!
//! It is another listener than the callers', on the daemon's main thread; nothing of it can be reached through
//! the proxy.

mod api;
mod readiness;

pub use api::serve;
pub use readiness::Readiness;
