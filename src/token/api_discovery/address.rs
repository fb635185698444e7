//! The addresses that a discovery document may name.
//!
//! Requests with a token are sent to the address, so it must have the scheme https, a name under the issuer's own domain, and
//! no IP address of this machine or its network. Another address has to be configured in the route. If the issuer is on
//! loopback, as in tests, the API must be on loopback too.

use std::net::IpAddr;
use std::str::FromStr;

use http::uri::{Authority, Scheme};
use thiserror::Error;
use url::{Host, Url};

use crate::config::Address;
use crate::network::is_public;

/// An accepted address, and the IP addresses that it may resolve to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoveredApi {
    /// The API's address.
    pub address: Address,
    /// The IP addresses that may be connected to.
    pub reach: Reach,
}

/// The IP addresses that a name may resolve to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Globally reachable addresses.
    Public,
    /// Loopback addresses.
    Loopback,
}

/// Why an address is not accepted.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum AddressRefusal {
    /// The text is not a URL, or has characters that parsers treat differently.
    #[error("it is not a plain URL")]
    NotPlain,
    /// The scheme is not https.
    #[error("it is not https")]
    NotHttps,
    /// The URL has user information (RFC 3986 §3.2.1).
    #[error("it holds a user or a password")]
    UserInfo,
    /// The URL has a query or a fragment.
    #[error("it has a query or a fragment")]
    Query,
    /// The path has characters or segments that servers treat differently.
    #[error("its path is not a plain one")]
    Path,
    /// The host is an IP address, in any notation.
    #[error("it is an IP address and not a name")]
    IpAddress,
    /// The host is not under the issuer's domain.
    #[error("its host is not under the issuer's domain")]
    OtherDomain,
    /// The port belongs to another service of the host.
    #[error("its port is neither 443 nor the issuer's")]
    Port,
    /// The issuer is on loopback, and the address is not.
    #[error("the issuer is on loopback, and it is not")]
    NotLoopback,
}

impl Reach {
    /// Whether a connection may be made to this address.
    pub fn allows(self, address: IpAddr) -> bool {
        match (self, address) {
            (Self::Loopback, address) => address.is_loopback(),
            (Self::Public, address) => is_public(address),
        }
    }
}

/// Checks the address in a document of this issuer.
pub fn accept(api_endpoint: &str, issuer: &Url) -> Result<DiscoveredApi, AddressRefusal> {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"\\%^`{|}\"<>".contains(&byte);
    if !api_endpoint.bytes().all(is_plain) {
        return Err(AddressRefusal::NotPlain);
    }
    let url = Url::parse(api_endpoint).map_err(|_| AddressRefusal::NotPlain)?;
    // Parsers also treat empty user information differently, and more than one `@`.
    if api_endpoint.contains('@') {
        return Err(AddressRefusal::UserInfo);
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(AddressRefusal::Query);
    }
    let path = url.path().trim_end_matches('/');
    if !is_plain_path(path) {
        return Err(AddressRefusal::Path);
    }
    let reach = if is_loopback(issuer) {
        if !is_loopback(&url) {
            return Err(AddressRefusal::NotLoopback);
        }
        Reach::Loopback
    } else {
        Reach::Public
    };
    let scheme = match (url.scheme(), reach) {
        ("https", _) => Scheme::HTTPS,
        ("http", Reach::Loopback) => Scheme::HTTP,
        _ => return Err(AddressRefusal::NotHttps),
    };
    if reach == Reach::Public {
        is_below(&url, issuer)?;
    }
    let host = url.host_str().unwrap_or_default();
    let authority = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    let authority = Authority::from_str(&authority).map_err(|_| AddressRefusal::NotPlain)?;
    Ok(DiscoveredApi { address: Address { scheme, authority, path: path.to_owned() }, reach })
}

/// Checks that host and port are under the issuer's domain.
fn is_below(url: &Url, issuer: &Url) -> Result<(), AddressRefusal> {
    let Some(Host::Domain(host)) = url.host() else { return Err(AddressRefusal::IpAddress) };
    let Some(Host::Domain(issuers)) = issuer.host() else { return Err(AddressRefusal::OtherDomain) };
    let domain = domain(issuers);
    let is_in_it = match host.strip_suffix(domain) {
        Some("") => true,
        Some(below) => below.len() > 1 && below.ends_with('.') && !below.starts_with('.'),
        None => false,
    };
    if !is_in_it {
        return Err(AddressRefusal::OtherDomain);
    }
    if url.port().is_some_and(|port| Some(port) != issuer.port()) {
        return Err(AddressRefusal::Port);
    }
    Ok(())
}

/// The domain that an issuer shares with its APIs: the parent of its host, unless anybody can register names there.
fn domain(issuer: &str) -> &str {
    match issuer.split_once('.') {
        Some((_, parent)) if parent.contains('.') && !is_like_a_registry(parent) => parent,
        _ => issuer,
    }
}

/// Whether anybody may be able to register names below a domain, such as `com.au`. In doubt, the answer is yes.
fn is_like_a_registry(domain: &str) -> bool {
    domain.split_once('.').is_some_and(|(second, top)| second.len() <= 4 && top.len() == 2)
}

