//! The counts of requests, for each route and worker.
//!
//! [`Traffic`] outlives every reload: a route keeps its counts as long as its name. Each worker writes series of its own,
//! which a scrape adds up. A series begins with the first request that belongs to it; finding it compares a few numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use http::Method;

use super::callers::{AllCallers, CallerMeter, CallerTraffic};
use super::histogram::{Buckets, Histogram, add};
use super::pool_members::{AllMembers, MemberMeter, MemberTraffic};

/// How many series a block of a list has.
const BLOCK: usize = 8;
/// The most series of one route, worker and side. Requests beyond them count as one, of method `_OTHER` and status 0.
const MAX_SERIES: usize = 256;

/// The method of a request, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MethodLabel(u8);

impl MethodLabel {
    const NAMES: [&'static str; 10] =
        ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "CONNECT", "TRACE", "_OTHER"];

    /// Any other method.
    pub const OTHER: Self = Self(9);

    /// The label of a method.
    pub fn of(method: &Method) -> Self {
        let index = match *method {
            Method::GET => 0,
            Method::POST => 1,
            Method::PUT => 2,
            Method::DELETE => 3,
            Method::HEAD => 4,
            Method::OPTIONS => 5,
            Method::PATCH => 6,
            Method::CONNECT => 7,
            Method::TRACE => 8,
            _ => return Self::OTHER,
        };
        Self(index)
    }

    /// The label's value.
    pub const fn as_str(self) -> &'static str {
        Self::NAMES[self.0 as usize]
    }
}

/// What the requests of a series have in common. `code` is that of our own error response, or why an upstream did not
/// answer; `status` is 0 without a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The method.
    pub method: MethodLabel,
    /// The status of the response.
    pub status: u16,
    /// The code of the error.
    pub code: Option<&'static str>,
}

macro_rules! counters {
    ($(#[doc = $doc:literal])+ $name:ident { $($(#[doc = $label_doc:literal])+ $variant:ident => $label:literal,)+ }) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[doc = $label_doc])+ $variant,)+
        }

        impl $name {
            /// All values of the label.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The value of the label.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $label,)+ }
            }
        }
    };
}

counters! {
    /// What became of a 401 of the upstream.
    Unauthorized {
        /// The request was sent again with another token.
        Replayed => "replayed",
        /// The route is held.
        Held => "held",
        /// The upstream rejected a token that was issued for this request.
        FreshTokenRejected => "fresh_token_rejected",
        /// The authorization server issued the rejected token again.
        SameTokenAgain => "same_token_again",
        /// The body was not kept for a replay.
        BodyNotKept => "body_not_kept",
        /// The request was sent again with the token before a scheduled renewal.
        PreviousToken => "previous_token",
    }
}

counters! {
    /// Why a request was sent again.
    Retry {
        /// The upstream rejected the token.
        Unauthorized => "unauthorized",
        /// A reused connection closed without an answer.
        StaleConnection => "stale_connection",
        /// An HTTP/2 upstream did not process the request.
        RefusedStream => "refused_stream",
        /// The upstream answered 429.
        Throttled => "throttled",
    }
}

/// The access of one worker to the counts.
#[derive(Debug)]
pub struct Meter {
    traffic: Arc<Traffic>,
    worker: usize,
}

/// The access of one worker to the counts of one route.
#[derive(Debug)]
pub struct RouteMeter {
    route: Arc<RouteTraffic>,
    worker: usize,
}

/// The counts of all routes.
#[derive(Debug)]
pub struct Traffic {
    workers: usize,
    routes: Mutex<BTreeMap<Arc<str>, Arc<RouteTraffic>>>,
    /// Requests that were refused before a route was found.
    unrouted: Arc<RouteTraffic>,
    callers: AllCallers,
    members: AllMembers,
    active: Box<[AtomicI64]>,
    /// TLS handshakes with callers that failed.
    failed_handshakes: AtomicU64,
    /// Connections that were refused because there were too many.
    refused_connections: AtomicU64,
}

