//! `Location` of a response: references to the API become references to the proxy.
//!
//! A caller that followed the API's own address would send its request without a token. A reference to the origin of
//! the response (RFC 6454) therefore becomes a path, without the upstream's base path and with the route's stripped
//! prefix. Other origins, paths outside the base path, and references relative to the request's path stay as they are.

use http::header::{HeaderMap, HeaderValue, LOCATION};
use url::Url;

/// Points `Location` at the proxy if it points at one of the API's `origins`, whose paths begin with `base_path` in place
/// of `stripped`.
pub fn through_proxy(headers: &mut HeaderMap, origins: &[&str], base_path: &str, stripped: &str) {
    let Some(location) = headers.get_mut(LOCATION) else { return };
    // Some servers send characters outside ASCII, which `HeaderValue::to_str` refuses.
    let text = std::str::from_utf8(location.as_bytes()).ok();
    let path = text.and_then(|location| path_on_proxy(location, origins, base_path, stripped));
    if let Some(path) = path.and_then(|path| HeaderValue::try_from(path).ok()) {
        *location = path;
    }
}

fn path_on_proxy(location: &str, origins: &[&str], base_path: &str, stripped: &str) -> Option<String> {
    // Some clients treat a backslash as a slash.
    if location.contains('\\') {
        return None;
    }
    let is_path = location.starts_with('/') && !location.starts_with("//");
    let after = || origins.iter().find_map(|origin| after_origin(location, origin));
    let rest = if is_path { location } else { after()? };
    let rest = rest.strip_prefix(base_path)?;
    match rest.as_bytes() {
        [] | [b'?' | b'#', ..] if stripped.is_empty() => Some(format!("/{rest}")),
        // A path that begins with two slashes names another host, here or where the prefix is stripped again.
        [b'/', b'/', ..] => None,
        [] | [b'/' | b'?' | b'#', ..] => Some(format!("{stripped}{rest}")),
        _ => None,
    }
}

/// The rest of a reference after its authority, if that is the origin's.
fn after_origin<'l>(location: &'l str, origin: &str) -> Option<&'l str> {
    let origin = Url::parse(origin).ok()?;
    let url = origin.join(location).ok().filter(|url| url.origin() == origin.origin())?;
    if !url.username().is_empty() || url.password().is_some() {
        return None;
    }
    let (scheme, rest) = location.split_once("//")?;
    let is_scheme = scheme.is_empty() || scheme.eq_ignore_ascii_case(&format!("{}:", origin.scheme()));
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    is_scheme.then_some(&rest[end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(location: &str, base_path: &str) -> String {
        seen_by(location, base_path, "")
    }

    fn seen_by(location: &str, base_path: &str, stripped: &str) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(LOCATION, HeaderValue::from_bytes(location.as_bytes()).unwrap());
        through_proxy(&mut headers, &["https://api.example.com"], base_path, stripped);
        std::str::from_utf8(headers[LOCATION].as_bytes()).unwrap().to_owned()
    }

    #[test]
    fn the_api_may_have_two_origins() {
        for (location, expected) in [
            ("https://api.example.com/base/x", "/x"),
            ("https://public.example.com/base/x", "/x"),
            ("https://third.example.com/base/x", "https://third.example.com/base/x"),
            ("/base/x", "/x"),
        ] {
            let mut headers = HeaderMap::from_iter([(LOCATION, HeaderValue::from_static(location))]);
            let origins = ["https://api.example.com", "https://public.example.com"];
            through_proxy(&mut headers, &origins, "/base", "");
            assert_eq!(headers[LOCATION], expected, "{location}");
        }
    }

    #[test]
    fn references_to_the_api_become_paths_on_the_proxy() {
        for (location, expected) in [
            ("https://api.example.com/v2/users?page=2#top", "/v2/users?page=2#top"),
            ("https://api.example.com", "/"),
            ("https://api.example.com?page=2", "/?page=2"),
            ("HTTPS://API.Example.com:443/v2", "/v2"),
            ("//api.example.com/v2", "/v2"),
            ("/v2/users/%2Fid;x=1", "/v2/users/%2Fid;x=1"),
            ("https://api.example.com/v2/caf\u{e9}", "/v2/caf\u{e9}"),
            ("https://api.example.com/?next=https://elsewhere.test//", "/?next=https://elsewhere.test//"),
        ] {
            assert_eq!(seen(location, ""), expected, "{location}");
        }
    }

    #[test]
    fn the_base_path_is_removed() {
        for (location, expected) in [
            ("https://api.example.com/base/v2?x", "/v2?x"),
            ("/base/v2", "/v2"),
            ("/base", "/"),
            ("/base?x", "/?x"),
            // Outside the base path: no path of the proxy leads there.
            ("/basement", "/basement"),
            ("/other", "/other"),
            ("https://api.example.com/other", "https://api.example.com/other"),
        ] {
            assert_eq!(seen(location, "/base"), expected, "{location}");
        }
    }

    #[test]
    fn a_stripped_prefix_is_restored() {
        for (location, base_path, expected) in [
            ("https://api.example.com/v2?x", "", "/gen/v2?x"),
            ("https://api.example.com", "", "/gen"),
            ("https://api.example.com?x", "", "/gen?x"),
            ("/", "", "/gen/"),
            ("/gen/v2", "", "/gen/gen/v2"),
            ("/base/v2", "/base", "/gen/v2"),
            ("/base#top", "/base", "/gen#top"),
            ("/other", "/base", "/other"),
            ("/base//evil.test", "/base", "/base//evil.test"),
            ("https://elsewhere.test/v2", "", "https://elsewhere.test/v2"),
            ("next?page=2", "", "next?page=2"),
        ] {
            assert_eq!(seen_by(location, base_path, "/gen"), expected, "{location}");
        }
    }

    #[test]
    fn references_elsewhere_stay_as_they_are() {
        for location in [
            "https://elsewhere.test/v2",
            "http://api.example.com/v2",
            "https://api.example.com:8443/v2",
            "https://api.example.com.evil.test/v2",
            "https://user@api.example.com/v2",
            "https://api.example.com//evil.test/v2",
            "https:\\\\api.example.com/v2",
            "//elsewhere.test/v2",
            "next?page=2",
            "?page=2",
            "mailto:someone@api.example.com",
            "https://[::1",
            "",
        ] {
            assert_eq!(seen(location, ""), location);
        }
        assert_eq!(seen("/base//evil.test", "/base"), "/base//evil.test");
    }

    proptest::proptest! {
        #[test]
        fn no_location_panics_or_becomes_another_host(
            location in "(https?:)?[/\\\\]{0,3}(api\\.example\\.com)?[:@/?#a.%\\\\-]{0,12}",
        ) {
            let mut headers = HeaderMap::new();
            headers.insert(LOCATION, HeaderValue::from_str(&location).unwrap());
            through_proxy(&mut headers, &["https://api.example.com"], "", "");
            let after = headers[LOCATION].to_str().unwrap();
            proptest::prop_assert!(after == location || after.starts_with('/') && !after.starts_with("//"));
        }
    }
}
