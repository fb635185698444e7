//! The history of one credential: counts, the latest token requests, and the latest events, for operators.
//!
//! The refresher and operators lock a history; requests do not.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;

use super::event::{Event, Name};
use super::metrics::histogram::{Buckets, Histogram};

/// Why token requests are made.
pub const CAUSES: [&str; 3] = ["scheduled", "forced", "operator"];
/// How many token requests the success rate and the average latency are over.
const RECENT_REQUESTS: usize = 100;
/// How many events of a credential operators see.
const RECENT_EVENTS: usize = 20;

/// The history of the credentials of one name since the start.
#[derive(Debug, Default)]
pub struct History {
    record: Mutex<Record>,
    /// The time that token requests took. Written under the lock of the record.
    durations: Histogram,
}

/// What a history knows at one moment.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// How many token requests had this cause and this outcome.
    pub requests: BTreeMap<(&'static str, &'static str), u64>,
    /// Whether each of the latest token requests succeeded, and the time it took.
    pub latest: VecDeque<(bool, Duration)>,
    /// How many writes of the state failed.
    pub state_write_failures: u64,
    /// When a token request succeeded last.
    pub last_success: Option<SystemTime>,
    /// The latest failure.
    pub last_error: Option<LastError>,
    /// The fingerprint of the current token.
    pub fingerprint: Option<String>,
    /// The latest events, the oldest first.
    pub events: VecDeque<RecentEvent>,
    standing: Option<Standing>,
}

/// A failed token request.
#[derive(Clone, Debug)]
pub struct LastError {
    /// When the request failed.
    pub at: Timestamp,
    /// The outcome, as its code.
    pub outcome: String,
    /// The error, without secrets.
    pub detail: String,
}

/// An event as operators see it.
#[derive(Clone, Debug)]
pub struct RecentEvent {
    /// When it happened.
    pub at: Timestamp,
    /// What has happened.
    pub name: Name,
    /// The explanation.
    pub detail: Option<String>,
}

#[derive(Clone, Debug)]
struct Standing {
    state: (&'static str, Option<&'static str>),
    since: SystemTime,
}

impl History {
    /// Counts a token request.
    pub fn requested(&self, cause: &'static str, outcome: &'static str, succeeded: bool, latency: Duration) {
        let mut record = self.lock();
        *record.requests.entry((cause, outcome)).or_default() += 1;
        if record.latest.len() == RECENT_REQUESTS {
            record.latest.pop_front();
        }
        record.latest.push_back((succeeded, latency));
        if succeeded {
            record.last_success = Some(crate::clock::wall_clock());
        }
        self.durations.observe(latency);
    }

    /// Counts failed writes of the state.
    pub fn state_writes_failed(&self, times: u64) {
        self.lock().state_write_failures += times;
    }

    /// Notes the fingerprint of the current token.
    pub fn set_fingerprint(&self, fingerprint: &str) {
        self.lock().fingerprint = Some(fingerprint.to_owned());
    }

    /// Keeps an event for operators.
    pub fn note(&self, event: &Event) {
        let mut record = self.lock();
        if event.name == Name::TokenRefreshFailed {
            record.last_error = Some(LastError {
                at: event.timestamp,
                outcome: event.outcome.clone().unwrap_or_default(),
                detail: event.detail.clone().unwrap_or_default(),
            });
        }
        if record.events.len() == RECENT_EVENTS {
            record.events.pop_front();
        }
        let (at, name, detail) = (event.timestamp, event.name, event.detail.clone());
        record.events.push_back(RecentEvent { at, name, detail });
    }

    /// Since when the credential has had this state and reason. A change is noted as of the moment `changed`.
    pub fn since(&self, state: (&'static str, Option<&'static str>), changed: SystemTime) -> SystemTime {
        let mut record = self.lock();
        match &record.standing {
            Some(standing) if standing.state == state => standing.since,
            _ => {
                record.standing = Some(Standing { state, since: changed });
                changed
            }
        }
    }

    /// The time that token requests took.
    pub fn durations(&self) -> Buckets {
        let mut buckets = Buckets::default();
        self.durations.add_to(&mut buckets);
        buckets
    }

    /// What the history knows now.
    pub fn record(&self) -> Record {
        self.lock().clone()
    }

    /// The share of the latest token requests that succeeded; `None` before the first.
    pub fn success_rate(&self) -> Option<f64> {
        self.lock().success_rate()
    }

    fn lock(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Record {
    /// How many token requests were made since the start.
    pub fn token_requests(&self) -> u64 {
        self.requests.values().sum()
    }

    /// The share of the latest token requests that succeeded; `None` before the first.
    #[expect(clippy::cast_precision_loss, reason = "at most a hundred requests")]
    pub fn success_rate(&self) -> Option<f64> {
        let successes = self.latest.iter().filter(|(succeeded, _)| *succeeded).count();
        (!self.latest.is_empty()).then(|| successes as f64 / self.latest.len() as f64)
    }

    /// The average time of the latest token requests; `None` before the first.
    pub fn average_latency(&self) -> Option<Duration> {
        let count = u32::try_from(self.latest.len()).ok().filter(|count| *count > 0)?;
        Some(self.latest.iter().map(|(_, latency)| *latency).sum::<Duration>() / count)
    }

    /// The time of the latest token request; `None` before the first.
    pub fn last_latency(&self) -> Option<Duration> {
        self.latest.back().map(|(_, latency)| *latency)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_and_latency_are_those_of_the_latest_hundred_requests() {
        let history = History::default();
        assert!(history.success_rate().is_none());
        history.requested("scheduled", "network", false, Duration::from_secs(500));
        for index in 0..100 {
            history.requested("forced", "refreshed", index % 4 != 0, Duration::from_millis(20));
        }

        let record = history.record();
        assert_eq!(record.success_rate(), Some(0.75));
        assert_eq!(record.average_latency(), Some(Duration::from_millis(20)));
        assert_eq!((record.token_requests(), record.requests[&("scheduled", "network")]), (101, 1));
    }

    #[test]
    fn the_latest_events_and_the_latest_error_are_kept() {
        let history = History::default();
        for index in 0..=RECENT_EVENTS {
            let mut event = Event::now(Name::TokenRefreshFailed);
            (event.outcome, event.detail) = (Some("network".to_owned()), Some(format!("error {index}")));
            history.note(&event);
        }
        history.note(&Event::now(Name::TokenRefreshed));

        let record = history.record();
        assert_eq!(record.events.len(), RECENT_EVENTS);
        assert_eq!(record.events[0].detail.as_deref(), Some("error 2"));
        assert_eq!(record.last_error.unwrap().detail, "error 20");
    }

    #[test]
    fn a_state_holds_since_its_first_observation() {
        let history = History::default();
        let moment = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);

        assert_eq!(history.since(("valid", None), moment(1)), moment(1));
        assert_eq!(history.since(("valid", None), moment(2)), moment(1));
        assert_eq!(history.since(("degraded", Some("client_rejected")), moment(3)), moment(3));
        assert_eq!(history.since(("degraded", Some("scope_missing")), moment(4)), moment(4));
        assert_eq!(history.since(("valid", None), moment(5)), moment(5));
    }
}
