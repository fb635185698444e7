//! An access token that is a JWT (RFC 7519, RFC 9068): its form, its end and its claims.
//!
//! Nothing here verifies a token, which is for the API to do: the end bounds its use, and the claims are shown to operators.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// The end of a token; other members of the payload are ignored.
#[derive(Deserialize)]
struct End {
    exp: Option<f64>,
}

/// Issuer, audience and tenant of a token; other members of the payload are ignored.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Claims {
    /// The issuer (RFC 7519 §4.1.1).
    #[serde(default, deserialize_with = "text")]
    pub iss: Option<String>,
    /// The audience, one string or several (RFC 7519 §4.1.3).
    #[serde(default, deserialize_with = "texts")]
    pub aud: Vec<String>,
    /// CXone's name for the organization.
    #[serde(default, rename = "tenantId", deserialize_with = "text")]
    pub tenant: Option<String>,
}

/// Whether a token has the form of a JWT: three parts of base64url, the first two not empty (RFC 7519 §3, RFC 7515 §7.1).
pub fn has_form(token: &str) -> bool {
    let is_base64url =
        |part: &str| part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    let parts: Vec<&str> = token.split('.').collect();
    matches!(parts.as_slice(), [header, payload, _] if !header.is_empty() && !payload.is_empty())
        && parts.into_iter().all(is_base64url)
}

/// The rest of a token's lifetime by its `exp` (RFC 7519 §4.1.4); `None` without a legible one.
pub fn left(token: &str, now: SystemTime) -> Option<Duration> {
    let exp = serde_json::from_slice::<End>(&payload(token)?).ok()?.exp?;
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    // Too many seconds for a duration become the longest one; the caller bounds the lifetime.
    let end = Duration::try_from_secs_f64(exp.max(0.0)).unwrap_or(Duration::MAX);
    Some(end.saturating_sub(now))
}

/// The claims of a token; `None` unless it is a legible JWT.
pub fn claims(token: &str) -> Option<Claims> {
    has_form(token).then_some(())?;
    serde_json::from_slice(&payload(token)?).ok()
}

/// The nonce of an ID token (OpenID Connect Core 1.0 §2), empty if it has none; `None` unless the token is a legible JWT.
pub fn nonce(id_token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Nonce {
        #[serde(default, deserialize_with = "text")]
        nonce: Option<String>,
    }
    has_form(id_token).then_some(())?;
    let Nonce { nonce } = serde_json::from_slice(&payload(id_token)?).ok()?;
    Some(nonce.unwrap_or_default())
}

fn payload(token: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()
}

/// Reads a string. Any other value counts as missing.
fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    Ok(value.as_str().map(str::to_owned))
}

fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::String(one) => vec![one],
        Value::Array(all) => all.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token(payload: &str) -> String {
        format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(payload))
    }

    #[test]
    fn a_jwt_has_three_parts_of_base64url() {
        for good in ["e30.e30.sig", "e30.e30.", &token("{}")] {
            assert!(has_form(good), "{good}");
        }
        for bad in ["", "opaque", "a.b", ".b.c", "a..c", "a.b.c.d", "a.b+.c", "a.b=.c", "a.b.c.d.e"] {
            assert!(!has_form(bad), "{bad}");
        }
    }

    #[test]
    fn the_rest_of_a_lifetime_is_counted_from_the_present_time() {
        let now = UNIX_EPOCH + Duration::from_secs(1000);
        for (payload, seconds) in [
            ("{\"exp\":1060}", Some(60)),
            ("{\"exp\":1060.0,\"iat\":\"x\"}", Some(60)),
            ("{\"exp\":1000}", Some(0)),
            ("{\"exp\":-5}", Some(0)),
            ("{}", None),
            ("{\"exp\":\"1060\"}", None),
            ("not json", None),
        ] {
            assert_eq!(left(&token(payload), now), seconds.map(Duration::from_secs), "{payload}");
        }
        assert!(
            left(&token("{\"exp\":1e308}"), now).is_some_and(|left| left > Duration::from_hours(1 << 20))
        );
        assert_eq!(left("opaque", now), None);
    }

    #[test]
    fn claims_of_any_type_are_read_and_wrong_types_count_as_missing() {
        let said = |payload| claims(&token(payload));
        let claims = |iss: Option<&str>, aud: &[&str], tenant: Option<&str>| {
            let owned = |text: Option<&str>| text.map(str::to_owned);
            let aud = aud.iter().map(|one| (*one).to_owned()).collect();
            Some(Claims { iss: owned(iss), aud, tenant: owned(tenant) })
        };

        assert_eq!(said("{}"), claims(None, &[], None));
        assert_eq!(
            said("{\"iss\":\"i\",\"aud\":\"a\",\"tenantId\":\"t\",\"x\":1}"),
            claims(Some("i"), &["a"], Some("t"))
        );
        assert_eq!(
            said("{\"iss\":5,\"aud\":[\"a\",5,\"b\"],\"tenantId\":null}"),
            claims(None, &["a", "b"], None)
        );
        assert_eq!(said("not json"), None);
        assert_eq!(super::claims("opaque"), None);
    }

    proptest! {
        #[test]
        fn no_token_makes_it_panic(text in "[ -~]{0,60}", exp in any::<f64>()) {
            let _ = (claims(&text), claims(&token(&text)), nonce(&text), nonce(&token(&text)));
            let _ = (left(&text, UNIX_EPOCH), left(&token(&format!("{{\"exp\":{exp:e}}}")), UNIX_EPOCH));
        }
    }
}
