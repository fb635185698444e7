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
        listen: OneOrMany<String>,
        allow_from: Texts,
        hosts: Texts,
        origins: Texts,
        required_header: String,
        workers: u16,
        drain_delay: Duration,
        drain: Duration,
        state_dir: PathBuf,
        watch: bool,
        half_closed: HalfClosed,
        header_case: HeaderCase,
        trusted_proxies: Texts,
        tls: Tls,
        limits: Limits,
    }

    /// `[server.tls]`.
    section Tls {
        certificate: PathBuf,
        private_key: PathBuf,
        client_ca: PathBuf,
    }

    /// `[server.limits]`.
    section Limits {
        connections: u32,
        connections_per_address: u32,
        connection_age: Duration,
        header_bytes: Size,
        tls_timeout: Duration,
        header_timeout: Duration,
        idle_timeout: Duration,
        body_timeout: Duration,
        body_rate: Size,
        write_timeout: Duration,
        streams: u32,
        body_bytes: Size,
        replay_body: Size,
        replay_total: Size,
        token_wait: Duration,
        token_waiters: u32,
    }

    /// `[health]`.
    section Health {
        listen: String,
    }

    /// `[admin]`.
    section Admin {
        listen: String,
        token: SecretSource,
        metrics_token: bool,
        tls: AdminTls,
    }

    /// `tls` of `[admin]`.
    inline("a table such as { certificate = \"server.pem\", private_key = \"server-key.pem\" }") AdminTls {
        certificate: PathBuf,
        private_key: PathBuf,
        client_ca: PathBuf,
    }
}
