//! The callers' answers, compared with the API's record of each request.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::error::Error as _;
use std::time::Duration;

use bytes::Bytes;
use testkit::harness::Upstream;
use testkit::harness::upstream::attempts::Outcome;

use crate::callers::Answer;
use crate::figures::{millis, quantile};
use crate::report::Report;

#[derive(Debug, Default)]
pub(crate) struct Tally {
    outcomes: RefCell<BTreeMap<String, usize>>,
    wrong: RefCell<Vec<String>>,
    answers: Cell<usize>,
    /// The durations of small answers.
    took: RefCell<Vec<Duration>>,
    of_tokens: Cell<usize>,
    stuck_longest: Cell<Duration>,
    not_taken_up: RefCell<Vec<String>>,
    failed_token_requests: Cell<usize>,
    revocations: Cell<usize>,
}

impl Tally {
    /// Judges an answer by the expected body; the durations of slow answers are not recorded.
    pub(crate) fn note(
        &self,
        api: &Upstream,
        id: &str,
        (expected, is_slow): (&Bytes, bool),
        answer: Result<Answer, hyper::Error>,
    ) {
        let tries = api.settle(id);
        let answer = match answer {
            Ok(answer) => answer,
            // A reset drops the part of the answer that was not written yet.
            Err(error) if is_stream_reset(&error) && tries.last() == Some(&Outcome::Reset) => {
                return self.count("HTTP/2 streams reset before anything of the answer");
            }
            Err(error) => return self.wrong(format!("{id}: no answer at all: {error:?}; {tries:?}")),
        };
        // The duration of an answer that is slow on purpose says nothing about the daemon.
        self.answers.set(self.answers.get() + 1);
        if expected.len() < 100 && !is_slow {
            self.took.borrow_mut().push(answer.took);
        }
        let replayed = match tries.iter().filter(|outcome| **outcome == Outcome::Rejected).count() {
            0 => "200",
            1 => "200 after a 401",
            _ => "200 after 401s for both tokens of a renewal",
        };
        let last = tries.last().copied();
        let (what, is_right) = match (&answer.code, answer.status) {
            (None, 200) if answer.is_complete => {
                let is_own = answer.id.as_deref() == Some(id) && answer.body == *expected;
                (replayed, is_own && last == Some(Outcome::Answered))
            }
            (None, 200) => {
                let is_start = expected.starts_with(&answer.body) && answer.body.len() < expected.len();
                let is_own = answer.id.as_deref() == Some(id);
                ("200 that broke off", is_start && is_own && last == Some(Outcome::Reset))
            }
            (None, 401) => {
                self.of_tokens.set(self.of_tokens.get() + 1);
                ("401 passed on", last == Some(Outcome::Rejected) && answer.id.as_deref() == Some(id))
            }
            (Some(_), 502) => ("502", last == Some(Outcome::Reset)),
            (Some(code), 503) if code.contains("token") => {
                self.of_tokens.set(self.of_tokens.get() + 1);
                (&*format!("503 {code}"), matches!(last, None | Some(Outcome::Rejected)))
            }
            _ => ("another", false),
        };
        *self.outcomes.borrow_mut().entry(what.to_owned()).or_default() += 1;
        if !is_right {
            let Answer { status, code, body, is_complete, .. } = &answer;
            let body = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
            self.wrong(format!(
                "{id}: {status} {code:?} of {:?}, complete: {is_complete}; the API: {tries:?}; {body}",
                answer.id
            ));
        }
    }

    /// Records a violation.
    pub(crate) fn wrong(&self, text: String) {
        self.wrong.borrow_mut().push(text);
    }

    /// Counts an event.
    pub(crate) fn count(&self, what: &str) {
        *self.outcomes.borrow_mut().entry(what.to_owned()).or_default() += 1;
    }

    pub(crate) fn stuck(&self, time: Duration) {
        self.stuck_longest.set(self.stuck_longest.get().max(time));
    }

    pub(crate) fn not_taken_up(&self, text: String) {
        self.not_taken_up.borrow_mut().push(text);
    }

    pub(crate) fn token_request_failed(&self) {
        self.failed_token_requests.set(self.failed_token_requests.get() + 1);
    }

    pub(crate) fn revoked(&self) {
        self.revocations.set(self.revocations.get() + 1);
    }

    pub(crate) fn all_wrong(&self) -> Vec<String> {
        self.wrong.borrow().clone()
    }

    pub(crate) fn all_not_taken_up(&self) -> Vec<String> {
        self.not_taken_up.borrow().clone()
    }

    pub(crate) const fn failed_token_requests(&self) -> usize {
        self.failed_token_requests.get()
    }

    pub(crate) const fn revocations(&self) -> usize {
        self.revocations.get()
    }

    pub(crate) const fn stuck_longest(&self) -> Duration {
        self.stuck_longest.get()
    }

    /// How many answers were a 401, or a 503 because of the token.
    pub(crate) const fn of_tokens(&self) -> usize {
        self.of_tokens.get()
    }

    /// The outcomes other than 200.
    pub(crate) fn failures(&self) -> Vec<String> {
        let outcomes = self.outcomes.borrow();
        let failed = outcomes.iter().filter(|(what, _)| !what.starts_with("200"));
        failed.map(|(what, count)| format!("{count} {what}")).collect()
    }

    pub(crate) const fn answers(&self) -> usize {
        self.answers.get()
    }

    pub(crate) fn show(&self, report: &Report) {
        for (what, count) in &*self.outcomes.borrow() {
            report.note(&format!("{count:8} {what}"));
        }
        let took = self.took.borrow();
        let of = |part| millis(quantile(&took, part));
        report.note(&format!(
            "small answers took {} in the middle, p99 {}, p99.9 {}",
            of(0.5),
            of(0.99),
            of(0.999)
        ));
    }
}

fn is_stream_reset(error: &hyper::Error) -> bool {
    let cause = error.source().and_then(|source| source.downcast_ref::<h2::Error>());
    cause.is_some_and(h2::Error::is_reset)
}
