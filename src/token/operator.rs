//! A credential as an operator reaches it: to hand over a new grant, or to request a refresh.
//!
//! An [`Operator`] sends orders to the refresher, the only writer of store and state, and waits for the outcome. A grant is
//! adopted once. A refresh is a [`shared request`](crate::shared_request): a thousand
//! operators at once cause one token request and share its outcome.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use super::access_token::Generation;
use super::progress::Unavailable;
use super::source::TokenSource;
use super::status::{self, CredentialStatus};
use crate::clock::{Clock, Moment};
use crate::config::{Credential, Endpoint};
use crate::peer_text::printable;
use crate::shared_request::{self, NoOutcome, Requester, Responder};
use crate::telemetry::history::History;
use crate::telemetry::metrics::histogram::Buckets;

/// Grants that may wait in the channel to a busy refresher; a further one waits before the channel.
const MAX_WAITING_GRANTS: usize = 4;

/// Sends orders to one credential's refresher.
#[derive(Clone, Debug)]
pub struct Operator {
    /// The credential's grant, by its name in the configuration.
    pub grant: &'static str,
    /// Whether the credential accepts a grant that is handed over.
    pub takes_grants: bool,
    /// The client and the server whose grants the credential accepts.
    pub origin: GrantOrigin,
    /// The credential, for help with its failures.
    credential: Arc<Credential>,
    history: Arc<History>,
    grants: mpsc::Sender<Box<GrantOrder>>,
    refreshes: Requester<Refreshed>,
    clock: Clock,
}

/// The client to which a grant was issued, and the server that issued it, as the configuration names them. Nobody else can
/// use the grant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantOrigin {
    /// The client.
    pub client_id: String,
    /// The issuer, if its metadata has the token endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// The token endpoint, if it is configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_url: Option<String>,
}

impl GrantOrigin {
    /// The origin of the credential's grants.
    pub fn of(credential: &Credential) -> Self {
        let server = credential.token_url.as_str().to_owned();
        let (issuer, token_url) = match credential.token_url {
            Endpoint::Written(_) | Endpoint::OfPreset { .. } => (None, Some(server)),
            Endpoint::OfIssuer(_) => (Some(server), None),
        };
        Self { client_id: credential.identity.client_id.clone(), issuer, token_url }
    }

    /// The origin for people: the query of a URL may contain a secret.
    #[must_use]
    pub fn without_query(&self) -> Self {
        let path = |url: &String| url.split('?').next().unwrap_or_default().to_owned();
        Self { token_url: self.token_url.as_ref().map(path), ..self.clone() }
    }
}

impl fmt::Display for GrantOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client_id, issuer, token_url } = self.without_query();
        let server = issuer.or(token_url).unwrap_or_default();
        write!(f, "the client \"{}\" at {}", printable(&client_id), printable(&server))
    }
}

/// The server's response once a person has authorized the client (RFC 6749 §5.1).
#[derive(Debug)]
pub struct NewGrant {
    /// The client to which the grant was issued, and the server.
    pub origin: GrantOrigin,
    /// The refresh token to use from now on.
    pub refresh_token: SecretString,
    /// The access token, if one was issued.
    pub access_token: Option<SecretString>,
    /// The rest of the access token's lifetime; `None` where the server did not say.
    pub lifetime: Option<Duration>,
    /// The granted scopes; `None` means as requested.
    pub scopes: Option<Vec<String>>,
    /// The rest of the refresh token's lifetime; zero where it never ends, and `None` where the server did not say.
    pub refresh_lifetime: Option<Duration>,
}

/// A grant that was adopted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adopted {
    /// Whether the grant outlives a restart. If not, it is in memory, and the refresher tries again and again to write it.
    pub is_durable: bool,
}

/// Why a grant was not adopted. Nothing has changed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum NotAdopted {
    /// The credential's grant is not based on a refresh token.
    #[error("the credential's grant uses no refresh token")]
    OtherGrant,
    /// The grant was issued to another client, or by another server, than that of the credential.
    #[error("the credential accepts grants of {0}")]
    OtherOrigin(GrantOrigin),
    /// The text cannot be a refresh token (RFC 6749 §A.17).
    #[error("the refresh token is empty, or holds characters other than printable ASCII")]
    Illegal,
    /// The refresher has ended: the daemon stops, or a reload has replaced or removed the credential.
    #[error("the credential's refresher has ended")]
    Gone,
}

