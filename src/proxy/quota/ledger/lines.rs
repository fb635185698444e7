//! The lines of a ledger: which are known, what each has used, and who waits in it.

use std::cmp::Ordering;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::super::line::LineKey;
use super::super::window::{Kind, Latest, LineId};

/// The most lines of callers that are not configured.
pub const MAX_LINES: usize = 1024;

/// The turn of a line of weight 1.
const TURN: u64 = 1 << 20;

/// A request that waits for its turn.
#[derive(Debug)]
pub(super) struct Waiter<T> {
    pub(super) ticket: T,
    /// The place in the order of arrival, among all lines.
    pub(super) number: u64,
    pub(super) since: Instant,
    pub(super) deadline: Instant,
}

/// One line.
#[derive(Debug)]
pub(super) struct Line<T> {
    pub(super) key: LineKey,
    pub(super) weight: u32,
    pub(super) is_configured: bool,
    generation: u64,
    /// Requests in the window and permits that are given out, by [`Kind`].
    used: [u64; 2],
    /// Permits that are given out, whose requests are not in the window yet.
    pub(super) reserved: u64,
    pub(super) latest: Latest,
    /// When the line last had a request; `None` for a configured caller without any so far.
    last_seen: Option<Instant>,
    /// The first request after the line had none for an interval.
    busy_since: Instant,
    pub(super) waiting: VecDeque<Waiter<T>>,
    /// Rises with each permit, by less for a greater weight: lines with the least go in turn.
    turn: u64,
    pub(super) granted: u64,
    pub(super) refused: u64,
}

impl<T> Line<T> {
    /// The line's requests within its share.
    pub(super) const fn entitled(&self) -> u64 {
        self.used[Kind::Entitled as usize]
    }

    /// The line's requests beyond its share.
    pub(super) const fn borrowed(&self) -> u64 {
        self.used[Kind::Borrowed as usize]
    }

    /// The line's requests.
    pub(super) const fn used(&self) -> u64 {
        self.entitled() + self.borrowed()
    }

    pub(super) const fn take(&mut self, kind: Kind, count: u64) {
        self.used[kind as usize] += count;
    }

    pub(super) const fn give_back(&mut self, kind: Kind, count: u64) {
        self.used[kind as usize] = self.used[kind as usize].saturating_sub(count);
    }

    /// Whether nothing of the line is in use, so that it may be forgotten.
    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.reserved == 0
    }

    /// How much of its share the line is expected to use in an interval. As long as the line has been known for less than
    /// an interval, the rest of its share is expected for the rest of the interval.
    pub(super) fn projected(&self, now: Instant, per: Duration, share: f64) -> f64 {
        let used = float(self.entitled());
        let is_asleep = self.waiting.is_empty()
            && self.last_seen.is_none_or(|seen| now.saturating_duration_since(seen) >= per);
        if is_asleep {
            return used;
        }
        let age = now.saturating_duration_since(self.busy_since).div_duration_f64(per).min(1.0);
        (used + (1.0 - age) * share).min(share.max(used))
    }
}

/// A number of requests, for shares and rates. Numbers above 2^53 are rounded.
#[expect(clippy::cast_precision_loss, reason = "limits are far below 2^53")]
pub(super) const fn float(count: u64) -> f64 {
    count as f64
}

/// All lines.
#[derive(Debug)]
pub(super) struct Lines<T> {
    all: Vec<Option<Line<T>>>,
    free: Vec<usize>,
    by_key: HashMap<LineKey, usize>,
    /// The sum of the weights.
    pub(super) weights: u64,
    /// The lines in which requests wait.
    pub(super) busy: Vec<usize>,
    /// That of the line that went last: a line that has had no request for long is not behind it.
    turn: u64,
    unconfigured: usize,
    generations: u64,
}

impl<T> Lines<T> {
    pub(super) fn new() -> Self {
        Self {
            all: Vec::new(),
            free: Vec::new(),
            by_key: HashMap::new(),
            weights: 0,
            busy: Vec::new(),
            turn: 0,
            unconfigured: 0,
            generations: 0,
        }
    }

    /// The lines of configured callers, with their weights, from now on. A line that is configured no more is one of the
    /// others.
    pub(super) fn configure(&mut self, callers: &[(LineKey, u32)], now: Instant) {
        for line in self.all.iter_mut().flatten().filter(|line| line.is_configured) {
            (line.is_configured, line.weight) = (false, 1);
        }
        for (key, weight) in callers {
            let index = self.by_key.get(key).copied().unwrap_or_else(|| self.add(key.clone(), now));
            let line = self.line_mut(index);
            (line.is_configured, line.weight) = (true, (*weight).max(1));
        }
        self.weights = self.iter().map(|line| u64::from(line.weight)).sum();
        self.unconfigured = self.iter().filter(|line| !line.is_configured).count();
    }

