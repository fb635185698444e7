//! The first stage: a request is what it seems, and its caller may send it.
//!
//! One pure function over the request's head. What it lets through has one meaning for us, for hyper and for
//! any upstream; what could be read in two ways is refused and never forwarded. It changes nothing: the path
//! that is matched is the path that is sent.

use std::borrow::Cow;

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HeaderMap, HeaderName, HeaderValue, ORIGIN, TRANSFER_ENCODING, VIA,
};
use http::request::Parts;
use http::{Method, Version};

use super::lenient_path::Reading;
use crate::config;
use crate::config::model::fields::is_for_proxies;
use crate::config::{Hosts, RequiredHeader};
use crate::http::{Authority, SEC_FETCH_SITE, is_cross_site};
use crate::proxy::error::ProxyError;

/// Who may call, as far as a request's head can tell.
#[derive(Debug)]
pub struct Policy {
    hosts: Hosts,
    origins: Vec<String>,
    /// Whether callers use TLS up to here.
    is_tls: bool,
    required_header: Option<RequiredHeader>,
    /// Our own entry in `Via`, to know our own requests by.
    instance: String,
}

/// Where a request wants to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'r> {
    /// The host that was called, without its port.
    pub host: &'r str,
    /// The path, byte for byte.
    pub path: &'r str,
    /// Whether some servers would read the path differently: only for routes where that does not matter.
    pub is_ambiguous: bool,
}

/// Fields that decide what a request means or whom it is from: no other spelling of them may slip by.
const PROTECTED: [&str; 8] = [
    "authorization",
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "cookie",
    "via",
    "forwarded",
];

/// Whose checks there is something for. One way over the few names of a request costs less than a look for each field.
#[derive(Default)]
struct Present {
    framing: bool,
    hops: bool,
    origin: bool,
}

impl Present {
    fn among(headers: &HeaderMap) -> Self {
        let mut present = Self::default();
        for name in headers.keys() {
            present.framing |= name == CONTENT_LENGTH || name == TRANSFER_ENCODING || name == EXPECT;
            present.hops |= name == CONNECTION || name == VIA;
            present.origin |= name == ORIGIN || name == SEC_FETCH_SITE;
        }
        present
    }
}

impl Policy {
    /// The policy of a server whose own entry in `Via` is `instance`.
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

/// Where the request wants to go, if it may.
///
/// # Errors
///
/// The first reason to refuse it, in the order in which reasons count.
pub fn vet<'r>(head: &'r Parts, policy: &Policy) -> Result<Target<'r>, ProxyError> {
    check_method(&head.method)?;
    let authority = Authority::of(head).map_err(ProxyError::BadRequest)?;
    let host = authority.host;
    if !policy.hosts.contain(host) {
        return Err(ProxyError::HostNotAllowed);
    }
    check_target(head, authority)?;
    let path = head.uri.path();
    let is_ambiguous = check_path(path)?;
    if is_ambiguous && !Reading::of(path).is_harmless() {
        return Err(ProxyError::BadRequest(
            "the path has what some servers read as a dot segment or a control",
        ));
    }
    check_query(head.uri.query().unwrap_or_default())?;
    let present = Present::among(&head.headers);
    if present.framing {
        check_framing(head)?;
    }
    check_names(&head.headers)?;
    if present.hops {
        check_connection(&head.headers)?;
    }
    // A browser on another site must not use our credential through a person who can reach us.
    if present.origin && is_cross_site(&head.headers, authority, policy.is_tls, &policy.origins) {
        return Err(ProxyError::BrowserRequest);
    }
    check_required_header(&head.headers, policy)?;
    if present.hops {
        check_loop(&head.headers, policy)?;
    }
    Ok(Target { host, path, is_ambiguous })
}

/// TRACE would echo the token (RFC 9110 §9.3.8); CONNECT asks for something else than an API (§9.3.6).
fn check_method(method: &Method) -> Result<(), ProxyError> {
    if *method == Method::TRACE || *method == Method::CONNECT {
        return Err(ProxyError::MethodNotSupported);
    }
    Ok(())
}

/// RFC 9112 §3.2: origin-form, or absolute-form that names the same authority.
fn check_target(head: &Parts, authority: Authority<'_>) -> Result<(), ProxyError> {
    let uri = &head.uri;
    let scheme_is_http = uri.scheme_str().is_none_or(|scheme| scheme == "http" || scheme == "https");
    // `GET foo` parses as an authority without a path; joined to an upstream it would become `GET /`.
    let is_authority_form = uri.scheme().is_none() && uri.authority().is_some();
    if !scheme_is_http || authority.differs_from(uri) || is_authority_form || !uri.path().starts_with('/') {
        return Err(ProxyError::BadRequest("the request target is no path on this host"));
    }
    Ok(())
}

