//! Upstreams: where requests go, over which connections, and when an upstream is sent no requests.
//!
//! Each module uses only modules after it in this order: [`forward`], [`pool`], [`reconnect`], [`destination`],
//! [`connect`], [`breaker`] and [`connections`].

pub mod breaker;
pub mod connect;
pub mod connections;
pub mod destination;
#[cfg(test)]
pub(crate) mod fixture;
pub mod forward;
pub mod pool;
pub mod reconnect;

pub use destination::{CurrentDestination, Destination, Upstream};
