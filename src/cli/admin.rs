//! The client of a running daemon's admin address.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Method;
use http::header::CONTENT_TYPE;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use thiserror::Error;
use url::Url;

use super::config_file::ConfigFile;
use super::exit_code::{BAD_CONFIGURATION, FAILED, UNAVAILABLE};
use super::output;
use crate::admin::token_file;
use crate::admin::token_file::TokenFileError;
use crate::causes::{causes, in_one_line};
use crate::config;
use crate::config::model::certificate_files::read_client_certificate;
use crate::config::model::endpoint::is_protected;
use crate::config::model::secret::{Secret, SecretError};
use crate::config::{AddressOrigin, AdminAccess, Diagnostics, Environment, Listen, NoAdminAccess, NoPath};
use crate::tls::client::{Trust, TrustError};

/// Shorter than the timeout of each request, so that a request which times out has connected.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The most characters of a response's detail that are printed.
const MAX_DETAIL_CHARS: usize = 2000;

#[derive(Debug, clap::Args)]
pub(super) struct AdminAddress {
    #[command(flatten)]
    pub(super) file: ConfigFile,
    /// Admin address [default: admin.listen of the configuration]
    #[arg(long, value_name = "URL")]
    admin: Option<String>,
    /// Certificate to show to an admin address that requires one (PEM)
    #[arg(long, value_name = "FILE", requires = "client_key")]
    client_certificate: Option<PathBuf>,
    /// Private key of that certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "client_certificate")]
    client_key: Option<PathBuf>,
}

/// Where the daemon is reached.
enum Target {
    /// A URL without a path.
    Url(String),
    /// The path of a unix socket.
    Unix(PathBuf),
}

#[derive(Debug)]
pub(super) struct AdminClient {
    /// The daemon's address, as people write it.
    pub(super) base: String,
    /// The base of URLs.
    url: String,
    is_unix: bool,
    /// Where the address comes from.
    origin: AddressOrigin,
    /// The admin token, or why it cannot be read, which the first operation returns.
    token: Option<Result<SecretString, SecretError>>,
    /// Why the daemon's own token cannot be read.
    no_own_token: Option<(PathBuf, TokenFileError)>,
    http: reqwest::Client,
}

#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) text: String,
}

#[derive(Debug, Error)]
pub(super) enum AdminError {
    #[error("the configuration does not tell the admin address: {0}")]
    Configuration(Box<Diagnostics>),
    #[error("the admin token cannot be read")]
    Token(#[source] SecretError),
    #[error(
        "the admin token would be sent to {0} unencrypted; name an https:// address, or run this command on the \
         daemon's machine"
    )]
    InClear(String),
    #[error("the admin token {} cannot be used", path.display())]
    OwnToken { path: PathBuf, source: TokenFileError },
    #[error("TLS with the admin address cannot be set up")]
    Tls(#[source] TrustError),
    #[error("the client certificate cannot be used: {0}")]
    ClientCertificate(String),
    #[error(transparent)]
    NoPath(NoPath),
    #[error("{base} does not answer: {cause}")]
    Unreachable { base: String, origin: AddressOrigin, failure: Failure, cause: String },
}

/// How far a request has come that was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Nothing listens at the address: the connection was refused, or there is no socket.
    Refused,
    /// There is no connection for another reason.
    NotConnected,
    /// The connection was open.
    NotAnswered,
}

impl Failure {
    fn of(error: &reqwest::Error) -> Self {
        let is_refusal = |cause: &std::io::Error| {
            matches!(cause.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound)
        };
        let mut causes = causes(error).filter_map(|cause| cause.downcast_ref::<std::io::Error>());
        if causes.any(is_refusal) {
            Self::Refused
        } else if error.is_connect() {
            Self::NotConnected
        } else {
            Self::NotAnswered
        }
    }
}

impl From<NoAdminAccess> for AdminError {
    fn from(error: NoAdminAccess) -> Self {
        match error {
            NoAdminAccess::NoPath(error) => Self::NoPath(error),
            NoAdminAccess::File(problems) => Self::Configuration(problems),
        }
    }
}

