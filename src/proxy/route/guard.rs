//! The guard: refuses request heads that are malformed, ambiguous, or from a caller that may not send them.
//!
//! An accepted head has the same meaning for the proxy, for hyper and for any upstream. The guard is a pure function of
//! the head and changes nothing: the path that is matched is the path that is sent.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, EXPECT, HeaderMap, HeaderName, HeaderValue, ORIGIN, TE,
    TRANSFER_ENCODING,
};
use http::request::Parts;
use http::{Method, Version};
use percent_encoding::percent_decode;

use super::lenient_path::{LenientPath, is_overlong};
use super::percent;
use crate::config::model::fields::{
    is_for_proxies, is_method_override, is_ordinary, is_plain, is_same_field, plain,
};
use crate::config::{self, Hosts, RequiredHeader};
use crate::http::{Authority, SEC_FETCH_SITE, TRACEPARENT, TRACESTATE, X_REQUEST_ID, is_cross_site};
use crate::proxy::error::ProxyError;
use crate::proxy::message::field_rules::FieldRules;
use crate::proxy::message::list::members;
use crate::proxy::message::loops::{self, CDN_LOOP};

const CONNECTION_NAMES_PROTECTED: &str = "Connection names a field that must not be removed";

/// The longest accepted method in bytes; registered ones have up to 17.
const MAX_METHOD: usize = 32;

/// The configured checks of a request head.
#[derive(Debug)]
pub struct Policy {
    hosts: Hosts,
    origins: Vec<String>,
    /// Whether the server terminates TLS.
    is_tls: bool,
    required_header: Option<RequiredHeader>,
    /// The pseudonym of this daemon in `CDN-Loop`.
    instance: String,
}

/// The target of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'r> {
    /// The host without its port.
    pub host: &'r str,
    /// The path as received.
    pub path: &'r str,
    /// Whether servers interpret the path differently. Routes with rules refuse such a path.
    pub is_ambiguous: bool,
    /// The fields that the checks and the rules of a route concern.
    pub fields: Present,
}

/// The kinds of fields that a request has. One pass over the names costs less than a lookup for each field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "a set: each kind is there or not")]
pub struct Present {
    framing: bool,
    hops: bool,
    origin: bool,
    /// `TE`, by which a caller accepts trailers.
    te: bool,
    method_override: bool,
    trace: bool,
    request_id: bool,
    /// A name with a character other than letters, digits and hyphens.
    odd_name: bool,
}

impl Present {
    /// The kinds of the fields in a request head.
    pub fn among(headers: &HeaderMap) -> Self {
        let mut present = Self::default();
        for name in headers.keys().filter(|name| !is_ordinary(name)) {
            match *name {
                CONTENT_LENGTH | TRANSFER_ENCODING | EXPECT => present.framing = true,
                CONNECTION => present.hops = true,
                ORIGIN => present.origin = true,
                TE => present.te = true,
                _ => {}
            }
            present.hops |= name == CDN_LOOP;
            present.origin |= name == SEC_FETCH_SITE;
            present.trace |= name == TRACEPARENT || name == TRACESTATE;
            present.request_id |= name == X_REQUEST_ID;
            present.method_override |= is_method_override(name);
            present.odd_name |= !is_plain(name.as_str());
        }
        present
    }

    /// Whether there is a field of a trace.
    pub const fn has_trace(self) -> bool {
        self.trace
    }

    /// Whether there is an identifier of the request.
    pub const fn has_request_id(self) -> bool {
        self.request_id
    }

    /// Whether the request has a `TE`.
    pub const fn has_te(self) -> bool {
        self.te
    }

    /// Whether some name may be another spelling of a field that a route changes.
    pub const fn has_odd_name(self) -> bool {
        self.odd_name
    }
}

impl Policy {
    /// The policy of a server whose own entry in `CDN-Loop` is `instance`.
    pub fn new(server: &config::Server, instance: &str) -> Self {
        Self {
            hosts: server.hosts.clone(),
            origins: server.origins.clone(),
            is_tls: server.tls.is_some(),
            required_header: server.required_header.clone(),
            instance: instance.to_owned(),
        }
    }
}

