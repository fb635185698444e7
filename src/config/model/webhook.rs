//! `[[webhooks]]`: where events are sent, which ones, and in which form.

use std::fmt;
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;
use url::Url;

use super::credential::Roots;
use super::pem_file::PemFile;
use super::secret::Secret;

/// How a secret begins (Standard Webhooks).
const PREFIX: &str = "whsec_";
/// The shortest secret that cannot be guessed (Standard Webhooks).
pub(in crate::config) const SAFE_KEY_BYTES: usize = 24;
/// Base64 with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A receiver of events.
#[derive(Clone, Debug, PartialEq)]
pub struct Webhook {
    /// The configured name, or the origin of `url`.
    pub name: String,
    /// The receiver.
    pub url: WebhookUrl,
    /// The secrets that sign; each makes a signature.
    pub secrets: Vec<Secret>,
    /// The form of a message.
    pub format: WebhookFormat,
    /// Which events are sent; `None` for failures, recoveries, and what needs a person.
    pub events: Option<Vec<EventPattern>>,
    /// The tenant of events whose token names none.
    pub tenant: Option<String>,
    /// How long a delivery may take.
    pub timeout: Duration,
    /// The certificate authorities that are trusted.
    pub roots: Roots,
    /// The file of the authorities.
    pub ca_file: Option<PemFile>,
    /// Whether the receiver may have an address that is not public.
    pub allows_private: bool,
}

/// A URL that may hold a secret: only its origin is shown.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookUrl(Url);

impl WebhookUrl {
    /// This URL.
    pub const fn new(url: Url) -> Self {
        Self(url)
    }

    /// The whole URL.
    pub const fn expose(&self) -> &Url {
        &self.0
    }

    /// The part that may be shown: scheme, host and port.
    pub fn origin(&self) -> String {
        self.0.origin().ascii_serialization()
    }
}

/// The origin alone.
impl fmt::Debug for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.origin())
    }
}

/// The form of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebhookFormat {
    /// `type`, `timestamp` and `data` (Standard Webhooks).
    Standard,
    /// One flat object, as simple receivers know it.
    Seed,
    /// `CloudEvents` 1.0 in structured mode.
    CloudEvents,
}

/// Names of events: each `*` stands for any text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventPattern(String);

impl EventPattern {
    /// This pattern.
    pub const fn new(pattern: String) -> Self {
        Self(pattern)
    }

    /// Whether the pattern has this name.
    pub fn matches(&self, name: &str) -> bool {
        let mut parts = self.0.split('*');
        let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
        let mut parts: Vec<&str> = parts.collect();
        let Some(last) = parts.pop() else { return rest.is_empty() };
        for part in parts {
            let Some((_, behind)) = rest.split_once(part) else { return false };
            rest = behind;
        }
        rest.ends_with(last)
    }
}

/// The text is no secret of a webhook.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum IllegalWebhookSecret {
    /// Not base64.
    #[error("a webhook's secret is whsec_ and base64")]
    NotBase64,
    /// No bytes.
    #[error("a webhook's secret has no bytes")]
    Empty,
}

/// The bytes of a secret.
///
/// # Errors
///
/// [`IllegalWebhookSecret`] unless the text is base64, with or without `whsec_` before it.
pub(in crate::config) fn key_bytes(
    secret: &SecretString,
) -> Result<Zeroizing<Vec<u8>>, IllegalWebhookSecret> {
    let text = secret.expose_secret();
    let bytes = BASE64.decode(text.strip_prefix(PREFIX).unwrap_or(text));
    let bytes = Zeroizing::new(bytes.map_err(|_| IllegalWebhookSecret::NotBase64)?);
    if bytes.is_empty() { Err(IllegalWebhookSecret::Empty) } else { Ok(bytes) }
}

/// The key of a secret.
///
/// # Errors
///
/// [`IllegalWebhookSecret`].
pub fn signing_key(secret: &SecretString) -> Result<hmac::Key, IllegalWebhookSecret> {
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &key_bytes(secret)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, name, is_match) in [
            ("token.refreshed", "token.refreshed", true),
            ("token.refreshed", "token.refreshed.x", false),
            ("token.*", "token.refresh_failed", true),
            ("token.*", "credential.recovered", false),
            ("*", "daemon.started", true),
            ("*.recovered", "credential.recovered", true),
            ("*.re*ed", "token.rejected", true),
            ("*token*", "token.rejected", true),
            ("t*n.t*n", "token", false),
            ("**", "x", true),
            ("", "x", false),
        ] {
            assert_eq!(EventPattern::new(pattern.to_owned()).matches(name), is_match, "{pattern} {name}");
        }
    }

    #[test]
    fn a_url_is_shown_by_its_origin() {
        let url = WebhookUrl::new(
            Url::parse("https://user:x@hooks.example.com:8443/T0/hunter2?k=hunter2").unwrap(),
        );
        assert_eq!(url.origin(), "https://hooks.example.com:8443");
        assert_eq!(format!("{url:?}"), "https://hooks.example.com:8443");
    }

    #[test]
    fn a_secret_is_base64_with_or_without_its_prefix_and_padding() {
        for text in ["whsec_c2VjcmV0", "c2VjcmV0", "whsec_c2VjcmV0MQ==", "whsec_c2VjcmV0MQ"] {
            assert!(key_bytes(&text.into()).unwrap().starts_with(b"secret"), "{text}");
        }
        for (text, error) in [
            ("whsec_", IllegalWebhookSecret::Empty),
            ("whsec_not base64", IllegalWebhookSecret::NotBase64),
            ("hunter2!", IllegalWebhookSecret::NotBase64),
        ] {
            assert_eq!(key_bytes(&text.into()).unwrap_err(), error, "{text}");
        }
    }
}
