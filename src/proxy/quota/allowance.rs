//! The access of one worker to a budget. Never shared between threads.
//!
//! A large budget gives a worker several permits for a line at once; each is then taken without a message. A permit that is dropped
//! before its request was sent goes back.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::hash::RandomState;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use http::{HeaderMap, StatusCode};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::batch::Batch;
use super::budget::{Budget, Message, Reply};
use super::learn;
use super::ledger::{Claim, Grant};
use super::line::{LineKey, LineOf};
use crate::clock::wall_clock;

/// A line that was refused is refused again for this long, unless its turn comes earlier: a caller that does not obey costs the
/// ledger little.
const REFUSAL: Duration = Duration::from_millis(20);
/// The ledger hears of answers that took longer: no margin for the travel of requests is shorter.
const TRAVEL: Duration = Duration::from_millis(5);
/// The most messages that wait for a place in the queue of the ledger, besides permits that are used or given back.
const MAX_UNSENT: usize = 1024;
/// The most lines of which a worker keeps something.
const MAX_KEPT: usize = 1024;

/// Permits for the requests of one worker.
#[derive(Debug)]
pub struct Allowance {
    budget: Budget,
    kept: RefCell<Kept>,
    /// Messages that have found no place in the queue of the ledger, the oldest first.
    unsent: RefCell<VecDeque<Message>>,
}

/// The worker's knowledge of lines.
#[derive(Debug, Default)]
struct Kept(HashMap<LineKey, Entry, RandomState>);

#[derive(Debug)]
enum Entry {
    /// Permits at hand.
    Batch(Arc<Batch>),
    /// Refused until then, so many times without a question; another attempt may succeed at `retry_at`.
    Refused { until: Instant, retry_at: Instant, times: u64 },
}

/// A permit to send one request now.
#[derive(Debug)]
pub struct Permit<'a> {
    allowance: &'a Allowance,
    held: Held,
}

#[derive(Debug)]
enum Held {
    One(Claim),
    OfBatch(Arc<Batch>),
    /// Used; a single one is remembered.
    Used(Option<Claim>),
}

impl Allowance {
    /// Permits out of this budget.
    pub fn new(budget: Budget) -> Self {
        Self { budget, kept: RefCell::default(), unsent: RefCell::default() }
    }

    /// The budget.
    pub const fn budget(&self) -> &Budget {
        &self.budget
    }

    /// A permit at hand.
    pub fn take(&self, line: LineOf<'_>) -> Option<Permit<'_>> {
        let kept = self.kept.borrow();
        match kept.0.get(&line)? {
            Entry::Batch(batch) if batch.take() => {
                Some(Permit { allowance: self, held: Held::OfBatch(Arc::clone(batch)) })
            }
            Entry::Batch(_) | Entry::Refused { .. } => None,
        }
    }

    /// A permit from the ledger. Waits for the turn of the request.
    ///
    /// # Errors
    ///
    /// When another attempt may succeed.
    ///
    /// # Cancel safety
    ///
    /// A request that leaves gives back its permit, also one that was granted meanwhile.
    pub async fn ask(&self, line: LineOf<'_>) -> Result<Permit<'_>, Instant> {
        let now = Instant::now();
        if let Some(retry_at) = self.kept.borrow_mut().refused_until(line, now) {
            return Err(retry_at);
        }
        let forgotten = self.kept.borrow_mut().0.remove(&line);
        self.report(line, forgotten.as_ref());
        self.flush();
        let (sender, receiver) = oneshot::channel();
        let mut asked = Asked { allowance: self, receiver };
        let gone = now + self.budget.per();
        self.budget.send(Message::Ask(line.key(), sender)).await.map_err(|()| gone)?;
        let reply = (&mut asked.receiver).await.unwrap_or(Err(gone));
        let replaced = self.kept.borrow_mut().note(line, &reply);
        self.report(line, replaced.as_ref());
        reply.map(|grant| self.permit(grant))
    }

    /// Reads what a response says about the limit.
    fn learn(&self, status: StatusCode, headers: &HeaderMap) {
        if !self.budget.learns() {
            return;
        }
        let Some(report) = learn::report(status, headers, self.budget.per(), wall_clock) else { return };
        if self.budget.would_change(&report) {
            self.tell(Message::Learn(report));
        }
    }

    /// Sends what has found no place in the queue, and forgets what is over.
    pub fn sweep(&self) {
        self.flush();
        let refused = self.kept.borrow_mut().forget(Instant::now());
        for (line, times) in refused {
            self.tell(Message::Refused(line, times));
        }
    }

    /// Reports how often a line was refused without a question.
    fn report(&self, line: LineOf<'_>, entry: Option<&Entry>) {
        if let Some(Entry::Refused { times: times @ 1.., .. }) = entry {
            self.tell(Message::Refused(line.key(), *times));
        }
    }

    fn permit(&self, grant: Grant) -> Permit<'_> {
        let held = match grant {
            Grant::One(claim) => Held::One(claim),
            Grant::Many(batch) => Held::OfBatch(batch),
        };
        Permit { allowance: self, held }
    }

    /// Sends a message now, or with the next one. Drops a report for which there is no place; a permit is never lost.
    fn tell(&self, message: Message) {
        let mut unsent = self.unsent.borrow_mut();
        let message = if unsent.is_empty() { self.budget.try_send(message).err() } else { Some(message) };
        let has_place = unsent.len() < MAX_UNSENT;
        unsent.extend(message.filter(|one| has_place || matches!(one, Message::Settle(..))));
    }

    fn flush(&self) {
        let mut unsent = self.unsent.borrow_mut();
        while let Some(message) = unsent.pop_front() {
            if let Err(message) = self.budget.try_send(message) {
                unsent.push_front(message);
                return;
            }
        }
    }
}

/// A request that waits for the answer of the ledger.
struct Asked<'a> {
    allowance: &'a Allowance,
    receiver: oneshot::Receiver<Reply>,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.receiver.close();
        if let Ok(Ok(grant)) = self.receiver.try_recv() {
            drop(self.allowance.permit(grant));
        }
    }
}

