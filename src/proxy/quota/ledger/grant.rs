//! Grants permits to lines, and keeps account of those that workers hold.

use std::sync::Arc;

use tokio::time::Instant;

use super::lines::{Waiter, float};
use super::{BATCHES, Claim, Grant, Ledger, OpenBatch, SLICES, Served, Ticket};
use crate::proxy::quota::batch::{Batch, MAX_BATCH};
use crate::proxy::quota::window::{Kind, Latest};

impl<T: Ticket> Ledger<T> {
    /// Takes back all permits that workers hold and have not used.
    pub(super) fn recall(&mut self, now: Instant) {
        while let Some(open) = self.batches.pop_front() {
            self.close(&open, now);
        }
    }

    pub(super) fn close(
        &mut self,
        OpenBatch { batch, claim: Claim { line: id, kind }, .. }: &OpenBatch,
        now: Instant,
    ) {
        let (used, size) = (batch.close(), batch.size());
        let unused = u64::from(size - used);
        self.reserved = self.reserved.saturating_sub(size.into());
        let mut gone = Latest::default();
        let latest = match self.lines.of(*id) {
            Some(line) => {
                line.reserved = line.reserved.saturating_sub(size.into());
                line.give_back(*kind, unused);
                line.granted -= unused;
                &mut line.latest
            }
            None => &mut gone,
        };
        self.window.add(now, *id, *kind, used, latest);
        self.counts.granted += u64::from(used);
        if *kind == Kind::Borrowed {
            self.borrowed = self.borrowed.saturating_sub(unused);
            self.counts.borrowed += u64::from(used);
        }
    }

    /// Gives permits to requests that wait: entitled ones first, among several to the line that has used the least.
    pub(super) fn serve(&mut self, now: Instant, served: &mut Vec<Served<T>>) {
        while self.waiting > 0 && self.blocked_until.is_none() && self.used() < self.limit().into() {
            let Some(index) = self.next_line() else { return };
            let Some(grant) = self.grant(index, false, now) else { return };
            let Some(Waiter { ticket, since, .. }) = self.lines.pop(index) else { return };
            self.waiting -= 1;
            served.push(Served { ticket, outcome: Ok(grant), waited: now - since });
        }
    }

    /// The line whose first request is the next. Requests that have left are removed.
    fn next_line(&mut self) -> Option<usize> {
        let mut at = 0;
        while let Some(index) = self.lines.busy.get(at).copied() {
            match self.lines.line(index).waiting.front() {
                Some(first) if first.ticket.is_gone() => {
                    self.lines.pop(index);
                    self.waiting -= 1;
                }
                _ => at += 1,
            }
        }
        let busy = self.lines.busy.iter().copied();
        busy.min_by(|one, other| {
            let borrows = |index: &usize| !self.is_entitled(*index, 0);
            borrows(one).cmp(&borrows(other)).then_with(|| self.lines.first_of(*one, *other))
        })
    }

    /// A permit for this line, if there is one; several if `may_be_many` and nobody waits.
    pub(super) fn grant(&mut self, index: usize, may_be_many: bool, now: Instant) -> Option<Grant> {
        let left = u64::from(self.limit()).saturating_sub(self.used());
        if left == 0 || self.blocked_until.is_some() {
            return None;
        }
        let kind = if self.is_entitled(index, 0) {
            Kind::Entitled
        } else {
            self.refresh_lending(now);
            if !self.may_borrow(1) {
                return None;
            }
            Kind::Borrowed
        };
        let claim = Claim { line: self.lines.id(index), kind };
        let size = if may_be_many && self.waiting == 0 { self.batch_size(index, kind, left) } else { 1 };
        self.reserve(index, kind, size.into());
        self.lines.line_mut(index).granted += u64::from(size);
        self.lines.goes(index);
        if size == 1 {
            return Some(Grant::One(claim));
        }
        let batch = Arc::new(Batch::with_one_taken(size));
        let closes_at = now + self.settings.per / SLICES;
        self.batches.push_back(OpenBatch { batch: Arc::clone(&batch), closes_at, claim });
        Some(Grant::Many(batch))
    }

    pub(super) fn reserve(&mut self, index: usize, kind: Kind, count: u64) {
        let line = self.lines.line_mut(index);
        line.take(kind, count);
        line.reserved += count;
        self.reserved += count;
        if kind == Kind::Borrowed {
            self.borrowed += count;
            self.credit -= float(count);
        }
    }

    /// How many permits a worker gets at once: few enough that all workers may hold some and lines keep theirs.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "bounded by MAX_BATCH, not negative"
    )]
    fn batch_size(&self, index: usize, kind: Kind, left: u64) -> u32 {
        let line = self.lines.line(index);
        let room = match kind {
            Kind::Entitled => {
                (self.share(line.weight) - float(line.entitled()))
                    / f64::from(self.settings.workers.max(1) * 2)
            }
            Kind::Borrowed => self.credit.min(self.lend - float(self.borrowed)),
        };
        let most = (self.limit() / BATCHES).min(MAX_BATCH);
        let room = room.clamp(0.0, f64::from(most)) as u32;
        room.min(u32::try_from(left).unwrap_or(u32::MAX)).max(1)
    }
}
