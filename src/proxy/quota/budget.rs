//! A budget: its ledger, the task that keeps it, and the messages by which others reach that task.
//!
//! The task alone has the ledger. Workers ask by messages; operators read what the task has published last.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::ledger::{Claim, Grant, Ledger, Report, Served, Settings, Status, Ticket};
use super::line::LineKey;
use crate::telemetry::metrics::histogram::{Buckets, Histogram};

/// Messages that may wait for the task. A worker that finds no place waits, or keeps its message for later.
const QUEUE: usize = 1024;
/// Messages that are carried out before those whose turn it is are served.
const AT_ONCE: usize = 64;
/// The replicas are counted anew after this time.
const COUNT_INTERVAL: Duration = Duration::from_secs(1);
/// How old what operators see may be.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(200);
/// The most lines that operators see.
const SHOWN_LINES: usize = 20;
/// When the task looks again where nothing is due.
const FAR: Duration = Duration::from_hours(1);

/// The answer to a request for a permit: the permit, or when another attempt may succeed.
pub(super) type Reply = Result<Grant, Instant>;
/// A request that waits for its answer.
type Asking = oneshot::Sender<Reply>;

/// A message to the task.
#[derive(Debug)]
pub(super) enum Message {
    /// A request wants to go out.
    Ask(LineKey, Asking),
    /// A single permit was used, or is given back.
    Settle(Claim, bool),
    /// The answer to a request with a single permit took so long that the API may have counted it late.
    Late(Claim, Duration),
    /// The API has said something about its limit.
    Learn(Report),
    /// So many requests of a line were refused without a question.
    Refused(LineKey, u64),
    /// Other rules are in force.
    Configure(Rules),
}

impl Ticket for Asking {
    fn is_gone(&self) -> bool {
        self.is_closed()
    }
}

/// The configuration of a budget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The limit.
    pub settings: Settings,
    /// Whether responses are read for what they say about the limit.
    pub learns: bool,
    /// The lines of configured callers, and their weights.
    pub callers: Vec<(LineKey, u32)>,
}

/// The access to a budget. The task ends with the last access.
#[derive(Clone)]
pub struct Budget {
    messages: mpsc::Sender<Message>,
    seen: Arc<Seen>,
}

/// The values that the task has published last.
#[derive(Debug)]
struct Seen {
    name: String,
    /// How many requests may go out.
    left: AtomicU32,
    /// The limit.
    limit: AtomicU32,
    /// The interval, in nanoseconds.
    per: AtomicU64,
    /// Whether responses are read.
    learns: AtomicBool,
    status: ArcSwap<Status>,
    /// How long requests waited, those included that were refused in the end.
    waits: Histogram,
}

/// Told when requests are refused because the budget is used up, at most once in an interval.
pub type OnExhausted = Box<dyn Fn(Exhausted) + Send>;
/// A budget that is used up.
#[derive(Clone, Copy, Debug)]
pub struct Exhausted {
    /// The interval.
    pub per: Duration,
    /// The time until the turn of the request that was refused.
    pub turn: Duration,
}

/// How many replicas share the budget now.
pub type Replicas = Box<dyn Fn() -> u32 + Send>;

/// The task of a budget.
pub struct Keeper {
    ledger: Ledger<Asking>,
    messages: mpsc::Receiver<Message>,
    seen: Arc<Seen>,
    per: Duration,
    on_exhausted: OnExhausted,
    replicas: Option<Replicas>,
    counted_at: Instant,
    published_at: Instant,
    /// Whether something has changed since then.
    is_changed: bool,
    /// When a refusal was reported last.
    reported_at: Option<Instant>,
}

impl Budget {
    /// An unused budget of this name, and its task.
    pub fn new(
        name: &str,
        rules: &Rules,
        on_exhausted: OnExhausted,
        replicas: Option<Replicas>,
    ) -> (Self, Keeper) {
        let now = Instant::now();
        let (sender, messages) = mpsc::channel(QUEUE);
        let mut ledger = Ledger::new(rules.settings, &rules.callers, now);
        let per = rules.settings.per;
        let seen = Arc::new(Seen {
            name: name.to_owned(),
            left: AtomicU32::new(ledger.left()),
            limit: AtomicU32::new(ledger.limit()),
            per: AtomicU64::new(nanos(per)),
            learns: AtomicBool::new(rules.learns),
            status: ArcSwap::from_pointee(ledger.status(SHOWN_LINES, now)),
            waits: Histogram::default(),
        });
        let keeper = Keeper {
            ledger,
            messages,
            seen: Arc::clone(&seen),
            per,
            on_exhausted,
            replicas,
            counted_at: now,
            published_at: now,
            is_changed: false,
            reported_at: None,
        };
        (Self { messages: sender, seen }, keeper)
    }

    /// The name: that of the credential or of the caller.
    pub fn name(&self) -> &str {
        &self.seen.name
    }

    /// How many requests may go out now, as far as is known.
    pub fn left(&self) -> u32 {
        self.seen.left.load(Ordering::Relaxed)
    }

