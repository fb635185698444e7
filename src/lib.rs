//! bearerd, an authenticating reverse proxy.
//!
//! Applications that know nothing of OAuth send it plain requests; it adds a bearer token that it keeps fresh,
//! and forwards to a protected API. In reading order:
//!
//! - [`proxy`], the request loop: start with [`proxy::service`];
//! - [`token`], the refresh loop: start with [`token::refresher`];
//! - [`config`], [`clock`], [`tls`], [`telemetry`], [`blocking`], [`shared_request`], [`causes`], [`backoff`], [`http`],
//!   which both stand on;
//! - [`admin`], the operator's own address;
//! - [`app`], [`lifecycle`], [`reload`], [`memory`], [`descriptors`] and [`cli`], which put it together;
//! - [`demo`], which shows it.
//!
//! *Upstream* is the API and *caller* the application: RFC 9110 uses "upstream" the other way round, and
//! nobody who runs a proxy does.

pub mod proxy;

pub mod token;

pub mod backoff;
pub mod blocking;
pub mod causes;
pub mod clock;
pub mod config;
pub mod http;
pub mod shared_request;
pub mod telemetry;
pub mod tls;

pub mod admin;

pub mod app;
pub mod cli;
pub mod descriptors;
pub mod lifecycle;
pub mod memory;
pub mod reload;

pub mod demo;
