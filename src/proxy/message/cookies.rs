//! `Set-Cookie` of a response: cookies of the API become cookies of the proxy (RFC 6265 §4.1).
//!
//! Browsers refuse a cookie for the domain of another host, and a `Secure` cookie over plain http, and return a cookie
//! only for paths below its own.

use http::header::{Entry, HeaderMap, HeaderValue, SET_COOKIE};

/// Removes `Domain` and, unless the caller `is_tls`, `Secure`. Moves `Path` from below `base_path` to below `stripped`.
pub fn through_proxy(headers: &mut HeaderMap, base_path: &str, stripped: &str, is_tls: bool) {
    let Entry::Occupied(mut cookies) = headers.entry(SET_COOKIE) else { return };
    for cookie in cookies.iter_mut() {
        let moved = on_proxy(cookie.as_bytes(), base_path, stripped, is_tls);
        if let Ok(moved) = HeaderValue::from_bytes(&moved) {
            *cookie = moved;
        }
    }
}

fn on_proxy(cookie: &[u8], base_path: &str, stripped: &str, is_tls: bool) -> Vec<u8> {
    let mut parts = cookie.split(|byte| *byte == b';');
    let mut moved = parts.next().unwrap_or_default().to_vec();
    for attribute in parts {
        let mut halves = attribute.splitn(2, |byte| *byte == b'=');
        let name = halves.next().unwrap_or_default().trim_ascii();
        let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
        if is("domain") || (is("secure") && !is_tls) {
            continue;
        }
        let path = halves.next().map(<[u8]>::trim_ascii).filter(|_| is("path"));
        match path.and_then(|path| path_on_proxy(path, base_path, stripped)) {
            Some(path) => moved.extend([b"; Path=", &*path].concat()),
            None => moved.extend([b";", attribute].concat()),
        }
    }
    moved
}

/// The path of a cookie on the proxy; `None` if no path of the proxy leads there, or the path is no path.
fn path_on_proxy(path: &[u8], base_path: &str, stripped: &str) -> Option<Vec<u8>> {
    let is_below = |path: &[u8], parent: &[u8]| {
        path.strip_prefix(parent).is_some_and(|rest| matches!(rest, [] | [b'/', ..]))
    };
    let base_path = base_path.as_bytes();
    let rest = if is_below(path, base_path) {
        &path[base_path.len()..]
    } else if is_below(base_path, path.strip_suffix(b"/").unwrap_or(path)) {
        // A cookie for everything above the base path is one for everything below.
        b""
    } else {
        return None;
    };
    let rest = if path.first() == Some(&b'/') { rest } else { return None };
    match (stripped, rest) {
        ("", []) | (_, [b'/']) if stripped.is_empty() => Some(b"/".to_vec()),
        // Browsers match `/gen` with `/gen` and with all below, and `/gen/` not with `/gen`.
        (_, [b'/']) => Some(stripped.as_bytes().to_vec()),
        _ => Some([stripped.as_bytes(), rest].concat()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(cookie: &str, base_path: &str, stripped: &str, is_tls: bool) -> String {
        let mut headers = HeaderMap::new();
        headers.append(SET_COOKIE, HeaderValue::from_static("first=1"));
        headers.append(SET_COOKIE, HeaderValue::from_bytes(cookie.as_bytes()).unwrap());
        through_proxy(&mut headers, base_path, stripped, is_tls);
        let cookies: Vec<_> = headers.get_all(SET_COOKIE).iter().collect();
        assert_eq!(cookies[0], "first=1");
        std::str::from_utf8(cookies[1].as_bytes()).unwrap().to_owned()
    }

    #[test]
    fn domain_goes_and_secure_goes_on_plain_http() {
        for (cookie, plain, tls) in [
            ("a=1; Domain=api.example.com; Secure; HttpOnly", "a=1; HttpOnly", "a=1; Secure; HttpOnly"),
            ("a=1;DOMAIN = .example.com;secure", "a=1", "a=1;secure"),
            ("secure=domain; Max-Age=5; SameSite=Lax", "secure=domain; Max-Age=5; SameSite=Lax", ""),
            ("a=\"x\u{e9}\"; Domain", "a=\"x\u{e9}\"", ""),
            ("", "", ""),
        ] {
            assert_eq!(seen(cookie, "", "", false), plain);
            assert_eq!(seen(cookie, "", "", true), if tls.is_empty() { plain } else { tls });
        }
    }

    #[test]
    fn the_path_moves_from_the_base_path_behind_the_stripped_prefix() {
        for (path, base_path, stripped, expected) in [
            ("/", "", "", "/"),
            ("/v2", "", "", "/v2"),
            ("/", "", "/gen", "/gen"),
            ("/v2/", "", "/gen", "/gen/v2/"),
            ("/base", "/base", "", "/"),
            ("/base/", "/base", "", "/"),
            ("/base/v2", "/base", "", "/v2"),
            ("/base/v2", "/base", "/gen", "/gen/v2"),
            ("/", "/base/api", "/gen", "/gen"),
            ("/base", "/base/api", "", "/"),
            ("/base/", "/base/api", "/gen", "/gen"),
            // Never sent to this upstream.
            ("/basement", "/base", "/gen", "/basement"),
            ("/other", "/base", "/gen", "/other"),
            ("relative", "", "/gen", "relative"),
        ] {
            let seen = seen(&format!("a=1; path={path}"), base_path, stripped, true);
            assert!(seen.eq_ignore_ascii_case(&format!("a=1; path={expected}")), "{path}: {seen}");
        }
    }
}
