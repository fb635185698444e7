//! `Forwarded` (RFC 7239) and `X-Forwarded-*`: read from trusted proxies, written for upstreams.
//!
//! The client's address according to a trusted proxy is used in the log and for upstreams only; access depends on the
//! peer of the connection. The fields for an upstream are the proxy's own, never a caller's.

use std::net::{IpAddr, SocketAddr};

use http::header::{FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use ipnet::IpNet;

use super::list::members;
use crate::config::Forwarded;
use crate::proxy::peer::{Peer, contain};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// The client's address according to a trusted proxy: the right-most one that is not a trusted proxy's.
///
/// `None` if neither field has one, or if the two differ: a proxy that writes one field may pass on a caller's other
/// one.
pub fn client_address(peer: &Peer, headers: &HeaderMap, trusted: &[IpNet]) -> Option<IpAddr> {
    if !peer.is_trusted_proxy {
        return None;
    }
    let said = |name: &HeaderName, address: fn(&str) -> Option<IpAddr>| {
        let mut found = None;
        // Each proxy appends an entry, so that the right-most entries are the most reliable.
        for entry in headers.get_all(name).iter().rev().flat_map(|value| members(value).rev()) {
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

/// An address with or without a port, as in `X-Forwarded-For`.
fn plain(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()));
    address.map(|address| address.to_canonical())
}

/// The `for` of an element of `Forwarded` (RFC 7239 §4, §6); `None` for a part of a quoted string with a comma in it.
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

/// The fields that tell an upstream of the caller.
#[derive(Debug)]
pub struct ForwardedFields {
    how: Forwarded,
    address: Option<IpAddr>,
    scheme: &'static str,
    host: String,
}

impl ForwardedFields {
    /// Takes the values from a request head as received; `None` if the route sends no such fields.
    pub fn of(how: Forwarded, head: &Parts, address: Option<IpAddr>, is_tls: bool) -> Option<Self> {
        if how == Forwarded::None {
            return None;
        }
        let authority = head.uri.authority().map(http::uri::Authority::as_str);
        let host = authority.or_else(|| head.headers.get(HOST)?.to_str().ok()).unwrap_or_default().to_owned();
        Some(Self { how, address, scheme: if is_tls { "https" } else { "http" }, host })
    }

    /// Sets the fields, in place of any with the same names.
    pub fn write(&self, headers: &mut HeaderMap) {
        let Self { how, address, scheme, host } = self;
        let mut set = |name: HeaderName, value: String| {
            // Without a value of the proxy's own, one of the caller's, which a route may pass, must not stay.
            match HeaderValue::try_from(value).ok().filter(|value| !value.is_empty()) {
                Some(value) => drop(headers.insert(name, value)),
                None => drop(headers.remove(name)),
            }
        };
        match how {
            Forwarded::None => {}
            Forwarded::XForwarded => {
                set(X_FORWARDED_PROTO, (*scheme).to_owned());
                set(X_FORWARDED_HOST, host.clone());
                set(X_FORWARDED_FOR, address.map(|address| address.to_string()).unwrap_or_default());
            }
            Forwarded::Forwarded => {
                let address = match address {
                    Some(IpAddr::V4(address)) => address.to_string(),
                    Some(IpAddr::V6(address)) => format!("\"[{address}]\""),
                    None => "unknown".to_owned(),
                };
                let host = if host.is_empty() { String::new() } else { format!("host=\"{host}\";") };
                set(FORWARDED, format!("for={address};{host}proto={scheme}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;
    use crate::proxy::message::fixture::{map, sorted};
    use crate::proxy::peer::Networks;

    fn trusted() -> Vec<IpNet> {
        vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()]
    }

    fn said_by(peer: &str, fields: &[(&str, &str)]) -> Option<String> {
        let networks = Networks { trusted_proxies: trusted(), ..Networks::default() };
        let peer = networks.judge(format!("{peer}:1").parse().unwrap());
        client_address(&peer, &map(fields), &trusted()).map(|address| address.to_string())
    }

    #[test]
    fn the_client_is_the_right_most_address_that_is_no_trusted_proxy() {
        for (fields, address) in [
            (&[("x-forwarded-for", "192.0.2.1")][..], Some("192.0.2.1")),
            (&[("x-forwarded-for", "6.6.6.6, 192.0.2.1, 10.0.0.2")], Some("192.0.2.1")),
            (&[("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "192.0.2.1")], Some("192.0.2.1")),
            (&[("x-forwarded-for", "192.0.2.1:4711")], Some("192.0.2.1")),
            (&[("x-forwarded-for", "[2a00::1]:4711")], Some("2a00::1")),
            (&[("x-forwarded-for", "::ffff:192.0.2.1")], Some("192.0.2.1")),
            (&[("x-forwarded-for", "10.0.0.3, 10.0.0.2")], Some("10.0.0.3")),
            // An unreadable entry ends the list: the proxy to its right is the last known address.
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
            assert_eq!(said_by("192.0.2.9", fields), None, "not a trusted proxy: {fields:?}");
        }
    }

    /// The fields for the upstream of a request with an `X-Forwarded-For` of its own.
    fn told(how: Forwarded, address: Option<&str>, is_tls: bool) -> HeaderMap {
        let request = Request::get("/x").header("host", "gw.test:8080").body(()).unwrap();
        let (head, ()) = request.into_parts();
        let address = address.map(|address| address.parse().unwrap());
        let mut headers = map(&[("x-forwarded-for", "6.6.6.6")]);
        if let Some(fields_for_upstream) = ForwardedFields::of(how, &head, address, is_tls) {
            fields_for_upstream.write(&mut headers);
        }
        headers
    }

    #[test]
    fn an_upstream_gets_the_fields_that_the_route_configures() {
        const OWN: (&str, &str) = ("x-forwarded-for", "6.6.6.6");
        for (how, address, is_tls, fields) in [
            (Forwarded::None, Some("192.0.2.1"), true, &[OWN][..]),
            (
                Forwarded::XForwarded,
                Some("192.0.2.1"),
                true,
                &[
                    ("x-forwarded-for", "192.0.2.1"),
                    ("x-forwarded-host", "gw.test:8080"),
                    ("x-forwarded-proto", "https"),
                ],
            ),
            (
                Forwarded::XForwarded,
                None,
                false,
                &[("x-forwarded-host", "gw.test:8080"), ("x-forwarded-proto", "http")],
            ),
            (
                Forwarded::Forwarded,
                Some("2a00::1"),
                false,
                &[("forwarded", "for=\"[2a00::1]\";host=\"gw.test:8080\";proto=http"), OWN],
            ),
            (
                Forwarded::Forwarded,
                None,
                false,
                &[("forwarded", "for=unknown;host=\"gw.test:8080\";proto=http"), OWN],
            ),
        ] {
            assert_eq!(sorted(&told(how, address, is_tls)), fields);
        }
    }
}
