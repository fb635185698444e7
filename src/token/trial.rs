//! One token request outside the refresh loop: what `bearerd check --online` asks and what it learns.
//!
//! It goes through the credential's own client, with its authorities, proxy and time-outs, and is judged as the
//! refresher would judge it. Nothing is published. What it tells holds no token and no secret.

use std::time::{Duration, SystemTime};

use secrecy::SecretString;

use super::access_token::{AccessToken, Generation};
use super::client_secrets::ClientSecrets;
pub use super::client_secrets::WhichSecret;
use super::endpoint::TokenEndpoint;
use super::endpoint::redact::Confidential;
use super::endpoint::response::TokenResponse;
use super::endpoint::validate;
pub use super::endpoint::validate::not_granted;
pub use super::endpoint::warnings::MAX_SKEW;
use super::error::TokenError;
use super::jwt;
use super::rotation::{GrantChoice, Rotation};
use super::state::DurableState;
use crate::clock::{Clock, wall_clock};
use crate::config::Credential;

/// What came of it.
#[derive(Debug)]
pub struct Trial {
    /// From the request to the end of its answer.
    pub took: Duration,
    /// Which client secret was taken, if one was.
    pub secret_in_use: WhichSecret,
    /// What was granted, if anything was.
    pub granted: Option<Granted>,
    /// Why requests would get no token.
    pub failure: Option<TokenError>,
}

/// What a server granted, as it may be shown.
#[derive(Debug)]
pub struct Granted {
    /// `None` means as asked for.
    pub scopes: Option<Vec<String>>,
    /// By the answer, or by the token's `exp` if that counts; `None` where neither says.
    pub lifetime: Option<Duration>,
    /// What the token says of itself, if it is a legible JWT.
    pub claims: Option<jwt::Claims>,
    /// The tenant that it names, as it is: to ask with, not to be shown.
    pub tenant: Option<String>,
    /// Whether the answer's Content-Type said that it is JSON.
    pub is_labelled_json: bool,
    /// What time it was for the server, and for us.
    pub clocks: Option<(SystemTime, SystemTime)>,
}

/// What a credential whose grant is a refresh token would ask with now.
#[derive(Debug)]
pub enum PlannedGrant {
    /// A refresh token, which asking would use up.
    RefreshToken,
    /// Its fallback.
    Fallback {
        /// Why no refresh token may be sent.
        why: TokenError,
    },
}

/// By its configuration and its state, which a daemon may have meanwhile; nobody is asked.
///
/// # Errors
///
/// Why there will be no token until a person acts.
pub fn planned_grant(credential: &Credential, clock: Clock) -> Result<PlannedGrant, TokenError> {
    // `bearerd check` reports a state that cannot be opened elsewhere.
    let inspection = DurableState::inspect(credential, clock).ok().flatten();
    let state = inspection.map(|inspection| inspection.state).unwrap_or_default();
    match Rotation::new(credential).choose(&credential.identity.initial(), &state)? {
        GrantChoice::Fallback { why } => Ok(PlannedGrant::Fallback { why }),
        GrantChoice::Configured | GrantChoice::RefreshToken(_) => Ok(PlannedGrant::RefreshToken),
    }
}

/// Asks once, and as the refresher does once more with `client_secret_next` if the server does not know the client.
pub async fn trial<E: TokenEndpoint>(credential: &Credential, endpoint: &E, clock: Clock) -> Trial {
    let identity = credential.identity.initial();
    let sent = clock.now();
    let mut secrets = ClientSecrets::default();
    let answer = secrets.ask(credential, endpoint, &identity).await;
    let took = sent.until(clock.now());
    let secret_in_use = secrets.in_use();
    let grant = match answer {
        Ok(grant) => grant,
        Err(failure) => return Trial { took, secret_in_use, granted: None, failure: Some(failure) },
    };
    let secrets: Vec<SecretString> = identity.secrets().into_iter().cloned().collect();
    let now = wall_clock();
    let lifetime = validate::lifetime(&grant, credential, now);
    let is_token = |lifetime: Option<Duration>| {
        let lifetime = lifetime.unwrap_or(credential.default_lifetime);
        AccessToken::new(&grant.access_token, Generation::NONE.next(), sent, lifetime, Vec::new())
    };
    let failure = validate::scopes(&grant, credential).err().or_else(|| match &lifetime {
        Ok(lifetime) => is_token(*lifetime).err().map(|illegal| TokenError::Malformed(illegal.into())),
        Err(ended) => Some(ended.clone()),
    });
    Trial {
        took,
        secret_in_use,
        granted: Some(shown(&grant, &secrets, lifetime.ok().flatten(), now)),
        failure,
    }
}

/// A server may put anything anywhere, the token included.
fn shown(
    grant: &TokenResponse,
    secrets: &[SecretString],
    lifetime: Option<Duration>,
    now: SystemTime,
) -> Granted {
    let token = SecretString::from(grant.access_token.clone());
    let all: Vec<SecretString> = secrets.iter().cloned().chain([token]).collect();
    let confidential = Confidential { secrets: &all, token: None };
    let printable = |words: String| confidential.printable(&words);
    let scopes = grant.scopes.clone().map(|scopes| scopes.into_iter().map(printable).collect());
    let claims = jwt::claims(&grant.access_token);
    let tenant = claims.as_ref().and_then(|claims| claims.tenant.clone());
    let claims = claims.map(|claims| jwt::Claims {
        iss: claims.iss.map(printable),
        aud: claims.aud.into_iter().map(printable).collect(),
        tenant: claims.tenant.map(printable),
    });
    Granted {
        scopes,
        lifetime: lifetime.filter(|lifetime| !lifetime.is_zero()),
        claims,
        tenant,
        is_labelled_json: grant.is_labelled_json,
        clocks: grant.server_time.map(|theirs| (theirs, now)),
    }
}
