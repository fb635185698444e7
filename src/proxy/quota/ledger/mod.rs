//! The ledger of a budget: how many requests may go out, and whose turn it is.
//!
//! A pure state machine: each call names the time, which never goes back. In no interval of `per` do more than `requests` go
//! out. Each known line has a share by its weight. A line that has not used up its share is *entitled*; beyond its share it
//! *borrows* what others are expected to leave unused, one request after the other at an even pace, so that no burst empties
//! the interval for a caller that comes a second later. Entitled requests go first; among several goes that of the line that has
//! used the least for its weight. A line that is known alone has the whole budget for its share.

mod grant;
mod lines;
mod status;
mod turn;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use self::lines::{Lines, Waiter, float};
use super::batch::Batch;
use super::line::LineKey;
use super::window::{Kind, Latest, LineId, Window};

pub use self::lines::MAX_LINES;
pub use self::status::{Counts, LineStatus, Status};

/// The most requests that wait in all lines together.
pub const MAX_WAITING: usize = 16 * 1024;
/// A longer pause that an API asks for is cut to this.
pub const MAX_BLOCK: Duration = Duration::from_hours(1);
/// A batch is closed, and lines are forgotten, after this part of an interval.
const SLICES: u32 = 64;
/// A batch has at most this part of a budget.
const BATCHES: u32 = 256;
/// The longest [`travel_margin`].
const MAX_MARGIN: Duration = Duration::from_millis(250);
/// How long a request travels at most.
const MAX_TRAVEL: Duration = Duration::from_secs(2);
/// Rates are computed in floating point.
const ROUNDING: f64 = 1e-6;
/// The shortest wait for the next permit to borrow.
const MIN_PAUSE: Duration = Duration::from_micros(100);

/// The limit of a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The most requests in any interval of `per`.
    pub requests: u32,
    /// The interval, never zero.
    pub per: Duration,
    /// How much longer than `per` a request counts: [`travel_margin`] where the API counts too.
    pub margin: Duration,
    /// How long a request may wait for its turn.
    pub wait: Duration,
    /// How many workers take permits.
    pub workers: u32,
}

/// A request's claim to an answer. A request may leave while it waits.
pub trait Ticket {
    /// Whether the request has left.
    fn is_gone(&self) -> bool;
}

/// The answer to a request.
#[derive(Debug)]
pub struct Served<T> {
    /// The request.
    pub ticket: T,
    /// The permit, or the time at which another attempt may succeed.
    pub outcome: Result<Grant, Instant>,
    /// How long the request waited.
    pub waited: Duration,
}

/// A permit to send one request now.
#[derive(Debug)]
pub enum Grant {
    /// A single permit, whose use or return the ledger is told ([`Ledger::settle`]).
    One(Claim),
    /// The first of several permits for requests of this line on this worker.
    Many(Arc<Batch>),
}

/// A permit that is given out and neither used nor given back so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    line: LineId,
    kind: Kind,
}

/// An API's report about its own limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// How many requests it allows in an interval of `per`.
    pub allowed: Option<u32>,
    /// How many requests it still allows, and for how long that holds.
    pub left: Option<(u32, Duration)>,
    /// How long it wants no requests.
    pub pause: Option<Duration>,
}

/// Permits that are given out together.
#[derive(Debug)]
struct OpenBatch {
    batch: Arc<Batch>,
    closes_at: Instant,
    claim: Claim,
}

/// Requests that something else made with the same token.
#[derive(Clone, Copy, Debug)]
struct Debt {
    count: u64,
    until: Instant,
}

/// The ledger of a budget. `T` is what stands for a waiting request.
#[derive(Debug)]
pub struct Ledger<T> {
    settings: Settings,
    /// Replicas that share the limit.
    replicas: u32,
    allowed: Option<(u32, Instant)>,
    blocked_until: Option<Instant>,
    debts: Vec<Debt>,
    lines: Lines<T>,
    window: Window,
    /// Permits that are given out.
    reserved: u64,
    /// Requests in the window and permits that are given out, of all lines together, beyond their shares.
    borrowed: u64,
    batches: VecDeque<OpenBatch>,
    /// The requests that may be borrowed in an interval.
    lend: f64,
    /// When `lend` is computed anew.
    lend_until: Instant,
    /// The requests that may be borrowed now.
    credit: f64,
    credited_at: Instant,
    waiting: usize,
    /// Not after the earliest deadline of a request that waits.
    next_deadline: Option<Instant>,
    forgets_at: Instant,
    arrivals: u64,
    counts: Counts,
}

impl<T: Ticket> Ledger<T> {
    /// An unused budget, with the lines of these configured callers and their weights.
    pub fn new(settings: Settings, callers: &[(LineKey, u32)], now: Instant) -> Self {
        let mut lines = Lines::new();
        lines.configure(callers, now);
        Self {
            settings,
            replicas: 1,
            allowed: None,
            blocked_until: None,
            debts: Vec::new(),
            lines,
            window: Window::new(span(&settings), settings.requests),
            reserved: 0,
            borrowed: 0,
            batches: VecDeque::new(),
            lend: 0.0,
            lend_until: now,
            credit: 0.0,
            credited_at: now,
            waiting: 0,
            next_deadline: None,
            forgets_at: now + settings.per / SLICES,
            arrivals: 0,
            counts: Counts::default(),
        }
    }

