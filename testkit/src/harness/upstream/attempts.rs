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
    /// Records an attempt; an error says why it should not have come: only after a 401 may a request come again, once, and
    /// with another token.
    pub(super) fn begin(&self, id: &str, token: &str) -> Result<(), String> {
        if id.is_empty() {
            return Ok(());
        }
        let is_settled = self.settled.lock().unwrap().contains(id);
        let mut waiting = self.waiting.lock().unwrap();
        let attempts = waiting.entry(id.to_owned()).or_default();
        let result = match attempts.as_slice() {
            _ if is_settled => Err("an attempt after the answer".to_owned()),
            [first] if first.outcome != Outcome::Rejected => Err("sent again without a 401".to_owned()),
            [first] if first.token == token => Err("sent again with the same token".to_owned()),
            [] | [_] => Ok(()),
            more => Err(format!("attempt {}", more.len() + 1)),
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
