//! The requests that were sent within the past interval, in the order in which they leave it.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Up to this limit each request has an entry of its own. Requests of one line are counted together beyond it, for a 256th of
/// the interval.
const MAX_SINGLE_ENTRIES: u32 = 4096;
const PARTS: u32 = 256;

/// Whose requests an entry counts. A place that another line has taken over has another generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineId {
    /// The place of the line.
    pub index: usize,
    /// Distinguishes lines that have had the same place.
    pub generation: u64,
}

/// Whether a request belonged to the share of its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Of the share.
    Entitled,
    /// Beyond the share, of what others left unused.
    Borrowed,
}

/// Requests of one line and kind that leave the window together.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// When they leave the window.
    pub leaves_at: Instant,
    /// Whose they are.
    pub line: LineId,
    /// Whether they belonged to its share.
    pub kind: Kind,
    /// How many they are.
    pub count: u32,
}

/// Where the latest entries of a line are, by kind.
#[derive(Clone, Copy, Debug, Default)]
pub struct Latest([u64; 2]);

/// Requests by the time at which they leave.
#[derive(Debug)]
pub struct Window {
    entries: VecDeque<Entry>,
    total: u64,
    /// How long a request stays.
    span: Duration,
    /// For how long requests of one line join one entry.
    part: Duration,
    /// The number of the first entry, from 1.
    first: u64,
    /// The number of the first entry of the current part, and the part's end.
    current: (u64, Option<Instant>),
}

impl Window {
    /// An empty window that requests leave after `span`, for `limit` requests.
    pub fn new(span: Duration, limit: u32) -> Self {
        let part = part_of(span, limit);
        Self { entries: VecDeque::new(), total: 0, span, part, first: 1, current: (1, None) }
    }

    /// Changes span and limit, for the requests in the window too.
    pub fn resize(&mut self, span: Duration, limit: u32) {
        for entry in &mut self.entries {
            entry.leaves_at = entry.leaves_at.checked_sub(self.span).unwrap_or(entry.leaves_at) + span;
        }
        (self.span, self.part) = (span, part_of(span, limit));
        self.current = (self.next(), None);
    }

    /// How many requests are in the window.
    pub const fn total(&self) -> u64 {
        self.total
    }

    /// How many entries there are.
    pub fn entries(&self) -> usize {
        self.entries.len()
    }

    /// When the next requests leave.
    pub fn next_leaves_at(&self) -> Option<Instant> {
        self.entries.front().map(|entry| entry.leaves_at)
    }

    /// Adds requests that were sent until `now`. `now` never goes back.
    pub fn add(&mut self, now: Instant, line: LineId, kind: Kind, count: u32, latest: &mut Latest) {
        if count == 0 {
            return;
        }
        let end = match self.current {
            (_, Some(end)) if now < end => end,
            _ => {
                let end = now + self.part;
                self.current = (self.next(), Some(end));
                end
            }
        };
        self.total += u64::from(count);
        let number = &mut latest.0[kind as usize];
        if *number >= self.current.0
            && let Some(entry) =
                usize::try_from(*number - self.first).ok().and_then(|at| self.entries.get_mut(at))
            && entry.line == line
        {
            entry.count += count;
            return;
        }
        *number = self.next();
        self.entries.push_back(Entry { leaves_at: end + self.span, line, kind, count });
    }

    /// Takes back the latest request of this line and kind that leaves until then. Returns whether there was one.
    pub fn take_latest(&mut self, line: LineId, kind: Kind, until: Instant) -> bool {
        let is_meant = |entry: &&mut Entry| {
            entry.line == line && entry.kind == kind && entry.count > 0 && entry.leaves_at <= until
        };
        let Some(entry) = self.entries.iter_mut().rev().find(is_meant) else { return false };
        entry.count -= 1;
        self.total -= 1;
        true
    }

    /// Removes the next entry that has left.
    pub fn pop(&mut self, now: Instant) -> Option<Entry> {
        let entry = self.entries.pop_front_if(|entry| entry.leaves_at <= now)?;
        self.first += 1;
        self.total -= u64::from(entry.count);
        Some(entry)
    }

    /// When `count` of the requests that `is_meant` names will have left; `None` if there are not so many.
    pub fn when_left(&self, count: u64, mut is_meant: impl FnMut(&Entry) -> bool) -> Option<Instant> {
        let mut left = 0;
        let meant = self.entries.iter().filter(|entry| is_meant(entry));
        meant
            .map(|entry| {
                left += u64::from(entry.count);
                (left, entry.leaves_at)
            })
            .find(|(left, _)| *left >= count)
            .map(|(_, at)| at)
    }

    fn next(&self) -> u64 {
        self.first + self.entries.len() as u64
    }
}

fn part_of(span: Duration, limit: u32) -> Duration {
    if limit <= MAX_SINGLE_ENTRIES { Duration::ZERO } else { span / PARTS }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Duration = Duration::from_mins(1);
    const LINE: LineId = LineId { index: 0, generation: 1 };
    const OTHER: LineId = LineId { index: 1, generation: 1 };

    #[test]
    fn a_request_leaves_after_the_span() {
        let start = Instant::now();
        let mut window = Window::new(SPAN, 300);
        let mut latest = Latest::default();
        for second in 0..3 {
            let at = start + Duration::from_secs(second);
            window.add(at, LINE, Kind::Entitled, 2, &mut latest);
        }
        assert_eq!((window.total(), window.entries()), (6, 3));
        assert_eq!(window.when_left(3, |_| true), Some(start + Duration::from_secs(61)));
        assert_eq!(window.when_left(7, |_| true), None);
        assert_eq!(window.when_left(1, |entry| entry.line == OTHER), None);
        assert!(window.pop(start + SPAN - Duration::from_millis(1)).is_none());
        assert_eq!(window.pop(start + SPAN).map(|entry| entry.count), Some(2));
        assert_eq!(window.total(), 4);
    }

    #[test]
    fn under_a_large_limit_the_entries_are_bounded_and_no_request_leaves_early() {
        let start = Instant::now();
        let mut window = Window::new(SPAN, 1_000_000);
        let mut latest = [Latest::default(); 2];
        for millisecond in 0..60_000_u64 {
            let at = start + Duration::from_millis(millisecond);
            assert!(window.pop(at).is_none(), "an entry left early");
            for (line, latest) in [LINE, OTHER].into_iter().zip(&mut latest) {
                window.add(at, line, Kind::Borrowed, 1, latest);
            }
        }
        assert_eq!(window.total(), 120_000);
        assert!(window.entries() <= 2 * (PARTS as usize + 2), "{}", window.entries());
        assert!(window.pop(start + SPAN).is_none(), "an entry stays for the requests that joined it last");
        let end = start + 2 * SPAN + SPAN / PARTS;
        let left: u64 = std::iter::from_fn(|| window.pop(end)).map(|entry| u64::from(entry.count)).sum();
        assert_eq!((left, window.total()), (120_000, 0));
    }
}