    /// Puts other settings and callers in force. What was used stays used.
    pub fn configure(&mut self, settings: Settings, callers: &[(LineKey, u32)], now: Instant) {
        self.recall(now);
        self.lines.configure(callers, now);
        self.window.resize(span(&settings), settings.requests);
        self.settings = settings;
        self.lend_until = now;
    }

    /// How many replicas share the limit from now on.
    pub fn shared_by(&mut self, replicas: u32, now: Instant) {
        if self.replicas != replicas.max(1) {
            self.replicas = replicas.max(1);
            self.recall(now);
        }
    }

    /// The limit in force: less than configured if the API allows less or replicas share it.
    pub fn limit(&self) -> u32 {
        let requests =
            self.allowed.map_or(self.settings.requests, |(allowed, _)| allowed.min(self.settings.requests));
        (requests / self.replicas).max(1)
    }

    /// How many requests may go out now, if they may at all.
    pub fn left(&self) -> u32 {
        u32::try_from(u64::from(self.limit()).saturating_sub(self.used())).unwrap_or(u32::MAX)
    }

    /// The sum that counts against the limit: requests in the window, permits that are given out, and debts.
    pub fn used(&self) -> u64 {
        self.window.total() + self.reserved + self.debts.iter().map(|debt| debt.count).sum::<u64>()
    }

    /// A request wants to go out. The answer is among `served` now, or after a later call.
    pub fn ask(&mut self, key: &LineKey, ticket: T, now: Instant, served: &mut Vec<Served<T>>) {
        self.advance(now, served);
        let index = self.lines.enter(key, now, self.settings.per);
        if self.lines.line(index).waiting.is_empty() {
            if let Some(grant) = self.grant(index, true, now) {
                return served.push(Served { ticket, outcome: Ok(grant), waited: Duration::ZERO });
            }
            // Somebody has to wait: what workers hold and do not use is given out anew.
            self.recall(now);
            self.serve(now, served);
            if let Some(grant) = self.grant(index, false, now) {
                return served.push(Served { ticket, outcome: Ok(grant), waited: Duration::ZERO });
            }
        }
        let turn = self.turn(index, self.lines.line(index).waiting.len() as u64, now);
        if turn > now + self.settings.wait || self.settings.wait.is_zero() || self.waiting >= MAX_WAITING {
            self.refused(index);
            return served.push(Served { ticket, outcome: Err(turn), waited: Duration::ZERO });
        }
        let (since, deadline) = (now, now + self.settings.wait);
        self.arrivals += 1;
        self.lines.push(index, Waiter { ticket, number: self.arrivals, since, deadline });
        self.waiting += 1;
        self.next_deadline = Some(self.next_deadline.map_or(deadline, |next| next.min(deadline)));
    }

    /// A permit was used now, or is given back.
    pub fn settle(&mut self, Claim { line: id, kind }: Claim, was_sent: bool, now: Instant) {
        self.reserved = self.reserved.saturating_sub(1);
        let mut latest = Latest::default();
        let line = self.lines.of(id);
        if let Some(line) = line {
            line.reserved = line.reserved.saturating_sub(1);
            if was_sent {
                self.window.add(now, id, kind, 1, &mut line.latest);
            } else {
                line.give_back(kind, 1);
                line.granted = line.granted.saturating_sub(1);
            }
        } else if was_sent {
            self.window.add(now, id, kind, 1, &mut latest);
        }
        if !was_sent && kind == Kind::Borrowed {
            self.borrowed = self.borrowed.saturating_sub(1);
        }
        if was_sent {
            self.counts.granted += 1;
            self.counts.borrowed += u64::from(kind == Kind::Borrowed);
        }
    }

    /// The answer to a request with a single permit took so long that the API may have counted it later than expected: at most
    /// now. A longer time than [`MAX_TRAVEL`] was the API's own.
    pub fn late(&mut self, Claim { line: id, kind }: Claim, took: Duration, now: Instant) {
        let span = span(&self.settings);
        if took <= self.settings.margin || took > MAX_TRAVEL {
            return;
        }
        let sent = now.checked_sub(took).unwrap_or(now);
        if let Some(line) = self.lines.of(id)
            && self.window.take_latest(id, kind, sent + span + MIN_PAUSE)
        {
            self.window.add(now, id, kind, 1, &mut line.latest);
        }
    }

    /// Whether something counts against the limit, waits, or blocks.
    pub fn is_in_use(&self) -> bool {
        self.used() > 0 || self.waiting > 0 || self.blocked_until.is_some()
    }

