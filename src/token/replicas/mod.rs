//! A credential's record in the store that the replicas share.
//!
//! The record is the credential's [`State`], sealed. A refresher makes a token request only while it holds the *lease* of
//! the record, and every write says which number it replaces (compare and set), so a refresher that lost its lease unnoticed
//! overwrites nothing. A token request is preceded by a write, and its answer is written before its token is used. All other
//! replicas adopt what was written.
//!
//! The request path never comes here. While the store is away, a refresher whose grant spends nothing goes on alone, with its
//! part of the quota.
//!
//! From top to bottom: [`handle`], the store of one configuration as all refreshers use it; `redis`, a store in Redis or Valkey;
//! `record`, a record as bytes; [`mod@store`], what a store must be able to do.

pub mod handle;
mod record;
#[cfg(feature = "redis")]
pub mod redis;
mod rights;
pub mod store;
mod turn;
mod writing;

use std::time::Duration;

use futures_util::future::select_all;
use tokio::sync::watch;
use tracing::{debug, error};

pub use self::handle::{Settings, Shared, SharedStatus};
pub(super) use self::turn::{Occasion, Share, Turn};

use self::handle::{LEASE, Lease};
use self::record::{Place, StoreTime, has_token_of, later, places};
use self::store::{Flaw, Seen, StoreError, Take};
use super::fingerprint::Fingerprints;
use super::state::error::StateRefusal;
use super::state::file::State;
use crate::causes::in_one_line;
use crate::clock::{Clock, Moment};
use crate::config::Credential;
use crate::telemetry::throttle::OnChange;

/// How often a refresher reads its record although nothing was announced.
const POLL_INTERVAL: Duration = Duration::from_secs(5);
/// How often a refresher reads its whole record although the number is the known one: others may need one that can be read.
const WHOLE_INTERVAL: Duration = Duration::from_secs(30);
/// The longest wait for the lease of another before the record is read again.
const LEASE_RECHECK: Duration = Duration::from_secs(1);
/// The shortest wait for the lease of another.
const LEAST_RECHECK: Duration = Duration::from_millis(50);
/// How long after a failed operation no other is tried.
const AWAY_RECHECK: Duration = Duration::from_secs(1);

/// One refresher's side of a credential's record.
#[derive(Debug)]
pub struct SharedRecord {
    shared: Shared,
    credential: String,
    holder: String,
    /// One for each key. All of them are taken and written, so that replicas with either key exclude one another while the
    /// key is replaced.
    places: Vec<Place>,
    /// The announcements of each place.
    announced: Vec<watch::Receiver<()>>,
    /// The number of the record that the state in memory is.
    number: u64,
    /// Whether the state in memory was changed without the store.
    is_ahead: bool,
    /// Whether this refresher has written the latest answer of the token endpoint.
    is_latest_ours: bool,
    /// When this refresher began.
    begun: Moment,
    lease: Option<Lease>,
    /// The highest fence that was seen.
    fence: u64,
    /// The store's time, as of the latest answer.
    time: StoreTime,
    /// Until when another holder has the lease.
    taken_until: Moment,
    /// Before this moment, the store is not asked again; none after an answer.
    away_until: Option<Moment>,
    /// When the store answered again after it was away.
    returned: Option<Moment>,
    /// When the store was seen to have lost its memory, or a part of it.
    forgot: Option<Moment>,
    /// When to read the record next.
    look_at: Moment,
    /// When to read the whole record next.
    whole_at: Moment,
    /// A state whose write came too late.
    late: Option<Box<State>>,
    /// Why the record cannot be read.
    trouble: OnChange<Option<String>>,
    clock: Clock,
}

impl SharedRecord {
    /// The record of a credential, of which nothing is known yet.
    pub fn new(shared: Shared, credential: &Credential, clock: Clock) -> Self {
        let places = places(shared.keys(), credential);
        Self {
            announced: places.iter().map(|place| shared.store().watch(&place.name)).collect(),
            places,
            credential: credential.name.clone(),
            holder: shared.another_holder(),
            shared,
            number: 0,
            is_ahead: false,
            is_latest_ours: false,
            begun: clock.now(),
            lease: None,
            fence: 0,
            time: StoreTime::default(),
            taken_until: Moment::default(),
            away_until: None,
            returned: None,
            forgot: None,
            look_at: clock.now(),
            whole_at: clock.now(),
            late: None,
            trouble: OnChange::default(),
            clock,
        }
    }

