//! `[[routes]]`.

use std::path::PathBuf;

use super::{Texts, TextsByName, list_of_tables};
use crate::config::model::credential::HttpVersion;
use crate::config::model::route::Forwarded;
use crate::config::source::choice::{Encoded, RewrittenLink, Upgrade};
use crate::config::source::key::Entry;
use crate::config::source::reader::{Reader, Value, Written, tables};
use crate::config::source::shape::{Shape, Shaped, shapes};
use crate::config::source::units::{Duration, Size};

tables! {
    /// `[[routes]]`.
    section Route {
        name: String,
        host: String,
        path: String,
        upstream: String,
        credential: String,
        strip_prefix: bool,
        allow: Texts,
        deny: Texts,
        encoded: Encoded,
        upgrade: Vec<Entry<Upgrade>>,
        retry_on: Vec<Entry<u16>>,
        retry_429: Retry429,
        retry_stale: bool,
        headers: Headers,
        timeout: Duration,
        connect_timeout: Duration,
        read_timeout: Duration,
        connections: u32,
        connection_age: Duration,
        idle_timeout: Duration,
        breaker: Option<Breaker>,
        ca_file: PathBuf,
        system_roots: bool,
        client_certificate: PathBuf,
        client_key: PathBuf,
        server_name: String,
        proxy: String,
        http_version: HttpVersion,
        callers: Texts,
        forwarded: Forwarded,
        via: bool,
        host_header: String,
        token_field: String,
        token_scheme: String,
        rewrite_cookies: bool,
        rewrite_links: Vec<Entry<RewrittenLink>>,
        body_timeout: Duration,
        body_rate: Size,
    }

    /// `[routes.headers]`: changes to the header fields of a request.
    inline("a table such as { remove = [\"Cookie\"] }") Headers {
        set: TextsByName,
        set_if_absent: TextsByName,
        remove: Texts,
        pass: Texts,
    }

    /// `retry_429` of a route.
    inline("a table such as { attempts = 3, max_wait = \"10s\" }") Retry429 {
        attempts: u32,
        max_wait: Duration,
        methods: Texts,
    }

    /// `breaker` of a route, unless `"off"`.
    plain Breaker {
        failures: u32,
        percent: u8,
        window: Duration,
        open: Duration,
        open_max: Duration,
    }
}

shapes! {
    Routes: <Vec<Entry<Route>>>::shape(),
    Option<Breaker>: Shape::OneOf(vec![Shape::Choice(vec!["off"]), Breaker::shape()]),
}

/// A table, or `"off"` for none.
impl Value for Option<Breaker> {
    fn read(value: &Written<'_>, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        const EXPECTED: &str = "a table such as { failures = 10, percent = 50 }, or \"off\"";
        match reader.text(value) {
            Some("off") => Some(None),
            Some(_) => reader.invalid(value, path, EXPECTED),
            None => reader.inline_table(value, path, EXPECTED).map(Some),
        }
    }
}

/// `[[routes]]`. A single `[routes]` is read as if it were `[[routes]]`.
#[derive(Debug, Default)]
pub(in crate::config) struct Routes(pub(in crate::config) Vec<Entry<Route>>);

impl Value for Routes {
    fn read(value: &Written<'_>, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        let help = "write [[routes]], with two brackets, once for each route";
        list_of_tables(value, path, reader, help).map(Self)
    }
}
