//! The shared store of one configuration, as all refreshers of this replica use it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tracing::{error, warn};

use super::store::{Flaw, SharedStore, StoreError};
use crate::clock::{Clock, Moment};
use crate::config::WhenAway;
use crate::config::model::state_key::StateKey;
use crate::telemetry::Events;
use crate::telemetry::event::{Event, Name};
use crate::telemetry::time::Time;

/// How long a lease lasts unless it is renewed.
pub(super) const LEASE: Duration = Duration::from_secs(5);
/// How often a lease is renewed.
const RENEWAL_INTERVAL: Duration = Duration::from_millis(1500);
/// How often a replica tells that it lives.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);
/// How often the log repeats that the store is away.
const WARNING_INTERVAL: Duration = Duration::from_mins(1);

/// How the replicas share.
#[derive(Debug)]
pub struct Settings {
    /// The keys of the records: the current key, then the previous ones.
    pub keys: Vec<StateKey>,
    /// The number of replicas that is assumed while the store is away; 0 for the number that was counted last.
    pub expected_replicas: u64,
    /// What a grant that rotates does while the store is away.
    pub when_away: WhenAway,
}

/// A handle of the shared store.
#[derive(Clone, Debug)]
pub struct Shared(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Box<dyn SharedStore>,
    settings: Settings,
    /// The name of this replica.
    replica: String,
    /// The number of holders that were named.
    holders: AtomicU64,
    /// The replicas that were counted last; 0 before the first count.
    replicas: AtomicU64,
    counts: Counts,
    health: Mutex<Health>,
    events: Events,
    clock: Clock,
}

/// What became of the tokens, for operators.
#[derive(Debug, Default)]
struct Counts {
    adopted: AtomicU64,
    won: AtomicU64,
    conflicts: AtomicU64,
    repairs: AtomicU64,
    unconfirmed: AtomicU64,
    corrupt: AtomicU64,
    fence: AtomicU64,
}

#[derive(Debug, Default)]
struct Health {
    /// Why the store is away; `None` while it is reachable or was not asked.
    away: Option<StoreError>,
    since: Option<Time>,
    warned: Moment,
    /// When the log told last that a write was not confirmed.
    warned_unconfirmed: Option<Moment>,
    /// The replica that wrote a record last.
    lease_holder: Option<String>,
}

/// The store that replicas share, as operators see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SharedStatus {
    /// Whether the store is reachable; `null` before its first answer.
    pub reachable: Option<bool>,
    /// Since when.
    pub since: Option<Time>,
    /// Why the store is not reachable.
    pub error: Option<String>,
    /// `away`, `refused` (the user or a command) or `corrupt` (values that bearerd did not write).
    pub error_kind: Option<String>,
    /// The replica that was seen last to have held a lease and written the outcome.
    pub lease_holder: Option<String>,
    /// The name of this replica.
    pub replica: String,
    /// The replicas that were counted last.
    pub replicas: u64,
    /// The highest number of a lease: each turn of a refresher has a higher one.
    pub fence: u64,
    /// The tokens and waits of other replicas that this one uses or has used.
    pub adopted: u64,
    /// The answers of token endpoints that this replica has shared.
    pub won: u64,
    /// The writes that another replica preceded.
    pub conflicts: u64,
    /// The records that this replica has given back to a store that had lost them.
    pub repairs: u64,
    /// The writes of rotating grants that no other server of the store confirmed in time.
    pub unconfirmed: u64,
    /// The values in the store that no replica has written so.
    pub corrupt: u64,
}

impl Shared {
    /// A handle; nothing is asked of the store yet.
    ///
    /// # Panics
    ///
    /// Without a key.
    pub fn new(
        store: Box<dyn SharedStore>,
        settings: Settings,
        replica: String,
        events: Events,
        clock: Clock,
    ) -> Self {
        assert!(!settings.keys.is_empty(), "a shared store has a key");
        Self(Arc::new(Inner {
            store,
            settings,
            replica,
            holders: AtomicU64::new(0),
            replicas: AtomicU64::new(0),
            counts: Counts::default(),
            health: Mutex::default(),
            events,
            clock,
        }))
    }

    pub(super) fn store(&self) -> &dyn SharedStore {
        &*self.0.store
    }

    pub(super) fn keys(&self) -> &[StateKey] {
        &self.0.settings.keys
    }

    /// What a grant that rotates does while the store is away.
    pub(in crate::token) fn when_away(&self) -> WhenAway {
        self.0.settings.when_away
    }

    /// The name of another holder of leases, which no refresher of any replica has.
    pub(super) fn another_holder(&self) -> String {
        format!("{}/{}", self.0.replica, self.0.holders.fetch_add(1, Ordering::Relaxed))
    }

    /// Among how many replicas the quota is divided while the store is away; at least 1.
    pub(super) fn replicas(&self) -> u64 {
        let counted = self.0.replicas.load(Ordering::Relaxed);
        if self.0.settings.expected_replicas > 0 { self.0.settings.expected_replicas } else { counted }.max(1)
    }

    /// The store has answered.
    pub(super) fn here(&self) {
        let mut health = self.health();
        let was_away = health.away.take().is_some();
        if was_away || health.since.is_none() {
            health.since = Some(Time::now());
        }
        drop(health);
        if was_away {
            self.0.events.record(Event::now(Name::SharedRecovered));
        }
    }

