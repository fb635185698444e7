//! Which of a client's two secrets is asked with, so that one can be replaced without a gap.
//!
//! The one that worked last is. Where the server does not know the client by it, the other is tried once, at once; with
//! both refused, one is tried each time the latch lets a request through, in turn. A changed secret makes both
//! candidates again. Which one works is remembered by its hash where that is encrypted, and else by its key's name.

use secrecy::SecretString;

use super::endpoint::TokenEndpoint;
use super::endpoint::response::TokenResponse;
use super::error::{NO_CODE, TokenError};
use super::state::file::{ClientSecretHash, State};
use crate::config::{Credential, Identity};

/// One of the two, by its key in the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhichSecret {
    /// `client_secret`.
    #[default]
    Current,
    /// `client_secret_next`.
    Next,
}

/// What decides between them.
#[derive(Debug, Default)]
pub struct ClientSecrets {
    /// The one to ask with.
    candidate: WhichSecret,
    /// The one that worked last.
    in_use: WhichSecret,
    /// What that was, as its key may have another value by now.
    mark: Option<ClientSecretHash>,
    /// Whether both have been tried since one worked or changed.
    is_other_tried: bool,
}

impl WhichSecret {
    /// Its key.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Current => "client_secret",
            Self::Next => "client_secret_next",
        }
    }

    const fn other(self) -> Self {
        match self {
            Self::Current => Self::Next,
            Self::Next => Self::Current,
        }
    }
}

impl ClientSecrets {
    /// Goes on from a state. In the middle of a series of rejections the other has been tried.
    pub fn resume(&mut self, state: &State, identity: &Identity<SecretString>, is_rejected: bool) {
        self.mark = state.client_secret;
        self.in_use = if state.uses_next_secret { WhichSecret::Next } else { WhichSecret::Current };
        self.candidate = match self.mark {
            Some(_) => self.marked(identity),
            None => self.in_use,
        };
        self.is_other_tried = is_rejected;
    }

    /// The identity with the secret to ask with.
    pub fn identity(&self, configured: &Identity<SecretString>) -> Identity<SecretString> {
        let next = configured.with_next_secret().filter(|_| self.candidate == WhichSecret::Next);
        next.unwrap_or_else(|| configured.clone())
    }

    /// The server does not know the client by this one. Whether to ask with the other at once.
    pub fn refused(&mut self, configured: &Identity<SecretString>) -> bool {
        let has_other = mark(configured, WhichSecret::Next)
            .is_some_and(|next| Some(next) != mark(configured, WhichSecret::Current));
        if !has_other {
            return false;
        }
        self.candidate = self.candidate.other();
        !std::mem::replace(&mut self.is_other_tried, true)
    }

    /// The one that was asked with works. Says which, if it was another before.
    pub fn worked(&mut self, configured: &Identity<SecretString>) -> Option<WhichSecret> {
        let has_next = configured.client_secret_next.is_some();
        let worked = if has_next { self.candidate } else { WhichSecret::Current };
        self.candidate = worked;
        self.mark = mark(configured, worked).filter(|_| has_next);
        self.is_other_tried = false;
        let before = std::mem::replace(&mut self.in_use, worked);
        (before != worked).then_some(worked)
    }

    /// One of them has another value now.
    pub fn changed(&mut self, configured: &Identity<SecretString>) {
        self.candidate = self.marked(configured);
        self.is_other_tried = false;
    }

    /// Asks once, outside the loop; and once more with the other secret where the server does not know the client by
    /// the one.
    ///
    /// # Errors
    ///
    /// What the last answer means.
    pub async fn ask<E: TokenEndpoint>(
        &mut self,
        credential: &Credential,
        endpoint: &E,
        configured: &Identity<SecretString>,
    ) -> Result<TokenResponse, TokenError> {
        let mut outcome = endpoint.request(credential, &self.identity(configured), None).await;
        if outcome.as_ref().err().is_some_and(is_invalid_client) && self.refused(configured) {
            outcome = endpoint.request(credential, &self.identity(configured), None).await;
        }
        if outcome.is_ok() {
            self.worked(configured);
        }
        outcome
    }

    /// The one that worked last.
    pub const fn in_use(&self) -> WhichSecret {
        self.in_use
    }

