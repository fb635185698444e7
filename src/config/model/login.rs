//! Authorization of a credential's client by a person in a browser (RFC 6749 §4.1).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use url::Url;

use super::endpoint::{Endpoint, Issuer, is_loopback};

/// The settings of `bearerd login` for a credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// The page where the person logs in and consents.
    pub authorize_url: Endpoint,
    /// The URL that the browser is redirected to afterwards.
    pub redirect_uri: RedirectUri,
    /// The expected issuer of the response (RFC 9207), if known.
    pub issuer: Option<Issuer>,
}

/// The URL that the browser is redirected to: https, or http on loopback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedirectUri {
    text: String,
    url: Url,
}

impl RedirectUri {
    /// The redirect URI with this text, which parses as `url`.
    pub(in crate::config) fn new(text: &str, url: Url) -> Self {
        Self { text: text.to_owned(), url }
    }

    /// The text, unchanged: servers compare the characters.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The path.
    pub fn path(&self) -> &str {
        self.url.path()
    }

    /// The addresses to listen on for the browser: none for https or a host other than loopback.
    ///
    /// Port 0 stands for one free port (RFC 8252 §7.3), shared by all addresses.
    pub fn listen(&self) -> Vec<SocketAddr> {
        if self.url.scheme() != "http" || !is_loopback(&self.url) {
            return Vec::new();
        }
        let addresses = match self.url.host() {
            Some(url::Host::Ipv4(address)) => vec![IpAddr::V4(address)],
            Some(url::Host::Ipv6(address)) => vec![IpAddr::V6(address)],
            _ => vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)],
        };
        let port = self.port();
        addresses.into_iter().map(|address| SocketAddr::from((address, port))).collect()
    }

    /// The redirect URI to send while the daemon listens on this port.
    #[must_use]
    pub fn on_port(&self, port: u16) -> Self {
        if self.port() == port {
            return self.clone();
        }
        let mut url = self.url.clone();
        // A URL with a host takes a port.
        let _ = url.set_port(Some(port));
        Self { text: url.to_string(), url }
    }

    /// The query of `address`, if the rest of the address equals the redirect URI.
    pub fn query_of<'a>(&self, address: &'a Url) -> Option<&'a str> {
        let (ours, theirs) = (&self.url, address);
        let is_this = ours.scheme() == theirs.scheme()
            && ours.host() == theirs.host()
            && ours.port_or_known_default() == theirs.port_or_known_default()
            && ours.path() == theirs.path();
        is_this.then(|| address.query().unwrap_or_default())
    }

    /// The written port; 0 if there is none.
    fn port(&self) -> u16 {
        let authority = self.text.split("://").nth(1).and_then(|rest| rest.split(['/', '?']).next());
        // `Url` drops the scheme's default port.
        let is_80 = authority.is_some_and(|authority| authority.ends_with(":80"));
        self.url.port().unwrap_or(if is_80 { 80 } else { 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> RedirectUri {
        RedirectUri::new(text, Url::parse(text).unwrap())
    }

    #[test]
    fn a_redirect_uri_is_listened_on_for_http_on_loopback_only() {
        for (text, addresses) in [
            ("http://127.0.0.1:8400/callback", vec!["127.0.0.1:8400"]),
            ("http://127.0.0.1/callback", vec!["127.0.0.1:0"]),
            ("http://127.0.0.1:0/", vec!["127.0.0.1:0"]),
            ("http://127.0.0.1:80/x", vec!["127.0.0.1:80"]),
            ("http://[::1]:9/", vec!["[::1]:9"]),
            ("http://localhost:9/", vec!["127.0.0.1:9", "[::1]:9"]),
            ("https://app.example.com/callback", vec![]),
            ("https://localhost/callback", vec![]),
        ] {
            let expected: Vec<SocketAddr> = addresses.iter().map(|one| one.parse().unwrap()).collect();
            assert_eq!(uri(text).listen(), expected, "{text}");
        }
    }

    #[test]
    fn a_redirect_uri_is_sent_unchanged_except_for_a_free_port() {
        assert_eq!(uri("http://127.0.0.1:8400").on_port(8400).as_str(), "http://127.0.0.1:8400");
        assert_eq!(uri("http://127.0.0.1/cb?x=1").on_port(5).as_str(), "http://127.0.0.1:5/cb?x=1");
        assert_eq!(uri("http://localhost:0/cb").on_port(5).as_str(), "http://localhost:5/cb");
    }

    #[test]
    fn an_address_equals_the_redirect_uri_with_any_query() {
        let uri = uri("https://app.example.com/callback");
        let query = |address: &str| uri.query_of(&Url::parse(address).unwrap()).map(str::to_owned);

        assert_eq!(
            query("https://app.example.com/callback?code=1&state=2").as_deref(),
            Some("code=1&state=2")
        );
        assert_eq!(query("https://app.example.com:443/callback#x").as_deref(), Some(""));
        assert_eq!(query("https://app.example.com/callback/?code=1"), None);
        assert_eq!(query("https://other.example.com/callback?code=1"), None);
        assert_eq!(query("http://app.example.com/callback?code=1"), None);
    }
}