    /// The store has not answered, or has refused.
    pub(super) fn away(&self, error: &StoreError) {
        let now = self.0.clock.now();
        let mut health = self.health();
        let is_news = health.away.is_none();
        let is_due = is_news || health.warned.until(now) >= WARNING_INTERVAL;
        if is_news {
            health.since = Some(Time::now());
        }
        if is_due {
            health.warned = now;
        }
        health.away = Some(error.clone());
        drop(health);
        if is_news {
            let detail = Some(error.to_string());
            self.0.events.record(Event { detail, ..Event::now(Name::SharedLost) });
        } else if is_due {
            warn!(%error, "shared store still away");
        }
    }

    fn health(&self) -> std::sync::MutexGuard<'_, Health> {
        self.0.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn adopted(&self) {
        self.0.counts.adopted.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn won(&self) {
        self.0.counts.won.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn conflict(&self) {
        self.0.counts.conflicts.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn repaired(&self) {
        self.0.counts.repairs.fetch_add(1, Ordering::Relaxed);
    }

    /// A write succeeded, and no other server of the store has confirmed it.
    pub(super) fn unconfirmed(&self) {
        self.0.counts.unconfirmed.fetch_add(1, Ordering::Relaxed);
        let now = self.0.clock.now();
        let mut health = self.health();
        if health.warned_unconfirmed.is_none_or(|warned| warned.until(now) >= WARNING_INTERVAL) {
            health.warned_unconfirmed = Some(now);
            drop(health);
            warn!("shared write not confirmed by another server of the store");
        }
    }

    /// A key of a place has a value that no replica has written so.
    pub(super) fn corrupt(&self, credential: &str, flaw: Flaw) {
        self.0.counts.corrupt.fetch_add(1, Ordering::Relaxed);
        error!(credential, error = flaw.text(), help = Flaw::REMEDY, "shared record corrupt");
    }

    /// This holder has written a record.
    pub(super) fn written_by(&self, holder: &str) {
        let replica = holder.rsplit_once('/').map_or(holder, |(replica, _)| replica);
        let mut health = self.health();
        if health.lease_holder.as_deref() != Some(replica) {
            health.lease_holder = Some(replica.to_owned());
        }
    }

    pub(super) fn fenced(&self, fence: u64) {
        self.0.counts.fence.fetch_max(fence, Ordering::Relaxed);
    }

    /// The store as operators see it.
    pub fn status(&self) -> SharedStatus {
        let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
        let Counts { adopted, won, conflicts, repairs, unconfirmed, corrupt, fence } = &self.0.counts;
        let health = self.health();
        SharedStatus {
            reachable: health.since.map(|_| health.away.is_none()),
            since: health.since,
            error: health.away.as_ref().map(ToString::to_string),
            error_kind: health.away.as_ref().map(|error| error.kind().to_owned()),
            lease_holder: health.lease_holder.clone(),
            replica: self.0.replica.clone(),
            replicas: count(&self.0.replicas),
            adopted: count(adopted),
            won: count(won),
            conflicts: count(conflicts),
            repairs: count(repairs),
            unconfirmed: count(unconfirmed),
            corrupt: count(corrupt),
            fence: count(fence),
        }
    }

    /// Tells the other replicas that this one lives, and counts them, for ever.
    pub async fn beat(self) {
        loop {
            match self.0.store.beat(&self.0.replica).await {
                Ok(replicas) => {
                    self.0.replicas.store(replicas, Ordering::Relaxed);
                    self.here();
                }
                Err(error) => self.away(&error),
            }
            tokio::time::sleep(HEARTBEAT_INTERVAL).await;
        }
    }
}

/// A lease, which a task of its own renews until this is dropped.
#[derive(Debug)]
pub(super) struct Lease {
    places: Vec<String>,
    /// When the lease ends unless it is renewed, in nanoseconds of the clock.
    until: Arc<AtomicU64>,
    clock: Clock,
    /// The task that renews the lease, which ends with this.
    _renewal: JoinSet<()>,
}

impl Lease {
    /// The lease on these places, which was asked for at the moment `sent`.
    pub(super) fn new(shared: &Shared, holder: String, places: Vec<String>, sent: Moment) -> Self {
        let clock = shared.0.clock;
        let until = Arc::new(AtomicU64::new((sent + LEASE).as_nanos()));
        let mut renewal = JoinSet::new();
        renewal.spawn(renew(shared.clone(), holder, places.clone(), Arc::clone(&until)));
        Self { places, until, clock, _renewal: renewal }
    }

    /// Whether the lease lasts for so long at least.
    pub(super) fn lasts(&self, least: Duration) -> bool {
        self.clock.now() + least < Moment::from_nanos(self.until.load(Ordering::Acquire))
    }

    /// The places of the lease.
    pub(super) fn places(&self) -> &[String] {
        &self.places
    }
}

/// Renews a lease until it is lost.
async fn renew(shared: Shared, holder: String, places: Vec<String>, until: Arc<AtomicU64>) {
    let clock = shared.0.clock;
    loop {
        tokio::time::sleep(RENEWAL_INTERVAL).await;
        let sent = clock.now();
        let mut renewed = Ok(true);
        for place in &places {
            if renewed == Ok(true) {
                renewed = shared.store().renew(place, &holder, LEASE).await;
            }
        }
        match renewed {
            Ok(true) => until.store((sent + LEASE).as_nanos(), Ordering::Release),
            Ok(false) => return until.store(0, Ordering::Release),
            // The lease ends by itself if this goes on.
            Err(_) => {}
        }
    }
}