    /// The line of a request that arrives now. Newcomers share one line while each of [`MAX_LINES`] lines is in use.
    pub(super) fn enter(&mut self, key: &LineKey, now: Instant, per: Duration) -> usize {
        let index = match self.by_key.get(key).copied() {
            Some(index) => index,
            None if self.unconfigured < MAX_LINES || self.drop_oldest_idle() => self.add(key.clone(), now),
            None => {
                let others = self.by_key.get(&LineKey::Others).copied();
                others.unwrap_or_else(|| self.add(LineKey::Others, now))
            }
        };
        let line = self.line_mut(index);
        if line.last_seen.is_none_or(|seen| now.saturating_duration_since(seen) >= per) {
            line.busy_since = now;
        }
        line.last_seen = Some(now);
        index
    }

    fn add(&mut self, key: LineKey, now: Instant) -> usize {
        let index = self.free.pop().unwrap_or_else(|| {
            self.all.push(None);
            self.all.len() - 1
        });
        self.generations += 1;
        self.weights += 1;
        self.unconfigured += 1;
        self.by_key.insert(key.clone(), index);
        self.all[index] = Some(Line {
            key,
            weight: 1,
            is_configured: false,
            generation: self.generations,
            used: [0; 2],
            reserved: 0,
            latest: Latest::default(),
            last_seen: None,
            busy_since: now,
            waiting: VecDeque::new(),
            turn: 0,
            granted: 0,
            refused: 0,
        });
        index
    }

    fn drop_oldest_idle(&mut self) -> bool {
        let idle = |line: &Line<T>| !line.is_configured && line.is_idle();
        let all = self.all.iter().enumerate();
        let idle =
            all.filter_map(|(index, line)| line.as_ref().filter(|line| idle(line)).map(|line| (index, line)));
        let Some(index) = idle.min_by_key(|(_, line)| line.last_seen).map(|(index, _)| index) else {
            return false;
        };
        self.remove(index);
        true
    }

    fn remove(&mut self, index: usize) {
        let Some(line) = self.all[index].take() else { return };
        self.by_key.remove(&line.key);
        self.weights -= u64::from(line.weight);
        self.unconfigured -= 1;
        self.free.push(index);
    }

    /// Forgets lines that have had no request for an interval and have none in the window.
    pub(super) fn forget(&mut self, now: Instant, per: Duration) {
        for index in 0..self.all.len() {
            let is_over = self.all[index].as_ref().is_some_and(|line| {
                let is_recent = line.last_seen.is_some_and(|seen| now.saturating_duration_since(seen) < per);
                !line.is_configured && line.is_idle() && line.used() == 0 && !is_recent
            });
            if is_over {
                self.remove(index);
            }
        }
    }

    /// The line goes: its next turn comes after those of lines that have gone less.
    pub(super) fn goes(&mut self, index: usize) {
        let turn = self.turn.max(self.line(index).turn);
        let line = self.line_mut(index);
        line.turn = turn + TURN / u64::from(line.weight);
        self.turn = turn;
    }

    /// Orders two lines by their use for their weight, then by turns, then by the arrival of their first requests.
    pub(super) fn first_of(&self, one: usize, other: usize) -> Ordering {
        let (one, other) = (self.line(one), self.line(other));
        let number = |line: &Line<T>| line.waiting.front().map_or(u64::MAX, |first| first.number);
        let by_use = (one.used() * u64::from(other.weight)).cmp(&(other.used() * u64::from(one.weight)));
        by_use.then(one.turn.cmp(&other.turn)).then_with(|| number(one).cmp(&number(other)))
    }

    pub(super) fn line(&self, index: usize) -> &Line<T> {
        self.all[index].as_ref().expect("indices of removed lines are not used: `LineId` has a generation")
    }

    pub(super) fn line_mut(&mut self, index: usize) -> &mut Line<T> {
        self.all[index].as_mut().expect("indices of removed lines are not used: `LineId` has a generation")
    }

    /// The line of this identity, unless it was dropped.
    pub(super) fn of(&mut self, id: LineId) -> Option<&mut Line<T>> {
        self.all.get_mut(id.index)?.as_mut().filter(|line| line.generation == id.generation)
    }

    /// The line of this key, if it is known.
    pub(super) fn known(&mut self, key: &LineKey) -> Option<&mut Line<T>> {
        let index = *self.by_key.get(key)?;
        self.all[index].as_mut()
    }

    pub(super) fn id(&self, index: usize) -> LineId {
        LineId { index, generation: self.line(index).generation }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Line<T>> {
        self.all.iter().flatten()
    }

    /// Puts a request at the end of its line.
    pub(super) fn push(&mut self, index: usize, waiter: Waiter<T>) {
        let line = self.line_mut(index);
        line.waiting.push_back(waiter);
        if line.waiting.len() == 1 {
            self.busy.push(index);
        }
    }

    /// Takes the first request of a line.
    pub(super) fn pop(&mut self, index: usize) -> Option<Waiter<T>> {
        let line = self.line_mut(index);
        let waiter = line.waiting.pop_front();
        if line.waiting.is_empty() {
            self.busy.retain(|busy| *busy != index);
        }
        waiter
    }
}
