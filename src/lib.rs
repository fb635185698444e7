//! bearerd, an authenticating reverse proxy.
pub mod admin;
pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod demo;
pub mod lifecycle;
pub mod proxy;
pub mod telemetry;
pub mod tls;
pub mod token;
