//! A ledger with a clock that is set, and one worker that sends at once what it may send.

use std::cell::Cell;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::proxy::quota::batch::Batch;
use crate::proxy::quota::ledger::{Claim, Grant, Ledger, Served, Settings, Ticket};
use crate::proxy::quota::line::LineKey;

/// A request that waits or has waited.
#[derive(Clone, Debug)]
pub(super) struct Asking {
    pub(super) request: usize,
    key: LineKey,
    asked: Instant,
    is_gone: Rc<Cell<bool>>,
}

impl Ticket for Asking {
    fn is_gone(&self) -> bool {
        self.is_gone.get()
    }
}

#[derive(Debug)]
pub(super) struct Sent {
    pub(super) request: usize,
    pub(super) key: LineKey,
    pub(super) at: Instant,
    pub(super) waited: Duration,
}

#[derive(Debug)]
pub(super) struct Refused {
    pub(super) request: usize,
    pub(super) key: LineKey,
    pub(super) at: Instant,
    pub(super) waited: Duration,
    pub(super) retry_at: Instant,
}

pub(super) struct World {
    pub(super) ledger: Ledger<Asking>,
    pub(super) start: Instant,
    pub(super) now: Instant,
    pub(super) sent: Vec<Sent>,
    pub(super) refused: Vec<Refused>,
    batches: HashMap<LineKey, Arc<Batch>>,
    asked: Vec<Rc<Cell<bool>>>,
}

/// The line of a numbered caller.
pub(super) fn line(number: u16) -> LineKey {
    let [high, low] = number.to_be_bytes();
    LineKey::Address(IpAddr::V4(Ipv4Addr::new(10, 0, high, low)))
}

impl World {
    pub(super) fn new(settings: Settings, callers: &[(LineKey, u32)]) -> Self {
        let start = Instant::now();
        Self {
            ledger: Ledger::new(settings, callers, start),
            start,
            now: start,
            sent: Vec::new(),
            refused: Vec::new(),
            batches: HashMap::new(),
            asked: Vec::new(),
        }
    }

    /// Lets time pass until this time since the start, with everything that is due before.
    pub(super) fn at(&mut self, since_start: Duration) {
        let end = self.start + since_start;
        while let Some(next) = self.ledger.next_event(self.now).filter(|next| *next <= end) {
            assert!(next > self.now, "the ledger asks to be called at once again");
            self.now = next;
            self.advance();
        }
        self.now = self.now.max(end);
        self.advance();
    }

    pub(super) fn advance(&mut self) {
        let mut served = Vec::new();
        self.ledger.advance(self.now, &mut served);
        self.take(served);
    }

    /// A request of this line; returns its number.
    pub(super) fn ask(&mut self, key: &LineKey) -> usize {
        let request = self.asked.len();
        let is_gone = Rc::<Cell<bool>>::default();
        self.asked.push(Rc::clone(&is_gone));
        if let Some(batch) = self.batches.get(key) {
            if batch.take() {
                let (key, at) = (key.clone(), self.now);
                self.sent.push(Sent { request, key, at, waited: Duration::ZERO });
                return request;
            }
            self.batches.remove(key);
        }
        let asking = Asking { request, key: key.clone(), asked: self.now, is_gone };
        let mut served = Vec::new();
        self.ledger.ask(key, asking, self.now, &mut served);
        self.take(served);
        request
    }

    /// A request of this line that gets a permit and does not use it yet.
    pub(super) fn hold(&mut self, key: &LineKey) -> Claim {
        self.try_hold(key).unwrap()
    }

    /// As [`Self::hold`]; `None` if it gets no single permit at once. It leaves then.
    pub(super) fn try_hold(&mut self, key: &LineKey) -> Option<Claim> {
        let is_gone = Rc::<Cell<bool>>::default();
        let asking = Asking { request: 0, key: key.clone(), asked: self.now, is_gone: Rc::clone(&is_gone) };
        let mut served = Vec::new();
        self.ledger.ask(key, asking, self.now, &mut served);
        let own = served.extract_if(.., |one| Rc::ptr_eq(&one.ticket.is_gone, &is_gone)).next();
        self.take(served);
        is_gone.set(true);
        match own.map(|own| own.outcome) {
            Some(Ok(Grant::One(claim))) => Some(claim),
            Some(Ok(Grant::Many(batch))) => {
                batch.give_back();
                None
            }
            Some(Err(_)) | None => None,
        }
    }

    pub(super) fn has_left(&self, request: usize) -> bool {
        self.asked[request].get()
    }

    pub(super) fn leave(&mut self, request: usize) {
        self.asked[request].set(true);
    }

    /// How many requests there were.
    pub(super) fn asked(&self) -> usize {
        self.asked.len()
    }

    pub(super) fn sent_of(&self, key: &LineKey) -> usize {
        self.sent.iter().filter(|sent| sent.key == *key).count()
    }

    fn take(&mut self, served: Vec<Served<Asking>>) {
        for Served { ticket: Asking { request, key, asked, .. }, outcome, waited } in served {
            assert_eq!(waited, self.now - asked);
            let at = self.now;
            match outcome {
                Ok(grant) => {
                    match grant {
                        Grant::One(claim) => self.ledger.settle(claim, true, at),
                        Grant::Many(batch) => drop(self.batches.insert(key.clone(), batch)),
                    }
                    self.sent.push(Sent { request, key, at, waited });
                }
                Err(retry_at) => self.refused.push(Refused { request, key, at, waited, retry_at }),
            }
        }
    }
}
