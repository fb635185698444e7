//! Which grant a token request uses, and which refresh token where the grant is one (RFC 6749 §6).
//!
//! The configured refresh token is the first. Its successors are in the state, together with its lineage; a configured token
//! of another lineage starts a new chain. A refresh token that the server has refused, and not only in passing, is sent again
//! on an operator's order alone: the state holds its hash. While no refresh token may be sent, the fallback grant is used, if
//! one is configured.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::error::TokenError;
use super::refresh_token_end::RefreshTokenEnd;
use super::state::file::{Doubt, Lineage, RefreshTokenHash, State};
use crate::clock::Moment;
use crate::config::model::identity::Grant;
use crate::config::{Credential, Identity, IdentityDigest};

/// The waits before a refresh token is sent again that may have been refused in passing; then it is condemned.
const REFUSED_WAITS: [Duration; 2] = [Duration::from_secs(30), Duration::from_mins(5)];

/// Refused refresh tokens that the state remembers, by their hashes; the oldest is dropped first.
const MAX_REFUSED_TOKENS: usize = 16;

/// Chooses the grant of each token request.
#[derive(Debug)]
pub(super) struct Rotation {
    /// How often a refresh token may be rotated; 0 is without limit.
    max: u64,
    /// Why the server refused the last refresh token; empty if that was before a restart.
    why: String,
    /// Advice for a person, to follow an error message; may be empty.
    remedy: String,
}

/// The grant of one token request.
#[derive(Debug)]
pub(super) enum GrantChoice {
    /// The configured grant.
    Configured,
    /// A refresh token.
    RefreshToken(RefreshTokenInUse),
    /// The configured fallback, because no refresh token may be sent.
    Fallback {
        /// Why no refresh token may be sent.
        why: TokenError,
    },
}

/// A refresh token for one token request.
#[derive(Clone, Debug)]
pub(super) struct RefreshTokenInUse {
    /// The token.
    pub token: SecretString,
    lineage: Option<Lineage>,
    fallback: Option<IdentityDigest>,
    rotations: u64,
    /// What became of earlier requests with the token, while that is open.
    doubt: Option<Doubt>,
    /// When the token ends, if that is known.
    end: Option<RefreshTokenEnd>,
}

/// What a response says of the refresh token to use from now on.
#[derive(Debug)]
pub(super) struct Renewal {
    /// The new refresh token; `None` keeps the one that was sent (RFC 6749 §6).
    pub token: Option<SecretString>,
    /// Its lifetime; see [`TokenResponse::refresh_lifetime`](super::TokenResponse::refresh_lifetime).
    pub lifetime: Option<Duration>,
    /// When the request was sent.
    pub sent: Moment,
}

impl Rotation {
    /// The choice for a credential none of whose refresh tokens was refused in this process.
    pub(super) fn new(credential: &Credential) -> Self {
        let login = credential.login.as_ref().map(|_| format!(" (run `bearerd login {}`)", credential.name));
        Self { max: credential.max_rotations, why: String::new(), remedy: login.unwrap_or_default() }
    }

    /// Takes over the settings of another credential, and keeps the server's last refusal.
    pub(super) fn renew(&mut self, credential: &Credential) {
        *self = Self { why: std::mem::take(&mut self.why), ..Self::new(credential) };
    }

    /// The grant to use for the next token request. Where an operator orders the request, a refresh token that the server
    /// has refused is sent again if there is no other.
    ///
    /// # Errors
    ///
    /// Why no grant may be used: a person must act.
    pub(super) fn choose(
        &self,
        identity: &Identity<SecretString>,
        state: &State,
        is_ordered: bool,
    ) -> Result<GrantChoice, TokenError> {
        match self.in_use(identity, state, is_ordered) {
            Ok(None) => Ok(GrantChoice::Configured),
            Ok(Some(in_use)) => Ok(GrantChoice::RefreshToken(in_use)),
            Err(why) if identity.fallback.is_some() => Ok(GrantChoice::Fallback { why }),
            Err(why) => Err(why),
        }
    }