/// The counts of one route; of one name, after a reload.
#[derive(Debug)]
pub struct RouteTraffic {
    name: Arc<str>,
    workers: Box<[WorkerTraffic]>,
}

/// The counts that one worker has made of a route.
#[derive(Debug, Default)]
struct WorkerTraffic {
    /// Requests of callers.
    requests: Series,
    /// Attempts to send a request to the upstream.
    attempts: Series,
    unauthorized: [AtomicU64; Unauthorized::ALL.len()],
    retries: [AtomicU64; Retry::ALL.len()],
}

/// A list of series that one thread extends and any thread reads.
#[derive(Debug, Default)]
struct Series {
    first: OnceLock<Box<Block>>,
    /// Takes what finds no series of its own.
    overflow: OnceLock<Box<(Key, Histogram)>>,
}

#[derive(Debug, Default)]
struct Block {
    series: [OnceLock<(Key, Histogram)>; BLOCK],
    next: OnceLock<Box<Block>>,
}

impl Traffic {
    /// Counts of this many workers.
    pub fn new(workers: usize) -> Self {
        Self {
            workers,
            routes: Mutex::default(),
            unrouted: Arc::new(RouteTraffic::new("", workers)),
            callers: AllCallers::default(),
            members: AllMembers::default(),
            active: (0..workers).map(|_| AtomicI64::new(0)).collect(),
            failed_handshakes: AtomicU64::new(0),
            refused_connections: AtomicU64::new(0),
        }
    }

    /// The counts of the route of this name, which begin with the first call.
    pub fn route(&self, name: &str) -> Arc<RouteTraffic> {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = || Arc::new(RouteTraffic::new(name, self.workers));
        Arc::clone(routes.entry(Arc::from(name)).or_insert_with(begin))
    }

    /// The counts of the caller of this name, which begin with the first call.
    pub fn caller(&self, name: &str) -> Arc<CallerTraffic> {
        self.callers.of(name, self.workers)
    }

    /// The counts of this credential of this pool, which begin with the first call.
    pub fn member(&self, pool: &str, credential: &str) -> Arc<MemberTraffic> {
        self.members.of(pool, credential, self.workers)
    }

    /// The counts of requests that were refused before a route was found.
    pub const fn unrouted(&self) -> &Arc<RouteTraffic> {
        &self.unrouted
    }

