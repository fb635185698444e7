//! What a refresher may do, as far as the record and the lease tell.

use std::time::Duration;

use super::{LEAST_RECHECK, SharedRecord, Turn};
use crate::clock::Moment;
use crate::config::WhenAway;

/// The shortest rest of a lease with which a token request begins.
const LEAST_LEASE: Duration = Duration::from_secs(1);
/// How long a refresher waits for a record before it uses a configured refresh token.
const FIRST_LOOK: Duration = Duration::from_secs(7);

impl SharedRecord {
    /// Whether a token request may be made now.
    pub(in crate::token) fn turn(&self) -> Turn {
        let now = self.clock.now();
        match &self.lease {
            Some(lease) if lease.lasts(LEAST_LEASE) => Turn::Mine,
            _ if self.is_away(now) => Turn::Away,
            None if now < self.taken_until => Turn::Other(self.taken_until),
            _ => Turn::Open,
        }
    }

    /// From when on the record may be taken for the latest one: after the start, and after an outage in which the last holder
    /// may have gone on alone, the replicas that know better are given time to write it. `None` if it may be at once.
    ///
    /// Where the record cannot be read and this replica knows no earlier one, only another replica can tell.
    pub(in crate::token) fn known_from(&self) -> Option<Moment> {
        if self.trouble.current().is_some() && (self.number == 0 || !self.is_spoilt()) {
            return Some(self.look_at.max(self.clock.now() + LEAST_RECHECK));
        }
        let is_last_holder = self.shared.when_away() == WhenAway::Stop || self.is_latest_ours;
        let returned = self.returned.filter(|_| !is_last_holder);
        let begun = (self.number == 0).then_some(self.begun);
        let since = [begun, self.forgot, returned].into_iter().flatten().max();
        since.map(|since| since + FIRST_LOOK).filter(|from| self.clock.now() < *from)
    }

    /// Whether a refresh token may be used although the store is away.
    pub(in crate::token) fn may_go_on_alone(&self) -> bool {
        match self.shared.when_away() {
            WhenAway::Stop => false,
            WhenAway::LastHolder => self.is_latest_ours,
        }
    }
}
