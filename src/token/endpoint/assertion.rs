//! Signed JWTs, for a client's authentication and as a grant (RFC 7523 §3, RFC 7515 §7.1).
//!
//! A JWT is made for one request: its `jti` is random, its validity begins a little in the past and ends within five minutes.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;

use crate::config::model::identity::Assertion;
use crate::config::model::signing_key::{KeyError, SigningAlgorithm, SigningKey};

/// How far a JWT is backdated, for a server whose clock is behind ours.
const BACKDATING: Duration = Duration::from_secs(30);
/// How long a JWT is valid from now on; with [`BACKDATING`] five minutes, since servers refuse longer ones.
const LIFETIME: Duration = Duration::from_secs(270);

/// RFC 7515 §4.1.
#[derive(Serialize)]
struct Header<'a> {
    alg: &'a str,
    typ: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    kid: Option<&'a str>,
}

/// RFC 7519 §4.1.
#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    jti: String,
    iat: u64,
    exp: u64,
}

/// A JWT that the client signs with its private key.
///
/// # Errors
///
/// [`KeyError`] if the text is not a usable key.
pub(crate) fn under_key(
    client_id: &str,
    assertion: &Assertion<SecretString>,
    now: SystemTime,
) -> Result<SecretString, KeyError> {
    let key = SigningKey::from_pem(&assertion.key, assertion.algorithm)?;
    let alg = match assertion.algorithm {
        SigningAlgorithm::Rs256 => "RS256",
        SigningAlgorithm::Es256 => "ES256",
    };
    let header = Header { alg, typ: "JWT", kid: assertion.kid.as_deref() };
    let claims = Claims::new(client_id, &assertion.subject, &assertion.audience, now);
    signed(&header, &claims, |message| key.sign(message))
}

/// A JWT that the client signs with its secret (HS256), for its own authentication.
///
/// # Errors
///
/// [`KeyError::CannotSign`], which no secret causes.
pub(crate) fn under_secret(
    client_id: &str,
    secret: &SecretString,
    audience: &str,
    now: SystemTime,
) -> Result<SecretString, KeyError> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret().as_bytes());
    let header = Header { alg: "HS256", typ: "JWT", kid: None };
    let claims = Claims::new(client_id, client_id, audience, now);
    signed(&header, &claims, |message| Ok(hmac::sign(&key, message).as_ref().to_vec()))
}

impl<'a> Claims<'a> {
    fn new(iss: &'a str, sub: &'a str, aud: &'a str, now: SystemTime) -> Self {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = |moment: Duration| moment.as_secs();
        Self {
            iss,
            sub,
            aud,
            jti: random::<16>(),
            iat: seconds(now.saturating_sub(BACKDATING)),
            exp: seconds(now.saturating_add(LIFETIME)),
        }
    }
}

/// So many random bytes in base64url.
pub(crate) fn random<const BYTES: usize>() -> String {
    let mut bytes = [0; BYTES];
    SystemRandom::new().fill(&mut bytes).expect("the operating system gives random bytes");
    URL_SAFE_NO_PAD.encode(bytes)
}

fn signed(
    header: &Header<'_>,
    claims: &Claims<'_>,
    sign: impl FnOnce(&[u8]) -> Result<Vec<u8>, KeyError>,
) -> Result<SecretString, KeyError> {
    let part = |json: serde_json::Result<Vec<u8>>| json.map(|json| URL_SAFE_NO_PAD.encode(json));
    let header = part(serde_json::to_vec(header)).map_err(|_| KeyError::CannotSign)?;
    let claims = part(serde_json::to_vec(claims)).map_err(|_| KeyError::CannotSign)?;
    let message = format!("{header}.{claims}");
    let signature = URL_SAFE_NO_PAD.encode(sign(message.as_bytes())?);
    Ok(SecretString::from(format!("{message}.{signature}")))
}

#[cfg(test)]
mod tests;
