//! The replay buffer: the beginning of a request body, in memory that all requests share within a budget.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use crate::proxy::limits::slots::{Reservation, Slots};

/// All bytes of a body so far.
#[derive(Debug)]
pub(super) struct ReplayBuffer {
    /// Chunks in the order of the body, shared with the attempts that they were handed to.
    frozen: Vec<Bytes>,
    /// The bytes after the frozen chunks.
    recent: Vec<u8>,
    /// The memory of `recent`.
    reserved: Reservation,
}

/// The owner of a frozen chunk: releases its share of the budget with the last reference.
struct Frozen {
    bytes: Vec<u8>,
    _reserved: Reservation,
}

impl AsRef<[u8]> for Frozen {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl ReplayBuffer {
    /// An empty buffer. Reserves nothing yet.
    pub(super) fn new(budget: &Arc<Slots>) -> Self {
        Self { frozen: Vec::new(), recent: Vec::new(), reserved: budget.reservation() }
    }

    /// Appends a chunk of a body that has at most `limit` bytes in all; `false` if `limit` or the budget is exceeded.
    ///
    /// The reservation doubles as the body arrives, so that a merely declared length does not use up the budget.
    pub(super) fn append(&mut self, data: &[u8], limit: usize) -> bool {
        let limit = limit.saturating_sub(self.frozen.iter().map(Bytes::len).sum());
        let needed = self.recent.len() + data.len();
        if needed > limit {
            return false;
        }
        if needed > self.recent.capacity() {
            let capacity = self.recent.capacity().saturating_mul(2).clamp(needed, limit);
            if !self.reserved.grow_to(capacity) {
                return false;
            }
            self.recent.reserve_exact(capacity - self.recent.len());
        }
        self.recent.extend_from_slice(data);
        true
    }

    /// The content, which stays in the buffer as well.
    pub(super) fn chunks(&mut self, budget: &Arc<Slots>) -> VecDeque<Bytes> {
        if !self.recent.is_empty() {
            let bytes = std::mem::take(&mut self.recent);
            let reserved = std::mem::replace(&mut self.reserved, budget.reservation());
            self.frozen.push(Bytes::from_owner(Frozen { bytes, _reserved: reserved }));
        }
        self.frozen.iter().cloned().collect()
    }
}
