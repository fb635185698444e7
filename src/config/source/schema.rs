//! The tables of `proxy.toml` as they are written: each key optional, each value with its place.
//!
//! [`resolve`](crate::config::resolve) decides what a key means and which default applies. The shipped `proxy.toml`
//! documents the keys.

use std::collections::BTreeMap;
use std::path::PathBuf;

use toml::Spanned;
use toml::de::DeTable;

use super::choice::{ClientAuth, Encoded, Grant, Provider, RewrittenLink, Upgrade};
use super::claim::Claim;
use super::diagnostics::Problem;
use super::key::{Entry, Key};
use super::reader::{Reader, Table, Value, Written, tables};
use super::shape::{Shape, Shaped, shapes};
use super::units::{Duration, OneOrMany, RequiredScopes, Size};
use crate::config::model::audit::OnAuditFailure;
use crate::config::model::credential::HttpVersion;
use crate::config::model::identity::BasicEncoding;
use crate::config::model::log::{LogFormat, Sampling};
use crate::config::model::request::RequestFormat;
use crate::config::model::route::Forwarded;
use crate::config::model::secret::SecretSource;
use crate::config::model::server::{HalfClosed, HeaderCase};
use crate::config::model::signing_key::SigningAlgorithm;
use crate::config::model::webhook::WebhookFormat;

/// Strings, each with its place.
pub(in crate::config) type Texts = Vec<Entry<String>>;
/// Strings by name, each with its place.
pub(in crate::config) type TextsByName = BTreeMap<Spanned<String>, Entry<String>>;

/// Claims of a JWT by name, each with its place.
pub(in crate::config) type ClaimsByName = BTreeMap<Spanned<String>, Entry<Claim>>;
/// Secrets by name, each with its place.
pub(in crate::config) type SecretsByName = BTreeMap<Spanned<String>, Entry<SecretSource>>;

tables! {
    /// The whole file.
    File {
        server: Server,
        health: Health,
        admin: Admin,
        credentials: Credentials,
        routes: Routes,
        log: Log,
        audit: Audit,
        webhooks: Webhooks,
        tracing: Tracing,
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

    /// `[health]`.
    Health {
        listen: String,
    }

    /// `[admin]`.
    Admin {
        listen: String,
        token: SecretSource,
        metrics_token: bool,
        tls: AdminTls,
    }

    /// `tls` of `[admin]`.
    AdminTls {
        certificate: PathBuf,
        private_key: PathBuf,
        client_ca: PathBuf,
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

    /// `[audit]`.
    Audit {
        output: String,
        on_failure: OnAuditFailure,
        key: SecretSource,
    }

    /// `[[webhooks]]`.
    Webhook {
        url: SecretSource,
        name: String,
        secret: OneOrMany<SecretSource>,
        format: WebhookFormat,
        events: Texts,
        tenant: String,
        timeout: Duration,
        ca_file: PathBuf,
        allow_private: bool,
    }

    /// `[tracing]`.
    Tracing {
        otlp_endpoint: String,
        sample: Sampling,
    }
}

/// Tables with a header of their own.
macro_rules! sections {
    ($($name:ident)*) => {$(
        impl Value for $name {
            fn read(value: &Written<'_>, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
                reader.section(value, path)
            }
        }
    )*};
}

sections! { Server Tls Limits Health Admin Credential Route Log Audit Webhook Tracing }

/// Tables that are the value of a key, each with an example for messages.
macro_rules! inline_tables {
    ($($name:ident: $example:literal,)*) => {$(
        impl Value for $name {
            fn read(value: &Written<'_>, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
                reader.inline_table(value, path, concat!("a table such as ", $example))
            }
        }
    )*};
}

inline_tables! {
    AdminTls: "{ certificate = \"server.pem\", private_key = \"server-key.pem\" }",
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
        match reader.text(value) {
            Some("off") => Some(None),
            Some(_) => reader.invalid(value, path, EXPECTED),
            None => reader.inline_table(value, path, EXPECTED).map(Some),
        }
    }
}

shapes! {
    Credentials: <BTreeMap<Spanned<String>, Entry<Credential>>>::shape(),
    Routes: <Vec<Entry<Route>>>::shape(),
    Webhooks: <Vec<Entry<Webhook>>>::shape(),
    Option<Breaker>: Shape::OneOf(vec![Shape::Choice(vec!["off"]), Breaker::shape()]),
    Claim: Shape::Claim,
}

/// `[credentials.NAME]`, by name.
#[derive(Debug, Default)]
pub(in crate::config) struct Credentials(pub(in crate::config) BTreeMap<Spanned<String>, Entry<Credential>>);

impl Value for Credentials {
    fn read(value: &Written<'_>, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        let Some(table) = value.get_ref().as_table() else {
            return reader.not_a_section(value, path, "[credentials.NAME]");
        };
        let is_key = |key: &str| Credential::KEYS.contains(&key);
        if table.iter().any(|(key, value)| is_key(key.get_ref()) && !value.get_ref().is_table()) {
            let help = "write [credentials.NAME], with a name of your choice, and that name in `credential` of the routes";
            reader.problems.push(Problem::error(value.span(), "a credential needs a name").help(help));
            return None;
        }
        Value::read(value, path, reader).map(Self)
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

/// `[[webhooks]]`. A single `[webhooks]` is read as if it were `[[webhooks]]`.
#[derive(Debug, Default)]
pub(in crate::config) struct Webhooks(pub(in crate::config) Vec<Entry<Webhook>>);

impl Value for Webhooks {
    fn read(value: &Written<'_>, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        let help = "write [[webhooks]], with two brackets, once for each webhook";
        list_of_tables(value, path, reader, help).map(Self)
    }
}

/// A list of tables; a single table is reported, and read as the only one of its list.
fn list_of_tables<T: Table + Value>(
    value: &Written<'_>,
    path: &str,
    reader: &mut Reader<'_>,
    help: &str,
) -> Option<Vec<Entry<T>>> {
    if let Some(list) = reader.list(value, path) {
        return Some(list);
    }
    reader
        .problems
        .push(Problem::error(value.span(), format!("`{path}` must be a list of tables")).help(help));
    let table = value.get_ref().as_table()?;
    let only = T::from_table(table, &format!("{path}[0]"), reader);
    Some(vec![Some(Spanned::new(value.span(), only))])
}
