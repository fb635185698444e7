//! Signed JWTs, for a client's authentication and as a grant (RFC 7523 §3, RFC 7515 §7.1).
//!
//! A JWT is made for one request: its `jti` is random, its validity begins a little in the past and ends when the
//! configuration says.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use crate::config::model::identity::{Claims, SignedAssertion};
use crate::config::model::signing_key::{KeyError, SigningKey, thumbprint};

/// How far a JWT is backdated, for a server whose clock is behind ours.
const BACKDATING: Duration = Duration::from_secs(30);

/// When a JWT is made, and how long it is valid from then on.
#[derive(Clone, Copy)]
pub(crate) struct Validity {
    /// The time by the wall clock.
    pub now: SystemTime,
    /// The time from now to `exp`.
    pub lifetime: Duration,
}

/// A JWT that the client signs with its private key.
pub(crate) fn under_key(
    client_id: &str,
    assertion: &SignedAssertion<SecretString>,
    now: SystemTime,
) -> Result<SecretString, KeyError> {
    let key = SigningKey::from_pem(&assertion.key, assertion.algorithm)?;
    let mut header = json!({ "alg": assertion.algorithm.name(), "typ": "JWT" });
    if let Some(kid) = &assertion.kid {
        header["kid"] = kid.as_str().into();
    }
    if assertion.has_thumbprint {
        header["x5t#S256"] = thumbprint(&assertion.key)?.into();
    }
    let validity = Validity { now, lifetime: assertion.lifetime };
    let claims =
        claims(client_id, assertion.subject.as_deref(), &assertion.audience, &assertion.claims, validity);
    let message = unsigned(&header, &claims);
    let signature = key.sign(message.as_bytes())?;
    Ok(signed(&message, &signature))
}

/// A JWT that the client signs with its secret (HS256), for its own authentication.
pub(crate) fn under_secret(
    client_id: &str,
    secret: &SecretString,
    audience: &str,
    additional: &Claims,
    validity: Validity,
) -> SecretString {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret().as_bytes());
    let header = json!({ "alg": "HS256", "typ": "JWT" });
    let message = unsigned(&header, &claims(client_id, Some(client_id), audience, additional, validity));
    signed(&message, hmac::sign(&key, message.as_bytes()).as_ref())
}

/// The claims of a JWT (RFC 7519 §4.1), with additional ones of other names.
fn claims(iss: &str, sub: Option<&str>, aud: &str, additional: &Claims, validity: Validity) -> Value {
    let now = validity.now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (iat, exp) = (now.saturating_sub(BACKDATING), now.saturating_add(validity.lifetime));
    let jti = random::<16>();
    let mut claims =
        json!({ "iss": iss, "aud": aud, "jti": jti, "iat": iat.as_secs(), "exp": exp.as_secs() });
    if let Some(sub) = sub {
        claims["sub"] = sub.into();
    }
    for (name, value) in additional {
        claims[name] = value.clone();
    }
    claims
}

/// So many random bytes in base64url.
pub(crate) fn random<const BYTES: usize>() -> String {
    let mut bytes = [0; BYTES];
    SystemRandom::new().fill(&mut bytes).expect("the operating system gives random bytes");
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The part of a JWT that is signed (RFC 7515 §5.1).
fn unsigned(header: &Value, claims: &Value) -> String {
    let encoded = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
    format!("{}.{}", encoded(header), encoded(claims))
}

fn signed(message: &str, signature: &[u8]) -> SecretString {
    SecretString::from(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

#[cfg(test)]
mod tests;