fn is_plain_path(path: &str) -> bool {
    let is_plain = |segment: &str| {
        !segment.is_empty()
            && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
    };
    path.is_empty() || path.split('/').skip(1).all(is_plain)
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CXONE: &str = "https://cxone.niceincontact.com";

    fn accepted(api_endpoint: &str, issuer: &str) -> Result<String, AddressRefusal> {
        let found = accept(api_endpoint, &Url::parse(issuer).unwrap())?;
        Ok(format!("{}{}", found.address.origin(), found.address.path))
    }

    #[test]
    fn an_api_under_the_issuers_domain_is_accepted() {
        for (issuer, api_endpoint, expected) in [
            (CXONE, "https://api-na1.niceincontact.com", "https://api-na1.niceincontact.com"),
            (CXONE, "https://API-na1.NiceInContact.com/", "https://api-na1.niceincontact.com"),
            (CXONE, "https://api-na1.niceincontact.com:443/", "https://api-na1.niceincontact.com"),
            (CXONE, "https://a.b.niceincontact.com/base/v2/", "https://a.b.niceincontact.com/base/v2"),
            (CXONE, "https://niceincontact.com", "https://niceincontact.com"),
            (CXONE, "https://xn--bcher-kva.niceincontact.com", "https://xn--bcher-kva.niceincontact.com"),
            ("https://nicecxone-sov1.au", "https://nicecxone-sov1.au", "https://nicecxone-sov1.au"),
            ("https://nicecxone-sov1.au", "https://api.nicecxone-sov1.au", "https://api.nicecxone-sov1.au"),
            (
                "https://cxone.example.com:8443",
                "https://api.example.com:8443",
                "https://api.example.com:8443",
            ),
        ] {
            assert_eq!(accepted(api_endpoint, issuer).as_deref(), Ok(expected), "{api_endpoint}");
        }
    }

    #[test]
    fn nothing_else_is() {
        for (api_endpoint, refusal) in [
            // No URL, or one that is read in two ways.
            ("", AddressRefusal::NotPlain),
            ("api-na1.niceincontact.com", AddressRefusal::NotPlain),
            ("//api-na1.niceincontact.com", AddressRefusal::NotPlain),
            ("https://", AddressRefusal::NotPlain),
            ("https://api.niceincontact.com\\@evil.test", AddressRefusal::NotPlain),
            ("https://api.niceincontact.com\r\nHost: evil.test", AddressRefusal::NotPlain),
            ("https://api.nice\tincontact.com", AddressRefusal::NotPlain),
            (" https://api.niceincontact.com", AddressRefusal::NotPlain),
            ("https://bücher.niceincontact.com", AddressRefusal::NotPlain),
            ("https://api。niceincontact.com", AddressRefusal::NotPlain),
            ("https://api.niceincontact.com:99999", AddressRefusal::NotPlain),
            ("https://256.256.256.256", AddressRefusal::NotPlain),
            ("https://%65vil.test", AddressRefusal::NotPlain),
            // Schemes.
            ("http://api.niceincontact.com", AddressRefusal::NotHttps),
            ("ftp://api.niceincontact.com", AddressRefusal::NotHttps),
            ("ws://api.niceincontact.com", AddressRefusal::NotHttps),
            // Users, queries, fragments, paths.
            ("https://user@api.niceincontact.com", AddressRefusal::UserInfo),
            ("https://u:p@api.niceincontact.com", AddressRefusal::UserInfo),
            ("https://@api.niceincontact.com", AddressRefusal::UserInfo),
            ("https://api.niceincontact.com@evil.test", AddressRefusal::UserInfo),
            ("https://api.niceincontact.com?x=1", AddressRefusal::Query),
            ("https://api.niceincontact.com/?", AddressRefusal::Query),
            ("https://api.niceincontact.com#x", AddressRefusal::Query),
            ("https://api.niceincontact.com/a//b", AddressRefusal::Path),
            ("https://api.niceincontact.com/a;b", AddressRefusal::Path),
            ("https://api.niceincontact.com/%2e", AddressRefusal::NotPlain),
            ("https://api.niceincontact.com/a%2fb", AddressRefusal::NotPlain),
            // Ports.
            ("https://api.niceincontact.com:8443", AddressRefusal::Port),
            ("https://api.niceincontact.com:22", AddressRefusal::Port),
            ("https://api.niceincontact.com:80", AddressRefusal::Port),
            // Other domains.
            ("https://evilniceincontact.com", AddressRefusal::OtherDomain),
            ("https://api.evilniceincontact.com", AddressRefusal::OtherDomain),
            ("https://niceincontact.com.evil.test", AddressRefusal::OtherDomain),
            ("https://api.nice-incontact.com", AddressRefusal::OtherDomain),
            ("https://com", AddressRefusal::OtherDomain),
            ("https://evil.test/.niceincontact.com", AddressRefusal::OtherDomain),
            ("https://.niceincontact.com", AddressRefusal::OtherDomain),
            ("https://api.niceincontact.com.", AddressRefusal::OtherDomain),
            ("https://localhost", AddressRefusal::OtherDomain),
            ("https://localhost.", AddressRefusal::OtherDomain),
            ("https://metadata.google.internal", AddressRefusal::OtherDomain),
            // Addresses, in every dress.
            ("https://127.0.0.1", AddressRefusal::IpAddress),
            ("https://127.0.0.1.", AddressRefusal::IpAddress),
            ("https://127.1", AddressRefusal::IpAddress),
            ("https://2130706433", AddressRefusal::IpAddress),
            ("https://0x7f000001", AddressRefusal::IpAddress),
            ("https://0177.0.0.1", AddressRefusal::IpAddress),
            ("https://0", AddressRefusal::IpAddress),
            ("https://169.254.169.254", AddressRefusal::IpAddress),
            ("https://10.0.0.1", AddressRefusal::IpAddress),
            ("https://8.8.8.8", AddressRefusal::IpAddress),
            ("https://[::1]", AddressRefusal::IpAddress),
            ("https://[::ffff:127.0.0.1]", AddressRefusal::IpAddress),
            ("https://[::ffff:a9fe:a9fe]", AddressRefusal::IpAddress),
            ("https://[64:ff9b::7f00:1]", AddressRefusal::IpAddress),
            ("https://[fd00::1]", AddressRefusal::IpAddress),
            ("https://[fe80::1]", AddressRefusal::IpAddress),
        ] {
            assert_eq!(accepted(api_endpoint, CXONE), Err(refusal), "{api_endpoint}");
        }
    }

    #[test]
    fn a_domain_of_a_registry_is_never_an_issuers_domain() {
        for (issuer, api_endpoint) in [
            ("https://nicecxone-sov1.au", "https://evil.au"),
            ("https://nicecxone-fed.com", "https://evil.com"),
            ("https://nicecxone.com.au", "https://evil.com.au"),
            ("https://nicecxone.co.uk", "https://evil.co.uk"),
            ("https://nicecxone.govt.nz", "https://evil.govt.nz"),
            ("https://intranet", "https://evil"),
            ("https://10.0.0.5", "https://x.0.0.5a"),
            ("https://10.0.0.5", "https://api.example.com"),
        ] {
            assert_eq!(accepted(api_endpoint, issuer), Err(AddressRefusal::OtherDomain), "{api_endpoint}");
        }
    }

    #[test]
    fn an_issuer_on_loopback_has_its_api_on_loopback_also_without_tls() {
        for issuer in ["http://127.0.0.1:9000", "https://localhost:9000", "http://[::1]:9000"] {
            for good in
                ["http://127.0.0.1:1", "http://localhost:2/base", "https://localhost:3", "http://[::1]:4"]
            {
                assert_eq!(accepted(good, issuer).as_deref(), Ok(good), "{issuer}");
            }
            for bad in [
                "http://10.0.0.1",
                "https://api-na1.niceincontact.com",
                "http://169.254.169.254",
                "http://localhost.",
                "http://[::ffff:127.0.0.1]",
                "http://0.0.0.0",
                "http://x.localhost",
            ] {
                assert_eq!(accepted(bad, issuer), Err(AddressRefusal::NotLoopback), "{bad}");
            }
        }
    }

    #[test]
    fn only_globally_reachable_addresses_are_public() {
        for public in [
            "8.8.8.8",
            "1.1.1.1",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.0.1",
            "172.32.0.1",
            "198.17.0.1",
            "198.20.0.1",
            "223.255.255.255",
            "192.0.1.1",
            "2606:4700::1111",
            "2a00:1450::1",
            "2001:200::1",
            "2001:4860:4860::8888",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
        ] {
            assert!(Reach::Public.allows(public.parse().unwrap()), "{public}");
            assert!(!Reach::Loopback.allows(public.parse().unwrap()), "{public}");
        }
        for special in [
            "0.0.0.0",
            "0.1.2.3",
            "10.255.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:10.0.0.1",
            "64:ff9b::127.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b::169.254.169.254",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:10::1",
            "2001:20::1",
            "2001:db8::1",
            "2002:7f00:1::1",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!Reach::Public.allows(special.parse().unwrap()), "{special}");
        }
        assert!(Reach::Loopback.allows("127.0.0.1".parse().unwrap()));
        assert!(Reach::Loopback.allows("::1".parse().unwrap()));
        assert!(!Reach::Loopback.allows("::ffff:10.0.0.1".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_is_https_and_under_the_domain(
            api_endpoint in "(https?:)?[/\\\\]{0,3}[a-z0-9.:@\\[\\]%\\\\]{0,12}(\\.?niceincontact\\.com)?[:@/?#a-z0-9.%\\\\]{0,12}",
        ) {
            if let Ok(found) = accept(&api_endpoint, &Url::parse(CXONE).unwrap()) {
                prop_assert_eq!(&found.address.scheme, &Scheme::HTTPS);
                let host = found.address.authority.host();
                prop_assert!(host == "niceincontact.com" || host.ends_with(".niceincontact.com"));
                prop_assert!(found.address.authority.port_u16().is_none());
                prop_assert_eq!(found.reach, Reach::Public);
            }
        }
    }
}
