//! Which refresh token is asked with, and whether there is one that may be (RFC 6749 §6).
//!
//! The configured one is the first; those that follow it are in the state, with its lineage. A configured one of
//! another lineage begins anew. One that the server has refused is never sent again: the state knows it by its hash.
//! Where none may be sent, a fallback is asked with if there is one, until there is another.

use secrecy::{ExposeSecret, SecretString};

use super::error::TokenError;
use super::state::file::{Lineage, RefusedTokenHash, State};
use crate::config::model::identity::Grant;
use crate::config::{Credential, Identity};

/// More refused tokens than a person puts there between two restarts.
const MAX_REFUSED_TOKENS: usize = 16;

/// What decides between refresh tokens.
#[derive(Debug)]
pub struct Rotation {
    /// How often one may be replaced; 0 is without limit.
    max: u64,
    /// What the server said of the one it refused last.
    why: String,
    /// What a person can do, if that is known.
    remedy: String,
}

/// What a request is made with.
#[derive(Debug)]
pub enum GrantChoice {
    /// The grant as it is configured.
    Configured,
    /// A refresh token.
    RefreshToken(RefreshTokenInUse),
    /// The second grant, for no refresh token may be sent.
    Fallback {
        /// Why none may.
        why: TokenError,
    },
}

/// A refresh token to ask with.
#[derive(Clone, Debug)]
pub struct RefreshTokenInUse {
    /// The token.
    pub token: SecretString,
    lineage: Option<Lineage>,
    rotations: u64,
}

impl Rotation {
    /// Nothing is refused yet.
    pub fn new(credential: &Credential) -> Self {
        let login = credential.login.as_ref().map(|_| format!(" (run `bearerd login {}`)", credential.name));
        Self { max: credential.max_rotations, why: String::new(), remedy: login.unwrap_or_default() }
    }

    /// With other settings, and what the server has said.
    pub fn renew(&mut self, settings: Self) {
        let why = std::mem::take(&mut self.why);
        *self = Self { why, ..settings };
    }

    /// What to ask with.
    ///
    /// # Errors
    ///
    /// Why there is nothing that may be sent: a person must act.
    pub fn choose(
        &self,
        identity: &Identity<SecretString>,
        state: &State,
    ) -> Result<GrantChoice, TokenError> {
        match self.in_use(identity, state) {
            Ok(None) => Ok(GrantChoice::Configured),
            Ok(Some(in_use)) => Ok(GrantChoice::RefreshToken(in_use)),
            Err(why) if identity.fallback.is_some() => Ok(GrantChoice::Fallback { why }),
            Err(why) => Err(why),
        }
    }

    /// The refresh token to ask with; none where the grant is another.
    ///
    /// # Errors
    ///
    /// Why there is none that may be sent: a person must act.
    fn in_use(
        &self,
        identity: &Identity<SecretString>,
        state: &State,
    ) -> Result<Option<RefreshTokenInUse>, TokenError> {
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
        let Some((token, lineage, rotations)) = all.find(|(token, ..)| !is_refused(state, token)) else {
            let before = "the server refused the refresh token before the last restart";
            let why = if self.why.is_empty() { before } else { &self.why };
            return Err(TokenError::ReauthorizationRequired(format!("{why}{}", self.remedy)));
        };
        if self.max > 0 && rotations >= self.max {
            return Err(TokenError::RotationLimit { rotations });
        }
        Ok(Some(RefreshTokenInUse { token: token.clone(), lineage, rotations }))
    }

    /// The server does not take this one any more.
    pub fn refuse(&mut self, state: &mut State, token: &SecretString, why: String) {
        if state.refused.len() >= MAX_REFUSED_TOKENS {
            state.refused.remove(0);
        }
        state.refused.push(RefusedTokenHash::of(token));
        self.why = why;
    }
}

/// Whether the server does not take this one any more.
pub fn is_refused(state: &State, token: &SecretString) -> bool {
    !state.refused.is_empty() && state.refused.contains(&RefusedTokenHash::of(token))
}

impl GrantChoice {
    /// The identity that asks with it; none where it is as configured.
    pub fn identity(&self, configured: &Identity<SecretString>) -> Option<Identity<SecretString>> {
        match self {
            Self::Configured => None,
            Self::RefreshToken(in_use) => {
                Some(configured.with_grant(Grant::RefreshToken(Some(in_use.token.clone()))))
            }
            Self::Fallback { .. } => configured.fallback.clone().map(|grant| configured.with_grant(grant)),
        }
    }

    /// Notes what an answer made of the refresh token. Whether there is another now.
    pub fn answered(
        self,
        new: Option<&SecretString>,
        configured: &Identity<SecretString>,
        state: &mut State,
    ) -> bool {
        match (self, new) {
            (Self::Configured, _) | (Self::Fallback { .. }, None) => false,
            (Self::RefreshToken(in_use), new) => in_use.answered(new, state),
            // One that was refused is no better now.
            (Self::Fallback { .. }, Some(new)) if is_refused(state, new) => false,
            (Self::Fallback { .. }, Some(new)) => {
                adopt(state, new.clone(), configured);
                true
            }
        }
    }
}

impl RefreshTokenInUse {
    /// Notes what an answer made of it: a new one takes its place, and without one it stays. Whether it was replaced.
    fn answered(self, new: Option<&SecretString>, state: &mut State) -> bool {
        let is_replaced = new.is_some_and(|new| !is_same(new, &self.token));
        state.rotations = self.rotations + u64::from(is_replaced);
        state.lineage = self.lineage;
        state.refresh_token = Some(new.cloned().unwrap_or(self.token));
        is_replaced
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
    state.lineage = lineage(identity).or(found.lineage);
    state.rotations = found.rotations;
    true
}

/// Begins anew with this refresh token, which the server has just given out: the configured one is not to be tried
/// because of that, and if it was refused before, that is over.
pub fn adopt(state: &mut State, token: SecretString, identity: &Identity<SecretString>) {
    let given_out = RefusedTokenHash::of(&token);
    state.refused.retain(|refused| *refused != given_out);
    state.refresh_token = Some(token);
    state.lineage = lineage(identity);
    state.rotations = 0;
}

/// That of the configured refresh token, if there is one.
fn lineage(identity: &Identity<SecretString>) -> Option<Lineage> {
    match &identity.grant {
        Grant::RefreshToken(Some(configured)) => Some(Lineage::of(configured)),
        _ => None,
    }
}

fn is_same(one: &SecretString, other: &SecretString) -> bool {
    one.expose_secret() == other.expose_secret()
}
