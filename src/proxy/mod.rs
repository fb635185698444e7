//! The request loop: from a caller to its upstream and back.
//!
//! Connections are accepted by the [`listener`], served by [`worker`]s as a [`connection`], and each request
//! goes its way through the [`service`]: [`guard`], [`route`], [`rules`], [`authorize`], [`forward`], and
//! [`unauthorized`] with a [`replay`] where a token was dead. The way back is [`response`]; whatever goes wrong is told by
//! [`error`].

pub mod auth;
pub mod body;
pub mod downstream;
pub mod error;
pub mod limits;
pub mod listener;
pub mod message;
pub mod peer;
pub mod route;
pub mod service;
pub mod upstream;
mod vectored;
pub mod worker;

#[cfg(test)]
mod tests;