    /// The API has said something about its limit. Only lowers what may go out.
    pub fn learn(&mut self, report: Report, now: Instant) {
        let per = self.settings.per;
        if let Some(pause) = report.pause {
            let until = now + pause.min(MAX_BLOCK);
            self.blocked_until = Some(self.blocked_until.map_or(until, |before| before.max(until)));
            self.recall(now);
        }
        if let Some(allowed) = report.allowed {
            let was = self.limit();
            self.allowed = (allowed < self.settings.requests).then_some((allowed, now + per));
            if self.limit() < was {
                self.recall(now);
            }
        }
        let Some((left, reset)) = report.left else { return };
        if left >= self.left() {
            return;
        }
        self.recall(now);
        let excess = u64::from(self.left() - left);
        let until = now + reset.min(per);
        // Reports of one interval end together, up to rounding.
        let near = per / SLICES;
        let is_near = |debt: &&mut Debt| debt.until <= until && until <= debt.until + near;
        match self.debts.iter_mut().find(is_near) {
            Some(debt) => debt.count += excess,
            None => self.debts.push(Debt { count: excess, until }),
        }
    }

    /// Carries out what is due, and serves whose turn it is.
    pub fn advance(&mut self, now: Instant, served: &mut Vec<Served<T>>) {
        self.leave(now);
        self.end_waits(now, served);
        self.serve(now, served);
    }

    /// When [`advance`](Self::advance) must be called next.
    pub fn next_event(&self, now: Instant) -> Option<Instant> {
        let batch = self.batches.front().map(|open| open.closes_at);
        if self.waiting == 0 {
            return batch;
        }
        let is_full = self.used() >= self.limit().into();
        let borrow = self.borrowable_at(1).filter(|_| !is_full && self.blocked_until.is_none());
        let borrow = borrow.map(|at| at.max(now + MIN_PAUSE));
        let debt = self.debts.iter().map(|debt| debt.until).min();
        let slice = Some(self.forgets_at);
        [batch, borrow, debt, slice, self.window.next_leaves_at(), self.blocked_until, self.next_deadline]
            .into_iter()
            .flatten()
            .min()
    }

    /// The share of a line of this weight.
    fn share(&self, weight: u32) -> f64 {
        f64::from(self.limit()) * f64::from(weight) / float(self.lines.weights.max(1))
    }

    fn is_entitled(&self, index: usize, more: u64) -> bool {
        let line = self.lines.line(index);
        let (used, limit) = (line.entitled() + more, u64::from(self.limit()));
        used.saturating_mul(self.lines.weights) < limit.saturating_mul(line.weight.into())
    }

    /// Removes what no longer counts.
    fn leave(&mut self, now: Instant) {
        while let Some(entry) = self.window.pop(now) {
            if let Some(line) = self.lines.of(entry.line) {
                line.give_back(entry.kind, entry.count.into());
            }
            if entry.kind == Kind::Borrowed {
                self.borrowed = self.borrowed.saturating_sub(entry.count.into());
            }
        }
        self.debts.retain(|debt| debt.until > now);
        self.allowed = self.allowed.filter(|(_, until)| *until > now);
        self.blocked_until = self.blocked_until.filter(|until| *until > now);
        while let Some(open) = self.batches.pop_front_if(|open| open.closes_at <= now) {
            self.close(&open, now);
        }
        if self.forgets_at <= now {
            self.lines.forget(now, self.settings.per);
            self.forgets_at = now + self.settings.per / SLICES;
        }
    }

    /// Refuses requests that have waited for too long.
    fn end_waits(&mut self, now: Instant, served: &mut Vec<Served<T>>) {
        if self.next_deadline.is_none_or(|deadline| deadline > now) {
            return;
        }
        for index in self.lines.busy.clone() {
            while self.lines.line(index).waiting.front().is_some_and(|first| first.deadline <= now) {
                let turn = self.turn(index, 0, now);
                let Some(Waiter { ticket, since, .. }) = self.lines.pop(index) else { break };
                self.waiting -= 1;
                if !ticket.is_gone() {
                    self.refused(index);
                    served.push(Served { ticket, outcome: Err(turn), waited: now - since });
                }
            }
        }
        let first = |index: &usize| self.lines.line(*index).waiting.front().map(|first| first.deadline);
        self.next_deadline = self.lines.busy.iter().filter_map(first).min();
    }

    /// A worker has refused requests of a line after an earlier refusal, without asking.
    pub fn refused_elsewhere(&mut self, key: &LineKey, count: u64) {
        self.counts.refused += count;
        if let Some(line) = self.lines.known(key) {
            line.refused += count;
        }
    }

    fn refused(&mut self, index: usize) {
        self.counts.refused += 1;
        self.lines.line_mut(index).refused += 1;
    }
}

/// How long a request counts.
fn span(settings: &Settings) -> Duration {
    settings.per + settings.margin
}

/// How much longer than the interval `per` a request counts where the API counts when it arrives, because requests travel for
/// different times: a 20th of `per`, at most [`MAX_MARGIN`].
pub fn travel_margin(per: Duration) -> Duration {
    (per / 20).min(MAX_MARGIN)
}

#[cfg(test)]
mod tests;
