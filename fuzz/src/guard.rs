//! Any request head: what the guard lets through means one thing, and still does once it is written for the upstream.
//!
//! The input is a head as HTTP/1.1 writes it, read by the parser that hyper has. An absolute target with the version
//! `HTTP/1.0` stands for HTTP/2, whose `:scheme` and `:authority` that is.

use std::sync::OnceLock;

use bearerd::config::model::fields::is_hop_by_hop;
use bearerd::proxy::message::field_rules::FieldRules;
use bearerd::proxy::message::headers::{OwnFields, for_upstream};
use bearerd::proxy::message::loops::LoopMark;
use bearerd::proxy::route::guard::{Policy, Present, vet};
use bearerd::proxy::service::websocket::Handshake;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, HOST, HeaderValue, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{Method, Request, Version};

use super::policy;

static POLICY: OnceLock<Policy> = OnceLock::new();

fn head(bytes: &[u8]) -> Option<Parts> {
    let mut fields = [httparse::EMPTY_HEADER; 100];
    let mut parsed = httparse::Request::new(&mut fields);
    if !parsed.parse(bytes).ok()?.is_complete() {
        return None;
    }
    let mut request = Request::builder().method(parsed.method?).uri(parsed.path?);
    for field in parsed.headers.iter() {
        request = request.header(field.name, field.value);
    }
    let mut head = request.body(()).ok()?.into_parts().0;
    let is_http2 = parsed.version? == 0 && head.uri.scheme().is_some();
    head.version = match (is_http2, parsed.version?) {
        (true, _) => Version::HTTP_2,
        (false, 0) => Version::HTTP_10,
        (false, _) => Version::HTTP_11,
    };
    Some(head)
}

/// As it goes to the upstream, over HTTP/1.1.
fn written(head: &Parts) -> Vec<u8> {
    let target = head.uri.path_and_query().expect("it has a path");
    let mut bytes = format!("{} {target} HTTP/1.1\r\n", head.method).into_bytes();
    for (name, value) in &head.headers {
        bytes.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    bytes.extend(b"\r\n");
    bytes
}

/// With all escapes decoded, and what comes of that again.
fn decoded(path: &[u8]) -> Vec<u8> {
    let mut bytes: Vec<u8> = Vec::new();
    for byte in path {
        bytes.push(*byte);
        while let [.., b'%', high, low] = bytes[..]
            && let Ok(digits) = std::str::from_utf8(&[high, low])
            && high.is_ascii_hexdigit()
            && let Ok(byte) = u8::from_str_radix(digits, 16)
        {
            bytes.truncate(bytes.len() - 3);
            bytes.push(byte);
        }
    }
    bytes
}

pub fn run(input: &[u8]) {
    let Some(before) = head(input) else { return };
    // There is room for what is added.
    if before.headers.len() > 90 {
        return;
    }
    let policy = POLICY.get_or_init(|| policy("origins = [\"https://desk.example.com\"]"));
    let Ok(target) = vet(&before, Present::among(&before.headers), policy) else { return };

    // One way to tell where it goes, and no way out of the path.
    assert_eq!(target.path, before.uri.path());
    assert!(target.path.starts_with('/'));
    let is_unnamed = target.host.is_empty();
    assert!(!is_unnamed || before.version == Version::HTTP_10);
    let names = ["localhost", "127.0.0.1", "[::1]"];
    assert!(is_unnamed || names.iter().any(|host| target.host.eq_ignore_ascii_case(host)));
    let path = decoded(target.path.as_bytes());
    for segment in path.split(|byte| matches!(byte, b'/' | b'\\')) {
        let name = segment.split(|byte| matches!(byte, b';' | b'?' | b'#')).next().unwrap_or_default();
        assert!(!matches!(name.trim_ascii(), b"." | b".."), "a dot segment");
    }
    assert!(!path.iter().any(|byte| matches!(byte, 0..=8 | 10..=31 | 127)), "a control character");

    // One way to tell where its body ends.
    let count = |name| before.headers.get_all(name).iter().count();
    assert!(count(TRANSFER_ENCODING) + count(CONTENT_LENGTH) <= 1);

    // What is written has nothing of the caller's connection or credentials, and is let through for what it was.
    let authority = before.uri.authority().map(|authority| authority.as_str().to_owned());
    let host = before.headers.get(HOST).cloned();
    let host = host.or_else(|| HeaderValue::try_from(authority?).ok());
    assert_eq!(host.is_none(), is_unnamed);
    let host = host.unwrap_or(HeaderValue::from_static("localhost"));
    let mut after = before.clone();
    let (mark, request_id) = (LoopMark::new("bearerd-2"), HeaderValue::from_static("id"));
    let own = OwnFields { host: host.clone(), request_id, mark: &mark };
    for_upstream(&mut after.headers, own, &FieldRules::default(), target.fields.has_odd_name());
    assert!(!after.headers.contains_key(AUTHORIZATION));
    assert!(!after.headers.keys().any(is_hop_by_hop));
    assert_eq!(after.headers.get_all(HOST).iter().collect::<Vec<_>>(), [&host]);
    let again = head(&written(&after)).expect("what is written is a head");
    let Ok(same) = vet(&again, Present::among(&again.headers), policy) else {
        panic!("refused when it is written again")
    };
    assert_eq!(same.path, target.path);
    // Over HTTP/2 it may be there twice, in small letters and in capitals.
    assert!(is_unnamed || same.host.eq_ignore_ascii_case(target.host));
    assert_eq!((again.uri.query(), &again.method), (before.uri.query(), &before.method));

    // Nobody speaks another protocol unless it was asked for in the one way there is.
    if Handshake::of(&before).is_some() {
        assert_eq!((&before.method, before.version), (&Method::GET, Version::HTTP_11));
        assert!(before.headers.contains_key(UPGRADE));
    }
}