impl AdminClient {
    /// A client for the daemon at this address.
    ///
    /// # Errors
    ///
    /// [`AdminError::NoPath`] and [`AdminError::Configuration`], or [`AdminError::Unreachable`]: the HTTP client cannot be
    /// set up.
    pub(super) fn new(address: AdminAddress, environment: &Environment) -> Result<Self, AdminError> {
        let access = config::admin_access(address.file.path, environment)?;
        let AdminAccess { listen, origin, token, token_file, speaks_tls, certificate } = access;
        let origin = if address.admin.is_some() { AddressOrigin::Flag } else { origin };
        let scheme = if speaks_tls { "https" } else { "http" };
        // The daemon does not accept its own token in the clear over a network.
        let token_file = token_file.filter(|_| speaks_tls || listen.is_local());
        let target = match (address.admin, listen) {
            (Some(given), _) => Target::given(&given, scheme),
            (None, Listen::Tcp(listen)) => Target::Url(format!("{scheme}://{}", reachable(listen))),
            (None, Listen::Unix(path)) => Target::Unix(path),
        };
        #[expect(
            clippy::disallowed_methods,
            reason = "follows no redirect, and connects to bearerd's own admin address"
        )]
        let builder = reqwest::Client::builder();
        let mut builder = builder
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .connect_timeout(CONNECT_TIMEOUT);
        let (base, url, is_unix) = match target {
            Target::Unix(path) => {
                builder = builder.unix_socket(path.as_path());
                (format!("unix:{}", path.display()), "http://localhost".to_owned(), true)
            }
            Target::Url(url) => (url.clone(), url, false),
        };
        if url.starts_with("https:") {
            let shown = match (address.client_certificate, address.client_key) {
                (Some(certificate), Some(key)) => {
                    Some(read_client_certificate(&certificate, &key).map_err(AdminError::ClientCertificate)?)
                }
                _ => None,
            };
            let tls = Trust::default().pinning(certificate, shown.as_ref()).map_err(AdminError::Tls)?;
            builder = builder.tls_backend_preconfigured(tls);
        }
        let (own, no_own_token) = own_token(token_file.as_deref());
        let initial = |secret: Secret| secret.initial().clone();
        let token = token.map(|token| token.map(initial)).or(own.map(Ok));
        match builder.build() {
            Ok(http) => Ok(Self { base, url, is_unix, origin, token, no_own_token, http }),
            Err(error) => Err(AdminError::unreachable(&base, &origin, error)),
        }
    }

    /// Fails if the daemon's own token, which replacing a grant needs, cannot be read.
    ///
    /// # Errors
    ///
    /// [`AdminError::OwnToken`].
    pub(super) fn check_own_token(&mut self) -> Result<(), AdminError> {
        match self.no_own_token.take().filter(|_| !self.is_unix) {
            Some((path, source)) => Err(AdminError::OwnToken { path, source }),
            None => Ok(()),
        }
    }

    /// Whether the address comes from the configuration, and not from `--admin`: then it belongs to this machine.
    pub(super) fn is_configured(&self) -> bool {
        self.origin != AddressOrigin::Flag
    }

    /// Whether a secret may be sent to the address.
    pub(super) fn is_protected(&self) -> bool {
        self.is_configured() || self.is_unix || Url::parse(&self.url).is_ok_and(|url| is_protected(&url))
    }

    /// Requests a path that needs no admin token.
    ///
    /// # Errors
    ///
    /// [`AdminError::Unreachable`].
    pub(super) async fn get(&self, path: &str, within: Duration) -> Result<Answer, AdminError> {
        self.send(self.http.get(format!("{}{path}", self.url)).timeout(within)).await
    }

    /// Requests an operation, with the admin token if one is configured. A body is JSON.
    ///
    /// # Errors
    ///
    /// [`AdminError`].
    pub(super) async fn operate(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&SecretString>,
        within: Duration,
    ) -> Result<Answer, AdminError> {
        let mut request = self.http.request(method, format!("{}{path}", self.url)).timeout(within);
        if let Some(secret) = self.token.take() {
            let secret = secret.map_err(AdminError::Token)?;
            if !self.is_protected() {
                return Err(AdminError::InClear(self.base.clone()));
            }
            request = request.bearer_auth(secret.expose_secret());
            self.token = Some(Ok(secret));
        }
        if let Some(body) = body {
            let body = body.expose_secret().to_owned();
            request = request.header(CONTENT_TYPE, "application/json").body(body);
        }
        self.send(request).await
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Answer, AdminError> {
        let unreachable = |error| AdminError::unreachable(&self.base, &self.origin, error);
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status().as_u16();
        let text = response.text().await.map_err(unreachable)?;
        Ok(Answer { status, text })
    }

    /// Prints that the answer is none of an admin address of this version, and returns the exit code.
    pub(super) fn not_an_admin_address(&self, answer: &Answer) -> u8 {
        let (base, status) = (&self.base, answer.status);
        output::error_line(format_args!(
            "bearerd: {base} answered {status}, but not as an admin address of bearerd"
        ));
        let origin = &self.origin;
        output::error_line(format_args!(
            "  help: the address is {origin}: name the daemon's admin address with --admin URL"
        ));
        FAILED
    }
}