    /// The fingerprints of tokens, which are the same in all replicas.
    pub(super) fn fingerprints(&self) -> Fingerprints {
        Fingerprints::keyed(self.shared.keys()[0].fingerprint_key())
    }

    /// Whether the store did not answer last time, and is not asked again yet.
    fn is_away(&self, now: Moment) -> bool {
        self.away_until.is_some_and(|until| now < until)
    }

    /// When to read the record next, also without an announcement.
    pub(super) const fn look_at(&self) -> Moment {
        self.look_at
    }

    /// Continues with the state of this number, unless the record is a later one.
    pub(super) const fn continue_from(&mut self, number: u64) {
        self.number = number;
    }

    /// The number of the record that the state in memory is.
    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    /// Whether the state in memory is to be written as soon as the store is back.
    pub(super) const fn is_ahead(&self) -> bool {
        self.is_ahead
    }

    /// Whether the store has the state in memory.
    pub(super) const fn is_written(&self) -> bool {
        self.number > 0 && !self.is_ahead
    }

    /// Among how many replicas the quota is divided while the store is away.
    pub(super) fn replicas(&self) -> u64 {
        self.shared.replicas()
    }

    /// Takes a state whose write came too late: it may hold the refresh token that the server accepts.
    pub(super) fn take_late(&mut self) -> Option<State> {
        self.late.take().map(|late| *late)
    }

    /// Waits until the record may have been written by another replica.
    ///
    /// # Cancel safety
    ///
    /// An announcement that arrives while nobody waits is kept for the next call.
    pub(super) async fn changed(&mut self) {
        if self.announced.is_empty() {
            return std::future::pending().await;
        }
        let waits = self.announced.iter_mut().map(|announced| {
            Box::pin(async {
                if announced.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            })
        });
        select_all(waits).await;
    }

    /// Takes the lease unless another holder has it, and reads the record. Answers a later state than `ours`, the state in
    /// memory, if the record is one.
    pub(super) async fn take(&mut self, ours: &State) -> Option<State> {
        self.give_back().await;
        let first = self.clock.now();
        let (mut taken, mut found) = (Vec::new(), None);
        for at in 0..self.places.len() {
            let (sent, name) = (self.clock.now(), self.places[at].name.clone());
            let known = self.known(at);
            let request = Take { holder: &self.holder, ttl: LEASE, known, fence: self.fence };
            let answer = self.shared.store().take(&name, request).await;
            let Ok(answer) = answer.map_err(|error| self.away(&error)) else {
                self.release(&taken).await;
                return None;
            };
            self.here(&answer.seen);
            found = later(found, self.understand(at, &answer.seen, sent));
            match answer.lease {
                Ok(fence) => {
                    self.fence = self.fence.max(fence);
                    self.shared.fenced(fence);
                    taken.push(name);
                }
                Err(left) => {
                    self.taken_until = self.clock.now() + left.clamp(LEAST_RECHECK, LEASE_RECHECK);
                    self.release(&taken).await;
                    return self.accept(found);
                }
            }
        }
        self.lease = Some(Lease::new(&self.shared, self.holder.clone(), taken, first));
        self.settle(found, ours).await
    }

    /// Gives the lease back, if it is held.
    pub(super) async fn give_back(&mut self) {
        if let Some(lease) = self.lease.take() {
            let places = lease.places().to_vec();
            drop(lease);
            self.release(&places).await;
        }
    }

    /// Reads the record. Answers a later state than `ours`, the state in memory, if the record is one; where the record is
    /// the earlier one, because the store was away or has lost its memory, ours is written.
    pub(super) async fn look(&mut self, ours: &State) -> Option<State> {
        self.look_at = self.clock.now() + POLL_INTERVAL.mul_f64(1.0 - fastrand::f64() / 5.0);
        if let Some(until) = self.away_until.filter(|until| self.clock.now() < *until) {
            self.look_at = until;
            return None;
        }
        let is_whole = self.whole_at <= self.clock.now();
        let mut found = None;
        for at in 0..self.places.len() {
            let sent = self.clock.now();
            let known = if is_whole { 0 } else { self.known(at) };
            let answer = self.shared.store().read(&self.places[at].name, known).await;
            let seen = answer.map_err(|error| self.away(&error)).ok()?;
            self.here(&seen);
            found = later(found, self.understand(at, &seen, sent));
        }
        if is_whole {
            self.whole_at = self.clock.now() + WHOLE_INTERVAL;
        }
        self.settle(found, ours).await
    }

    /// Whether something that is no record stands in the place of one.
    fn is_spoilt(&self) -> bool {
        self.places.iter().any(|place| place.is_spoilt)
    }

