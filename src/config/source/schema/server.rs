//! `[server]`, `[health]` and `[admin]`.

use std::path::PathBuf;

use super::Texts;
use crate::config::model::secret::SecretSource;
use crate::config::model::server::{HalfClosed, HeaderCase};
use crate::config::source::reader::tables;
use crate::config::source::units::{Duration, OneOrMany, Size};

tables! {
    /// `[server]`.
    section Server {
        shown listen: OneOrMany<String>,
        shown allow_from: Texts,
        shown hosts: Texts,
        shown origins: Texts,
        hidden required_header: String,
        shown workers: u16,
        shown drain_delay: Duration,
        shown drain: Duration,
        shown state_dir: PathBuf,
        shown watch: bool,
        shown half_closed: HalfClosed,
        shown header_case: HeaderCase,
        shown trusted_proxies: Texts,
        hidden tls: Tls,
        hidden limits: Limits,
    }

    /// `[server.tls]`, and `tls` of `[admin]`.
    section Tls {
        shown certificate: PathBuf,
        shown private_key: PathBuf,
        shown client_ca: PathBuf,
    }

    /// `[server.limits]`.
    section Limits {
        shown connections: u32,
        shown connections_per_address: u32,
        shown connection_age: Duration,
        shown header_bytes: Size,
        shown tls_timeout: Duration,
        shown header_timeout: Duration,
        shown idle_timeout: Duration,
        shown body_timeout: Duration,
        shown body_rate: Size,
        shown write_timeout: Duration,
        shown streams: u32,
        shown body_bytes: Size,
        shown replay_body: Size,
        shown replay_total: Size,
        shown token_wait: Duration,
        shown token_waiters: u32,
    }

    /// `[health]`.
    section Health {
        shown listen: String,
    }

    /// `[admin]`.
    section Admin {
        shown listen: String,
        hidden token: SecretSource,
        shown metrics_token: bool,
        hidden tls: Tls,
    }
}