    /// The refresh token to send; `None` where the grant is another.
    ///
    /// # Errors
    ///
    /// Why no refresh token may be sent: a person must act.
    fn in_use(
        &self,
        identity: &Identity<SecretString>,
        state: &State,
        is_ordered: bool,
    ) -> Result<Option<RefreshTokenInUse>, TokenError> {
        let Grant::RefreshToken(configured) = &identity.grant else {
            return Ok(None);
        };
        let begun = configured.as_ref().map(|token| (token, Some(Lineage::of(token)), None, 0, None));
        let begun =
            begun.filter(|(_, lineage, ..)| state.refresh_token.is_none() || *lineage != state.lineage);
        let kept = state.refresh_token.as_ref();
        let kept = kept
            .map(|token| (token, state.lineage, state.fallback, state.rotations, state.refresh_token_end));
        let all: Vec<_> = begun.into_iter().chain(kept).collect();
        if all.is_empty() {
            let why = "there is no refresh token, neither in the configuration nor in the state";
            return Err(TokenError::ReauthorizationRequired(format!("{why}{}", self.remedy)));
        }
        let accepted = all.iter().find(|(token, ..)| !is_refused(state, token));
        let Some(&(token, lineage, fallback, rotations, end)) =
            accepted.or_else(|| all.first().filter(|_| is_ordered))
        else {
            let before = "the server refused the refresh token before the last restart";
            let why = if self.why.is_empty() { before } else { &self.why };
            return Err(TokenError::ReauthorizationRequired(format!("{why}{}", self.remedy)));
        };
        if self.max > 0 && rotations >= self.max {
            return Err(TokenError::RotationLimit(rotations));
        }
        let doubt = state.doubt.filter(|doubt| doubt.token == RefreshTokenHash::of(token));
        Ok(Some(RefreshTokenInUse { token: token.clone(), lineage, fallback, rotations, doubt, end }))
    }

    /// Records that the server refuses this refresh token. Answers the wait before the token is sent again; `None` if the
    /// token is condemned.
    ///
    /// A token is condemned unless something says that the server has refused the token in passing: the refusal itself, or a
    /// request before that has no answer, with which the server may still be busy. Then the token is condemned with the
    /// third refusal. A refusal of a request that an operator has ordered is not counted among them.
    pub(super) fn refused(
        &mut self,
        state: &mut State,
        in_use: &RefreshTokenInUse,
        error: &TokenError,
        is_ordered: bool,
    ) -> Option<Duration> {
        let token = RefreshTokenHash::of(&in_use.token);
        let before = in_use.doubt.unwrap_or(Doubt {
            is_unanswered: false,
            is_under_way: false,
            ..Doubt::of_request(token)
        });
        let may_pass = error.refuses_in_passing() || before.is_unanswered || before.refusals > 0;
        let is_counted = !is_ordered || before.refusals == 0;
        let refusals = before.refusals.saturating_add(u32::from(is_counted));
        let is_condemned = state.refused.contains(&token);
        let waits =
            usize::try_from(refusals).ok().and_then(|refusals| REFUSED_WAITS.get(refusals.checked_sub(1)?));
        if let Some(wait) = waits.filter(|_| may_pass && !is_condemned) {
            state.doubt = Some(Doubt { token, is_unanswered: false, refusals, is_under_way: false });
            return Some(*wait);
        }
        self.why = error.to_string();
        state.doubt = None;
        if state.refresh_token.as_ref().is_some_and(|kept| is_same(kept, &in_use.token)) {
            state.refresh_token_end = None;
        }
        if !is_condemned {
            if state.refused.len() >= MAX_REFUSED_TOKENS {
                state.refused.remove(0);
            }
            state.refused.push(token);
        }
        None
    }
}

/// Records that the server accepts this refresh token, or has just issued it.
fn forgive(state: &mut State, token: &SecretString) {
    let accepted = RefreshTokenHash::of(token);
    state.refused.retain(|refused| *refused != accepted);
    state.doubt = None;
}

/// Whether the server has refused this refresh token.
pub(super) fn is_refused(state: &State, token: &SecretString) -> bool {
    !state.refused.is_empty() && state.refused.contains(&RefreshTokenHash::of(token))
}

impl GrantChoice {
    /// The identity to send; `None` where the configured one is to be sent.
    pub(super) fn identity(&self, configured: &Identity<SecretString>) -> Option<Identity<SecretString>> {
        match self {
            Self::Configured => None,
            Self::RefreshToken(in_use) => {
                Some(configured.with_grant(Grant::RefreshToken(Some(in_use.token.clone()))))
            }
            Self::Fallback { .. } => configured.fallback.clone().map(|grant| configured.with_grant(grant)),
        }
    }