    /// Forgets the counts of all routes, callers and members of pools but these.
    pub fn keep_only<'a>(
        &self,
        names: impl Iterator<Item = &'a str>,
        callers: &[String],
        members: &BTreeSet<(String, String)>,
    ) {
        self.callers.keep_only(callers);
        self.members.keep_only(members);
        let names: BTreeSet<&str> = names.collect();
        self.routes.lock().unwrap_or_else(PoisonError::into_inner).retain(|name, _| names.contains(&**name));
    }

    /// The counts of all routes, by name, and of requests without a route.
    pub fn routes(&self) -> Vec<Arc<RouteTraffic>> {
        let routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        routes.values().cloned().chain([Arc::clone(&self.unrouted)]).collect()
    }

    /// How many TLS handshakes with callers have failed.
    pub fn failed_handshakes(&self) -> u64 {
        self.failed_handshakes.load(Ordering::Relaxed)
    }

    /// Counts a connection that is refused because there are too many.
    pub fn connection_refused(&self) {
        self.refused_connections.fetch_add(1, Ordering::Relaxed);
    }

    /// How many connections were refused because there were too many.
    pub fn refused_connections(&self) -> u64 {
        self.refused_connections.load(Ordering::Relaxed)
    }

    /// How many requests are in progress.
    pub fn active(&self) -> i64 {
        self.active.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

fn change(counter: &AtomicI64, by: i64) {
    counter.store(counter.load(Ordering::Relaxed) + by, Ordering::Relaxed);
}

impl RouteTraffic {
    fn new(name: &str, workers: usize) -> Self {
        Self { name: Arc::from(name), workers: (0..workers).map(|_| WorkerTraffic::default()).collect() }
    }

    /// The route's name; empty for requests without a route.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The durations of callers' requests.
    pub fn requests(&self) -> BTreeMap<Key, Buckets> {
        self.sum(|worker| &worker.requests)
    }

    /// The durations of attempts.
    pub fn attempts(&self) -> BTreeMap<Key, Buckets> {
        self.sum(|worker| &worker.attempts)
    }

    /// How often a 401 had this outcome.
    pub fn unauthorized_total(&self, outcome: Unauthorized) -> u64 {
        self.total(|worker| &worker.unauthorized[outcome as usize])
    }

    /// How often requests were sent again for this cause.
    pub fn retries_total(&self, cause: Retry) -> u64 {
        self.total(|worker| &worker.retries[cause as usize])
    }

    fn total(&self, counter: impl Fn(&WorkerTraffic) -> &AtomicU64) -> u64 {
        self.workers.iter().map(|worker| counter(worker).load(Ordering::Relaxed)).sum()
    }

    fn sum(&self, series: impl Fn(&WorkerTraffic) -> &Series) -> BTreeMap<Key, Buckets> {
        let mut sums = BTreeMap::<Key, Buckets>::new();
        for worker in &self.workers {
            for (key, histogram) in series(worker).all() {
                histogram.add_to(sums.entry(*key).or_default());
            }
        }
        sums
    }
}

impl Meter {
    /// The access of this worker. Used on the worker's thread only.
    pub const fn new(traffic: Arc<Traffic>, worker: usize) -> Self {
        Self { traffic, worker }
    }

    /// The access to the counts of the route of this name.
    pub fn route(&self, name: &str) -> RouteMeter {
        RouteMeter { route: self.traffic.route(name), worker: self.worker }
    }

    /// The access to the counts of the caller of this name.
    pub fn caller(&self, name: &str) -> CallerMeter {
        CallerMeter::new(self.traffic.caller(name), self.worker)
    }

    /// The access to the counts of this credential of this pool.
    pub fn member(&self, pool: &str, credential: &str) -> MemberMeter {
        MemberMeter::new(self.traffic.member(pool, credential), self.worker)
    }

    /// Counts a request in progress.
    pub fn begins(&self) {
        change(&self.traffic.active[self.worker], 1);
    }

    /// Counts the end of a request.
    pub fn ends(&self) {
        change(&self.traffic.active[self.worker], -1);
    }

    /// Counts a TLS handshake with a caller that failed.
    pub fn handshake_failed(&self) {
        self.traffic.failed_handshakes.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request that was refused before its head was complete: nobody knows its caller.
    pub fn refused_early(&self, key: Key, duration: Duration) {
        self.refused(key, duration);
        self.traffic.callers.refused_unknown(key.status, self.worker);
    }

    /// Counts a request that was refused before a route was found.
    pub fn refused(&self, key: Key, duration: Duration) {
        self.traffic.unrouted.workers[self.worker].requests.of(key).observe(duration);
    }
}

impl RouteMeter {
    /// Counts a caller's request that has ended.
    pub fn answered(&self, key: Key, duration: Duration) {
        self.counts().requests.of(key).observe(duration);
    }

    /// Counts an attempt to send a request.
    pub fn attempted(&self, key: Key, duration: Duration) {
        self.counts().attempts.of(key).observe(duration);
    }

    /// Counts a 401 of the upstream.
    pub fn unauthorized(&self, outcome: Unauthorized) {
        add(&self.counts().unauthorized[outcome as usize], 1);
    }

    /// Counts requests that were sent again.
    pub fn retried(&self, cause: Retry, times: u32) {
        add(&self.counts().retries[cause as usize], times.into());
    }

    fn counts(&self) -> &WorkerTraffic {
        &self.route.workers[self.worker]
    }
}

impl Series {
    /// The series of a key, which begins with the first call.
    fn of(&self, key: Key) -> &Histogram {
        let mut place = &self.first;
        for _ in 0..MAX_SERIES / BLOCK {
            let block = place.get_or_init(Box::default);
            for slot in &block.series {
                let (present, histogram) = slot.get_or_init(|| (key, Histogram::default()));
                if *present == key {
                    return histogram;
                }
            }
            place = &block.next;
        }
        let other = Key { method: MethodLabel::OTHER, status: 0, code: None };
        &self.overflow.get_or_init(|| Box::new((other, Histogram::default()))).1
    }

    fn all(&self) -> impl Iterator<Item = &(Key, Histogram)> {
        let blocks = std::iter::successors(self.first.get(), |block| block.next.get());
        let own = blocks.flat_map(|block| &block.series).map_while(OnceLock::get);
        own.chain(self.overflow.get().map(|overflow| &**overflow))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    fn key(status: u16) -> Key {
        Key { method: MethodLabel::of(&Method::GET), status, code: None }
    }

    #[test]
    fn a_scrape_adds_up_what_the_workers_counted() {
        let traffic = Arc::new(Traffic::new(2));
        let [one, two] = [0, 1].map(|worker| Meter::new(Arc::clone(&traffic), worker));
        let route = traffic.route("/api");
        one.route("/api").answered(key(200), MILLISECOND);
        two.route("/api").answered(key(200), MILLISECOND);
        two.route("/api").answered(key(404), MILLISECOND);
        two.route("/api").attempted(key(200), MILLISECOND);
        one.route("/api").unauthorized(Unauthorized::Replayed);
        two.route("/api").unauthorized(Unauthorized::Replayed);
        two.route("/api").retried(Retry::Throttled, 1);
        two.refused(key(421), MILLISECOND);
        one.begins();
        two.begins();
        two.ends();

        let counts: Vec<_> =
            route.requests().iter().map(|(key, buckets)| (key.status, buckets.count())).collect();
        assert_eq!(counts, [(200, 2), (404, 1)]);
        assert_eq!(route.attempts().len(), 1);
        assert_eq!(
            (route.unauthorized_total(Unauthorized::Replayed), route.unauthorized_total(Unauthorized::Held)),
            (2, 0)
        );
        assert_eq!(
            (route.retries_total(Retry::Throttled), route.retries_total(Retry::StaleConnection)),
            (1, 0)
        );
        assert_eq!((traffic.active(), traffic.unrouted().requests().len()), (1, 1));
    }

    #[test]
    fn a_route_keeps_its_counts_as_long_as_its_name() {
        let traffic = Traffic::new(1);
        let route = traffic.route("/api");
        traffic.route("/other");
        traffic.keep_only(["/api"].into_iter(), &[], &BTreeSet::new());
        assert!(Arc::ptr_eq(&route, &traffic.route("/api")));
        let names: Vec<_> = traffic.routes().iter().map(|route| route.name().to_owned()).collect();
        assert_eq!(names, ["/api", ""]);
    }

    #[test]
    fn any_number_of_statuses_and_methods_is_counted_in_bounded_memory() {
        let traffic = Arc::new(Traffic::new(1));
        let route = traffic.route("/api");
        let meter = Meter::new(Arc::clone(&traffic), 0).route("/api");
        for status in 100..1000 {
            meter.answered(key(status), MILLISECOND);
        }
        let requests = route.requests();
        assert_eq!(requests.len(), MAX_SERIES + 1);
        assert_eq!(requests.values().map(Buckets::count).sum::<u64>(), 900);
        assert_eq!(MethodLabel::of(&Method::from_bytes(b"BREW").unwrap()).as_str(), "_OTHER");
        assert_eq!(MethodLabel::of(&Method::TRACE).as_str(), "TRACE");
    }
}