    /// Whether both are one budget.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.seen, &other.seen)
    }

    /// Puts other rules in force, for requests from now on. What was used stays used.
    pub async fn configure(&self, rules: Rules) {
        // Fails only where the daemon stops.
        let _ = self.messages.send(Message::Configure(rules)).await;
    }

    /// The budget as it was a moment ago.
    pub fn status(&self) -> Arc<Status> {
        self.seen.status.load_full()
    }

    /// How long requests waited.
    pub fn waits(&self) -> Buckets {
        let mut waits = Buckets::default();
        self.seen.waits.add_to(&mut waits);
        waits
    }

    /// Whether a report would lower what may go out.
    pub(super) fn would_change(&self, report: &Report) -> bool {
        let limit = self.seen.limit.load(Ordering::Relaxed);
        report.pause.is_some()
            || report.left.is_some_and(|(left, _)| left < self.seen.left.load(Ordering::Relaxed))
            || report.allowed.is_some_and(|allowed| allowed < limit)
    }

    /// The interval.
    pub(super) fn per(&self) -> Duration {
        Duration::from_nanos(self.seen.per.load(Ordering::Relaxed))
    }

    /// Whether responses are read for what they say about the limit.
    pub(super) fn learns(&self) -> bool {
        self.seen.learns.load(Ordering::Relaxed)
    }

    /// Sends a message, if there is a place for it.
    pub(super) fn try_send(&self, message: Message) -> Result<(), Message> {
        self.messages.try_send(message).map_err(mpsc::error::TrySendError::into_inner)
    }

    /// Sends a message; waits for a place. An error means that the daemon stops.
    pub(super) async fn send(&self, message: Message) -> Result<(), ()> {
        self.messages.send(message).await.map_err(|_| ())
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget").field("name", &self.seen.name).finish_non_exhaustive()
    }
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper").field("name", &self.seen.name).finish_non_exhaustive()
    }
}

impl Keeper {
    /// The next message in the queue.
    #[cfg(test)]
    pub(super) fn received(&mut self) -> Option<Message> {
        self.messages.try_recv().ok()
    }

    /// Keeps the budget until the last access to it is dropped.
    pub async fn run(mut self) {
        let mut served = Vec::new();
        self.count_replicas(Instant::now());
        loop {
            let next = self.next_event();
            let message = tokio::select! {
                biased;
                message = self.messages.recv() => match message {
                    Some(message) => Some(message),
                    None => return,
                },
                () = tokio::time::sleep_until(next) => None,
            };
            let now = Instant::now();
            self.count_replicas(now);
            self.carry_out(message, now, &mut served);
            self.answer(&mut served, now);
            self.show(now);
        }
    }

    /// When the ledger, the count of replicas or the status is due.
    fn next_event(&self) -> Instant {
        let now = Instant::now();
        let count = self.replicas.as_ref().map(|_| self.counted_at + COUNT_INTERVAL);
        // What is used changes as time passes.
        let publishes = self.is_changed || self.ledger.is_in_use();
        let publish = publishes.then(|| self.published_at + PUBLISH_INTERVAL);
        [self.ledger.next_event(now), count, publish].into_iter().flatten().min().unwrap_or(now + FAR)
    }

    fn carry_out(&mut self, first: Option<Message>, now: Instant, served: &mut Vec<Served<Asking>>) {
        let (ledger, messages) = (&mut self.ledger, &mut self.messages);
        let more = std::iter::from_fn(|| messages.try_recv().ok());
        for message in first.into_iter().chain(more).take(AT_ONCE) {
            self.is_changed = true;
            match message {
                Message::Ask(line, reply) => ledger.ask(&line, reply, now, served),
                Message::Settle(claim, was_sent) => ledger.settle(claim, was_sent, now),
                Message::Late(claim, took) => ledger.late(claim, took, now),
                Message::Learn(report) => ledger.learn(report, now),
                Message::Refused(line, count) => ledger.refused_elsewhere(&line, count),
                Message::Configure(rules) => {
                    ledger.configure(rules.settings, &rules.callers, now);
                    self.per = rules.settings.per;
                    self.seen.per.store(nanos(self.per), Ordering::Relaxed);
                    self.seen.learns.store(rules.learns, Ordering::Relaxed);
                }
            }
        }
        ledger.advance(now, served);
    }

    /// Hands out what was decided. A permit that nobody takes any more goes back, and on to the next.
    fn answer(&mut self, served: &mut Vec<Served<Asking>>, now: Instant) {
        while !served.is_empty() {
            let mut was_returned = false;
            for Served { ticket, outcome, waited } in served.drain(..) {
                if !waited.is_zero() {
                    self.seen.waits.observe(waited);
                }
                if let Err(turn) = &outcome
                    && self.reported_at.is_none_or(|reported| now.duration_since(reported) >= self.per)
                {
                    self.reported_at = Some(now);
                    let turn = turn.saturating_duration_since(now);
                    (self.on_exhausted)(Exhausted { per: self.per, turn });
                }
                match ticket.send(outcome) {
                    Err(Ok(Grant::One(claim))) => {
                        self.ledger.settle(claim, false, now);
                        was_returned = true;
                    }
                    Err(Ok(Grant::Many(batch))) => batch.give_back(),
                    Ok(()) | Err(Err(_)) => {}
                }
            }
            if was_returned {
                self.ledger.advance(now, served);
            }
        }
    }

    /// Publishes what workers compare responses with, and now and then what operators see.
    fn show(&mut self, now: Instant) {
        self.seen.left.store(self.ledger.left(), Ordering::Relaxed);
        self.seen.limit.store(self.ledger.limit(), Ordering::Relaxed);
        if self.published_at + PUBLISH_INTERVAL <= now {
            self.published_at = now;
            // Once more after the last request has left the window.
            self.is_changed = self.ledger.is_in_use();
            self.seen.status.store(Arc::new(self.ledger.status(SHOWN_LINES, now)));
        }
    }

    fn count_replicas(&mut self, now: Instant) {
        let is_due = self.counted_at + COUNT_INTERVAL <= now || self.published_at == self.counted_at;
        if let Some(replicas) = self.replicas.as_ref().filter(|_| is_due) {
            self.counted_at = now;
            self.ledger.shared_by(replicas(), now);
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
