//! On whose behalf a request comes: what trusted proxies say of it, and what an upstream is told.
//!
//! A trusted proxy's word counts for the log and for what an upstream is told, and for nothing else: who may call
//! is decided by who connects. What an upstream is told is our own statement, never a caller's field.

use std::net::{IpAddr, SocketAddr};

use http::header::{FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use ipnet::IpNet;

use crate::config::Forwarded;
use crate::proxy::peer::{Peer, contain};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// For whom a trusted proxy calls: the right-most address that is no trusted proxy's. `None` if it does not say, or
/// says two things: a proxy that writes one of the fields may pass the other on as it came.
pub fn original(peer: &Peer, headers: &HeaderMap, trusted: &[IpNet]) -> Option<IpAddr> {
    if !peer.is_trusted_proxy {
        return None;
    }
    let said = |name: &HeaderName, address: fn(&str) -> Option<IpAddr>| {
        let mut found = None;
        // From the right: each was written by whoever is right of it.
        for entry in headers.get_all(name).iter().rev().flat_map(entries) {
            match entry.and_then(address) {
                Some(address) => found = Some(address),
                None => break,
            }
            if !found.is_some_and(|address| contain(trusted, address)) {
                break;
            }
        }
        found
    };
    let by_list = headers.contains_key(X_FORWARDED_FOR).then(|| said(&X_FORWARDED_FOR, plain));
    let by_rfc = headers.contains_key(FORWARDED).then(|| said(&FORWARDED, rfc_7239));
    match (by_list, by_rfc) {
        (Some(one), Some(other)) => one.filter(|_| one == other),
        (one, other) => one.or(other).flatten(),
    }
}

/// A list's members from the right; `None` for what is not text.
fn entries(value: &HeaderValue) -> impl Iterator<Item = Option<&str>> {
    let text = value.to_str().ok();
    let is_text = text.is_some();
    let members = text.unwrap_or_default().rsplit(',').map(str::trim).filter(move |_| is_text);
    members.map(Some).chain((!is_text).then_some(None))
}

/// An address with or without a port, as in `X-Forwarded-For`.
fn plain(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()));
    address.map(|address| address.to_canonical())
}

/// The `for` of an element of `Forwarded` (RFC 7239 §4, §6). Half a quoted string, which a comma in it leaves, is none.
fn rfc_7239(element: &str) -> Option<IpAddr> {
    if element.matches('"').count() % 2 == 1 || element.contains('\\') {
        return None;
    }
    let mut values = element.split(';').filter_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then_some(value.trim())
    });
    let (value, None) = (values.next()?, values.next()) else { return None };
    plain(value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value))
}

/// What an upstream is told of a caller.
#[derive(Debug)]
pub struct Statement {
    how: Forwarded,
    address: Option<IpAddr>,
    scheme: &'static str,
    host: String,
}

impl Statement {
    /// Of a request as it came in; `None` if nothing is to be told.
    pub fn of(how: Forwarded, head: &Parts, address: Option<IpAddr>, is_tls: bool) -> Option<Self> {
        if how == Forwarded::None {
            return None;
        }
        let authority = head.uri.authority().map(http::uri::Authority::as_str);
        let host = authority.or_else(|| head.headers.get(HOST)?.to_str().ok()).unwrap_or_default().to_owned();
        Some(Self { how, address, scheme: if is_tls { "https" } else { "http" }, host })
    }