/// Checks a request head, in which these fields are `present`, and returns its target, or the error of the first check that
/// fails.
pub fn vet<'r>(head: &'r Parts, present: Present, policy: &Policy) -> Result<Target<'r>, ProxyError> {
    check_method(&head.method)?;
    let authority = Authority::of(head).map_err(ProxyError::BadRequest)?;
    let host = authority.host;
    if !host.is_empty() && !policy.hosts.contain(host) {
        return Err(ProxyError::HostNotAllowed);
    }
    check_target(head, authority).map_err(ProxyError::BadRequest)?;
    let path = head.uri.path();
    let is_ambiguous = check_path(path).map_err(ProxyError::BadRequest)?;
    if is_ambiguous && !LenientPath::of(path).is_harmless() {
        return Err(ProxyError::BadRequest(
            "the path contains what some servers decode to a dot segment or a control character",
        ));
    }
    check_query(head.uri.query()).map_err(ProxyError::BadRequest)?;
    if present.framing {
        check_framing(head)?;
    }
    if present.odd_name {
        check_names(&head.headers).map_err(ProxyError::BadRequest)?;
    }
    if present.hops {
        check_connection(&head.headers).map_err(ProxyError::BadRequest)?;
    }
    // A page of another site must not use the credential through the browser of a person who can reach the proxy.
    if present.origin && is_cross_site(&head.headers, authority, policy.is_tls, &policy.origins) {
        return Err(ProxyError::BrowserRequest);
    }
    check_required_header(&head.headers, policy)?;
    if present.hops && loops::has_passed(&head.headers, &policy.instance) {
        return Err(ProxyError::LoopDetected);
    }
    Ok(Target { host, path, is_ambiguous, fields: present })
}

/// Checks the fields of a request by the rules of its route. Refuses the fields by which some servers replace the method,
/// unless the route passes them, and a `Connection` that names the field of the token.
pub fn check_fields(headers: &HeaderMap, target: &Target<'_>, rules: &FieldRules) -> Result<(), ProxyError> {
    let is_refused = |name: &HeaderName| is_method_override(name) && !rules.passes(name);
    if target.fields.method_override && headers.keys().any(is_refused) {
        return Err(ProxyError::BadRequest(
            "a field replaces the method of the request: send the method itself, or have the route `pass` the field",
        ));
    }
    // The guard has checked for `Authorization` already.
    if target.fields.hops && rules.token_field != AUTHORIZATION {
        let mut named = headers.get_all(CONNECTION).iter().flat_map(members).flatten();
        if named.any(|name| is_same_field(name, rules.token_field.as_str())) {
            return Err(ProxyError::BadRequest(CONNECTION_NAMES_PROTECTED));
        }
    }
    Ok(())
}

/// Refuses TRACE, which would echo the token (RFC 9110 §9.3.8), also as IIS knows it (TRACK), and CONNECT, which asks for a
/// tunnel (§9.3.6). Some servers ignore the case of a method.
fn check_method(method: &Method) -> Result<(), ProxyError> {
    if matches!(*method, Method::GET | Method::POST | Method::PUT | Method::DELETE | Method::PATCH) {
        return Ok(());
    }
    let name = method.as_str();
    if ["TRACE", "CONNECT", "TRACK"].iter().any(|refused| name.eq_ignore_ascii_case(refused)) {
        return Err(ProxyError::MethodNotSupported);
    }
    if name.len() > MAX_METHOD {
        return Err(ProxyError::BadRequest("the method is too long"));
    }
    Ok(())
}

/// RFC 9112 §3.2: origin-form, or absolute-form that names the same authority.
fn check_target(head: &Parts, authority: Authority<'_>) -> Result<(), &'static str> {
    let uri = &head.uri;
    let scheme_is_http = uri.scheme_str().is_none_or(|scheme| scheme == "http" || scheme == "https");
    // `GET foo` parses as an authority without a path; joined to an upstream it would become `GET /`.
    let is_authority_form = uri.scheme().is_none() && uri.authority().is_some();
    if !scheme_is_http || authority.differs_from(uri) || is_authority_form || !uri.path().starts_with('/') {
        return Err("the request target is not a path on this host");
    }
    Ok(())
}

/// Refuses a path that servers are known to interpret differently; returns whether the rest is ambiguous.
fn check_path(path: &str) -> Result<bool, &'static str> {
    let bytes = path.as_bytes();
    let mut is_ambiguous = false;
    let mut segment_start = 1;
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'/' => {
                if at > 0 {
                    is_ambiguous |= check_segment(&path[segment_start..at])?;
                    is_ambiguous |= at == segment_start;
                }
                segment_start = at + 1;
            }
            b'\\' | 0..=0x1f | 0x7f | 0xc0 | 0xc1 => {
                return Err("the path contains a character that servers interpret differently");
            }
            b';' | b' ' => is_ambiguous = true,
            b'%' => {
                let byte = match bytes[at + 1..] {
                    [high, low, ..] => percent::decode(high, low),
                    _ => None,
                };
                match byte {
                    None => return Err("the path contains a `%` without two hex digits"),
                    Some(b'.' | 0..=0x08 | 0x0a..=0x1f | 0x7f | 0xc0 | 0xc1) => {
                        return Err("the path contains an escape that servers interpret differently");
                    }
                    Some(b'/' | b'\\' | b'%' | b';' | b'#' | b'?' | b' ' | b'\t') => is_ambiguous = true,
                    Some(lead @ 0xe0..) if is_overlong(lead, percent::first(&bytes[at + 3..])) => {
                        return Err("the path contains a character in more bytes than UTF-8 has for it");
                    }
                    Some(_) => {}
                }
                at += 2;
            }
            _ => {}
        }
        at += 1;
    }
    is_ambiguous |= check_segment(path.get(segment_start..).unwrap_or_default())?;
    Ok(is_ambiguous)
}

