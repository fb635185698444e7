//! When the turn of a request will come, and what may be borrowed.

use std::time::Duration;

use tokio::time::Instant;

use super::lines::float;
use super::{BATCHES, Ledger, ROUNDING, SLICES, Ticket};
use crate::proxy::quota::window::Kind;

impl<T: Ticket> Ledger<T> {
    /// The earliest time at which a request of this line can go, behind `ahead` requests of its own line, if nothing else
    /// changes: no other request comes, and every permit that is given out is used.
    pub(super) fn turn(&mut self, index: usize, ahead: u64, now: Instant) -> Instant {
        self.refresh_lending(now);
        let own = ahead + 1;
        let before = |other: &usize| *other != index && self.lines.first_of(*other, index).is_lt();
        let others = self.lines.busy.iter().filter(|other| before(other)).count() as u64;
        let room = self.room_at(own + others, now);
        let entitled = self.entitled_at(index, own, now);
        let borrowed = self.borrowable_at(own);
        let unknown = now + self.settings.per;
        let of_line = [entitled, borrowed].into_iter().flatten().min().unwrap_or(unknown);
        let blocked = self.blocked_until.unwrap_or(now);
        of_line.max(room.unwrap_or(unknown)).max(blocked)
    }

    /// When so many more requests fit into the limit.
    fn room_at(&self, more: u64, now: Instant) -> Option<Instant> {
        let excess = (self.used() + more).saturating_sub(self.limit().into());
        if excess == 0 {
            return Some(now);
        }
        let window = self.window.when_left(excess, |_| true);
        // Permits that are given out and debts also end; the debts at a known time.
        let debts: u64 = self.debts.iter().map(|debt| debt.count).sum();
        let end = self.debts.iter().map(|debt| debt.until).min();
        let by_debts = end.filter(|_| debts > 0).map(|end| match excess.saturating_sub(debts) {
            0 => end,
            rest => self.window.when_left(rest, |_| true).map_or(end, |at| at.max(end)),
        });
        [window, by_debts].into_iter().flatten().min()
    }

    /// When so many more requests of a line belong to its share.
    fn entitled_at(&self, index: usize, more: u64, now: Instant) -> Option<Instant> {
        if self.is_entitled(index, more - 1) {
            return Some(now);
        }
        let line = self.lines.line(index);
        // The most use at which a line is entitled is one less than its share, rounded up.
        let share = (u64::from(self.limit()) * u64::from(line.weight)).div_ceil(self.lines.weights.max(1));
        let excess = (line.entitled() + more).saturating_sub(share);
        let id = self.lines.id(index);
        self.window.when_left(excess, |entry| entry.line == id && entry.kind == Kind::Entitled)
    }

    /// When so many more requests may be borrowed; `None` if that is unknown.
    pub(super) fn borrowable_at(&self, more: u64) -> Option<Instant> {
        if self.lend < 1.0 - ROUNDING {
            return None;
        }
        let missing = (float(more) - ROUNDING - self.credit).max(0.0);
        let pace = self.credited_at + self.settings.per.mul_f64(missing / self.lend);
        let excess = float(self.borrowed) + float(more) - self.lend - ROUNDING;
        if excess <= 0.0 {
            return Some(pace);
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a small positive number"
        )]
        let excess = excess.ceil() as u64;
        Some(self.window.when_left(excess, |entry| entry.kind == Kind::Borrowed)?.max(pace))
    }

    /// Whether so many requests may be borrowed now.
    pub(super) fn may_borrow(&self, more: u64) -> bool {
        let more = float(more) - ROUNDING;
        self.credit >= more && float(self.borrowed) + more <= self.lend
    }

    /// Brings up to date what may be borrowed: in an interval, what is not expected to be used by entitled requests; now, what
    /// has accrued of that at an even pace, at most that of one slice.
    pub(super) fn refresh_lending(&mut self, now: Instant) {
        let per = self.settings.per;
        let since = now.saturating_duration_since(self.credited_at);
        let accrued = self.lend * since.div_duration_f64(per);
        self.credit = (self.credit + accrued).min((self.lend / f64::from(SLICES)).max(1.0));
        self.credited_at = now;
        if now < self.lend_until {
            return;
        }
        let projected: f64 =
            self.lines.iter().map(|line| line.projected(now, per, self.share(line.weight))).sum();
        let debts = float(self.debts.iter().map(|debt| debt.count).sum());
        self.lend = (f64::from(self.limit()) - projected - debts).max(0.0);
        self.lend_until = now + (per / BATCHES).min(Duration::from_millis(100));
    }
}
