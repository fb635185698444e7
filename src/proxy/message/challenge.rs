//! The Bearer challenge in an upstream's `WWW-Authenticate` (RFC 6750 §3).

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;

/// Whether the upstream reports a valid token without the required scope (RFC 6750 §3.1).
pub fn is_insufficient_scope(headers: &HeaderMap) -> bool {
    headers
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|challenges| error_of_bearer(challenges).is_some_and(|error| error == "insufficient_scope"))
}

/// The `error` of the Bearer challenge in a `WWW-Authenticate` field (RFC 9110 §11.6.1, RFC 6750 §3).
fn error_of_bearer(challenges: &str) -> Option<&str> {
    let mut in_bearer = false;
    for part in parts(challenges) {
        // "Scheme name=value" and "Scheme" begin a challenge; "name=value" continues it.
        let (scheme, parameter) = match part.split_once(char::is_whitespace) {
            Some((scheme, rest)) if !scheme.contains('=') => (Some(scheme), rest.trim()),
            _ if !part.contains('=') => (Some(part), ""),
            _ => (None, part),
        };
        if let Some(scheme) = scheme {
            in_bearer = scheme.eq_ignore_ascii_case("bearer");
        }
        if let Some((name, value)) = parameter.split_once('=')
            && in_bearer
            && name.trim().eq_ignore_ascii_case("error")
        {
            return Some(value.trim().trim_matches('"'));
        }
    }
    None
}

/// Splits at commas outside quoted strings.
fn parts(challenges: &str) -> impl Iterator<Item = &str> {
    let mut is_quoted = false;
    let mut is_escaped = false;
    challenges
        .split(move |c: char| {
            let escaped = std::mem::take(&mut is_escaped);
            match c {
                '"' if !escaped => is_quoted = !is_quoted,
                '\\' if is_quoted && !escaped => is_escaped = true,
                _ => {}
            }
            c == ',' && !is_quoted
        })
        .map(str::trim)
        .filter(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn insufficient_scope_is_told_from_other_challenges() {
        let is = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(WWW_AUTHENTICATE, value.parse().unwrap());
            }
            is_insufficient_scope(&headers)
        };

        assert!(is(&["Bearer error=\"insufficient_scope\""]));
        assert!(is(&["Bearer realm=\"a, b\", error=\"insufficient_scope\", scope=\"x\""]));
        assert!(is(&["bearer error=insufficient_scope"]));
        assert!(is(&["Basic realm=\"x\"", "Bearer error=\"insufficient_scope\""]));
        assert!(is(&["Basic realm=\"x\", Bearer realm=\"y\", error=\"insufficient_scope\""]));
        for no in [
            "Bearer",
            "Bearer error=\"invalid_token\"",
            "Basic error=\"insufficient_scope\"",
            "Bearer realm=\"error=insufficient_scope\"",
            "Bearer realm=\"\\\", error=insufficient_scope\"",
            "Bearer, Basic error=\"insufficient_scope\"",
            "",
        ] {
            assert!(!is(&[no]), "{no}");
        }
        assert!(!is(&[]));
    }

    proptest! {
        #[test]
        fn no_challenge_panics(value in "\\PC{0,80}") {
            let _ = error_of_bearer(&value);
        }
    }
}
