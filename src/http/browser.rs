//! Whether a browser sent a request for a page of another site.
//!
//! Any page can have a browser send requests to an address that the browser's user can reach. Browsers say for which page
//! by `Origin` (RFC 6454) and `Sec-Fetch-Site` (W3C Fetch Metadata). A client that sends neither is no browser, or an old one.

use http::header::{HeaderMap, HeaderName, ORIGIN};

use super::Authority;

/// Says whether the page and the request are of one origin, of one site, or of two.
pub const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The origin of a web page: scheme, host and port (RFC 6454 §4). `null` is none.
#[derive(Clone, Copy, Debug)]
struct Origin<'r> {
    is_https: bool,
    authority: Authority<'r>,
}

impl<'r> Origin<'r> {
    fn parse(text: &'r str) -> Option<Self> {
        let (scheme, rest) =
            text.split_once("://").filter(|(scheme, _)| matches!(*scheme, "http" | "https"))?;
        Some(Self { is_https: scheme == "https", authority: Authority::parse(rest)? })
    }

    fn is_same(self, other: Self) -> bool {
        let port = |origin: Self| origin.authority.port.unwrap_or(if origin.is_https { 443 } else { 80 });
        self.is_https == other.is_https
            && self.authority.host.eq_ignore_ascii_case(other.authority.host)
            && port(self) == port(other)
    }
}

/// Whether a page of another site caused the request: one of neither the request's own origin nor a `listed` one.
///
/// The own origin has the scheme https where the server ends TLS itself (`is_tls`); elsewhere it may have either, as TLS
/// may have ended before the request came here.
pub fn is_cross_site(headers: &HeaderMap, own: Authority<'_>, is_tls: bool, listed: &[String]) -> bool {
    let mut is_listed = false;
    let mut origins = headers.get_all(ORIGIN).iter();
    if let Some(origin) = origins.next() {
        let Some(origin) = origin.to_str().ok().and_then(Origin::parse) else { return true };
        let is_own = (origin.is_https || !is_tls) && origin.is_same(Origin { authority: own, ..origin });
        is_listed = listed.iter().filter_map(|one| Origin::parse(one)).any(|one| origin.is_same(one));
        if origins.next().is_some() || !(is_own || is_listed) {
            return true;
        }
    }
    let mut sites = headers.get_all(SEC_FETCH_SITE).iter();
    !is_listed && sites.any(|site| site != "none" && site != "same-origin")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_refused(host: &str, is_tls: bool, listed: &[&str], fields: &[(&str, &str)]) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        let listed: Vec<String> = listed.iter().map(|&one| one.to_owned()).collect();
        is_cross_site(&headers, Authority::parse(host).unwrap(), is_tls, &listed)
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        for (host, is_tls, origin, passes) in [
            ("a.test", false, "http://a.test", true),
            ("a.test:80", false, "http://a.test", true),
            ("a.test:80", false, "https://a.test", false),
            ("a.test:443", false, "https://a.test", true),
            ("a.test:", false, "http://a.test:80", true),
            ("a.test", false, "http://a.test:443", false),
            ("a.test", true, "https://a.test", true),
            ("a.test", true, "http://a.test", false),
            ("[::1]:8080", false, "http://[::1]:8080", true),
        ] {
            assert_eq!(
                !is_refused(host, is_tls, &[], &[("origin", origin)]),
                passes,
                "{host} {is_tls} {origin}"
            );
        }
    }

    #[test]
    fn a_listed_origin_passes_from_wherever_the_browser_says_it_is() {
        let listed = ["https://desk.example.com", "null"];
        let desk = ("origin", "https://desk.example.com");
        for (fields, passes) in [
            (&[desk][..], true),
            (&[("origin", "https://DESK.example.com:443")], true),
            (&[desk, ("sec-fetch-site", "cross-site")], true),
            (&[("origin", "http://desk.example.com")], false),
            (&[("origin", "https://desk.example.com:8443")], false),
            (&[("origin", "http://evil.test"), desk], false),
            (&[desk, ("origin", "http://evil.test")], false),
            (&[("origin", "null")], false),
        ] {
            assert_eq!(!is_refused("localhost:8080", false, &listed, fields), passes, "{fields:?}");
        }
    }
}
