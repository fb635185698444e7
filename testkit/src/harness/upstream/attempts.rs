//! How often each request came under load, told apart by their ids, and what each attempt was answered.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::time::Duration;

use crate::authorization_server::Introspection;

/// How long after a scheduled renewal the previous token may be used (`PREVIOUS_WINDOW` of the token store), and the time that
/// the new token and the request need on their ways.
const PREVIOUS_WINDOW: Duration = Duration::from_secs(61);

/// The attempts of requests whose callers wait, and the ids of the other requests.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    waiting: Mutex<HashMap<String, Vec<Attempt>>>,
    settled: Mutex<HashSet<String>>,
    /// The tokens with which the API has answered a request.
    accepted: Mutex<HashSet<String>>,
}

#[derive(Clone, Debug)]
struct Attempt {
    token: String,
    outcome: Outcome,
}

/// What became of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The API is answering it, or the caller has left.
    UnderWay,
    /// The API answered it as the script says.
    Answered,
    /// The API answered with 401.
    Rejected,
    /// The API reset the connection, before the answer or in the middle of it.
    Reset,
}

impl Attempts {
    /// Records an attempt; an error says why it should not have come.
    ///
    /// A request may come again after a 401, once and with another token; twice if the API rejects both tokens of a scheduled
    /// renewal ([`both_of_a_renewal`](Self::both_of_a_renewal)). An idempotent one may also come again after a reset, once
    /// (`retry_stale`).
    pub(super) fn begin(
        &self,
        id: &str,
        token: &str,
        tokens: Option<&Introspection>,
        is_idempotent: bool,
    ) -> Result<(), String> {
        if id.is_empty() {
            return Ok(());
        }
        let is_settled = self.settled.lock().unwrap().contains(id);
        let mut waiting = self.waiting.lock().unwrap();
        let attempts = waiting.entry(id.to_owned()).or_default();
        let with = |outcome| attempts.iter().filter(move |attempt| attempt.outcome == outcome);
        let rejected: Vec<&str> = with(Outcome::Rejected).map(|attempt| attempt.token.as_str()).collect();
        let result = match attempts.last().map(|last| last.outcome) {
            _ if is_settled => Err("an attempt after the answer".to_owned()),
            None => Ok(()),
            Some(Outcome::Reset) if is_idempotent && with(Outcome::Reset).count() == 1 => Ok(()),
            Some(Outcome::Rejected) => match rejected.as_slice() {
                earlier if earlier.contains(&token) => Err("sent again with the same token".to_owned()),
                [_] => Ok(()),
                [first, second] => self.both_of_a_renewal([first, second], token, tokens),
                more => Err(format!("sent again after {} rejections", more.len())),
            },
            Some(last) => Err(format!("sent again after {last:?}")),
        };
        attempts.push(Attempt { token: token.to_owned(), outcome: Outcome::UnderWay });
        result
    }

    /// Checks that the API rejected a token and the one that it replaced not long ago, which the API had accepted, and that
    /// the third token is newer than both.
    fn both_of_a_renewal(
        &self,
        rejected: [&str; 2],
        third: &str,
        tokens: Option<&Introspection>,
    ) -> Result<(), String> {
        let Some(tokens) = tokens else { return Err("a third attempt without a token".to_owned()) };
        let previous = rejected.into_iter().min_by_key(|token| tokens.number(token)).unwrap_or_default();
        if rejected.into_iter().any(|token| tokens.number(token) >= tokens.number(third)) {
            return Err("a third attempt with a token that is not newer".to_owned());
        }
        if !self.accepted.lock().unwrap().contains(previous) {
            return Err("a third attempt, and the API had never accepted the previous token".to_owned());
        }
        match tokens.replaced_ago(previous) {
            Some(ago) if ago < PREVIOUS_WINDOW => Ok(()),
            ago => Err(format!("a third attempt, and the previous token was replaced {ago:?} ago")),
        }
    }

