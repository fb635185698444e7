//! The tables of `proxy.toml` as they are written: each key optional, each value with its place.
//!
//! [`resolve`](crate::config::resolve) decides what a key means and which default applies. The shipped `proxy.toml`
//! documents the keys.

use std::collections::BTreeMap;
use std::path::PathBuf;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::choice::{ClientAuth, Encoded, Grant, Provider, RewrittenLink, Upgrade};
use super::reader::{Key, Reader, Table, Value, Written};
use super::shape::{Shape, Shaped, shapes};
use super::units::{Duration, OneOrMany, RequiredScopes, Size};
use crate::config::model::credential::HttpVersion;
use crate::config::model::identity::BasicEncoding;
use crate::config::model::log::{LogFormat, Sampling};
use crate::config::model::request::RequestFormat;
use crate::config::model::route::Forwarded;
use crate::config::model::secret::SecretSource;
use crate::config::model::server::{HalfClosed, HeaderCase};
use crate::config::model::signing_key::SigningAlgorithm;

/// Strings, each with its place.
pub(in crate::config) type Texts = Vec<Spanned<String>>;
/// Strings by name, each with its place.
pub(in crate::config) type TextsByName = BTreeMap<Spanned<String>, Spanned<String>>;

/// Claims of a JWT by name, each with its place.
pub(in crate::config) type ClaimsByName = BTreeMap<Spanned<String>, Spanned<Claim>>;
/// Secrets by name, each with its place.
pub(in crate::config) type SecretsByName = BTreeMap<Spanned<String>, Spanned<SecretSource>>;

/// Declares tables as structs with a field for each key.
macro_rules! tables {
    ($($(#[$doc:meta])* $name:ident { $($key:ident: $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Default)]
        pub(in crate::config) struct $name {
            $(pub(in crate::config) $key: Key<$type>,)*
        }

        impl Table for $name {
            const KEYS: &'static [&'static str] = &[$(stringify!($key)),*];

            fn from_table(table: &DeTable<'_>, path: &str, reader: &mut Reader<'_>) -> Self {
                Self { $($key: reader.key(table, path, stringify!($key)),)* }
            }
        }

        impl Shaped for $name {
            fn shape() -> Shape {
                Shape::Table(vec![$((stringify!($key), <$type>::shape())),*])
            }
        }
    )*};
}

