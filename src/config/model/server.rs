//! `[server]`: the listeners and the requirements on callers.

use std::time::Duration;

use http::HeaderName;
use ipnet::IpNet;

use super::hosts::Hosts;
use super::limits::Limits;
use super::listen::Listen;
use super::server_tls::ServerTls;

/// The listeners and the requirements on callers.
#[derive(Clone, Debug)]
pub struct Server {
    /// Addresses to listen on.
    pub listen: Vec<Listen>,
    /// Certificate and authorities for TLS with callers; `None` for plain HTTP.
    pub tls: Option<ServerTls>,
    /// Networks that callers may connect from.
    pub allow_from: Vec<IpNet>,
    /// Networks of reverse proxies that may state the address of a caller.
    pub trusted_proxies: Vec<IpNet>,
    /// Accepted values of `Host`.
    pub hosts: Hosts,
    /// Accepted browser origins, lower case.
    pub origins: Vec<String>,
    /// A header field that every request must have.
    pub required_header: Option<RequiredHeader>,
    /// Worker threads.
    pub workers: usize,
    /// Time between the signal to stop and the drain: `readyz` fails, requests are still accepted.
    pub drain_delay: Duration,
    /// Time that in-flight requests have to finish in the drain.
    pub drain: Duration,
    /// Whether a changed file is reloaded.
    pub watch: bool,
    /// How HTTP/1.1 is spoken.
    pub http1: Http1Options,
    /// Bounds on what callers may use.
    pub limits: Limits,
}

/// How HTTP/1.1 is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http1Options {
    /// The case of field names, both ways.
    pub header_case: HeaderCase,
    /// What becomes of a caller that shuts down its sending side after a whole request.
    pub half_closed: HalfClosed,
}

/// The case of field names over HTTP/1.1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeaderCase {
    /// Lower case.
    #[default]
    Lower,
    /// As the other side wrote them; names that it did not write over HTTP/1.1 have the usual capitals (`Content-Type`).
    Preserve,
}

/// What becomes of a caller that shuts down its sending side after a whole request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HalfClosed {
    /// Its requests are aborted, as those of a caller that has left.
    #[default]
    Abort,
    /// Its requests are answered; a caller that leaves in the regular way is not noticed.
    Answer,
}

/// A header field that browsers do not send across sites, such as `X-Bearerd: yes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequiredHeader {
    /// The name.
    pub name: HeaderName,
    /// The required value; empty accepts any.
    pub value: String,
}
