//! What a person's login brought: the code is exchanged, and the answer judged as the refresh loop would.
//!
//! What comes of it is a credential's new state, as it is written where no daemon runs, or what a daemon needs to go on.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;

use super::acceptance;
use super::access_token::{AccessToken, Generation};
use super::authorization::Attempt;
use super::client::TokenEndpoint;
use super::confidential::Confidential;
use super::durable_state::settings;
use super::error::{Malformed, TokenError};
use super::oddities::Oddities;
use super::state_file::State;
use crate::clock::{Clock, Moment, wall_clock};
use crate::config::{Credential, Identity};

/// A grant that a daemon can live on.
pub struct NewGrant {
    refresh_token: SecretString,
    access_token: SecretString,
    /// When the token was asked for.
    sent: Moment,
    lifetime: Option<Duration>,
    /// As granted, if the server said.
    scopes: Option<Vec<String>>,
    /// What the server may not be quoted with.
    secrets: Vec<SecretString>,
    token: AccessToken,
}

/// Why a login came to nothing.
#[derive(Debug, Error)]
pub enum LoginError {
    /// No token, or one that requests could not use.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The client could not go on without the person.
    #[error("the server sent no refresh token, and nothing was stored")]
    NoRefreshToken,
}

/// Exchanges the code that an attempt was answered with.
///
/// # Errors
///
/// [`LoginError`]; nothing of the grant is used then.
pub async fn exchange<E: TokenEndpoint>(
    credential: &Credential,
    endpoint: &E,
    attempt: &Attempt,
    code: SecretString,
    clock: Clock,
) -> Result<NewGrant, LoginError> {
    let identity = Identity { grant: attempt.grant(code), ..credential.identity.initial() };
    let sent = clock.now();
    let grant = endpoint.request(credential, &identity, None).await?;
    let scopes = acceptance::scopes(&grant, credential)?;
    let now = wall_clock();
    let lifetime = acceptance::lifetime(&grant, credential, now)?;
    let lifetime = lifetime.filter(|lifetime| !lifetime.is_zero());
    let lives = lifetime.unwrap_or(credential.default_lifetime);
    let token = AccessToken::new(&grant.access_token, Generation::NONE.next(), sent, lives, scopes)
        .map_err(|illegal| TokenError::Malformed(Malformed::from(illegal)))?;
    Oddities::default().of_grant(&grant, credential, now);
    let refresh_token = grant.refresh_token.ok_or(LoginError::NoRefreshToken)?;
    let access_token = SecretString::from(grant.access_token);
    let mut secrets: Vec<SecretString> = identity.secrets().into_iter().cloned().collect();
    secrets.extend([refresh_token.clone(), access_token.clone()]);
    Ok(NewGrant { refresh_token, access_token, sent, lifetime, scopes: grant.scopes, secrets, token })
}

impl NewGrant {
    /// The credential's state from now on: what kept requests back before does so no more.
    pub fn state(&self, credential: &Credential, before: &State) -> State {
        let lives = self.token.issued().until(self.token.expires());
        let scopes = self.token.scopes().to_vec();
        let generation = before.generation.next();
        State {
            refresh_token: Some(self.refresh_token.clone()),
            generation,
            // It was one already.
            access_token: AccessToken::new(
                self.access_token.expose_secret(),
                generation,
                self.sent,
                lives,
                scopes,
            )
            .ok(),
            settings: Some(settings(credential, &credential.identity.initial())),
            ..State::default()
        }
    }

    /// The same for a running daemon, as JSON; the lifetime is what is left of it `now`.
    pub fn handed_over(&self, now: Moment) -> SecretString {
        let mut json = serde_json::json!({
            "refresh_token": self.refresh_token.expose_secret(),
            "access_token": self.access_token.expose_secret(),
        });
        if let Some(lifetime) = self.lifetime {
            json["expires_in"] = lifetime.saturating_sub(self.sent.until(now)).as_secs().into();
        }
        if let Some(scopes) = &self.scopes {
            json["scope"] = scopes.join(" ").into();
        }
        SecretString::from(json.to_string())
    }

    /// The scopes, as they may be shown; as asked for, where the server did not say.
    pub fn scopes(&self) -> Option<Vec<String>> {
        let confidential = Confidential { secrets: &self.secrets, token: None };
        let scopes = self.scopes.as_ref()?;
        Some(scopes.iter().map(|scope| confidential.printable(scope)).collect())
    }

    /// The access token's lifetime, if the server said.
    pub const fn lifetime(&self) -> Option<Duration> {
        self.lifetime
    }
}

impl std::fmt::Debug for NewGrant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewGrant").field("lifetime", &self.lifetime).finish_non_exhaustive()
    }
}
