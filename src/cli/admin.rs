//! The client of a running daemon's admin address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
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
use crate::causes::{causes, in_one_line};
use crate::config;
use crate::config::model::endpoint::is_protected;
use crate::config::model::secret::{Secret, SecretError};
use crate::config::{AdminAccess, Diagnostics, Environment, NoAdminAccess, NoPath};

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
}

#[derive(Debug)]
pub(super) struct AdminClient {
    /// The daemon's address, as the base of URLs.
    pub(super) base: String,
    /// Whether the address comes from the configuration, and so belongs to this machine.
    is_configured: bool,
    /// The admin token, or why it cannot be read, which the first operation returns.
    token: Option<Result<Secret, SecretError>>,
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
    #[error(transparent)]
    NoPath(NoPath),
    #[error("{base} does not answer")]
    Unreachable { base: String, source: reqwest::Error },
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
        let AdminAccess { listen, token } = config::admin_access(address.file.path, environment)?;
        let is_configured = address.admin.is_none();
        let base = match address.admin {
            Some(url) if url.contains("://") => url.trim_end_matches('/').to_owned(),
            Some(address) => format!("http://{address}"),
            None => format!("http://{}", reachable(listen)),
        };
        #[expect(
            clippy::disallowed_methods,
            reason = "follows no redirect, and connects to bearerd's own admin address"
        )]
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .connect_timeout(CONNECT_TIMEOUT)
            .build();
        match http {
            Ok(http) => Ok(Self { base, is_configured, token, http }),
            Err(source) => Err(AdminError::Unreachable { base, source }),
        }
    }

    /// Whether the address comes from the configuration, and not from `--admin`.
    pub(super) const fn is_configured(&self) -> bool {
        self.is_configured
    }

    /// Whether a secret may be sent to the address.
    pub(super) fn is_protected(&self) -> bool {
        self.is_configured || Url::parse(&self.base).is_ok_and(|url| is_protected(&url))
    }

    /// Requests a path that needs no admin token.
    ///
    /// # Errors
    ///
    /// [`AdminError::Unreachable`].
    pub(super) async fn get(&self, path: &str, within: Duration) -> Result<Answer, AdminError> {
        self.send(self.http.get(format!("{}{path}", self.base)).timeout(within)).await
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
        let mut request = self.http.request(method, format!("{}{path}", self.base)).timeout(within);
        if let Some(secret) = self.token.take() {
            let secret = secret.map_err(AdminError::Token)?;
            if !self.is_protected() {
                return Err(AdminError::InClear(self.base.clone()));
            }
            request = request.bearer_auth(secret.initial().expose_secret());
            self.token = Some(Ok(secret));
        }
        if let Some(body) = body {
            let body = body.expose_secret().to_owned();
            request = request.header(CONTENT_TYPE, "application/json").body(body);
        }
        self.send(request).await
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Answer, AdminError> {
        let unreachable = |source: reqwest::Error| AdminError::Unreachable {
            base: self.base.clone(),
            source: source.without_url(),
        };
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status().as_u16();
        let text = response.text().await.map_err(unreachable)?;
        Ok(Answer { status, text })
    }
}

impl AdminError {
    /// Prints the error, and returns the exit code.
    pub(super) fn report(&self, environment: &Environment) -> u8 {
        match self {
            Self::Configuration(diagnostics) => {
                output::error_line(diagnostics.render(output::may_colour(environment)));
                return BAD_CONFIGURATION;
            }
            Self::NoPath(error) => {
                output::failure(error, Some(error.help()));
                return BAD_CONFIGURATION;
            }
            error => output::error_line(format_args!("bearerd: {}", in_one_line(error))),
        }
        match self {
            Self::Unreachable { source, .. } if source.is_connect() => UNAVAILABLE,
            _ => FAILED,
        }
    }

    /// Whether the connection was refused: nothing listens at the address.
    pub(super) fn is_refused(&self) -> bool {
        let Self::Unreachable { source, .. } = self else { return false };
        causes(source)
            .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
            .any(|cause| cause.kind() == std::io::ErrorKind::ConnectionRefused)
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
        let is_shown = |c: &char| !c.is_control();
        Some(detail.chars().filter(is_shown).take(MAX_DETAIL_CHARS).collect())
    }
}

/// The message about a response that no admin address of this version sends.
pub(super) fn not_an_admin_address(answer: &Answer) -> String {
    let status = answer.status;
    format!(
        "bearerd: the address answered {status}, but not as an admin address of bearerd; name that with --admin"
    )
}

/// The path of an operation on a credential, whose name is escaped.
pub(super) fn path_of(credential: &str, operation: &str) -> String {
    const PLAIN: &percent_encoding::AsciiSet =
        &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');
    let name = percent_encoding::utf8_percent_encode(credential, PLAIN);
    format!("/credentials/{name}{operation}")
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
        };
        AdminClient::new(address, &Environment::from([("BEARERD_ADMIN__LISTEN", "10.0.0.1:9090")])).unwrap()
    }

    #[test]
    fn an_address_argument_overrides_the_configuration() {
        assert_eq!(client(None).base, "http://10.0.0.1:9090");
        assert_eq!(client(Some("10.0.0.1:1")).base, "http://10.0.0.1:1");
        assert_eq!(client(Some("https://admin.test/")).base, "https://admin.test");
    }

    #[test]
    fn a_secret_is_sent_only_to_this_machine_or_over_tls() {
        assert!(client(None).is_protected(), "the configured address belongs to this machine");
        assert!(client(Some("127.0.0.1:9090")).is_protected());
        assert!(client(Some("https://admin.test")).is_protected());
        assert!(!client(Some("10.0.0.1:9090")).is_protected());
        assert!(!client(Some("http://admin.test")).is_protected());
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