fn check_segment(segment: &str) -> Result<bool, &'static str> {
    match segment {
        "." | ".." => Err("the path contains a dot segment"),
        _ => Ok(segment.ends_with('.')),
    }
}

/// Refuses a second token, in the query (RFC 6750 §2.3).
fn check_query(query: Option<&str>) -> Result<(), &'static str> {
    const TOKEN: &[u8; 12] = b"access_token";
    // The name has an underscore, or an escape in its place.
    let may_have_token = |query: &&str| query.bytes().any(|byte| matches!(byte, b'_' | b'%'));
    let is_token = |pair: &[u8]| {
        let name = pair.split(|byte| *byte == b'=').next().unwrap_or_default();
        // An escape is longer than what it stands for.
        name.len() >= TOKEN.len() && percent_decode(name).map(|byte| byte.to_ascii_lowercase()).eq(*TOKEN)
    };
    let separates = |byte: &u8| matches!(byte, b'&' | b';');
    if query.filter(may_have_token).is_some_and(|query| query.as_bytes().split(separates).any(is_token)) {
        return Err("the query contains an access_token, and bearerd adds its own token");
    }
    Ok(())
}

/// Accepts one form of framing (RFC 9112 §6) and one expectation (RFC 9110 §10.1.1).
fn check_framing(head: &Parts) -> Result<(), ProxyError> {
    let mut encodings = head.headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(encoding) = encodings.next() {
        let is_plain = encoding.as_bytes().eq_ignore_ascii_case(b"chunked") && encodings.next().is_none();
        if !is_plain || head.version != Version::HTTP_11 || head.headers.contains_key(CONTENT_LENGTH) {
            return Err(ProxyError::BadRequest("Transfer-Encoding is not `chunked` alone"));
        }
    }
    let mut lengths = head.headers.get_all(CONTENT_LENGTH).iter();
    if let Some(length) = lengths.next() {
        let is_number = !length.is_empty() && length.as_bytes().iter().all(u8::is_ascii_digit);
        if !is_number || lengths.next().is_some() {
            return Err(ProxyError::BadRequest("Content-Length is not one number"));
        }
    }
    let mut expectations = head.headers.get_all(EXPECT).iter();
    let is_met = |expectation: &HeaderValue| {
        expectation.is_empty() || expectation.as_bytes().eq_ignore_ascii_case(b"100-continue")
    };
    if !expectations.all(is_met) {
        return Err(ProxyError::ExpectationFailed);
    }
    Ok(())
}

/// Refuses alternative spellings of protected fields: CGI treats `content_length` as `Content-Length`.
fn check_names(headers: &HeaderMap) -> Result<(), &'static str> {
    for name in headers.keys().filter(|name| !is_plain(name.as_str())) {
        let spelt = plain(name.as_str());
        let is_for_proxies = HeaderName::from_bytes(spelt.as_bytes()).is_ok_and(|name| is_for_proxies(&name));
        if is_protected(&spelt) || is_for_proxies {
            return Err("a field name is an alternative spelling of a protected field");
        }
    }
    Ok(())
}

/// Whether a field affects framing, routing or authorization. The guard accepts no alternative spelling of its name.
fn is_protected(name: &str) -> bool {
    match name {
        "authorization" | "host" | "content-length" | "transfer-encoding" | "connection" | "cookie"
        | "via" | "cdn-loop" | "forwarded" => true,
        _ => name.starts_with("x-forwarded-"),
    }
}

/// Refuses a `Connection` that would remove a protected field (RFC 9110 §7.6.1).
fn check_connection(headers: &HeaderMap) -> Result<(), &'static str> {
    for name in headers.get_all(CONNECTION).iter().flat_map(members) {
        let Some(name) = name else {
            return Err("Connection is not a list of names");
        };
        if is_protected(&plain(name)) {
            return Err(CONNECTION_NAMES_PROTECTED);
        }
    }
    Ok(())
}

fn check_required_header(headers: &HeaderMap, policy: &Policy) -> Result<(), ProxyError> {
    let Some(required) = &policy.required_header else {
        return Ok(());
    };
    // In constant time: the value may serve as a key.
    let is_there = headers.get_all(&required.name).iter().any(|value| {
        required.value.is_empty()
            || verify_slices_are_equal(value.as_bytes(), required.value.as_bytes()).is_ok()
    });
    if is_there { Ok(()) } else { Err(ProxyError::HeaderRequired(required.name.clone())) }
}

#[cfg(test)]
mod tests;