tables! {
    /// The whole file.
    File {
        server: Server,
        admin: Admin,
        credentials: BTreeMap<Spanned<String>, Spanned<Credential>>,
        routes: Vec<Spanned<Route>>,
        log: Log,
    }

    /// `[server]`.
    Server {
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
    Tls {
        certificate: PathBuf,
        private_key: PathBuf,
        client_ca: PathBuf,
    }

    /// `[server.limits]`.
    Limits {
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

    /// `[admin]`.
    Admin {
        listen: String,
        token: SecretSource,
    }

    /// `[credentials.NAME]`.
    Credential {
        provider: Provider,
        region: String,
        issuer: String,
        grant: Grant,
        grant_type: String,
        fallback: Option<Grant>,
        token_url: String,
        authorize_url: String,
        redirect_uri: String,
        client_id: String,
        client_secret: SecretSource,
        client_secret_next: SecretSource,
        client_auth: ClientAuth,
        basic_encoding: BasicEncoding,
        assertion: Assertion,
        client_certificate: PathBuf,
        client_key: PathBuf,
        username: String,
        password: SecretSource,
        refresh_token: SecretSource,
        max_rotations: u64,
        subject_token: SecretSource,
        subject_token_type: String,
        audience: String,
        resource: Texts,
        extra: TextsByName,
        request_headers: SecretsByName,
        request_format: RequestFormat,
        request_fields: TextsByName,
        fields: Fields,
        token_types: Texts,
        errors: Errors,
        scopes: Texts,
        require_scopes: RequiredScopes,
        expect_jwt: bool,
        refresh_margin: Duration,
        default_lifetime: Duration,
        timeout: Duration,
        connect_timeout: Duration,
        quota: Rate,
        retry_after_max: Duration,
        ca_file: PathBuf,
        system_roots: bool,
        proxy: String,
        http_version: HttpVersion,
        state_file: PathBuf,
        state_key: SecretSource,
        state_key_previous: OneOrMany<SecretSource>,
        required: bool,
        login_stub: Texts,
    }

    /// `assertion` of a credential: a JWT that the daemon signs, or one that another process makes (RFC 7523 §3).
    Assertion {
        key: SecretSource,
        kid: String,
        alg: SigningAlgorithm,
        aud: String,
        sub: String,
        claims: ClaimsByName,
        file: PathBuf,
    }

    /// `fields` of a credential: the places of the members of a token response.
    Fields {
        access_token: String,
        expires_in: String,
        refresh_token: String,
        scope: String,
    }

    /// `errors` of a credential: further error codes of its server.
    Errors {
        dead: Texts,
        throttled: Texts,
        client: Texts,
        transient: Texts,
    }

    /// `quota` of a credential: `requests` within `per`.
    Rate {
        requests: u32,
        per: Duration,
    }

    /// `[[routes]]`.
    Route {
        host: String,
        path: String,
        upstream: String,
        credential: String,
        strip_prefix: bool,
        allow: Texts,
        deny: Texts,
        encoded: Encoded,
        upgrade: Vec<Spanned<Upgrade>>,
        retry_on: Vec<Spanned<u16>>,
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
        rewrite_links: Vec<Spanned<RewrittenLink>>,
        body_timeout: Duration,
        body_rate: Size,
    }

    /// `[routes.headers]`: changes to the header fields of a request.
    Headers {
        set: TextsByName,
        set_if_absent: TextsByName,
        remove: Texts,
        pass: Texts,
    }

    /// `retry_429` of a route.
    Retry429 {
        attempts: u32,
        max_wait: Duration,
        methods: Texts,
    }

    /// `breaker` of a route, unless `"off"`.
    Breaker {
        failures: u32,
        percent: u8,
        window: Duration,
        open: Duration,
        open_max: Duration,
    }

    /// `[log]`.
    Log {
        output: String,
        format: LogFormat,
        level: String,
        access: Sampling,
    }
}

/// `document` checks the keys of these tables, and that each is a table.
macro_rules! sections {
    ($($name:ident)*) => {$(
        impl Value for $name {
            fn read(value: &Written<'_>, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
                value.get_ref().as_table().map(|table| Self::from_table(table, path, reader))
            }
        }
    )*};
}

sections! { Server Tls Limits Admin Credential Route Log }

/// Tables that are the value of a key, each with an example for messages.
macro_rules! inline_tables {
    ($($name:ident: $example:literal,)*) => {$(
        impl Value for $name {
            fn read(value: &Written<'_>, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
                if !value.get_ref().is_table() {
                    return reader.mistyped(value, path, concat!("a table such as ", $example));
                }
                reader.inline_table(value, path)
            }
        }
    )*};
}

inline_tables! {
    Assertion: "{ key = { file = \"key.pem\" }, alg = \"RS256\" }",
    Fields: "{ access_token = \"token\" }",
    Errors: "{ dead = [\"session_expired\"] }",
    Rate: "{ requests = 10, per = \"60s\" }",
    Headers: "{ remove = [\"Cookie\"] }",
    Retry429: "{ attempts = 3, max_wait = \"10s\" }",
}

/// A table, or `"off"` for none.
impl Value for Option<Breaker> {
    fn read(value: &Written<'_>, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        const EXPECTED: &str = "a table such as { failures = 10, percent = 50 }, or \"off\"";
        match value.get_ref() {
            DeValue::Table(_) => reader.inline_table(value, path).map(Some),
            DeValue::String(text) if text == "off" => Some(None),
            DeValue::String(_) => reader.invalid(value, path, EXPECTED),
            _ => reader.mistyped(value, path, EXPECTED),
        }
    }
}

shapes! {
    Option<Breaker>: Shape::OneOf(vec![Shape::Choice(vec!["off"]), Breaker::shape()]),
    Claim: Shape::Claim,
    Sampling: Shape::OneOf(vec![Shape::Bool, Shape::Share]),
}

/// `true`, `false`, or a share.
impl Value for Sampling {
    fn read(value: &Written<'_>, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        const EXPECTED: &str = "true, false, or a share of the requests from 0 to 1, such as 0.1";
        let share = match value.get_ref() {
            DeValue::Boolean(true) => return Some(Self::ALL),
            DeValue::Boolean(false) => return Some(Self::OFF),
            DeValue::Float(number) => number.as_str().parse().ok(),
            DeValue::Integer(number) => number.as_str().parse().ok(),
            _ => return reader.mistyped(value, path, EXPECTED),
        };
        share.and_then(Self::new).or_else(|| reader.invalid(value, path, EXPECTED))
    }
}

/// The value of a claim.
#[derive(Debug)]
pub(in crate::config) struct Claim(pub(in crate::config) serde_json::Value);

impl Value for Claim {
    fn read(value: &Written<'_>, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        match json(value.get_ref()) {
            Some(json) => Some(Self(json)),
            None => reader.mistyped(value, path, "a string, a number, true, false, or a list of these"),
        }
    }
}

/// A value without tables, dates and numbers that JSON does not have.
fn json(value: &DeValue<'_>) -> Option<serde_json::Value> {
    Some(match value {
        DeValue::String(text) => serde_json::Value::from(&**text),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).ok()?.into(),
        DeValue::Float(number) => serde_json::Number::from_f64(number.as_str().parse().ok()?)?.into(),
        DeValue::Boolean(is) => serde_json::Value::from(*is),
        DeValue::Array(list) => list.iter().map(|entry| json(entry.get_ref())).collect::<Option<_>>()?,
        DeValue::Datetime(_) | DeValue::Table(_) => return None,
    })
}
