//! Requests for the tests of every server that refuses those of another site's pages.

/// Fields of a request to `localhost:8080` without TLS, and whether the request passes.
pub(crate) const BROWSER_CASES: [(&[(&str, &str)], bool); 24] = [
    (&[], true),
    (&[("origin", "http://localhost:8080")], true),
    (&[("origin", "https://localhost:8080")], true),
    (&[("origin", "http://LOCALHOST:8080")], true),
    (&[("origin", "http://localhost:8080"), ("sec-fetch-site", "same-origin")], true),
    (&[("origin", "http://localhost:8080"), ("sec-fetch-site", "cross-site")], false),
    (&[("origin", "http://localhost")], false),
    (&[("origin", "http://localhost:9090")], false),
    (&[("origin", "http://evil.test")], false),
    (&[("origin", "http://localhost:8080@evil.test")], false),
    (&[("origin", "http://localhost:8080/")], false),
    (&[("origin", "httpx://localhost:8080")], false),
    (&[("origin", "HTTP://localhost:8080")], false),
    (&[("origin", "file://localhost:8080")], false),
    (&[("origin", "null")], false),
    (&[("origin", "")], false),
    (&[("origin", "http://localhost:8080 http://evil.test")], false),
    (&[("origin", "http://localhost:8080"), ("origin", "http://localhost:8080")], false),
    (&[("sec-fetch-site", "none")], true),
    (&[("sec-fetch-site", "same-origin")], true),
    (&[("sec-fetch-site", "same-site")], false),
    (&[("sec-fetch-site", "cross-site")], false),
    (&[("sec-fetch-site", "Same-Origin")], false),
    (&[("sec-fetch-site", "none"), ("sec-fetch-site", "cross-site")], false),
];
