//! Credentials of the scheme `Basic`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use secrecy::zeroize::Zeroizing;

/// The password of credentials of the scheme `Basic` (RFC 7617 §2); `None` for other schemes and for malformed credentials.
/// Schemes are case-insensitive (RFC 9110 §11.1).
pub fn basic_password(value: &HeaderValue) -> Option<Zeroizing<String>> {
    let (scheme, rest) = value.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = Zeroizing::new(STANDARD.decode(rest.trim_start_matches(' ')).ok()?);
    let (_, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    Some(Zeroizing::new(password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(value: &str) -> Option<String> {
        basic_password(&HeaderValue::from_str(value).unwrap()).map(|password| password.to_string())
    }

    #[test]
    fn the_password_is_what_follows_the_first_colon() {
        for (credentials, found) in [("user:pass", Some("pass")), (":a:b", Some("a:b")), ("user", None)] {
            let encoded = STANDARD.encode(credentials);
            assert_eq!(password(&format!("Basic {encoded}")).as_deref(), found);
            assert_eq!(password(&format!("basic  {encoded}")).as_deref(), found);
            assert_eq!(password(&format!("Bearer {encoded}")), None);
        }
        for malformed in ["Basic", "Basic ", "Basic !", "Basic //8="] {
            assert_eq!(password(malformed), None, "{malformed}");
        }
    }
}