impl Permit<'_> {
    /// Whether the permit holds no longer, as its batch was closed: the request has to take another one.
    pub fn is_over(&self) -> bool {
        matches!(&self.held, Held::OfBatch(batch) if batch.is_closed())
    }

    /// The request is sent now.
    pub fn used(&mut self) {
        match &self.held {
            Held::One(claim) => {
                let claim = *claim;
                self.held = Held::Used(Some(claim));
                self.allowance.tell(Message::Settle(claim, true));
            }
            Held::OfBatch(_) => self.held = Held::Used(None),
            Held::Used(_) => {}
        }
    }

    /// The upstream has answered the request with this head, so long after it was sent.
    pub fn answered(&self, status: StatusCode, headers: &HeaderMap, took: Duration) {
        if let Held::Used(Some(claim)) = self.held
            && took > TRAVEL
        {
            self.allowance.tell(Message::Late(claim, took));
        }
        self.allowance.learn(status, headers);
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        match &self.held {
            Held::One(claim) => self.allowance.tell(Message::Settle(*claim, false)),
            Held::OfBatch(batch) => batch.give_back(),
            Held::Used(_) => {}
        }
    }
}

impl Kept {
    /// When another attempt may succeed, if the line was just refused. Counts the refusal.
    fn refused_until(&mut self, line: LineOf<'_>, now: Instant) -> Option<Instant> {
        match self.0.get_mut(&line) {
            Some(Entry::Refused { until, retry_at, times }) if now < *until => {
                *times += 1;
                Some(*retry_at)
            }
            _ => None,
        }
    }

    /// Keeps an entry of a line. Returns the one before.
    fn insert(&mut self, line: LineOf<'_>, entry: Entry) -> Option<Entry> {
        if self.0.len() >= MAX_KEPT {
            return self.0.remove(&line);
        }
        self.0.insert(line.key(), entry)
    }

    /// Keeps what an answer says about a line. Returns what was kept before, of another request.
    fn note(&mut self, line: LineOf<'_>, reply: &Reply) -> Option<Entry> {
        match reply {
            Ok(Grant::Many(batch)) => self.insert(line, Entry::Batch(Arc::clone(batch))),
            Ok(Grant::One(_)) => None,
            Err(retry_at) => {
                let until = (Instant::now() + REFUSAL).min(*retry_at);
                self.insert(line, Entry::Refused { until, retry_at: *retry_at, times: 0 })
            }
        }
    }

    /// Forgets what is over. Returns how often lines were refused without a question.
    fn forget(&mut self, now: Instant) -> Vec<(LineKey, u64)> {
        let mut refused = Vec::new();
        self.0.retain(|line, entry| match entry {
            Entry::Batch(batch) => !batch.is_closed(),
            Entry::Refused { until, times, .. } => {
                let is_over = *until <= now;
                if is_over && *times > 0 {
                    refused.push((line.clone(), *times));
                }
                !is_over
            }
        });
        refused
    }
}

#[cfg(test)]
mod tests;
