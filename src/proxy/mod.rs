//! The request loop: from a caller to its upstream and back.
//!
//! Connections are accepted by the [`listener`], served by [`worker`]s as a [`connection`], and each request
//! goes its way through the [`service`]: [`guard`], [`route`], [`rules`], [`authorize`], [`forward`], and
//! [`unauthorized`] with a [`replay`] where a token was dead. The way back is [`response`]; whatever goes wrong is told by
//! [`error`].

pub mod admission;
pub mod authorize;
pub mod backlog;
pub mod breaker;
pub mod budget;
pub mod caller;
pub mod caller_io;
pub mod challenge;
pub mod connect;
pub mod connection;
pub mod copies;
pub mod current;
pub mod error;
pub mod exchange;
pub mod forward;
pub mod forwarded;
mod gather;
pub mod guard;
mod handshake;
pub mod headers;
mod last_word;
pub mod listener;
pub mod location;
mod login;
mod misdirected;
pub mod pace;
mod patience;
pub mod peer;
pub mod permits;
pub mod pool;
pub mod prefix;
pub mod reading;
pub mod replay;
mod resolve;
pub mod response;
pub mod retry;
pub mod route;
pub mod rules;
pub mod seats;
pub mod service;
mod socket;
mod streams;
pub mod terms;
pub mod trailers;
mod tunnel;
pub mod unauthorized;
pub mod unix_socket;
pub mod upgrade;
pub mod upstream;
pub mod via;
pub mod worker;

#[cfg(test)]
mod tests;
