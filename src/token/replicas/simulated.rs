//! A shared store in memory, in tokio's time, with the faults of stores and networks.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::store::{Copies, Flaw, Operation, Seen, SharedStore, StoreError, Take, Taken, Write, Written};

/// The longest time that a client waits for an answer.
const OPERATION_TIMEOUT: Duration = Duration::from_millis(250);
/// The store's time at the beginning, since 1970.
const START: Duration = Duration::from_hours(480_000);

/// The store itself.
#[derive(Clone, Debug)]
pub(in crate::token) struct Simulated(Arc<Mutex<Memory>>);

#[derive(Debug)]
struct Memory {
    begun: Instant,
    places: HashMap<String, PlaceMemory>,
    watches: HashMap<String, watch::Sender<()>>,
    beats: HashMap<String, Instant>,
    outage: Outage,
    /// How many operations were asked for.
    operations: u64,
    /// How far the clock was set forward.
    ahead: Duration,
    backup: HashMap<String, PlaceMemory>,
    /// Whether the server that follows, if one does, has what is waited for: the backup.
    follower: Option<bool>,
}

#[derive(Clone, Debug, Default)]
struct PlaceMemory {
    record: Option<(u64, Vec<u8>)>,
    flaw: Option<Flaw>,
    writer: Option<String>,
    late: Option<Vec<u8>>,
    lease: Option<(String, Instant)>,
    fence: u64,
}

/// What the store does with all requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::token) enum Outage {
    #[default]
    None,
    /// Connections are refused.
    Refuses,
    /// No request is answered.
    Hangs,
}

/// One replica's connection to the store.
#[derive(Clone, Debug)]
pub(in crate::token) struct Link {
    store: Simulated,
    /// Whether the replica's process is stopped, as by SIGSTOP.
    stopped: watch::Receiver<bool>,
    /// Whether the network between the replica and the store is cut.
    cut: Arc<AtomicBool>,
    /// The longest time in one direction.
    latency: Duration,
    /// The chance that an answer is lost although the operation took effect.
    loses_answer: f64,
}

impl Simulated {
    pub(in crate::token) fn new() -> Self {
        Self(Arc::new(Mutex::new(Memory {
            begun: Instant::now(),
            places: HashMap::new(),
            watches: HashMap::new(),
            beats: HashMap::new(),
            outage: Outage::None,
            operations: 0,
            ahead: Duration::ZERO,
            backup: HashMap::new(),
            follower: None,
        })))
    }

    /// A connection of a replica, whose process `stopped` stops.
    pub(in crate::token) fn link(
        &self,
        stopped: watch::Receiver<bool>,
        cut: Arc<AtomicBool>,
        latency: Duration,
        loses_answer: f64,
    ) -> Link {
        Link { store: self.clone(), stopped, cut, latency, loses_answer }
    }

    pub(in crate::token) fn set_outage(&self, outage: Outage) {
        self.memory().outage = outage;
    }

    /// How many operations were asked for.
    pub(in crate::token) fn operations(&self) -> u64 {
        self.memory().operations
    }

    /// Forgets everything, leases and fences included (`FLUSHALL`).
    pub(in crate::token) fn forget(&self) {
        self.memory().places.clear();
    }

    /// Remembers everything for [`Self::roll_back`].
    pub(in crate::token) fn back_up(&self) {
        let mut memory = self.memory();
        memory.backup = memory.places.clone();
    }

    /// Loses all writes since the last backup, as a failover to a replica that lags does.
    pub(in crate::token) fn roll_back(&self) {
        let mut memory = self.memory();
        memory.places = memory.backup.clone();
    }

    /// Has a server follow, which a failover [rolls back](Self::roll_back) to. It gets only what a replica waits for, or
    /// nothing in time; `None` for no such server.
    pub(in crate::token) fn follow(&self, is_in_time: Option<bool>) {
        self.memory().follower = is_in_time;
    }

    /// Spoils every record, as another program does.
    pub(in crate::token) fn spoil(&self, flaw: Flaw) {
        for place in self.memory().places.values_mut() {
            place.flaw = Some(flaw);
        }
    }

    /// Sets the store's clock forward.
    pub(in crate::token) fn advance_clock(&self, by: Duration) {
        self.memory().ahead += by;
    }

    /// Changes every record by this function.
    pub(in crate::token) fn tamper(&self, change: impl Fn(&mut u64, &mut Vec<u8>)) {
        for place in self.memory().places.values_mut() {
            if let Some((number, record)) = &mut place.record {
                change(number, record);
            }
        }
    }

    /// All bytes that the store has, names included.
    pub(in crate::token) fn bytes(&self) -> Vec<u8> {
        let memory = self.memory();
        let records = memory.places.iter().flat_map(|(name, place)| {
            let record = place.record.iter().flat_map(|(_, record)| record.clone());
            let late = place.late.iter().flatten().copied();
            name.bytes().chain(record).chain(late).collect::<Vec<_>>()
        });
        records.collect()
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap()
    }
}

impl Memory {
    fn now(&self) -> Duration {
        START + self.begun.elapsed() + self.ahead
    }

