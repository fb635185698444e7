//! Writing a credential's record, by compare and set.

use std::time::Duration;

use super::store::{Copies, Write, Written};
use super::{Occasion, Share, SharedRecord};
use crate::clock::Moment;
use crate::token::access_token::AccessToken;
use crate::token::state::file::State;

/// How long the store keeps a record after everything in it has ended.
const KEEP_AFTER_END: Duration = Duration::from_hours(24);
/// How often a write is repeated that finds a store without memory.
const WRITE_ATTEMPTS: usize = 3;

impl SharedRecord {
    /// Shares a state.
    pub(in crate::token) async fn write(&mut self, state: &State, occasion: Occasion) -> Share {
        if self.is_away(self.clock.now()) {
            self.number += 1;
            self.is_ahead = true;
            self.is_latest_ours |= occasion == Occasion::Success;
            return Share::Away;
        }
        let seen = self.places.iter().map(|place| place.seen).max().unwrap_or_default();
        self.number = self.number.max(seen) + 1;
        let written = self.put(state, occasion).await;
        self.is_latest_ours |= occasion == Occasion::Success && !matches!(written, Share::Lost(_));
        match &written {
            Share::Done if matches!(occasion, Occasion::Success | Occasion::Failure) => self.shared.won(),
            Share::Done => {}
            Share::Lost(_) => self.shared.conflict(),
            Share::Away => self.is_ahead = true,
        }
        written
    }

    /// Writes a state under the present number to every place that has not got it.
    pub(super) async fn put(&mut self, state: &State, occasion: Occasion) -> Share {
        let rotates = state.refresh_token.is_some();
        // A configured refresh token is not part of the state before it was replaced.
        let spends = rotates || state.doubt.is_some_and(|doubt| doubt.is_under_way);
        // A failover that loses one of these has two replicas use one refresh token, or loses it.
        let is_confirmed = spends && matches!(occasion, Occasion::Request | Occasion::Success);
        for at in 0..self.places.len() {
            for attempt in 1.. {
                let now = self.clock.now();
                let record = match self.places[at].seal(state, self.number, self.time, now) {
                    Ok(record) => record,
                    Err(why) => {
                        self.note(Some(why));
                        return Share::Lost(None);
                    }
                };
                let place = &self.places[at];
                let keep = (!rotates).then(|| KEEP_AFTER_END + rest(state, now));
                let write = Write {
                    expected: place.seen,
                    number: self.number,
                    record: &record,
                    keep,
                    // Who is told that a refresh token is being used does not use it.
                    is_announced: rotates || occasion != Occasion::Request,
                    clears_late: occasion == Occasion::Success,
                    keeps_late: rotates && occasion != Occasion::Request,
                    writer: (occasion != Occasion::Repair).then_some(&*self.holder),
                    copies: if is_confirmed { Copies::Confirmed } else { Copies::Primary },
                };
                let seen = match self.shared.store().write(&place.name, write).await {
                    Ok(written @ (Written::Done | Written::Unconfirmed)) => {
                        if matches!(written, Written::Unconfirmed) {
                            self.shared.unconfirmed();
                        }
                        if occasion != Occasion::Repair {
                            self.shared.written_by(&self.holder);
                        }
                        (self.places[at].seen, self.places[at].is_spoilt) = (self.number, false);
                        break;
                    }
                    Ok(Written::Lost(seen)) => seen,
                    Err(error) => {
                        self.away(&error);
                        return Share::Away;
                    }
                };
                self.here(&seen);
                let found = self.understand(at, &seen, now);
                // The store has lost its memory since it was read, or has something that is no record.
                let is_none = self.places[at].is_spoilt;
                if (seen.number < self.number || is_none) && attempt < WRITE_ATTEMPTS {
                    self.number = if is_none { self.number.max(seen.number + 1) } else { self.number };
                    continue;
                }
                return Share::Lost(found.map(|(number, state)| {
                    self.number = number;
                    Box::new(state)
                }));
            }
        }
        self.is_ahead = false;
        Share::Done
    }

    /// Keeps a state beside the record, whose refresh token may be the one that the server accepts.
    pub(super) async fn keep_late(&mut self, state: &State) {
        self.late = Some(Box::new(state.clone()));
        let now = self.clock.now();
        for place in &self.places {
            let Ok(record) = place.seal(state, self.number, self.time, now) else { continue };
            let write = Write {
                // No record has this number.
                expected: u64::MAX,
                number: self.number,
                record: &record,
                keep: None,
                is_announced: false,
                clears_late: false,
                keeps_late: true,
                writer: None,
                copies: Copies::Primary,
            };
            // The state is in memory as well.
            let _ = self.shared.store().write(&place.name, write).await;
        }
    }

    /// Reads what was kept beside the record since it was read last.
    pub(in crate::token) async fn read_late(&mut self) {
        for at in 0..self.places.len() {
            let sent = self.clock.now();
            let known = self.places[at].seen;
            if let Ok(seen) = self.shared.store().read(&self.places[at].name, known).await
                && let Some(late) = self.places[at].open_late(&seen, sent)
            {
                self.late = Some(Box::new(late));
            }
        }
    }
}

/// How long something in the state lasts that the replicas need.
fn rest(state: &State, now: Moment) -> Duration {
    let token = state.access_token.as_ref().map(AccessToken::expires);
    let limiter = state.limiter;
    let barrier = limiter.blocked.map(|blocked| blocked.until);
    let ends = [token, barrier, Some(limiter.quota_full_at), Some(limiter.forced_quota_full_at)];
    ends.into_iter().flatten().map(|end| now.until(end)).max().unwrap_or_default()
}