    /// Notes what must outlive the process.
    pub const fn remember(&self, state: &mut State) {
        state.client_secret = self.mark;
        state.uses_next_secret = matches!(self.in_use, WhichSecret::Next);
    }

    /// Where the one that worked last is now; the first to try where it is gone.
    fn marked(&self, configured: &Identity<SecretString>) -> WhichSecret {
        let is_at = |which| self.mark.is_some() && self.mark == mark(configured, which);
        if is_at(WhichSecret::Next) && !is_at(WhichSecret::Current) {
            WhichSecret::Next
        } else {
            WhichSecret::Current
        }
    }
}

fn mark(identity: &Identity<SecretString>, which: WhichSecret) -> Option<ClientSecretHash> {
    let secret = match which {
        WhichSecret::Current => identity.client_auth.secret(),
        WhichSecret::Next => identity.client_secret_next.as_ref(),
    };
    secret.map(ClientSecretHash::of)
}

/// RFC 6749 §5.2. Some servers answer 401 and say no more.
pub fn is_invalid_client(error: &TokenError) -> bool {
    matches!(error, TokenError::Rejected { status, code, .. }
        if code == "invalid_client" || (*status == 401 && code == NO_CODE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::fixture;

    fn identity(current: &str, next: &str) -> Identity<SecretString> {
        let lines = format!("client_secret = \"{current}\"\nclient_secret_next = \"{next}\"");
        fixture::config("", &lines, "").credentials[0].identity.initial()
    }

    fn asked_with(secrets: &ClientSecrets, identity: &Identity<SecretString>) -> String {
        use secrecy::ExposeSecret;
        let identity = secrets.identity(identity);
        identity.client_auth.secret().unwrap().expose_secret().to_owned()
    }

    #[test]
    fn the_other_is_tried_at_once_and_once_and_then_each_in_turn() {
        let identity = identity("a", "b");
        let mut secrets = ClientSecrets::default();

        let tried: Vec<(String, bool)> =
            (0..6).map(|_| (asked_with(&secrets, &identity), secrets.refused(&identity))).collect();

        let expected = [("a", true), ("b", false), ("a", false), ("b", false), ("a", false), ("b", false)];
        assert_eq!(tried, expected.map(|(secret, at_once)| (secret.to_owned(), at_once)));
    }

    #[test]
    fn the_one_that_worked_is_found_wherever_it_has_moved() {
        let before = identity("a", "b");
        let mut secrets = ClientSecrets::default();
        assert!(secrets.refused(&before));
        assert_eq!(secrets.worked(&before), Some(WhichSecret::Next));
        let mut state = State::default();
        secrets.remember(&mut state);

        for (now, found) in [
            (identity("a", "b"), "b"),
            // Promoted; beside a third; and gone.
            (identity("b", "c"), "b"),
            (identity("b", "b"), "b"),
            (identity("c", "b"), "b"),
            (identity("c", "d"), "c"),
        ] {
            let mut resumed = ClientSecrets::default();
            resumed.resume(&state, &now, false);
            assert_eq!(asked_with(&resumed, &now), found);
            let mut running = ClientSecrets::default();
            running.refused(&before);
            running.worked(&before);
            running.changed(&now);
            assert_eq!(asked_with(&running, &now), found);
        }
        // In clear only the key's name is known.
        state.client_secret = None;
        secrets.resume(&state, &before, false);
        assert_eq!(asked_with(&secrets, &before), "b");
    }

    #[test]
    fn two_secrets_that_are_the_same_are_one() {
        let mut secrets = ClientSecrets::default();
        assert!(!secrets.refused(&identity("a", "a")));
        let alone = fixture::config("", "", "a").credentials[0].identity.initial();
        assert!(!secrets.refused(&alone));
        assert_eq!(secrets.worked(&alone), None);
    }

    #[test]
    fn a_restart_in_the_middle_of_rejections_does_not_try_the_other_at_once_again() {
        let identity = identity("a", "b");
        let mut secrets = ClientSecrets::default();
        secrets.resume(&State::default(), &identity, true);

        assert!(!secrets.refused(&identity));
        assert_eq!(asked_with(&secrets, &identity), "b");
    }
}
