//! The upstream side of a request: where it goes, over which connection, and when it is not sent.
//!
//! [`reconnect`] and [`forward`] carry a request; they use the [`pool`], which uses [`connect`]. [`breaker`] and
//! [`permits`] bound what an upstream is sent. Each uses only what comes after it in this list.

pub mod breaker;
pub mod connect;
pub mod destination;
pub mod forward;
pub mod permits;
pub mod pool;
pub mod reconnect;

pub use destination::{Current, Destination, Upstream};