impl AdminError {
    fn unreachable(base: &str, origin: &AddressOrigin, error: reqwest::Error) -> Self {
        let (failure, error) = (Failure::of(&error), error.without_url());
        // The innermost cause tells more than those around it, which say that a request was sent by a client.
        let cause = causes(&error).last().map(ToString::to_string).unwrap_or_default();
        Self::Unreachable { base: base.to_owned(), origin: origin.clone(), failure, cause }
    }

    /// What the operator can do where no daemon answers.
    fn help_for_unreachable(origin: &AddressOrigin, failure: Failure) -> String {
        let remedy = match (origin, failure) {
            (AddressOrigin::Flag, Failure::Refused) => {
                "start the daemon, or check the address: a daemon logs it when it starts (\"admin listening\"), and \
                 `bearerd demo` prints it"
            }
            (AddressOrigin::NoFile, Failure::Refused) => {
                "start a daemon with `bearerd run`, name its configuration with -c FILE, or its address with --admin \
                 URL, which `bearerd demo` prints"
            }
            (_, Failure::Refused) => {
                "start the daemon with `bearerd run`, or name the address of another with --admin URL, which \
                 `bearerd demo` prints"
            }
            (_, Failure::NotConnected) => {
                "check that the daemon listens there, and that this user may connect to it; https:// is for a daemon \
                 with `admin.tls`"
            }
            (_, Failure::NotAnswered) => {
                "check that a daemon listens there, and not another program; https:// is for a daemon with `admin.tls`"
            }
        };
        format!("the address is {origin}: {remedy}")
    }

    /// Prints the error, and returns the exit code.
    pub(super) fn report(&self, environment: &Environment) -> u8 {
        match self {
            Self::Configuration(diagnostics) => {
                output::problems(diagnostics, environment);
                return BAD_CONFIGURATION;
            }
            Self::NoPath(error) => {
                output::failure(error, Some(error.help()));
                return BAD_CONFIGURATION;
            }
            Self::OwnToken { source, .. } => output::failure(self, Some(source.help())),
            Self::Unreachable { origin, failure, .. } => {
                output::failure(self, Some(&Self::help_for_unreachable(origin, *failure)));
            }
            error => output::error_line(format_args!("bearerd: {}", in_one_line(error))),
        }
        match self {
            Self::Unreachable { failure: Failure::Refused | Failure::NotConnected, .. } => UNAVAILABLE,
            _ => FAILED,
        }
    }

    /// Whether the connection was refused, or there is no socket: nothing listens at the address.
    pub(super) const fn is_refused(&self) -> bool {
        matches!(self, Self::Unreachable { failure: Failure::Refused, .. })
    }
}

impl Answer {
    /// Whether the status is 2xx.
    pub(super) const fn is_success(&self) -> bool {
        self.status >= 200 && self.status < 300
    }

    /// The `detail` member without control characters; `None` if this is no response of an admin address.
    pub(super) fn detail(&self) -> Option<String> {
        #[derive(Deserialize)]
        struct Detailed {
            detail: String,
        }
        let Detailed { detail } = serde_json::from_str(&self.text).ok()?;
        Some(shown(&detail))
    }

