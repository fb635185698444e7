//! `proxy.toml` as it is written: every key optional, every value with its place.
//!
//! The structs are flat so that each value keeps its span (a flattened or tagged one would lose it). What a
//! key means, and what it is when absent, is decided in [`resolve`](crate::config::resolve).

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use toml::Spanned;

use super::units::{Duration, OneOrMany, Rate, RequiredScopes, Size};
use crate::config::model::basic_encoding::BasicEncoding;
use crate::config::model::forwarded::Forwarded;
use crate::config::model::http_version::HttpVersion;
use crate::config::model::log::LogFormat;
use crate::config::model::request::RequestFormat;
use crate::config::model::secret::{SecretSource, SecretSources};
use crate::config::model::signing_key::SigningAlgorithm;

type Key<T> = Option<Spanned<T>>;

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct File {
    /// `[server]`: who may call, and how.
    pub server: Server,
    /// `[admin]`: the operator's own address.
    pub admin: Admin,
    /// `[credentials.NAME]`: identities and how they get tokens.
    pub credentials: BTreeMap<Spanned<String>, Spanned<Credential>>,
    /// `[[routes]]`: which requests go where, with which credential.
    pub routes: Vec<Spanned<Route>>,
    /// `[log]`: what is written of all this.
    pub log: Log,
}

/// `[server]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "the shipped proxy.toml documents every key")]
pub struct Server {
    pub listen: Key<OneOrMany>,
    pub allow_from: Key<Vec<Spanned<String>>>,
    pub hosts: Key<Vec<Spanned<String>>>,
    pub origins: Key<Vec<Spanned<String>>>,
    pub required_header: Key<String>,
    pub workers: Key<u16>,
    pub drain_delay: Key<Duration>,
    pub drain: Key<Duration>,
    pub state_dir: Key<PathBuf>,
    pub watch: Key<bool>,
    pub trusted_proxies: Key<Vec<Spanned<String>>>,
    pub tls: Key<Tls>,
    pub limits: Limits,
}

/// `[server.tls]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "the shipped proxy.toml documents every key")]
pub struct Tls {
    pub certificate: Key<PathBuf>,
    pub private_key: Key<PathBuf>,
    pub client_ca: Key<PathBuf>,
}

/// `[server.limits]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "the shipped proxy.toml documents every key")]
pub struct Limits {
    pub connections: Key<u32>,
    pub connections_per_address: Key<u32>,
    pub connection_age: Key<Duration>,
    pub header_bytes: Key<Size>,
    pub tls_timeout: Key<Duration>,
    pub header_timeout: Key<Duration>,
    pub idle_timeout: Key<Duration>,
    pub body_timeout: Key<Duration>,
    pub body_rate: Key<Size>,
    pub write_timeout: Key<Duration>,
    pub streams: Key<u32>,
    pub body_bytes: Key<Size>,
    pub replay_body: Key<Size>,
    pub replay_total: Key<Size>,
    pub token_wait: Key<Duration>,
    pub token_waiters: Key<u32>,
}

/// `[admin]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "the shipped proxy.toml documents every key")]
pub struct Admin {
    pub listen: Key<String>,
    pub token: Key<SecretSource>,
}

/// `[credentials.NAME]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "the shipped proxy.toml documents every key")]
pub struct Credential {
    pub provider: Key<Provider>,
    pub region: Key<String>,
    pub issuer: Key<String>,
    pub grant: Key<Grant>,
    pub fallback: Key<Fallback>,
    pub token_url: Key<String>,
    pub authorize_url: Key<String>,
    pub redirect_uri: Key<String>,
    pub client_id: Key<String>,
    pub client_secret: Key<SecretSource>,
    pub client_secret_next: Key<SecretSource>,
    pub client_auth: Key<ClientAuth>,
    pub basic_encoding: Key<BasicEncoding>,
    pub assertion: Key<Assertion>,
    pub client_certificate: Key<PathBuf>,
    pub client_key: Key<PathBuf>,
    pub username: Key<String>,
    pub password: Key<SecretSource>,
    pub refresh_token: Key<SecretSource>,
    pub max_rotations: Key<u64>,
    pub subject_token: Key<SecretSource>,
    pub subject_token_type: Key<String>,
    pub audience: Key<String>,
    pub resource: Key<Vec<Spanned<String>>>,
    pub extra: Key<BTreeMap<Spanned<String>, Spanned<String>>>,
    pub request_format: Key<RequestFormat>,
    pub request_fields: Key<BTreeMap<Spanned<String>, Spanned<String>>>,
    pub fields: Key<Fields>,
    pub scopes: Key<Vec<Spanned<String>>>,
    pub require_scopes: Key<RequiredScopes>,
    pub expect_jwt: Key<bool>,
    pub refresh_margin: Key<Duration>,
    pub default_lifetime: Key<Duration>,
    pub timeout: Key<Duration>,
    pub connect_timeout: Key<Duration>,
    pub quota: Key<Rate>,
    pub retry_after_max: Key<Duration>,
    pub ca_file: Key<PathBuf>,
    pub proxy: Key<String>,
    pub http_version: Key<HttpVersion>,
    pub state_file: Key<PathBuf>,
    pub state_key: Key<SecretSource>,
    pub state_key_previous: Key<SecretSources>,
    pub required: Key<bool>,
    pub login_stub: Key<Vec<Spanned<String>>>,
}