    fn seen(&self, place: &str, known: u64) -> Seen {
        let PlaceMemory { record, flaw, late, writer, .. } =
            self.places.get(place).cloned().unwrap_or_default();
        let (number, record) = match (record, flaw) {
            (_, Some(_)) => (0, Some(Vec::new())),
            (None, None) => (0, None),
            (Some((number, record)), None) => (number, Some(record).filter(|_| number != known)),
        };
        Seen { now: self.now(), number, record, late, flaw, writer }
    }

    fn place(&mut self, name: &str) -> &mut PlaceMemory {
        self.places.entry(name.to_owned()).or_default()
    }

    fn announce(&self, place: &str) {
        if let Some(watch) = self.watches.get(place) {
            watch.send_replace(());
        }
    }
}

impl Link {
    /// One operation: request, effect and answer, each of which can be late or lost.
    fn operate<'a, T: Send + 'a>(
        &'a self,
        effect: impl FnOnce(&mut Memory) -> T + Send + 'a,
    ) -> Operation<'a, T> {
        async move {
            self.runs().await;
            let sent = Instant::now();
            sleep(self.latency.mul_f64(fastrand::f64())).await;
            self.store.memory().operations += 1;
            let outage =
                if self.cut.load(Ordering::Relaxed) { Outage::Hangs } else { self.store.memory().outage };
            match outage {
                Outage::None => {}
                Outage::Refuses => return Err(StoreError::Away("connection refused".to_owned())),
                Outage::Hangs => return self.time_out(sent).await,
            }
            let answer = effect(&mut self.store.memory());
            if fastrand::f64() < self.loses_answer || self.cut.load(Ordering::Relaxed) {
                return self.time_out(sent).await;
            }
            sleep(self.latency.mul_f64(fastrand::f64())).await;
            // An answer that has arrived while the process was stopped is read afterwards.
            self.runs().await;
            Ok(answer)
        }
        .boxed()
    }

    async fn runs(&self) {
        let _ = self.stopped.clone().wait_for(|stopped| !stopped).await;
    }

    async fn time_out<T>(&self, sent: Instant) -> Result<T, StoreError> {
        tokio::time::sleep_until(sent + OPERATION_TIMEOUT).await;
        self.runs().await;
        Err(StoreError::Away("no answer in time".to_owned()))
    }
}

impl SharedStore for Link {
    fn take<'a>(&'a self, place: &'a str, request: Take<'a>) -> Operation<'a, Taken> {
        self.operate(move |memory| {
            let now = Instant::now();
            let held = memory.place(place).lease.clone();
            let other = held.filter(|(holder, until)| holder != request.holder && now < *until);
            let lease = match other {
                Some((_, until)) => Err(until - now),
                None => {
                    let memory = memory.place(place);
                    memory.lease = Some((request.holder.to_owned(), now + request.ttl));
                    memory.fence = memory.fence.max(request.fence) + 1;
                    Ok(memory.fence)
                }
            };
            Taken { lease, seen: memory.seen(place, request.known) }
        })
    }

    fn renew<'a>(&'a self, place: &'a str, holder: &'a str, ttl: Duration) -> Operation<'a, bool> {
        self.operate(move |memory| {
            let now = Instant::now();
            let lease = &mut memory.place(place).lease;
            let is_mine = lease.as_ref().is_some_and(|(other, until)| other == holder && now < *until);
            if is_mine {
                *lease = Some((holder.to_owned(), now + ttl));
            }
            is_mine
        })
    }

    fn give_back<'a>(&'a self, place: &'a str, holder: &'a str) -> Operation<'a, ()> {
        self.operate(move |memory| {
            let lease = &mut memory.place(place).lease;
            if lease.as_ref().is_some_and(|(other, _)| other == holder) {
                *lease = None;
            }
        })
    }

    fn read<'a>(&'a self, place: &'a str, known: u64) -> Operation<'a, Seen> {
        self.operate(move |memory| memory.seen(place, known))
    }

    fn write<'a>(&'a self, place: &'a str, write: Write<'a>) -> Operation<'a, Written> {
        self.operate(move |memory| {
            let number = memory.seen(place, 0).number;
            if number != write.expected {
                if write.keeps_late {
                    memory.place(place).late = Some(write.record.to_vec());
                }
                return Written::Lost(memory.seen(place, 0));
            }
            let memory_of_place = memory.place(place);
            memory_of_place.record = Some((write.number, write.record.to_vec()));
            memory_of_place.flaw = None;
            if let Some(writer) = write.writer {
                memory_of_place.writer = Some(writer.to_owned());
            }
            if write.clears_late {
                memory_of_place.late = None;
            }
            if write.is_announced {
                memory.announce(place);
            }
            match memory.follower.filter(|_| write.copies == Copies::Confirmed) {
                None => Written::Done,
                Some(true) => {
                    let copy = memory.place(place).clone();
                    memory.backup.insert(place.to_owned(), copy);
                    Written::Done
                }
                Some(false) => Written::Unconfirmed,
            }
        })
    }

    fn beat<'a>(&'a self, replica: &'a str) -> Operation<'a, u64> {
        self.operate(move |memory| {
            let now = Instant::now();
            memory.beats.insert(replica.to_owned(), now);
            memory.beats.retain(|_, beat| now - *beat < Duration::from_secs(15));
            memory.beats.len() as u64
        })
    }

    fn watch(&self, place: &str) -> watch::Receiver<()> {
        let mut memory = self.store.memory();
        memory.watches.entry(place.to_owned()).or_insert_with(|| watch::channel(()).0).subscribe()
    }
}