/// Refuses a path that servers are known to read in two ways; answers whether some still might.
fn check_path(path: &str) -> Result<bool, ProxyError> {
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
                return Err(ProxyError::BadRequest("the path has a character that servers read differently"));
            }
            b';' | b' ' => is_ambiguous = true,
            b'%' => {
                match percent_decoded(bytes.get(at + 1..at + 3)) {
                    None => return Err(ProxyError::BadRequest("the path has a `%` without two digits")),
                    Some(b'.' | 0..=0x08 | 0x0a..=0x1f | 0x7f | 0xc0 | 0xc1) => {
                        return Err(ProxyError::BadRequest(
                            "the path has an escape that servers read differently",
                        ));
                    }
                    Some(b'/' | b'\\' | b'%' | b';' | b'#' | b'?' | b' ' | b'\t') => is_ambiguous = true,
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

fn check_segment(segment: &str) -> Result<bool, ProxyError> {
    match segment {
        "." | ".." => Err(ProxyError::BadRequest("the path has a dot segment")),
        _ => Ok(segment.ends_with('.')),
    }
}

fn percent_decoded(digits: Option<&[u8]>) -> Option<u8> {
    let digits = std::str::from_utf8(digits?).ok()?;
    // `from_str_radix` would take a sign too.
    let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    if is_hex { u8::from_str_radix(digits, 16).ok() } else { None }
}

/// RFC 6750 §2.3: a token in the query would be a second one beside ours.
fn check_query(query: &str) -> Result<(), ProxyError> {
    if query.is_empty() {
        return Ok(());
    }
    let is_token = |pair: &str| {
        let name = pair.split('=').next().unwrap_or_default();
        name.eq_ignore_ascii_case("access_token") || (name.contains('%') && decodes_to_access_token(name))
    };
    if query.split(['&', ';']).any(is_token) {
        return Err(ProxyError::BadRequest("the query has an access_token: bearerd adds its own"));
    }
    Ok(())
}

fn decodes_to_access_token(name: &str) -> bool {
    let decoded: Cow<'_, [u8]> = percent_encoding::percent_decode_str(name).into();
    decoded.eq_ignore_ascii_case(b"access_token")
}

/// RFC 9112 §6: one way to tell where the body ends. RFC 9110 §10.1.1: one expectation we know.
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
    if expectations.any(|expectation| !expectation.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        return Err(ProxyError::ExpectationFailed);
    }
    Ok(())
}

/// CGI and its heirs read `content_length` as `Content-Length`.
fn check_names(headers: &HeaderMap) -> Result<(), ProxyError> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    for name in headers.keys().filter(|name| !name.as_str().bytes().all(is_plain)) {
        let spelt = name.as_str().replace(|character: char| !character.is_ascii_alphanumeric(), "-");
        let is_for_proxies = HeaderName::from_bytes(spelt.as_bytes()).is_ok_and(|name| is_for_proxies(&name));
        if is_protected(&spelt) || is_for_proxies {
            return Err(ProxyError::BadRequest("a field name is another spelling of one that matters"));
        }
    }
    Ok(())
}

fn is_protected(name: &str) -> bool {
    PROTECTED.contains(&name) || name.starts_with("x-forwarded-")
}

/// RFC 9110 §7.6.1: `Connection` takes out the fields it names; it may not take out those that matter.
fn check_connection(headers: &HeaderMap) -> Result<(), ProxyError> {
    for name in headers.get_all(CONNECTION).iter().flat_map(list) {
        let Some(name) = name else {
            return Err(ProxyError::BadRequest("Connection is not a list of names"));
        };
        if is_protected(&name.to_ascii_lowercase().replace('_', "-")) {
            return Err(ProxyError::BadRequest("Connection names a field that must not be taken out"));
        }
    }
    Ok(())
}

/// The members of a comma-separated field value; `None` for one that is not text.
fn list(value: &HeaderValue) -> impl Iterator<Item = Option<&str>> {
    let text = value.to_str().ok();
    let is_text = text.is_some();
    let members = text.unwrap_or_default().split(',').map(str::trim).filter(|member| !member.is_empty());
    members.map(Some).chain((!is_text).then_some(None))
}

fn check_required_header(headers: &HeaderMap, policy: &Policy) -> Result<(), ProxyError> {
    let Some(required) = &policy.required_header else {
        return Ok(());
    };
    let is_there = headers.get_all(&required.name).iter().any(|value| {
        required.value.is_empty() || value.as_bytes().eq_ignore_ascii_case(required.value.as_bytes())
    });
    if is_there { Ok(()) } else { Err(ProxyError::HeaderRequired(required.name.clone())) }
}

/// RFC 9110 §7.6.3: a request that has been here before comes back for ever.
fn check_loop(headers: &HeaderMap, policy: &Policy) -> Result<(), ProxyError> {
    let mut vias = headers.get_all(VIA).iter().flat_map(list).flatten();
    if vias.any(|via| via.split_whitespace().any(|word| word == policy.instance)) {
        return Err(ProxyError::LoopDetected);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
