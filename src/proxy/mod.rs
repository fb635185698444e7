//! The request loop: from a caller to its upstream and back.
//!
//! Connections are accepted by the [`listener`], served by [`worker`]s as a [`connection`], and each request
//! goes its way through the [`service`]: [`guard`], [`route`], [`rules`], [`authorize`], [`forward`], and
//! [`unauthorized`] with a [`replay`] where a token was dead. The way back is [`response`]; whatever goes wrong is told by
//! [`error`].

pub mod authorize;
pub mod budget;
pub mod caller;
pub mod caller_io;
mod challenge;
pub mod connect;
pub mod connection;
pub mod error;
pub mod exchange;
pub mod forward;
pub mod guard;
pub mod headers;
pub mod listener;
pub mod location;
mod login;
pub mod pool;
pub mod prefix;
pub mod reading;
pub mod replay;
mod resolve;
pub mod response;
pub mod route;
pub mod rules;
pub mod service;
mod socket;
mod trailers;
mod tunnel;
pub mod unauthorized;
mod upgrade;
pub mod upstream;
pub mod worker;

#[cfg(test)]
mod tests;
