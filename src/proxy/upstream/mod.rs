//! Upstreams: where requests go, over which connections, and when an upstream is sent no requests.
//!
//! Each module uses only modules after it in this order: [`reconnect`] and [`forward`], [`pool`], [`destination`],
//! [`connect`], [`breaker`] and [`permits`].

pub mod breaker;
pub mod connect;
pub mod destination;
#[cfg(test)]
pub(crate) mod fixture;
pub mod forward;
pub mod permits;
pub mod pool;
pub mod reconnect;

pub use destination::{CurrentDestination, Destination, Upstream};
