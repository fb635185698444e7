//! The delivery of messages to one receiver.

use std::time::Duration;

use aws_lc_rs::hmac;
use http::header::CONTENT_TYPE;
use http::{HeaderName, StatusCode};
use thiserror::Error;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::address::{Reach, Resolver};
use super::outbox::Message;
use super::payload::{body, content_type};
use super::signature::signatures;
use crate::causes::causes;
use crate::clock::wall_clock;
use crate::config::{Secret, Webhook, signing_key};
use crate::http::retry_after;
use crate::peer_text::printable;
use crate::telemetry::event::timestamp;
use crate::tls::client::{HTTP_2_OR_1, Trust, TrustError};
use crate::tls::diagnosis;

const ID: HeaderName = HeaderName::from_static("webhook-id");
const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
/// How long reading the file of a secret may take.
const SECRET_TIMEOUT: Duration = Duration::from_secs(2);

/// The client of a webhook cannot be set up.
#[derive(Debug, Error)]
pub enum WebhookError {
    /// TLS cannot be set up.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The HTTP client cannot be set up.
    #[error("the HTTP client cannot be set up")]
    Http(#[source] reqwest::Error),
}

/// A receiver by its current settings.
#[derive(Debug)]
pub(super) struct Receiver {
    pub(super) webhook: Webhook,
    http: reqwest::Client,
    reach: Reach,
}

/// The outcome of an attempt.
#[derive(Debug)]
pub(super) enum Attempt {
    /// The receiver has the message.
    Delivered,
    /// The receiver does not exist any more.
    Gone,
    /// Another attempt may succeed.
    Failed {
        /// Why, without the URL.
        why: String,
        /// How long the receiver asks to wait.
        asked: Option<Duration>,
    },
}

impl Receiver {
    /// A receiver with a client of its own.
    ///
    /// # Errors
    ///
    /// [`WebhookError`].
    pub(super) fn new(webhook: Webhook, trust: &Trust) -> Result<Self, WebhookError> {
        #[expect(clippy::disallowed_methods, reason = "the one place that makes the client of a webhook")]
        let builder = reqwest::Client::builder();
        let reach = Reach::of(webhook.url.expose(), webhook.allows_private);
        let http = builder
            .tls_backend_preconfigured(trust.client_config(None, &webhook.roots, HTTP_2_OR_1)?)
            // A forward proxy would look the name up, and its address would be the one that is checked.
            .no_proxy()
            .dns_resolver(Resolver(reach))
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .user_agent(concat!("bearerd/", env!("CARGO_PKG_VERSION")))
            .timeout(webhook.timeout)
            .pool_max_idle_per_host(0)
            .build()
            .map_err(|error| WebhookError::Http(error.without_url()))?;
        Ok(Self { webhook, http, reach })
    }

    /// Makes an attempt to deliver a message of the daemon `instance`. The body of the response is not read.
    pub(super) async fn deliver(&self, message: &Message, instance: &str) -> Attempt {
        let Webhook { url, format, tenant, .. } = &self.webhook;
        if let Err(error) = self.reach.check(url.expose()) {
            return Attempt::Failed { why: error.to_string(), asked: None };
        }
        let body = body(*format, &message.id, &message.event, instance, tenant.as_deref());
        let now = timestamp(wall_clock()).as_second();
        let mut request = self
            .http
            .post(url.expose().clone())
            .header(CONTENT_TYPE, content_type(*format))
            .header(ID, &message.id)
            .header(TIMESTAMP, now);
        let keys = self.keys().await;
        if !keys.is_empty() {
            request = request.header(SIGNATURE, signatures(&keys, &message.id, now, &body));
        }
        match request.body(body).send().await {
            Ok(response) => match response.status() {
                status if status.is_success() => Attempt::Delivered,
                StatusCode::GONE => Attempt::Gone,
                status => {
                    let may_ask =
                        matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
                    let asked = retry_after(response.headers()).filter(|_| may_ask);
                    Attempt::Failed { why: format!("status {}", status.as_u16()), asked }
                }
            },
            Err(error) => Attempt::Failed { why: explain(error), asked: None },
        }
    }

    /// The keys of the secrets as they are now; of one that cannot be read, as it was.
    async fn keys(&self) -> Vec<hmac::Key> {
        let mut keys = Vec::with_capacity(self.webhook.secrets.len());
        for secret in &self.webhook.secrets {
            let current = if secret.may_change() { read(secret.clone()).await } else { None };
            keys.extend(current.or_else(|| signing_key(secret.initial()).ok()));
        }
        keys
    }
}

async fn read(secret: Secret) -> Option<hmac::Key> {
    let read = spawn_blocking(move || signing_key(&secret.read().ok()?).ok());
    timeout(SECRET_TIMEOUT, read).await.ok()?.ok()?
}

/// Why a request failed, without the URL.
fn explain(error: reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let error = error.without_url();
    diagnosis::described(&error)
        .unwrap_or_else(|| printable(&causes(&error).last().map(ToString::to_string).unwrap_or_default()))
}
