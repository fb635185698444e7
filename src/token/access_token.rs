//! An access token as requests use it: a complete `Authorization` value, a generation and an end.

use std::fmt;
use std::time::Duration;

use http::HeaderValue;
use http::header::InvalidHeaderValue;
use thiserror::Error;

use super::fingerprint::Fingerprint;
use super::jwt;
use crate::clock::Moment;
use crate::http::secret_header_value;

/// The longest accepted token. No API accepts a header field of that size.
pub const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// The number of a credential's token: 1 for the first, and one more for each different token after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(u64);

impl Generation {
    /// The generation before the first token.
    pub const NONE: Self = Self(0);

    /// The generation with this number.
    pub const fn from_number(number: u64) -> Self {
        Self(number)
    }

    /// The number of this generation.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The generation after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A bearer token (RFC 6750), its generation, its lifetime and its scopes.
#[derive(Clone)]
pub struct AccessToken {
    authorization: HeaderValue,
    generation: Generation,
    issued: Moment,
    expires: Moment,
    scopes: Vec<String>,
    fingerprint: Option<Fingerprint>,
}

/// Why a string cannot be a bearer token.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum IllegalToken {
    /// The string is empty.
    #[error("the access token is empty")]
    Empty,
    /// The string has a character that cannot stand in a header field, or would end one.
    #[error("the access token holds characters other than visible ASCII")]
    Characters,
    /// The string is longer than [`MAX_TOKEN_BYTES`].
    #[error("the access token is larger than 16 KiB")]
    TooLong,
}

impl AccessToken {
    /// A token from the string that a server has issued.
    ///
    /// `issued` is the moment of the token request, so that the token's age is never underestimated.
    ///
    /// # Errors
    ///
    /// [`IllegalToken`] unless the string is visible ASCII of at most [`MAX_TOKEN_BYTES`].
    pub fn new(
        token: &str,
        generation: Generation,
        issued: Moment,
        lifetime: Duration,
        scopes: Vec<String>,
    ) -> Result<Self, IllegalToken> {
        check(token)?;
        let authorization = bearer(token).map_err(|_| IllegalToken::Characters)?;
        Ok(Self { authorization, generation, issued, expires: issued + lifetime, scopes, fingerprint: None })
    }

    /// The value of the `Authorization` field, marked sensitive (RFC 6750 §2.1).
    pub const fn authorization(&self) -> &HeaderValue {
        &self.authorization
    }

    /// The token as a header value after a prefix of visible ASCII and spaces, marked sensitive. Shares no memory with
    /// [`authorization`](Self::authorization).
    ///
    /// # Panics
    ///
    /// For a prefix with other characters.
    pub fn header_value(&self, prefix: &str) -> HeaderValue {
        secret_header_value(&[prefix, self.as_str()]).expect("a prefix and a token are visible ASCII")
    }

    /// The token's generation.
    pub const fn generation(&self) -> Generation {
        self.generation
    }

    /// When the token was requested.
    pub const fn issued(&self) -> Moment {
        self.issued
    }

    /// When the token must no longer be used.
    pub const fn expires(&self) -> Moment {
        self.expires
    }

    /// The granted scopes; as requested, where the server did not say (RFC 6749 §5.1).
    pub fn scopes(&self) -> &[String] {
        &self.scopes
    }

    /// The fingerprint; every published token has one.
    pub const fn fingerprint(&self) -> Option<Fingerprint> {
        self.fingerprint
    }

    /// The token with its fingerprint.
    #[must_use]
    pub(super) fn fingerprinted(self, fingerprint: Fingerprint) -> Self {
        Self { fingerprint: Some(fingerprint), ..self }
    }

    /// Whether a request may still be sent with this token.
    pub fn is_usable(&self, now: Moment) -> bool {
        now < self.expires
    }

    /// Whether both are the same string, whatever their generations and lifetimes.
    pub fn is_same_token(&self, other: &Self) -> bool {
        self.authorization == other.authorization
    }

    /// The token under another generation.
    pub(super) fn with_generation(&self, generation: Generation) -> Self {
        Self { generation, ..self.clone() }
    }

    /// The tenant that the token names, if it is a JWT. The text is the server's, and may have any character.
    pub fn tenant(&self) -> Option<String> {
        jwt::claims(self.as_str())?.tenant
    }

    /// The token itself, without `Bearer `.
    pub(super) fn as_str(&self) -> &str {
        let value = self.authorization.to_str().expect("a token is visible ASCII");
        &value["Bearer ".len()..]
    }
}

fn bearer(token: &str) -> Result<HeaderValue, InvalidHeaderValue> {
    secret_header_value(&["Bearer ", token])
}

/// Refuses what could break or split a header field. RFC 6750 §2.1 allows even less.
fn check(token: &str) -> Result<(), IllegalToken> {
    if token.is_empty() {
        Err(IllegalToken::Empty)
    } else if token.len() > MAX_TOKEN_BYTES {
        Err(IllegalToken::TooLong)
    } else if token.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(())
    } else {
        Err(IllegalToken::Characters)
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessToken")
            .field("generation", &self.generation.0)
            .field("issued", &self.issued)
            .field("expires", &self.expires)
            .field("scopes", &self.scopes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(text: &str) -> Result<AccessToken, IllegalToken> {
        let issued = Moment::from_nanos(1_000_000_000);
        AccessToken::new(text, Generation::NONE.next(), issued, Duration::from_mins(1), Vec::new())
    }

    #[test]
    fn a_token_is_visible_ascii_and_nothing_else() {
        assert!(token("eyJhbGciOi.J9-_~+/==").is_ok());
        assert_eq!(token("").unwrap_err(), IllegalToken::Empty);
        for wrong in ["a b", "a\r\nX: y", "a\0", "a\tb", "tök", "a\u{2028}b", "a\u{7f}"] {
            assert_eq!(token(wrong).unwrap_err(), IllegalToken::Characters, "{wrong:?}");
        }
        assert!(token(&"a".repeat(MAX_TOKEN_BYTES)).is_ok());
        assert_eq!(token(&"a".repeat(MAX_TOKEN_BYTES + 1)).unwrap_err(), IllegalToken::TooLong);
    }

    #[test]
    fn a_token_is_usable_before_its_end_and_not_at_its_end() {
        let token = token("t").unwrap();

        assert!(token.is_usable(token.expires().before(Duration::from_nanos(1))));
        assert!(!token.is_usable(token.expires()));
    }

    #[test]
    fn a_token_is_not_shown() {
        let token = token("s3cr3t-token").unwrap();

        assert!(!format!("{token:?}").contains("s3cr3t"));
        assert!(!format!("{:?}", token.authorization()).contains("s3cr3t"));
    }
}
