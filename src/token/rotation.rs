//! Which refresh token is asked with, and whether there is one that may be (RFC 6749 §6).
//!
//! The configured one is the first; those that follow it are in the state, with its lineage. A configured one of
//! another lineage begins anew. One that the server has refused is never sent again by this process.

use secrecy::{ExposeSecret, SecretString};

use super::error::TokenError;
use super::state_file::{Lineage, State};
use crate::config::identity::Grant;
use crate::config::{Credential, Identity};

/// More refused tokens than a person puts there between two restarts.
const MOST_REFUSED: usize = 16;

/// What decides between refresh tokens.
#[derive(Debug)]
pub struct Rotation {
    /// How often one may be replaced; 0 is without limit.
    max: u64,
    refused: Vec<SecretString>,
    /// What the server said of the last.
    why: String,
    /// What a person can do, if that is known.
    remedy: String,
}

/// A refresh token to ask with.
#[derive(Clone, Debug)]
pub struct InUse {
    /// The token.
    pub token: SecretString,
    lineage: Option<Lineage>,
    rotations: u64,
}

impl Rotation {
    /// Nothing is refused yet.
    pub fn new(credential: &Credential) -> Self {
        let login = credential.login.as_ref().map(|_| format!(" (run `bearerd login {}`)", credential.name));
        let remedy = login.unwrap_or_default();
        Self { max: credential.max_rotations, refused: Vec::new(), why: String::new(), remedy }
    }

    /// The refresh token to ask with; none where the grant is another.
    ///
    /// # Errors
    ///
    /// Why there is none that may be sent: a person must act.
    pub fn in_use(
        &self,
        identity: &Identity<SecretString>,
        state: &State,
    ) -> Result<Option<InUse>, TokenError> {
        let Grant::RefreshToken(configured) = &identity.grant else {
            return Ok(None);
        };
        let begun = configured.as_ref().map(|token| (token, Some(Lineage::of(token)), 0));
        let begun =
            begun.filter(|(_, lineage, _)| state.refresh_token.is_none() || *lineage != state.lineage);
        let kept = state.refresh_token.as_ref().map(|token| (token, state.lineage, state.rotations));
        let mut all = begun.into_iter().chain(kept).peekable();
        if all.peek().is_none() {
            let why = "there is no refresh token, neither in the configuration nor in the state";
            return Err(TokenError::ReauthorizationRequired(format!("{why}{}", self.remedy)));
        }
        let Some((token, lineage, rotations)) = all.find(|(token, ..)| !self.is_refused(token)) else {
            return Err(TokenError::ReauthorizationRequired(format!("{}{}", self.why, self.remedy)));
        };
        if self.max > 0 && rotations >= self.max {
            return Err(TokenError::RotationLimit { rotations });
        }
        Ok(Some(InUse { token: token.clone(), lineage, rotations }))
    }

    /// The server does not take this one any more.
    pub fn refuse(&mut self, token: SecretString, why: String) {
        if self.refused.len() >= MOST_REFUSED {
            self.refused.remove(0);
        }
        self.refused.push(token);
        self.why = why;
    }

    fn is_refused(&self, token: &SecretString) -> bool {
        self.refused.iter().any(|refused| is_same(refused, token))
    }
}

impl InUse {
    /// Notes what an answer made of it: a new one takes its place, and without one it stays. Whether it was replaced.
    pub fn answered(self, new: Option<&SecretString>, state: &mut State) -> bool {
        let is_replaced = new.is_some_and(|new| !is_same(new, &self.token));
        state.rotations = self.rotations + u64::from(is_replaced);
        state.lineage = self.lineage;
        state.refresh_token = Some(new.cloned().unwrap_or(self.token));
        is_replaced
    }
}

/// An identity that asks with a refresh token.
pub fn asking_with(identity: &Identity<SecretString>, token: SecretString) -> Identity<SecretString> {
    Identity {
        client_id: identity.client_id.clone(),
        client_auth: identity.client_auth.clone(),
        grant: Grant::RefreshToken(Some(token)),
    }
}

/// Takes over another state's refresh token; answers whether it has another. Whoever put it there did so beside the
/// configured one, which is not to be tried again because of that.
pub fn take_up(state: &mut State, found: State, identity: &Identity<SecretString>) -> bool {
    let (Some(theirs), ours) = (found.refresh_token, &state.refresh_token) else {
        return false;
    };
    if ours.as_ref().is_some_and(|ours| is_same(ours, &theirs)) {
        return false;
    }
    state.refresh_token = Some(theirs);
    state.lineage = match &identity.grant {
        Grant::RefreshToken(Some(configured)) => Some(Lineage::of(configured)),
        _ => found.lineage,
    };
    state.rotations = found.rotations;
    true
}

fn is_same(one: &SecretString, other: &SecretString) -> bool {
    one.expose_secret() == other.expose_secret()
}