    /// Records the outcome of the last attempt.
    pub(super) fn end(&self, id: &str, outcome: Outcome) {
        let mut waiting = self.waiting.lock().unwrap();
        let Some(last) = waiting.get_mut(id).and_then(|attempts| attempts.last_mut()) else { return };
        last.outcome = outcome;
        if outcome != Outcome::Rejected && !last.token.is_empty() {
            self.accepted.lock().unwrap().insert(last.token.clone());
        }
    }

    /// The outcomes of a request's attempts; the caller has its answer.
    pub(super) fn settle(&self, id: &str) -> Vec<Outcome> {
        self.settled.lock().unwrap().insert(id.to_owned());
        let attempts = self.waiting.lock().unwrap().remove(id);
        attempts.unwrap_or_default().into_iter().map(|attempt| attempt.outcome).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authorization_server::AuthorizationServer;

    /// An API that saw these attempts with the tokens of an authorization server, by their numbers from 0.
    struct Seen {
        issuer: AuthorizationServer,
        tokens: Vec<String>,
        attempts: Attempts,
    }

    impl Seen {
        async fn new(tokens: usize) -> Self {
            let issuer = AuthorizationServer::start("id", "secret", None).await.unwrap();
            let tokens = (0..tokens).map(|_| issuer.issue()).collect();
            Self { issuer, tokens, attempts: Attempts::default() }
        }

        fn begin(&self, id: &str, token: usize, is_idempotent: bool) -> Result<(), String> {
            let tokens = self.issuer.introspection();
            self.attempts.begin(id, &self.tokens[token], Some(&tokens), is_idempotent)
        }

        /// A request that was rejected with all tokens but the last; the result of the last attempt.
        fn rejected(&self, id: &str, tokens: &[usize]) -> Result<(), String> {
            let (last, earlier) = tokens.split_last().unwrap();
            for token in earlier {
                self.begin(id, *token, false)?;
                self.attempts.end(id, Outcome::Rejected);
            }
            self.begin(id, *last, false)
        }

        fn accept(&self, token: usize) {
            self.begin("accepted", token, false).unwrap();
            self.attempts.end("accepted", Outcome::Answered);
            self.attempts.waiting.lock().unwrap().clear();
        }
    }

    #[tokio::test]
    async fn a_request_comes_twice_because_of_a_401_with_another_token() {
        let seen = Seen::new(3).await;
        assert_eq!(seen.rejected("a", &[0, 1]), Ok(()));
        assert!(seen.rejected("b", &[0, 0]).is_err(), "the same token");
        assert!(seen.rejected("c", &[0, 1, 2]).is_err(), "the first token was never accepted");
    }

    #[tokio::test]
    async fn a_request_comes_three_times_where_both_tokens_of_a_renewal_are_rejected() {
        let seen = Seen::new(4).await;
        seen.accept(0);
        assert_eq!(seen.rejected("a", &[1, 0, 2]), Ok(()));
        assert_eq!(seen.rejected("b", &[0, 1, 2]), Ok(()));
        assert!(seen.rejected("c", &[1, 0, 2, 3]).is_err(), "a fourth attempt");
        assert!(seen.rejected("d", &[2, 0, 1]).is_err(), "an older token");
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_that_was_replaced_long_ago_is_none_of_a_renewal() {
        let seen = Seen::new(3).await;
        seen.accept(0);
        tokio::time::advance(PREVIOUS_WINDOW).await;
        assert!(seen.rejected("a", &[1, 0, 2]).is_err());
    }

    #[tokio::test]
    async fn an_idempotent_request_comes_again_after_a_reset_once() {
        let seen = Seen::new(1).await;
        for (id, is_idempotent) in [("a", true), ("b", false)] {
            seen.begin(id, 0, is_idempotent).unwrap();
            seen.attempts.end(id, Outcome::Reset);
            assert_eq!(seen.begin(id, 0, is_idempotent).is_ok(), is_idempotent);
            seen.attempts.end(id, Outcome::Reset);
            assert!(seen.begin(id, 0, is_idempotent).is_err());
        }
        seen.begin("c", 0, true).unwrap();
        seen.attempts.settle("c");
        assert!(seen.begin("c", 0, true).is_err(), "the caller has its answer");
    }
}
