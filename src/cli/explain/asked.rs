//! The request that `bearerd explain` is asked about.

use std::io::BufRead;

use http::header::{HOST, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Request, Uri};
use secrecy::zeroize::Zeroizing;
use thiserror::Error;

use crate::config::Server;
use crate::http::secret_header_value;
use crate::proxy::callers::X_API_KEY;

/// The longest line with a key, in bytes.
const MAX_KEY_LINE: u64 = 4096;

/// A request as a caller sends it.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) head: Parts,
    /// Remarks about how the arguments were read.
    pub(super) remarks: Vec<&'static str>,
}

/// The arguments are no request. No message quotes them: a header field may hold a secret.
#[derive(Debug, Error)]
pub(super) enum NoRequest {
    #[error("the method is not a token (RFC 9110 §5.6.2)")]
    Method,
    #[error("the URL is neither an http:// or https:// URL nor a path")]
    Url,
    #[error("the URL holds a user or a password")]
    User,
    #[error("the URL has a character that no request target can have")]
    Target,
    #[error("the host of the URL has a character that no Host field can have")]
    Host,
    #[error("a header field is not of the form `NAME: VALUE`")]
    Header,
    #[error("standard input has no key")]
    Key,
}

impl NoRequest {
    pub(super) const fn help(&self) -> &'static str {
        match self {
            Self::Method => "write a method such as GET",
            Self::Url => {
                "write what the caller requests, such as http://localhost:8080/api/v2/users or /api/v2/users"
            }
            Self::User => "remove the part before the `@`",
            Self::Target => "write other characters than visible ASCII as %XX, as clients do",
            Self::Host => "write a host name or an address, with a port at most",
            Self::Header => "write a field such as 'Accept: text/plain'",
            Self::Key => "write the key on one line, as `bearerd keygen --caller` prints it first",
        }
    }
}

impl Asked {
    /// The request with this method, URL and header fields. A URL without a host is at the first host of the server.
    ///
    /// # Errors
    ///
    /// Why there is no such request.
    pub(super) fn new(
        method: &str,
        url: &str,
        headers: &[String],
        server: &Server,
    ) -> Result<Self, NoRequest> {
        let mut remarks = Vec::new();
        let method = Method::from_bytes(method.as_bytes()).map_err(|_| NoRequest::Method)?;
        let (scheme, host, target) = split(url)?;
        if let Some(scheme) = scheme
            && scheme.eq_ignore_ascii_case("https") != server.tls.is_some()
        {
            remarks.push(if server.tls.is_some() {
                "server.tls is set: callers use https://"
            } else {
                "server.tls is not set: something in front of bearerd speaks TLS with callers of an https:// URL"
            });
        }
        let target = match target.split_once('#') {
            Some((target, _)) => {
                remarks.push("clients do not send the part of a URL from # on");
                target
            }
            None => target,
        };
        let slash = if target.starts_with('/') { "" } else { "/" };
        let target = PathAndQuery::try_from(format!("{slash}{target}")).map_err(|_| NoRequest::Target)?;
        let host = match host {
            Some(host) => HeaderValue::try_from(host).map_err(|_| NoRequest::Host)?,
            None => {
                remarks.push("the host is assumed: the first of the accepted hosts");
                HeaderValue::try_from(server.hosts.example()).map_err(|_| NoRequest::Host)?
            }
        };
        let mut head = Request::new(()).into_parts().0;
        (head.method, head.uri) = (method, Uri::from(target));
        head.headers.insert(HOST, host);
        for field in headers {
            let (name, value) = field.split_once(':').ok_or(NoRequest::Header)?;
            let name = HeaderName::try_from(name).map_err(|_| NoRequest::Header)?;
            let value = HeaderValue::try_from(value.trim()).map_err(|_| NoRequest::Header)?;
            // As curl does: a `Host` replaces that of the URL.
            if name == HOST {
                head.headers.insert(name, value);
            } else {
                head.headers.append(name, value);
            }
        }
        Ok(Self { head, remarks })
    }

    /// Adds the key of a caller, which is the first line of `input`.
    ///
    /// # Errors
    ///
    /// There is no line, or its text cannot be a field value.
    pub(super) fn add_key(&mut self, input: impl BufRead) -> Result<(), NoRequest> {
        let mut line = Zeroizing::new(String::new());
        input.take(MAX_KEY_LINE).read_line(&mut line).map_err(|_| NoRequest::Key)?;
        let key = line.trim();
        let value = secret_header_value(&[key]).ok().filter(|_| !key.is_empty()).ok_or(NoRequest::Key)?;
        self.head.headers.insert(X_API_KEY, value);
        Ok(())
    }
}

/// The scheme, the authority and the rest of a URL; the rest alone if the URL is a path.
fn split(url: &str) -> Result<(Option<&str>, Option<&str>, &str), NoRequest> {
    if url.starts_with('/') {
        return Ok((None, None, url));
    }
    let (scheme, rest) = url.split_once("://").ok_or(NoRequest::Url)?;
    if !["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
        return Err(NoRequest::Url);
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at(end);
    match authority {
        "" => Err(NoRequest::Url),
        authority if authority.contains('@') => Err(NoRequest::User),
        authority => Ok((Some(scheme), Some(authority), target)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_split_without_changing_a_byte() {
        let http = |host, target| (Some("http"), Some(host), target);
        for (url, parts) in [
            ("/a/%2E%2e//b?x=//y#z", (None, None, "/a/%2E%2e//b?x=//y#z")),
            ("http://h", http("h", "")),
            ("http://h:1?x=/a", http("h:1", "?x=/a")),
            ("http://[::1]:80/a:b@c", http("[::1]:80", "/a:b@c")),
        ] {
            assert_eq!(split(url).unwrap(), parts, "{url}");
        }
        for wrong in ["", "a", "localhost:8080/a", "ftp://h/a", "http://", "http:///a", "http://u:p@h/a"] {
            assert!(split(wrong).is_err(), "{wrong}");
        }
    }
}
