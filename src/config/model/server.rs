//! `[server]`: the listeners and the requirements on callers.

use std::time::Duration;

use http::HeaderName;
use ipnet::IpNet;

use super::hosts::Hosts;
use super::limits::Limits;
use super::listen::Listen;
use super::server_tls::ServerTls;

/// Who may call, and how.
#[derive(Clone, Debug)]
pub struct Server {
    /// Addresses to listen on.
    pub listen: Vec<Listen>,
    /// What callers speak TLS with, where they do.
    pub tls: Option<ServerTls>,
    /// Networks that callers may be in.
    pub allow_from: Vec<IpNet>,
    /// Networks whose word on a caller's address is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Values of `Host` that are ours.
    pub hosts: Hosts,
    /// Browser origins that are let in, lower case.
    pub origins: Vec<String>,
    /// A field that every request must have.
    pub required_header: Option<RequiredHeader>,
    /// Threads that carry requests.
    pub workers: usize,
    /// How long everything goes on, but readiness, once the daemon is asked to stop.
    pub drain_delay: Duration,
    /// How long requests in flight may take then.
    pub drain: Duration,
    /// Whether the configuration is taken up anew when its file changes.
    pub watch: bool,
    /// Bounds on what a caller may take.
    pub limits: Limits,
}

/// A field that a browser cannot be made to send across sites, such as `X-Bearerd: yes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequiredHeader {
    /// Its name.
    pub name: HeaderName,
    /// The value it must have; any, if empty.
    pub value: String,
}
