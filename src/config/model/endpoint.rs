//! Endpoints of an authorization server: configured, or discovered from the issuer (RFC 8414, OpenID Connect
//! Discovery).

use std::fmt;
use std::net::Ipv4Addr;

use url::Url;

/// An endpoint of an authorization server.
#[derive(Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// The configured URL.
    Written(Url),
    /// The URL to which another key leads, by what the provider's preset knows.
    OfPreset {
        /// The URL.
        url: Url,
        /// The key: `region` or `issuer`.
        key: &'static str,
    },
    /// The URL in this issuer's metadata.
    OfIssuer(Issuer),
}

/// An issuer of tokens and its identifier, a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    identifier: String,
    url: Url,
}

impl Endpoint {
    /// The configured text: the URL of the endpoint, or the identifier of the issuer.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Written(url) | Self::OfPreset { url, .. } => url.as_str(),
            Self::OfIssuer(issuer) => issuer.as_str(),
        }
    }

    /// The configured text as a URL.
    pub const fn url(&self) -> &Url {
        match self {
            Self::Written(url) | Self::OfPreset { url, .. } => url,
            Self::OfIssuer(issuer) => &issuer.url,
        }
    }

    /// The issuer whose metadata has the URL; `None` if the URL is configured.
    pub const fn issuer(&self) -> Option<&Issuer> {
        match self {
            Self::Written(_) | Self::OfPreset { .. } => None,
            Self::OfIssuer(issuer) => Some(issuer),
        }
    }
}

/// Without the key of a preset, which concerns texts for people alone.
impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Written(url) | Self::OfPreset { url, .. } => {
                f.debug_tuple("Url").field(&url.as_str()).finish()
            }
            Self::OfIssuer(issuer) => f.debug_tuple("OfIssuer").field(issuer).finish(),
        }
    }
}

impl Issuer {
    /// The issuer with this identifier, which parses as `url`.
    pub fn new(identifier: &str, url: Url) -> Self {
        Self { identifier: identifier.to_owned(), url }
    }

    /// The identifier, unchanged.
    pub fn as_str(&self) -> &str {
        &self.identifier
    }

    /// Whether the issuer is reached without TLS, over loopback.
    pub fn is_plain(&self) -> bool {
        self.url.scheme() == "http"
    }

    /// The URL of the metadata by RFC 8414 §3.1: the well-known name comes before the path.
    pub fn oauth_metadata(&self) -> Url {
        let mut url = self.url.clone();
        let path = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("/.well-known/oauth-authorization-server{path}"));
        url
    }

    /// The URL of the metadata by OpenID Connect Discovery §4: the well-known name comes after the path.
    pub fn openid_configuration(&self) -> Url {
        let mut url = self.url.clone();
        let path = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{path}/.well-known/openid-configuration"));
        url
    }
}

/// Whether a secret may be sent to the URL: over TLS, or over loopback.
pub fn is_protected(url: &Url) -> bool {
    match url.scheme() {
        "https" => true,
        "http" => is_loopback(url),
        _ => false,
    }
}

/// Whether the URL's host is a loopback address or `localhost`.
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        // Outside of the schemes of the web, an IPv4 address is a name to the parser.
        Some(url::Host::Domain(name)) => {
            name.eq_ignore_ascii_case("localhost")
                || name.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_has_the_urls_of_both_standards() {
        for (issuer, oauth, openid) in [
            (
                "https://a.test",
                "/.well-known/oauth-authorization-server",
                "/.well-known/openid-configuration",
            ),
            (
                "https://a.test/",
                "/.well-known/oauth-authorization-server",
                "/.well-known/openid-configuration",
            ),
            (
                "https://a.test/realms/x",
                "/.well-known/oauth-authorization-server/realms/x",
                "/realms/x/.well-known/openid-configuration",
            ),
            (
                "https://a.test/x/v2.0/",
                "/.well-known/oauth-authorization-server/x/v2.0",
                "/x/v2.0/.well-known/openid-configuration",
            ),
        ] {
            let parsed = Issuer::new(issuer, Url::parse(issuer).unwrap());
            assert_eq!(parsed.as_str(), issuer);
            assert_eq!(parsed.oauth_metadata().as_str(), format!("https://a.test{oauth}"));
            assert_eq!(parsed.openid_configuration().as_str(), format!("https://a.test{openid}"));
        }
    }

    #[test]
    fn plain_http_is_protected_on_loopback_only() {
        for (url, is) in [
            ("https://a.test/", true),
            ("http://127.0.0.1:8/", true),
            ("http://127.9.9.9/", true),
            ("http://[::1]/", true),
            ("http://localhost/", true),
            ("http://localhost.a.test/", false),
            ("http://10.0.0.1/", false),
            ("ftp://localhost/", false),
            ("javascript:alert(1)", false),
        ] {
            assert_eq!(is_protected(&Url::parse(url).unwrap()), is, "{url}");
        }
    }
}
