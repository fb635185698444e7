//! Asking a running daemon at its admin address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use thiserror::Error;
use url::Url;

use crate::causes::causes;
use crate::config::endpoint::is_protected;
use crate::token::error::printable;

/// Talks to one daemon.
#[derive(Debug)]
pub(super) struct AdminClient {
    base: String,
    /// Whether the address is that of the configuration, and so this machine's.
    is_configured: bool,
}

/// What a daemon answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: String,
}

/// No answer.
#[derive(Debug, Error)]
#[error("{base} does not answer")]
pub(super) struct NoAnswer {
    base: String,
    pub(super) source: reqwest::Error,
}

impl AdminClient {
    /// At the address that was given, or else the configured one.
    pub(super) fn new(given: Option<&str>, configured: SocketAddr) -> Self {
        let base = match given {
            Some(url) if url.contains("://") => url.trim_end_matches('/').to_owned(),
            Some(address) => format!("http://{address}"),
            None => format!("http://{}", reachable(configured)),
        };
        Self { base, is_configured: given.is_none() }
    }

    /// Its address.
    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// Whether a secret may be sent there.
    pub(super) fn is_protected(&self) -> bool {
        self.is_configured || Url::parse(&self.base).is_ok_and(|url| is_protected(&url))
    }

    pub(super) async fn get(&self, path: &str, within: Duration) -> Result<Answer, NoAnswer> {
        self.ask(Method::GET, path, None, within).await
    }

    /// Posts JSON that may hold secrets.
    pub(super) async fn post(
        &self,
        path: &str,
        json: &SecretString,
        within: Duration,
    ) -> Result<Answer, NoAnswer> {
        self.ask(Method::POST, path, Some(json), within).await
    }

    /// Whatever a request of ours to a daemon has, it has from here.
    async fn ask(
        &self,
        method: Method,
        path: &str,
        json: Option<&SecretString>,
        within: Duration,
    ) -> Result<Answer, NoAnswer> {
        let no_answer =
            |source: reqwest::Error| NoAnswer { base: self.base.clone(), source: source.without_url() };
        #[expect(
            clippy::disallowed_methods,
            reason = "asks an admin address, and follows no redirect either"
        )]
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .timeout(within)
            .build()
            .map_err(no_answer)?;
        let mut request = http.request(method, format!("{}{path}", self.base));
        if let Some(json) = json {
            request = request.header(CONTENT_TYPE, "application/json").body(json.expose_secret().to_owned());
        }
        let response = request.send().await.map_err(no_answer)?;
        let status = response.status();
        Ok(Answer { status, body: response.text().await.unwrap_or_default() })
    }
}

impl NoAnswer {
    /// Whether nobody listens there.
    pub(super) fn is_refused(&self) -> bool {
        causes(&self.source)
            .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
            .any(|cause| cause.kind() == std::io::ErrorKind::ConnectionRefused)
    }
}

impl Answer {
    /// Why not, in the daemon's own words (RFC 9457 §3.1.4), or else by its status.
    pub(super) fn detail(&self) -> String {
        #[derive(Deserialize)]
        struct Problem {
            detail: String,
        }
        match serde_json::from_str::<Problem>(&self.body) {
            Ok(problem) => printable(&problem.detail),
            Err(_) => format!("it answered {}", self.status.as_u16()),
        }
    }
}

/// Whoever listens on all addresses listens on loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_was_given_wins_and_all_addresses_are_loopback() {
        let base = |given: Option<&str>, configured: &str| {
            AdminClient::new(given, configured.parse().unwrap()).base().to_owned()
        };
        assert_eq!(base(None, "127.0.0.1:9090"), "http://127.0.0.1:9090");
        assert_eq!(base(None, "0.0.0.0:9090"), "http://127.0.0.1:9090");
        assert_eq!(base(None, "[::]:9090"), "http://[::1]:9090");
        assert_eq!(base(Some("10.0.0.1:1"), "0.0.0.0:9090"), "http://10.0.0.1:1");
        assert_eq!(base(Some("https://admin.test/"), "0.0.0.0:9090"), "https://admin.test");
    }

    #[test]
    fn a_secret_goes_nowhere_in_clear() {
        let may =
            |given: Option<&str>| AdminClient::new(given, "10.0.0.1:9090".parse().unwrap()).is_protected();
        assert!(may(None), "it is this machine's own address");
        assert!(may(Some("127.0.0.1:9090")));
        assert!(may(Some("https://admin.test")));
        assert!(!may(Some("10.0.0.1:9090")));
        assert!(!may(Some("http://admin.test")));
    }

    #[test]
    fn a_problem_is_told_in_its_own_words_and_cleaned() {
        let answer = |body: &str| Answer { status: StatusCode::CONFLICT, body: body.to_owned() }.detail();
        assert_eq!(answer("{\"detail\":\"not\\u001b now\",\"x\":1}"), "not? now");
        assert_eq!(answer("<html>"), "it answered 409");
    }
}