/// The outcome of a requested refresh.
#[derive(Clone, Debug)]
pub enum Refreshed {
    /// The server issued another token.
    New {
        /// The new token's generation.
        generation: Generation,
        /// The rest of its lifetime.
        left: Duration,
    },
    /// The server issued the current token again.
    Same {
        /// The current token's generation.
        generation: Generation,
        /// The rest of its lifetime.
        left: Duration,
        /// The time until another refresh is made at the earliest.
        again_in: Duration,
    },
    /// The token request failed.
    Failed(Unavailable),
    /// No token request may be made now.
    Refused(Unavailable),
}

impl Operator {
    /// The credential's status now. `source` reads the same credential's tokens.
    pub fn status(&self, source: &TokenSource) -> CredentialStatus {
        CredentialStatus::now(source, &self.credential, &self.history)
    }

    /// Notes the state of the credential, so that a later [status](Self::status) tells since when it holds.
    pub fn note_state(&self, source: &TokenSource) {
        status::note(source, &self.history);
    }

    /// The time that token requests took.
    pub fn token_request_durations(&self) -> Buckets {
        self.history.durations()
    }

    /// The credential, as it is configured.
    pub fn credential(&self) -> &Credential {
        &self.credential
    }

    /// Hands over a new grant, and waits until it is adopted, and durable or known not to be.
    ///
    /// # Errors
    ///
    /// [`NotAdopted`]. Nothing has changed.
    ///
    /// # Cancel safety
    ///
    /// The refresher drops a grant that it has not taken up by then.
    pub async fn hand_over(&self, grant: NewGrant) -> Result<Adopted, NotAdopted> {
        if !self.takes_grants {
            return Err(NotAdopted::OtherGrant);
        }
        let token = grant.refresh_token.expose_secret();
        if token.is_empty() || !token.bytes().all(|byte| (0x20..=0x7e).contains(&byte)) {
            return Err(NotAdopted::Illegal);
        }
        let (reply, outcome) = oneshot::channel();
        let hand_over = GrantOrder { grant, received: self.clock.now(), reply };
        self.grants.send(Box::new(hand_over)).await.map_err(|_| NotAdopted::Gone)?;
        outcome.await.unwrap_or(Err(NotAdopted::Gone))
    }

    /// Requests another token than the current one, and waits for the outcome.
    ///
    /// # Errors
    ///
    /// [`NoOutcome`] when the time is up, or when the daemon stops.
    ///
    /// # Cancel safety
    ///
    /// The request stays in force.
    pub async fn refresh(&self, within: Duration) -> Result<Refreshed, NoOutcome> {
        self.refreshes.outcome(within).await
    }
}

/// A grant on its way to the refresher.
#[derive(Debug)]
pub(super) struct GrantOrder {
    pub(super) grant: NewGrant,
    /// The moment at which the access token's age is zero.
    pub(super) received: Moment,
    pub(super) reply: oneshot::Sender<Result<Adopted, NotAdopted>>,
}

/// The orders of all operators, as the refresher receives them.
#[derive(Debug)]
pub(super) struct Orders {
    /// Boxed, as a channel has room for 32 from the beginning.
    sender: mpsc::Sender<Box<GrantOrder>>,
    receiver: mpsc::Receiver<Box<GrantOrder>>,
    /// A grant that was received and not yet taken.
    arrived: Option<Box<GrantOrder>>,
    /// The requests for a refresh.
    pub(super) refreshes: Responder<Refreshed>,
}

impl Orders {
    pub(super) fn new() -> Self {
        let (sender, receiver) = mpsc::channel(MAX_WAITING_GRANTS);
        let (_, refreshes) = shared_request::channel();
        Self { sender, receiver, arrived: None, refreshes }
    }

    /// An operator whose orders arrive here.
    pub(super) fn operator(
        &self,
        credential: &Arc<Credential>,
        takes_grants: bool,
        history: &Arc<History>,
        clock: Clock,
    ) -> Operator {
        let (grants, refreshes) = (self.sender.clone(), self.refreshes.requester());
        let (grant, origin) = (credential.grant_name(), GrantOrigin::of(credential));
        let (credential, history) = (Arc::clone(credential), Arc::clone(history));
        Operator { grant, takes_grants, origin, credential, history, grants, refreshes, clock }
    }

    /// Waits for a new order.
    ///
    /// # Cancel safety
    ///
    /// An order that arrives while nobody waits is kept.
    pub(super) async fn arrived(&mut self) {
        tokio::select! {
            Some(grant) = self.receiver.recv(), if self.arrived.is_none() => self.arrived = Some(grant),
            () = self.refreshes.requested() => {}
        }
    }

    /// The next grant whose operator still waits for the answer.
    pub(super) fn take_grant(&mut self) -> Option<Box<GrantOrder>> {
        loop {
            let grant = self.arrived.take().or_else(|| self.receiver.try_recv().ok())?;
            if !grant.reply.is_closed() {
                return Some(grant);
            }
        }
    }
}