    /// Writes it among the fields for the upstream, in the place of whatever has these names.
    pub fn write(&self, headers: &mut HeaderMap) {
        let Self { how, address, scheme, host } = self;
        let mut set = |name: HeaderName, value: String| {
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(name, value);
            }
        };
        match how {
            Forwarded::None => {}
            Forwarded::XForwarded => {
                set(X_FORWARDED_PROTO, (*scheme).to_owned());
                set(X_FORWARDED_HOST, host.clone());
                match address {
                    Some(address) => set(X_FORWARDED_FOR, address.to_string()),
                    // Nothing has been said of it, whatever the caller said.
                    None => drop(headers.remove(X_FORWARDED_FOR)),
                }
            }
            Forwarded::Forwarded => {
                let address = match address {
                    Some(IpAddr::V4(address)) => address.to_string(),
                    Some(IpAddr::V6(address)) => format!("\"[{address}]\""),
                    None => "unknown".to_owned(),
                };
                set(FORWARDED, format!("for={address};host=\"{host}\";proto={scheme}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;
    use crate::proxy::peer::Networks;

    fn trusted() -> Vec<IpNet> {
        vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()]
    }

    fn said_by(peer: &str, fields: &[(&'static str, &str)]) -> Option<String> {
        let networks = Networks { trusted_proxies: trusted(), ..Networks::default() };
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let peer = networks.judge(format!("{peer}:1").parse().unwrap());
        original(&peer, &headers, &trusted()).map(|address| address.to_string())
    }

    #[test]
    fn the_right_most_address_that_is_no_proxys_is_the_callers() {
        for (fields, address) in [
            (&[("x-forwarded-for", "192.0.2.1")][..], Some("192.0.2.1")),
            (&[("x-forwarded-for", "6.6.6.6, 192.0.2.1, 10.0.0.2")], Some("192.0.2.1")),
            (&[("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "192.0.2.1")], Some("192.0.2.1")),
            (&[("x-forwarded-for", "192.0.2.1:4711")], Some("192.0.2.1")),
            (&[("x-forwarded-for", "[2a00::1]:4711")], Some("2a00::1")),
            (&[("x-forwarded-for", "::ffff:192.0.2.1")], Some("192.0.2.1")),
            (&[("x-forwarded-for", "10.0.0.3, 10.0.0.2")], Some("10.0.0.3")),
            // What cannot be read ends the list: the proxy right of it is all that is known.
            (&[("x-forwarded-for", "192.0.2.1, unknown, 10.0.0.2")], Some("10.0.0.2")),
            (&[("x-forwarded-for", "192.0.2.1,")], None),
            (&[("x-forwarded-for", "192.0.2.1, \u{e9}")], None),
            (&[("x-forwarded-for", "")], None),
            (&[("forwarded", "for=6.6.6.6, For=\"[2a00::1]:4711\";proto=https")], Some("2a00::1")),
            (&[("forwarded", "for=192.0.2.1;by=10.0.0.2, for=10.0.0.9")], Some("192.0.2.1")),
            (&[("forwarded", "for=_hidden")], None),
            (&[("forwarded", "for=192.0.2.1;for=192.0.2.2")], None),
            (&[("forwarded", "by=\",for=6.6.6.6;\"")], None),
            (&[("forwarded", "for=192.0.2.1;host=\"a,for=6.6.6.6,\"")], None),
            (&[("forwarded", "for=192.0.2.1;host=\"a\\\",for=6.6.6.6;x=\\\"\"")], None),
            (&[("x-forwarded-for", "192.0.2.1"), ("forwarded", "for=192.0.2.1")], Some("192.0.2.1")),
            (&[("x-forwarded-for", "192.0.2.1"), ("forwarded", "for=6.6.6.6")], None),
            (&[("x-forwarded-for", "unknown"), ("forwarded", "for=6.6.6.6")], None),
            (&[], None),
        ] {
            assert_eq!(said_by("10.0.0.1", fields).as_deref(), address, "{fields:?}");
            assert_eq!(said_by("192.0.2.9", fields), None, "whom nobody trusts: {fields:?}");
        }
    }

    fn told(how: Forwarded, address: Option<&str>, is_tls: bool) -> Vec<(String, String)> {
        let request = Request::get("/x").header("host", "gw.test:8080").body(()).unwrap();
        let (head, ()) = request.into_parts();
        let address = address.map(|address| address.parse().unwrap());
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", HeaderValue::from_static("6.6.6.6"));
        let before = headers.len();
        match Statement::of(how, &head, address, is_tls) {
            Some(statement) => statement.write(&mut headers),
            None => assert_eq!(headers.len(), before),
        }
        let mut told: Vec<_> = headers
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
            .filter(|(_, value)| value != "6.6.6.6")
            .collect();
        told.sort();
        told
    }

    fn fields(fields: &[(&str, &str)]) -> Vec<(String, String)> {
        fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn an_upstream_is_told_what_the_route_says_and_no_more() {
        assert_eq!(told(Forwarded::None, Some("192.0.2.1"), true), fields(&[]));
        assert_eq!(
            told(Forwarded::XForwarded, Some("192.0.2.1"), true),
            fields(&[
                ("x-forwarded-for", "192.0.2.1"),
                ("x-forwarded-host", "gw.test:8080"),
                ("x-forwarded-proto", "https")
            ])
        );
        assert_eq!(
            told(Forwarded::Forwarded, Some("2a00::1"), false)[0].1,
            "for=\"[2a00::1]\";host=\"gw.test:8080\";proto=http"
        );
        assert_eq!(
            told(Forwarded::Forwarded, None, false)[0].1,
            "for=unknown;host=\"gw.test:8080\";proto=http"
        );
        assert_eq!(
            told(Forwarded::XForwarded, None, false),
            fields(&[("x-forwarded-host", "gw.test:8080"), ("x-forwarded-proto", "http")])
        );
    }
}