    /// Adopts what was found, or writes ours where it is later or what was found is no record.
    async fn settle(&mut self, found: Option<(u64, State)>, ours: &State) -> Option<State> {
        let was_ahead = self.is_ahead;
        if let Some(theirs) = self.accept(found) {
            if was_ahead && !has_token_of(&theirs, ours) {
                self.keep_late(ours).await;
            }
            return Some(theirs);
        }
        let is_under_way = || ours.doubt.is_some_and(|doubt| doubt.is_under_way);
        let seen = self.places.iter().map(|place| place.seen).max().unwrap_or_default();
        if self.is_spoilt() && self.number > 0 && (self.lease.is_some() || !is_under_way()) {
            self.number = self.number.max(seen + 1);
        } else if self.places.iter().all(|place| place.seen >= self.number) {
            return None;
        }
        match self.put(ours, Occasion::Repair).await {
            Share::Done => {
                self.shared.repaired();
                debug!(credential = self.credential, number = self.number, "shared record restored");
                None
            }
            Share::Lost(theirs) => {
                let theirs = theirs.map(|theirs| *theirs)?;
                self.is_ahead = false;
                if !has_token_of(&theirs, ours) {
                    self.late = Some(Box::new(ours.clone()));
                }
                Some(theirs)
            }
            Share::Away => None,
        }
    }

    /// Takes the found state, if it is later than the one in memory, or as late and the store's.
    fn accept(&mut self, found: Option<(u64, State)>) -> Option<State> {
        let is_later = |number: u64| number > self.number || (number == self.number && self.is_ahead);
        let (number, state) = found.filter(|(number, _)| is_later(*number))?;
        (self.number, self.is_ahead, self.is_latest_ours) = (number, false, false);
        self.shared.adopted();
        Some(state)
    }

    /// The state of a place as it was seen, with its number.
    fn understand(&mut self, at: usize, seen: &Seen, sent: Moment) -> Option<(u64, State)> {
        let has_less = seen.number < self.places[at].seen && seen.number < self.number;
        // At the start: another replica may have a later state on its disk.
        let has_nothing = seen.number == 0 && self.number > 0 && self.forgot.is_none();
        if has_less || has_nothing {
            self.forgot = Some(self.clock.now());
        }
        let place = &mut self.places[at];
        place.seen = seen.number;
        place.is_spoilt = false;
        if let Some(late) = place.open_late(seen, sent) {
            self.late = Some(Box::new(late));
        }
        match seen.flaw {
            None if seen.number == 0 && seen.record.is_none() => self.note(None),
            None => {}
            Some(Flaw::Lease) => self.shared.corrupt(&self.credential, Flaw::Lease),
            Some(flaw) => {
                place.is_spoilt = true;
                if self.trouble.begins(Some(flaw.text().to_owned())) {
                    self.shared.corrupt(&self.credential, flaw);
                }
                return None;
            }
        }
        match self.places[at].open(seen, sent)? {
            Ok(state) => {
                self.note(None);
                Some((seen.number, state))
            }
            Err(refusal) => {
                // A later version of bearerd has written what this one cannot read.
                self.places[at].is_spoilt = !matches!(refusal, StateRefusal::Version(_));
                self.note(Some(in_one_line(&refusal)));
                None
            }
        }
    }

    /// The number whose record need not be sent.
    fn known(&self, at: usize) -> u64 {
        let seen = self.places[at].seen;
        if self.is_ahead || seen != self.number || self.trouble.current().is_some() { 0 } else { seen }
    }

    async fn release(&self, places: &[String]) {
        for place in places {
            if let Err(error) = self.shared.store().give_back(place, &self.holder).await {
                debug!(%error, "lease not given back");
            }
        }
    }

    fn here(&mut self, seen: &Seen) {
        self.time = StoreTime { now: seen.now, at: self.clock.now() };
        if let Some(writer) = &seen.writer {
            self.shared.written_by(writer);
        }
        if self.away_until.take().is_some() {
            self.returned = Some(self.clock.now());
        }
        self.shared.here();
    }

    fn away(&mut self, error: &StoreError) {
        self.away_until = Some(self.clock.now() + AWAY_RECHECK);
        self.shared.away(error);
    }

    /// Logs that the record becomes unreadable, or readable again.
    fn note(&mut self, trouble: Option<String>) {
        if self.trouble.begins(trouble) {
            let error = self.trouble.current().as_deref();
            error!(credential = self.credential, error, "shared record not usable");
        }
    }
}

#[cfg(test)]
pub(in crate::token) mod simulated;