    /// The address of the documentation of a problem (its `type`).
    pub(super) fn documentation(&self) -> Option<String> {
        #[derive(Deserialize)]
        struct Typed {
            #[serde(rename = "type")]
            kind: String,
        }
        let Typed { kind } = serde_json::from_str(&self.text).ok()?;
        kind.starts_with("https://").then(|| shown(&kind))
    }
}

/// A text of the daemon as it may be shown.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_DETAIL_CHARS).collect()
}

/// The path of an operation on a credential, whose name is escaped.
pub(super) fn path_of(credential: &str, operation: &str) -> String {
    const PLAIN: &percent_encoding::AsciiSet =
        &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');
    let name = percent_encoding::utf8_percent_encode(credential, PLAIN);
    format!("/credentials/{name}{operation}")
}

impl Target {
    /// The address of `--admin`; without a scheme, with the scheme of the configured address.
    fn given(address: &str, scheme: &str) -> Self {
        if let Some(path) = address.strip_prefix("unix:") {
            return Self::Unix(path.into());
        }
        if address.contains("://") {
            return Self::Url(address.trim_end_matches('/').to_owned());
        }
        Self::Url(format!("{scheme}://{address}"))
    }
}

/// The daemon's own token in this file, or why it cannot be read.
fn own_token(file: Option<&Path>) -> (Option<SecretString>, Option<(PathBuf, TokenFileError)>) {
    let Some(file) = file else { return (None, None) };
    match token_file::read(file) {
        Ok(token) => (token, None),
        Err(error) => (None, Some((file.to_owned(), error))),
    }
}

/// The address to connect to: loopback for a daemon that listens on all addresses.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_listens_on_all_addresses_is_reached_by_loopback() {
        for (listen, reached) in [
            ("0.0.0.0:9090", "127.0.0.1:9090"),
            ("[::]:9090", "[::1]:9090"),
            ("192.0.2.1:1", "192.0.2.1:1"),
            ("127.0.0.1:9090", "127.0.0.1:9090"),
        ] {
            assert_eq!(reachable(listen.parse().unwrap()).to_string(), reached);
        }
    }

    fn client(given: Option<&str>) -> AdminClient {
        let address = AdminAddress {
            file: ConfigFile { path: Some("proxy.toml".into()) },
            admin: given.map(str::to_owned),
            client_certificate: None,
            client_key: None,
        };
        AdminClient::new(address, &Environment::from([("BEARERD_ADMIN__LISTEN", "10.0.0.1:9090")])).unwrap()
    }

    #[test]
    fn an_address_argument_overrides_the_configuration() {
        assert_eq!(client(None).base, "http://10.0.0.1:9090");
        assert_eq!(client(Some("10.0.0.1:1")).base, "http://10.0.0.1:1");
        assert_eq!(client(Some("https://admin.test/")).base, "https://admin.test");
        assert_eq!(client(Some("unix:/run/admin.sock")).base, "unix:/run/admin.sock");
    }

    #[test]
    fn a_secret_is_sent_only_to_this_machine_or_over_tls() {
        assert!(client(None).is_protected(), "the configured address belongs to this machine");
        assert!(client(Some("127.0.0.1:9090")).is_protected());
        assert!(client(Some("https://admin.test")).is_protected());
        assert!(!client(Some("10.0.0.1:9090")).is_protected());
        assert!(!client(Some("http://admin.test")).is_protected());
        assert!(client(Some("unix:/run/bearerd/admin.sock")).is_protected());
    }

    #[test]
    fn a_credential_name_stays_one_path_segment() {
        assert_eq!(path_of("api-1_x.y", "/refresh"), "/credentials/api-1_x.y/refresh");
        assert_eq!(path_of("a/grant?x#y z", ""), "/credentials/a%2Fgrant%3Fx%23y%20z");
    }

    #[test]
    fn the_detail_of_a_response_has_no_control_characters() {
        let detail = |text: &str| Answer { status: 200, text: text.to_owned() }.detail();

        assert_eq!(detail("{\"detail\":\"a\\u001b[31mb\",\"x\":1}").as_deref(), Some("a[31mb"));
        assert_eq!(detail("<html>"), None);
        assert_eq!(detail("{}"), None);
    }
}
