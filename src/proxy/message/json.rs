//! Message heads around a JSON body whose links are rewritten.

use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    HeaderMap, HeaderName, HeaderValue,
};
use http::request::Parts;
use http::{Response, StatusCode};

use super::headers::has_member;
use super::list::members;
use crate::http::Authority;

/// Fields with a digest of the body (RFC 9530, RFC 3230, RFC 2616 §14.15).
const DIGESTS: [HeaderName; 4] = [
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-md5"),
];

/// The scheme and the authority that a caller sent its request to; `None` if it named none.
pub fn proxy_origin(head: &Parts, is_tls: bool) -> Option<String> {
    let authority = Authority::of(head).ok()?;
    // The authority becomes a part of JSON and of a URL.
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:[]".contains(&byte);
    let text = authority.text;
    let is_usable = !text.is_empty() && text.bytes().all(is_plain);
    is_usable.then(|| format!("{}://{text}", if is_tls { "https" } else { "http" }))
}

/// Prepares the head of a response for a body with other links. Returns whether the links may be rewritten: in a whole
/// JSON document that is not encoded and may be transformed (RFC 9110 §7.7).
pub fn make_rewritable<B>(response: &mut Response<B>) -> bool {
    let status = response.status();
    let headers = response.headers_mut();
    // A 304 has the validator of the 200, and need not have its type.
    let is_candidate = is_json(headers) || status == StatusCode::NOT_MODIFIED;
    let is_part = status == StatusCode::PARTIAL_CONTENT || headers.contains_key(CONTENT_RANGE);
    let codings = headers.get_all(CONTENT_ENCODING).iter().flat_map(members);
    let is_encoded = codings
        .map(|coding| coding.unwrap_or("unknown"))
        .any(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case("identity"));
    if !is_candidate || is_part || is_encoded || has_member(headers, &CACHE_CONTROL, "no-transform") {
        return false;
    }
    remove_digests(headers);
    headers.remove(CONTENT_LENGTH);
    headers.remove(ACCEPT_RANGES);
    weaken(headers);
    true
}

/// Removes the digests of the body, from a header or from trailers.
pub fn remove_digests(fields: &mut HeaderMap) {
    for name in &DIGESTS {
        fields.remove(name);
    }
}

/// Makes an entity tag weak (RFC 9110 §8.8.1): equal tags no longer mean equal bytes.
fn weaken(headers: &mut HeaderMap) {
    let Some(tag) = headers.get_mut(ETAG) else { return };
    if tag.as_bytes().starts_with(b"\"")
        && let Ok(weak) = HeaderValue::from_bytes(&[b"W/", tag.as_bytes()].concat())
    {
        *tag = weak;
    }
}

/// Whether the body is JSON: `application/json`, or a type that ends in `+json` (RFC 6839 §3.1).
fn is_json(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()) else { return false };
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind == "application/json" || kind.ends_with("+json")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::message::fixture::{map, sorted};

    fn rewritable(status: u16, fields: &[(&str, &str)]) -> Option<Vec<(String, String)>> {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        *response.headers_mut() = map(fields);
        let is_rewritable = make_rewritable(&mut response);
        let after: Vec<_> = sorted(response.headers())
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        if !is_rewritable {
            assert_eq!(*response.headers(), map(fields), "changed in vain");
        }
        is_rewritable.then_some(after)
    }

    #[test]
    fn json_loses_what_holds_for_its_bytes() {
        let fields = [
            ("content-type", "Application/HAL+json; charset=utf-8"),
            ("content-encoding", "identity"),
            ("content-length", "5"),
            ("accept-ranges", "bytes"),
            ("etag", "\"a\""),
            ("digest", "x"),
            ("content-digest", "x"),
            ("repr-digest", "x"),
            ("content-md5", "x"),
            ("x-other", "1"),
        ];
        let after = rewritable(200, &fields).unwrap();
        let after: Vec<(&str, &str)> = after.iter().map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!(
            after,
            [
                ("content-encoding", "identity"),
                ("content-type", "Application/HAL+json; charset=utf-8"),
                ("etag", "W/\"a\""),
                ("x-other", "1"),
            ]
        );
        let weak = rewritable(304, &[("etag", "W/\"a\"")]).unwrap();
        assert_eq!(weak, [("etag".to_owned(), "W/\"a\"".to_owned())]);
    }

    #[test]
    fn parts_encoded_bodies_and_bodies_not_to_be_transformed_are_left_alone() {
        let json = ("content-type", "application/json");
        for (status, fields) in [
            (206, vec![json]),
            (200, vec![json, ("content-range", "bytes 0-1/9")]),
            (200, vec![json, ("content-encoding", "gzip")]),
            (200, vec![json, ("cache-control", "private, No-Transform")]),
            (200, vec![("content-type", "text/plain")]),
            (200, vec![("content-type", "application/jsonp")]),
            (200, vec![]),
        ] {
            let fields = [&fields[..], &[("etag", "\"a\""), ("content-length", "2")]].concat();
            assert_eq!(rewritable(status, &fields), None, "{status} {fields:?}");
        }
    }
}
