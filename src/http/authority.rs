//! The host and port that a request is for (RFC 9110 §7.2), read in one way by every server in the daemon.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::header::HOST;
use http::request::Parts;
use http::{Uri, Version};

use crate::config::is_host;

/// A host with its port, if there is one.
#[derive(Clone, Copy, Debug)]
pub struct Authority<'r> {
    /// The authority as received; empty if the request names no host.
    pub text: &'r str,
    /// A name without a dot at its end, an IPv4 address, or an IPv6 address in brackets; in the sender's case. Empty if the
    /// request names no host.
    pub host: &'r str,
    /// The port, where it is written.
    pub port: Option<u16>,
}

impl<'r> Authority<'r> {
    /// That of a request without a host: over HTTP/1.0 without `Host` (RFC 1945), or over HTTP/2 without `:authority` and
    /// `Host` (RFC 9113 §8.3.1), as health checks send it. No browser does, so that such a request needs no protection from
    /// DNS rebinding.
    pub const NONE: Self = Self { text: "", host: "", port: None };

    /// The one authority of a request: `Host` (RFC 9112 §3.2), or over HTTP/2 `:authority`, with which a `Host` must agree,
    /// and which a `Host` may replace (RFC 9113 §8.3.1).
    ///
    /// # Errors
    ///
    /// Why there is none, or more than one.
    pub fn of(head: &'r Parts) -> Result<Self, &'static str> {
        let mut hosts = head.headers.get_all(HOST).iter();
        let host = hosts.next().map(|value| value.to_str().map_err(|_| "Host is not text"));
        if hosts.next().is_some() {
            return Err("there is more than one Host");
        }
        let host = host.transpose()?;
        let authority = head.uri.authority().filter(|_| head.version == Version::HTTP_2);
        let text = match (authority.map(http::uri::Authority::as_str), host) {
            (Some(authority), Some(host)) if !host.eq_ignore_ascii_case(authority) => {
                return Err("Host and :authority differ");
            }
            (Some(authority), _) => authority,
            (None, Some(host)) => host,
            (None, None) if head.version == Version::HTTP_11 => return Err("there is no Host"),
            (None, None) => return Ok(Self::NONE),
        };
        Self::parse(text).ok_or("Host is not a host name with a port at most")
    }

    /// Reads `host`, `host:` or `host:port`; `None` for anything else. A dot at the end of the host is left out: it marks the
    /// name as complete (RFC 1034 §3.1).
    pub fn parse(text: &'r str) -> Option<Self> {
        let (host, digits) = match text.bytes().rposition(|byte| byte == b':') {
            Some(colon) if !text[colon..].contains(']') => (&text[..colon], &text[colon + 1..]),
            _ => (text, ""),
        };
        let host = host.strip_suffix('.').unwrap_or(host);
        if !is_host(host) || digits.len() > 5 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let port = if digits.is_empty() { None } else { Some(digits.parse().ok()?) };
        Some(Self { text, host, port })
    }

    /// Whether a target in absolute form names another authority (RFC 9112 §3.2.2).
    pub fn differs_from(self, target: &Uri) -> bool {
        target.authority().is_some_and(|other| !other.as_str().eq_ignore_ascii_case(self.text))
    }

    /// The host as an address, if it is no name.
    pub fn ip(self) -> Option<IpAddr> {
        match self.host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(v6) => v6.parse::<Ipv6Addr>().map(IpAddr::V6).ok(),
            None => self.host.parse::<Ipv4Addr>().map(IpAddr::V4).ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_a_host_and_at_most_a_port() {
        for (text, host, port, ip) in [
            ("LOCALHOST:8080", "LOCALHOST", Some(8080), None),
            ("localhost:", "localhost", None, None),
            ("localhost.:80", "localhost", Some(80), None),
            ("127.0.0.1.", "127.0.0.1", None, Some("127.0.0.1")),
            ("127.0.0.1:65535", "127.0.0.1", Some(65535), Some("127.0.0.1")),
            ("[::1]", "[::1]", None, Some("::1")),
            ("[::1]:80", "[::1]", Some(80), Some("::1")),
        ] {
            let authority = Authority::parse(text).unwrap();
            assert_eq!((authority.host, authority.port), (host, port), "{text}");
            assert_eq!(authority.ip(), ip.map(|ip| ip.parse().unwrap()), "{text}");
        }
        for wrong in "|:80|.|u@a|a, b|a/b|a:http|a:+80|a:80:80|a:65536|a:000080|::1|[::1|[zz]".split('|') {
            assert!(Authority::parse(wrong).is_none(), "{wrong}");
        }
    }
}
