//! Any pattern and any request: a deny holds in every spelling, and covers whatever an allow of the same pattern means.

use std::sync::OnceLock;

use bearerd::config::Pattern;
use bearerd::proxy::route::guard::{Policy, Present, vet};
use bearerd::proxy::route::rules::{matches_as_written, matches_some_interpretation};
use http::Request;

use super::policy;

static POLICY: OnceLock<Policy> = OnceLock::new();

/// With a letter or digit of the path escaped, once or twice.
fn escaped(path: &str, from: usize, escape: &str) -> String {
    let is_plain = |at: &usize| {
        let bytes = path.as_bytes();
        let is_of_an_escape = (1..=2).any(|back| at.checked_sub(back).is_some_and(|at| bytes[at] == b'%'));
        bytes[*at].is_ascii_alphanumeric() && !is_of_an_escape
    };
    match (0..path.len()).cycle().skip(from).take(path.len()).find(is_plain) {
        Some(at) => format!("{}{escape}{:02x}{}", &path[..at], path.as_bytes()[at], &path[at + 1..]),
        None => path.to_owned(),
    }
}

pub fn run(input: &[u8]) {
    // A line of the pattern, a line of the request's target.
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Some((pattern, target)) = text.split_once('\n') else { return };
    let Ok(pattern) = pattern.parse::<Pattern>() else { return };
    assert_eq!(pattern.to_string().parse::<Pattern>().as_ref(), Ok(&pattern));

    let Ok(request) = Request::builder().uri(target).header("host", "localhost").body(()) else { return };
    let head = request.into_parts().0;
    let Ok(vetted) = vet(&head, Present::among(&head.headers), POLICY.get_or_init(|| policy(""))) else {
        return;
    };
    assert_eq!(
        vet(&head, Present::among(&head.headers), POLICY.get_or_init(|| policy(""))).as_ref().ok(),
        Some(&vetted)
    );
    assert_eq!(vetted.path, head.uri.path());

    let deny = pattern.clone().without_slash_at_end();
    let is_denied = matches_some_interpretation(&deny, vetted.path);
    assert!(is_denied || !matches_as_written(&pattern, vetted.path), "allowed and not denied");
    if is_denied {
        let from = target.len() % vetted.path.len();
        for spelling in [
            vetted.path.replace('/', "//"),
            format!("{}/", vetted.path),
            format!("{};x", vetted.path),
            format!("{}%20", vetted.path),
            format!("/%2f{}", &vetted.path[1..]),
            escaped(vetted.path, from, "%"),
            escaped(vetted.path, from, "%25"),
        ] {
            assert!(matches_some_interpretation(&deny, &spelling), "{spelling} is not denied");
        }
        if !vetted.path.contains('%') {
            assert!(
                matches_some_interpretation(&deny, &vetted.path.to_ascii_uppercase()),
                "not denied in capitals"
            );
        }
    }
}
