//! Links in the header of a response: references to the API become references to the proxy.
//!
//! A caller that followed the API's own address would send its request without a token. A reference to the origin of
//! the response (RFC 6454) therefore becomes a path, without the upstream's base path and with the route's stripped
//! prefix. Other origins, paths outside the base path, and references relative to the request's path stay as they are.

use std::borrow::Cow;

use http::header::{CONTENT_LOCATION, Entry, HeaderMap, HeaderName, HeaderValue, LINK, LOCATION, REFRESH};
use url::Url;

use crate::config::LinkField;

const OPERATION_LOCATION: HeaderName = HeaderName::from_static("operation-location");

/// The path on the proxy that a link leads to; `None` for a link that stays as it is.
type OnProxy<'a> = dyn Fn(&str) -> Option<String> + 'a;
/// The value of a field with its links on the proxy; `None` for a value that stays as it is.
type Rewrite = fn(&str, &OnProxy<'_>) -> Option<String>;

/// Points `fields` at the proxy where they point at one of the API's `origins`, whose paths begin with `base_path` in
/// place of `stripped`.
pub fn through_proxy(
    headers: &mut HeaderMap,
    fields: &[LinkField],
    origins: &[&str],
    base_path: &str,
    stripped: &str,
) {
    let on_proxy = |link: &str| path_on_proxy(link, origins, base_path, stripped);
    for field in fields {
        let (name, rewritten): (_, Rewrite) = match field {
            LinkField::Location => (LOCATION, |value, on_proxy| on_proxy(value)),
            LinkField::ContentLocation => (CONTENT_LOCATION, |value, on_proxy| on_proxy(value)),
            LinkField::OperationLocation => (OPERATION_LOCATION, |value, on_proxy| on_proxy(value)),
            LinkField::Link => (LINK, link_list),
            LinkField::Refresh => (REFRESH, refresh),
        };
        if !headers.contains_key(&name) {
            continue;
        }
        let Entry::Occupied(mut values) = headers.entry(name) else { continue };
        for value in values.iter_mut() {
            // Some servers send characters outside ASCII, which `HeaderValue::to_str` refuses.
            let text = std::str::from_utf8(value.as_bytes()).ok();
            let moved = text.and_then(|text| rewritten(text, &on_proxy));
            if let Some(moved) = moved.and_then(|moved| HeaderValue::try_from(moved).ok()) {
                *value = moved;
            }
        }
    }
}

/// The value of `Link` (RFC 8288 §3) with the targets of its links on the proxy.
fn link_list(value: &str, on_proxy: &OnProxy<'_>) -> Option<String> {
    let mut moved = String::new();
    let mut rest = value;
    while let Some(at) = rest.find(['<', '"']) {
        let (before, after) = rest.split_at(at + 1);
        moved.push_str(before);
        let is_target = before.ends_with('<');
        let end = if is_target { after.find('>')? } else { end_of_quoted(after)? };
        let text = &after[..end];
        let target = if is_target { on_proxy(text).map(Cow::Owned) } else { None };
        moved.push_str(&target.unwrap_or(Cow::Borrowed(text)));
        rest = &after[end..];
        // The end of a quoted string begins no other one.
        let (quote, after) = rest.split_at(1);
        moved.push_str(quote);
        rest = after;
    }
    moved.push_str(rest);
    Some(moved)
}

/// Where a quoted string (RFC 9110 §5.6.4) ends.
fn end_of_quoted(text: &str) -> Option<usize> {
    let mut is_escaped = false;
    text.find(|character| {
        let is_end = character == '"' && !is_escaped;
        is_escaped = character == '\\' && !is_escaped;
        is_end
    })
}

/// The value of `Refresh`, such as `5; url=/next`, with its URL on the proxy.
fn refresh(value: &str, on_proxy: &OnProxy<'_>) -> Option<String> {
    let separator = value.find([';', ','])?;
    let (_, rest) = value.split_at(separator + 1);
    let name = rest.trim_start().get(..3).filter(|name| name.eq_ignore_ascii_case("url"))?;
    let after = rest.trim_start()[name.len()..].trim_start().strip_prefix('=')?.trim_start();
    let quote = after.chars().next().filter(|quote| matches!(quote, '"' | '\''));
    let url = match quote {
        Some(quote) => after[1..].split(quote).next()?,
        None => after.trim_end(),
    };
    // `url` is a part of `value`.
    let start = value.len() - after.len() + quote.map_or(0, char::len_utf8);
    let url_on_proxy = on_proxy(url)?;
    Some(format!("{}{url_on_proxy}{}", &value[..start], &value[start + url.len()..]))
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
        through_proxy(
            &mut headers,
            &[LinkField::Location],
            &["https://api.example.com"],
            base_path,
            stripped,
        );
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
            through_proxy(&mut headers, &[LinkField::Location], &origins, "/base", "");
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

    #[test]
    fn fields_with_links_in_them_lead_through_the_proxy() {
        use LinkField::{ContentLocation, Link, OperationLocation, Refresh};
        let api = "https://api.example.com";
        for (field, name, before, after) in [
            (ContentLocation, "content-location", "{api}/base/x", "/gen/x"),
            (OperationLocation, "operation-location", "{api}/base/x?y", "/gen/x?y"),
            (Link, "link", "<{api}/base/x?p=2>; rel=\"next\"", "</gen/x?p=2>; rel=\"next\""),
            (
                Link,
                "link",
                "</base/x,y>; title=\"a \\\"<{api}/base/z>\"; rel=up, <{api}/base>;rel=a,<z>",
                "</gen/x,y>; title=\"a \\\"<{api}/base/z>\"; rel=up, </gen>;rel=a,<z>",
            ),
            (Link, "link", "<{api}/base/x>; title=\"open", "<{api}/base/x>; title=\"open"),
            (Link, "link", "<{api}/base/x", "<{api}/base/x"),
            (Refresh, "refresh", "5; url={api}/base/x", "5; url=/gen/x"),
            (Refresh, "refresh", "5 ;URL = '{api}/base/x' ", "5 ;URL = '/gen/x' "),
            (Refresh, "refresh", "5,url=\"/base/x\"", "5,url=\"/gen/x\""),
            (
                Refresh,
                "refresh",
                "5; url=https://elsewhere.test/base/x",
                "5; url=https://elsewhere.test/base/x",
            ),
            (Refresh, "refresh", "5", "5"),
            (Refresh, "refresh", "5; \u{e9}", "5; \u{e9}"),
        ] {
            let name = HeaderName::from_static(name);
            let value = |text: &str| HeaderValue::from_bytes(text.replace("{api}", api).as_bytes()).unwrap();
            let mut headers = HeaderMap::from_iter([(name.clone(), value(before))]);
            headers.append(name.clone(), value(before));
            through_proxy(&mut headers, &[LinkField::Location], &[api], "/base", "/gen");
            assert_eq!(headers[&name], value(before));
            through_proxy(&mut headers, &[field], &[api], "/base", "/gen");
            for seen in headers.get_all(&name) {
                assert_eq!(seen, value(after), "{before}");
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn no_location_panics_or_becomes_another_host(
            location in "(https?:)?[/\\\\]{0,3}(api\\.example\\.com)?[:@/?#a.%\\\\-]{0,12}",
        ) {
            let mut headers = HeaderMap::new();
            headers.insert(LOCATION, HeaderValue::from_str(&location).unwrap());
            through_proxy(&mut headers, &[LinkField::Location], &["https://api.example.com"], "", "");
            let after = headers[LOCATION].to_str().unwrap();
            proptest::prop_assert!(after == location || after.starts_with('/') && !after.starts_with("//"));
        }
    }
}
