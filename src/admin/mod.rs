//! The admin address: health checks, readiness, and the operator's API.
//!
//! The admin address has its own listener on the daemon's main thread; the proxy gives no access to it.

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