/// `assertion` of a credential: a JWT that we sign (RFC 7523 §3).
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "the shipped proxy.toml documents every key")]
pub struct Assertion {
    pub key: Key<SecretSource>,
    pub kid: Key<String>,
    pub alg: Key<SigningAlgorithm>,
    pub aud: Key<String>,
    pub sub: Key<String>,
}

/// `fields` of a credential: what the members of an answer are called.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "the shipped proxy.toml documents every key")]
pub struct Fields {
    pub access_token: Key<String>,
    pub expires_in: Key<String>,
    pub refresh_token: Key<String>,
}

/// `[[routes]]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "the shipped proxy.toml documents every key")]
pub struct Route {
    pub host: Key<String>,
    pub path: Key<String>,
    pub upstream: Key<String>,
    pub credential: Key<String>,
    pub strip_prefix: Key<bool>,
    pub allow: Key<Vec<Spanned<String>>>,
    pub deny: Key<Vec<Spanned<String>>>,
    pub encoded: Key<Encoded>,
    pub upgrade: Key<Vec<Spanned<Upgrade>>>,
    pub retry_on: Key<Vec<Spanned<u16>>>,
    pub retry_429: Key<WrittenRetry429>,
    pub headers: Key<Headers>,
    pub timeout: Key<Duration>,
    pub connect_timeout: Key<Duration>,
    pub read_timeout: Key<Duration>,
    pub connections: Key<u32>,
    pub connection_age: Key<Duration>,
    pub breaker: Key<WrittenBreaker>,
    pub ca_file: Key<PathBuf>,
    pub proxy: Key<String>,
    pub http_version: Key<HttpVersion>,
    pub callers: Key<Vec<Spanned<String>>>,
    pub forwarded: Key<Forwarded>,
}

/// `[routes.headers]`: what is done with the fields of a request.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "the shipped proxy.toml documents every key")]
pub struct Headers {
    pub set: Key<BTreeMap<Spanned<String>, Spanned<String>>>,
    pub set_if_absent: Key<BTreeMap<Spanned<String>, Spanned<String>>>,
    pub remove: Key<Vec<Spanned<String>>>,
    pub pass: Key<Vec<Spanned<String>>>,
}

/// `[log]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "the shipped proxy.toml documents every key")]
pub struct Log {
    pub format: Key<LogFormat>,
    pub level: Key<String>,
    pub access: Key<bool>,
}

/// A platform whose endpoints and habits are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "named as in the file")]
pub enum Provider {
    Oauth2,
    Cxone,
    Genesys,
}

/// How a credential gets its tokens (RFC 6749 §1.3, RFC 7523, RFC 8693).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "named as in the RFCs")]
pub enum Grant {
    ClientCredentials,
    Password,
    RefreshToken,
    AuthorizationCode,
    JwtBearer,
    TokenExchange,
}

/// What is asked with once no refresh token is taken any more: a [`Grant`], or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "named as in the RFCs")]
pub enum Fallback {
    #[serde(rename = "")]
    None,
    ClientCredentials,
    Password,
    RefreshToken,
    AuthorizationCode,
    JwtBearer,
    TokenExchange,
}

/// How the OAuth client says who it is (RFC 6749 §2.3, RFC 7523 §2.2, RFC 8705).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "named as in the RFCs")]
pub enum ClientAuth {
    ClientSecretBasic,
    ClientSecretPost,
    ClientSecretJwt,
    PrivateKeyJwt,
    TlsClientAuth,
    None,
}

/// What a request may switch to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Upgrade {
    /// RFC 6455.
    Websocket,
}

/// What becomes of paths that servers read in more than one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Encoded {
    /// Refused where it matters which way: on a route with `allow`, `deny` or a path other than `/`.
    #[serde(rename = "")]
    WhereItMatters,
    /// Refused.
    #[serde(rename = "refuse")]
    Refuse,
    /// Let through: the upstream reads them as they are written.
    #[serde(rename = "opaque")]
    Opaque,
}

/// `breaker` as it is written: a table, or "off".
#[derive(Clone, Copy, Debug)]
pub enum WrittenBreaker {
    /// There is none.
    Off,
    /// With these, and defaults for the rest.
    On(WrittenLimits),
}

/// The table of [`WrittenBreaker`].
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "the shipped proxy.toml documents every key")]
pub struct WrittenLimits {
    pub failures: Option<u32>,
    pub percent: Option<u8>,
    pub window: Option<Duration>,
    pub open: Option<Duration>,
    pub open_max: Option<Duration>,
}

/// `retry_429` as it is written.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "the shipped proxy.toml documents every key")]
pub struct WrittenRetry429 {
    pub attempts: Option<u32>,
    pub max_wait: Option<Duration>,
}

impl<'de> Deserialize<'de> for WrittenBreaker {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Limits;

        impl<'de> Visitor<'de> for Limits {
            type Value = WrittenBreaker;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a table such as { failures = 10, percent = 50 }, or \"off\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<WrittenBreaker, E> {
                if text == "off" {
                    return Ok(WrittenBreaker::Off);
                }
                Err(E::custom("write \"off\", or a table such as { failures = 10, percent = 50 }"))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<WrittenBreaker, A::Error> {
                WrittenLimits::deserialize(MapAccessDeserializer::new(map)).map(WrittenBreaker::On)
            }
        }

        deserializer.deserialize_any(Limits)
    }
}