    /// Records in the state that a request with this grant is under way. A process that ends during the request leaves
    /// this on disk.
    pub(super) fn is_sent(&self, state: &mut State) {
        if let Self::RefreshToken(in_use) = self {
            let first = Doubt::of_request(RefreshTokenHash::of(&in_use.token));
            state.doubt =
                Some(Doubt { is_unanswered: true, is_under_way: true, ..in_use.doubt.unwrap_or(first) });
        }
    }

    /// Records in the state that the request has ended without an answer.
    pub(super) fn has_ended(&self, state: &mut State) {
        if let (Self::RefreshToken(_), Some(doubt)) = (self, &mut state.doubt) {
            doubt.is_under_way = false;
        }
    }

    /// Records in the state that the request has an answer, by which the server has not looked at the refresh token.
    pub(super) fn is_put_back(&self, state: &mut State) {
        if let Self::RefreshToken(in_use) = self {
            state.doubt = in_use.doubt;
        }
    }

    /// Records the refresh token of a successful response in the state. Answers whether it has changed.
    pub(super) fn answered(
        self,
        new: Renewal,
        credential: &Credential,
        configured: &Identity<SecretString>,
        state: &mut State,
    ) -> bool {
        match (self, new) {
            (Self::Configured, _) | (Self::Fallback { .. }, Renewal { token: None, .. }) => false,
            (Self::RefreshToken(in_use), new) => in_use.answered(new, state),
            // The server has refused this token before, and the fallback's response does not change that.
            (Self::Fallback { .. }, Renewal { token: Some(new), .. }) if is_refused(state, &new) => false,
            (Self::Fallback { .. }, Renewal { token: Some(new), lifetime, sent }) => {
                adopt(state, new, RefreshTokenEnd::first(lifetime, sent), configured);
                state.fallback = credential.fallback_identity();
                true
            }
        }
    }
}

impl RefreshTokenInUse {
    /// How often in a row the server has refused the token, perhaps in passing.
    pub(super) fn refusals(&self) -> u32 {
        self.doubt.map_or(0, |doubt| doubt.refusals)
    }

    /// Whether both are the same refresh token.
    pub(super) fn is(&self, other: &Self) -> bool {
        is_same(&self.token, &other.token)
    }

    /// Records the new refresh token, or without one the present token again. Answers whether the token was rotated.
    fn answered(self, new: Renewal, state: &mut State) -> bool {
        let is_replaced = new.token.as_ref().is_some_and(|new| !is_same(new, &self.token));
        state.refresh_token_end = RefreshTokenEnd::next(self.end, new.lifetime, is_replaced, new.sent);
        state.rotations = self.rotations + u64::from(is_replaced);
        (state.lineage, state.fallback) = (self.lineage, self.fallback);
        forgive(state, &self.token);
        let token = new.token.unwrap_or(self.token);
        forgive(state, &token);
        state.refresh_token = Some(token);
        is_replaced
    }
}

/// Takes over the refresh token of a state that a person has put on disk. Answers whether it is another one. The lineage
/// becomes that of the configured token, which therefore does not take precedence.
pub(super) fn take_up(state: &mut State, found: State, identity: &Identity<SecretString>) -> bool {
    let (Some(theirs), ours) = (found.refresh_token, &state.refresh_token) else {
        return false;
    };
    if ours.as_ref().is_some_and(|ours| is_same(ours, &theirs)) {
        return false;
    }
    state.refresh_token = Some(theirs);
    state.lineage = lineage(identity).or(found.lineage);
    state.fallback = found.fallback;
    state.rotations = found.rotations;
    state.refresh_token_end = found.refresh_token_end;
    true
}

/// Starts a new chain with this refresh token, which the server has just issued and which therefore counts as refused no
/// longer. The lineage becomes that of the configured token, which therefore does not take precedence.
pub(super) fn adopt(
    state: &mut State,
    token: SecretString,
    end: Option<RefreshTokenEnd>,
    identity: &Identity<SecretString>,
) {
    forgive(state, &token);
    (state.refresh_token, state.refresh_token_end) = (Some(token), end);
    (state.lineage, state.fallback) = (lineage(identity), None);
    state.rotations = 0;
}

/// The lineage of the configured refresh token, if one is configured.
fn lineage(identity: &Identity<SecretString>) -> Option<Lineage> {
    match &identity.grant {
        Grant::RefreshToken(Some(configured)) => Some(Lineage::of(configured)),
        _ => None,
    }
}

fn is_same(one: &SecretString, other: &SecretString) -> bool {
    one.expose_secret() == other.expose_secret()
}
