//! Any `Location` of an API: what the proxy makes of it is a path on the proxy, or as it was.

use bearerd::config::LinkField;
use bearerd::proxy::message::links::through_proxy;
use http::header::{HeaderMap, HeaderValue, LOCATION};

pub fn run(location: &[u8]) {
    let Ok(before) = HeaderValue::from_bytes(location) else { return };
    for (base_path, stripped) in [("", ""), ("/base", ""), ("", "/api"), ("/base", "/api")] {
        let mut headers = HeaderMap::from_iter([(LOCATION, before.clone())]);
        through_proxy(
            &mut headers,
            &[LinkField::Location],
            &["https://api.example.com"],
            base_path,
            stripped,
        );
        let after = headers[LOCATION].as_bytes();
        assert!(after == location || after.starts_with(b"/") && !after.starts_with(b"//"));
    }
}
