//! How often each request came under load, told apart by their ids, and what each attempt was answered.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;

/// The attempts of requests whose callers wait, and the ids of the other requests.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    waiting: Mutex<HashMap<String, Vec<Attempt>>>,
    settled: Mutex<HashSet<String>>,
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
    /// Records an attempt; an error says why it should not have come. A request may come again after a 401, once and with
    /// another token; twice if the API rejects both tokens of a scheduled renewal. An idempotent one may also come again after a reset, once for each of these (`retry_stale`).
    pub(super) fn begin(&self, id: &str, token: &str, is_idempotent: bool) -> Result<(), String> {
        if id.is_empty() {
            return Ok(());
        }
        let is_settled = self.settled.lock().unwrap().contains(id);
        let mut waiting = self.waiting.lock().unwrap();
        let attempts = waiting.entry(id.to_owned()).or_default();
        let with = |outcome| attempts.iter().filter(move |attempt| attempt.outcome == outcome);
        let (rejected, reset) = (with(Outcome::Rejected).count(), with(Outcome::Reset).count());
        let result = match attempts.last().map(|last| last.outcome) {
            _ if is_settled => Err("an attempt after the answer".to_owned()),
            None => Ok(()),
            Some(Outcome::Reset) if is_idempotent && reset <= 1 + rejected => Ok(()),
            Some(Outcome::Rejected) if with(Outcome::Rejected).any(|earlier| earlier.token == token) => {
                Err("sent again with the same token".to_owned())
            }
            Some(Outcome::Rejected) if rejected <= 2 => Ok(()),
            Some(Outcome::Rejected) => Err(format!("attempt {}", attempts.len() + 1)),
            Some(last) => Err(format!("sent again after {last:?}")),
        };
        attempts.push(Attempt { token: token.to_owned(), outcome: Outcome::UnderWay });
        result
    }

    /// Records the outcome of the last attempt.
    pub(super) fn end(&self, id: &str, outcome: Outcome) {
        if let Some(last) = self.waiting.lock().unwrap().get_mut(id).and_then(|attempts| attempts.last_mut())
        {
            last.outcome = outcome;
        }
    }

    /// The outcomes of a request's attempts; the caller has its answer.
    pub(super) fn settle(&self, id: &str) -> Vec<Outcome> {
        self.settled.lock().unwrap().insert(id.to_owned());
        let attempts = self.waiting.lock().unwrap().remove(id);
        attempts.unwrap_or_default().into_iter().map(|attempt| attempt.outcome).collect()
    }
}
