//! The admin address (health checks, readiness, and the operator's API), and the address of health checks alone.
//!
//! The admin address has its own listener on the daemon's main thread; the proxy gives no access to it.

mod access;
mod api;
pub mod api_quota;
pub mod attention;
mod callers;
mod confirmation;
mod credentials;
mod deliveries;
mod exposition;
mod hand_over;
mod html;
mod latency;
mod overview;
mod page;
mod pools;
mod problem;
mod readiness;
mod reload;
pub mod server;
mod shown;
pub mod status;
mod stream;
mod token;
pub mod token_file;
pub mod words;

pub use access::Access;
pub use api::{HealthAddress, OperatorAddress};
pub use credentials::Credentials;
pub use exposition::Exposition;
pub use latency::Histogram;
pub use overview::{Overview, Parts, RouteFigures};
pub use readiness::Readiness;
pub use reload::Reloading;
pub use shown::Quotas;
