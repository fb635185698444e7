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
        shown name: String,
        shown host: String,
        shown path: String,
        shown upstream: String,
        shown credential: String,
        shown strip_prefix: bool,
        shown allow: Texts,
        shown deny: Texts,
        shown encoded: Encoded,
        shown upgrade: Vec<Entry<Upgrade>>,
        shown retry_on: Vec<Entry<u16>>,
        hidden retry_429: Retry429,
        shown retry_stale: bool,
        hidden headers: Headers,
        shown timeout: Duration,
        shown connect_timeout: Duration,
        shown read_timeout: Duration,
        shown connections: u32,
        shown connection_age: Duration,
        shown idle_timeout: Duration,
        shown breaker: Option<Breaker>,
        shown ca_file: PathBuf,
        shown system_roots: bool,
        shown client_certificate: PathBuf,
        shown client_key: PathBuf,
        shown server_name: String,
        shown proxy: String,
        shown http_version: HttpVersion,
        shown callers: Texts,
        shown forwarded: Forwarded,
        shown via: bool,
        shown host_header: String,
        shown token_field: String,
        shown token_scheme: String,
        shown rewrite_cookies: bool,
        shown rewrite_links: Vec<Entry<RewrittenLink>>,
        shown body_timeout: Duration,
        shown body_rate: Size,
    }

    /// `[routes.headers]`: changes to the header fields of a request.
    inline("a table such as { remove = [\"Cookie\"] }") Headers {
        hidden set: TextsByName,
        hidden set_if_absent: TextsByName,
        hidden remove: Texts,
        hidden pass: Texts,
    }

    /// `retry_429` of a route.
    inline("a table such as { attempts = 3, max_wait = \"10s\" }") Retry429 {
        shown attempts: u32,
        shown max_wait: Duration,
        shown methods: Texts,
    }

    /// `breaker` of a route, unless `"off"`.
    plain Breaker {
        shown failures: u32,
        shown percent: u8,
        shown window: Duration,
        shown open: Duration,
        shown open_max: Duration,
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
