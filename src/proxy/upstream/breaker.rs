//! The circuit breaker of an upstream: while most requests fail, no requests are sent.
//!
//! A failure is an outcome that says that the upstream cannot be reached or is overwhelmed: no response, or one of 502,
//! 503 and 504. Any other response is an application's, and one broken endpoint must not block the others. The breaker
//! opens when the failures in a window reach both a number and a share of all responses. After a pause that doubles with each failed probe, an open breaker admits one
//! request at a time as a probe. All workers share one breaker; a closed breaker costs a request reads of the shared
//! state and one addition to a counter of the worker.

mod failure;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use crossbeam_utils::CachePadded;
use http::StatusCode;
use tracing::{debug, info, warn};

pub use self::failure::Failure;
use self::failure::FailureCause;

use crate::backoff::Backoff;
use crate::clock::{Clock, Moment};
use crate::config;
use crate::proxy::error::ProxyError;
use crate::proxy::error::upstream::ForwardError;

/// The `Retry-After` of requests that are refused while a probe is in progress.
const PROBE_RETRY_AFTER: Duration = Duration::from_secs(1);
/// The largest random extension of a pause, as a fraction: several daemons do not probe at the same moment.
const JITTER: f64 = 0.1;

/// The circuit breaker of one upstream.
#[derive(Debug)]
pub struct Breaker {
    /// `None` admits every request.
    settings: Option<config::Breaker>,
    clock: Clock,
    state: ArcSwap<State>,
    /// The counters of all workers, including workers that have ended.
    successes: ArcSwap<Vec<Arc<SuccessCounter>>>,
    /// The latest failure.
    failure: ArcSwapOption<Failure>,
}

/// The state of a breaker, as operators see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Every request is sent.
    Closed,
    /// No request is sent.
    Open,
    /// One request at a time is sent, to see whether the upstream has recovered.
    Probing,
}

impl BreakerState {
    /// All states.
    pub const ALL: [Self; 3] = [Self::Closed, Self::Open, Self::Probing];

    /// The state, as one word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::Probing => "probing",
        }
    }
}

/// Counts the successful responses of one worker. A counter shared by all workers would move between the caches of the
/// processors with each request.
#[derive(Debug, Default)]
pub struct SuccessCounter(CachePadded<AtomicU64>);

/// A request that the breaker has admitted. Dropping it without a record counts neither as success nor as failure.
#[derive(Debug)]
pub struct AdmittedRequest<'b> {
    breaker: &'b Breaker,
    successes: &'b SuccessCounter,
    epoch: u64,
    is_probe: bool,
}

/// Replaced as a whole with each change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    /// Incremented with each change of phase: outcomes of requests from an earlier phase are ignored.
    epoch: u64,
    /// How often the breaker has opened in a row; doubles the next pause.
    openings: u32,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Every request is admitted.
    Closed(Window),
    /// No request is admitted.
    Open { until: Moment },
    /// One request is in progress as a probe. After `until` the next request becomes the probe.
    Probing { until: Moment },
}

/// The counts of the current and of the previous half of the window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Window {
    /// When the breaker closed.
    closed_since: Moment,
    /// When the current half began.
    began: Moment,
    failures: u64,
    failures_before: u64,
    /// The total of the success counters when the current and the previous half began.
    successes: u64,
    successes_before: u64,
}

impl Breaker {
    /// A closed breaker; without settings it never opens.
    pub fn new(settings: Option<config::Breaker>, clock: Clock) -> Self {
        let state = State { epoch: 0, openings: 0, phase: Phase::Closed(Window::new(clock.now(), 0)) };
        Self {
            settings,
            clock,
            state: ArcSwap::from_pointee(state),
            successes: ArcSwap::default(),
            failure: ArcSwapOption::empty(),
        }
    }

    /// Whether [`Breaker::admit`] would admit a request, or its error.
    pub fn check(&self) -> Result<(), ProxyError> {
        if self.is_closed() {
            return Ok(());
        }
        self.state.load().admit(self.clock.now(), Duration::ZERO).map(drop).map_err(unavailable)
    }

    /// Adds a success counter, for one worker.
    pub fn add_counter(&self) -> Arc<SuccessCounter> {
        let counter = Arc::default();
        self.successes.rcu(|all| [&all[..], &[Arc::clone(&counter)]].concat());
        counter
    }

    /// Admits a request, whose success will be counted in `successes`. Fails with [`ProxyError::UpstreamUnavailable`]
    /// while the breaker is open or probing.
    pub fn admit<'b>(&'b self, successes: &'b SuccessCounter) -> Result<AdmittedRequest<'b>, ProxyError> {
        let admitted = |epoch, is_probe| AdmittedRequest { breaker: self, successes, epoch, is_probe };
        let state = self.state.load();
        if let Phase::Closed(_) = state.phase {
            return Ok(admitted(state.epoch, false));
        }
        let now = self.clock.now();
        let probe_timeout = self.settings.map_or(Duration::ZERO, |settings| settings.open_max);
        let before = self.update(|state| state.admit(now, probe_timeout).unwrap_or(state));
        let after = before.admit(now, probe_timeout).map_err(unavailable)?;
        Ok(admitted(after.epoch, matches!(after.phase, Phase::Probing { .. })))
    }

    /// An attempt to connect, whose outcome counts, but which is never a probe: requests wait for it, and one of them may
    /// be.
    pub fn attempt<'b>(&'b self, successes: &'b SuccessCounter) -> AdmittedRequest<'b> {
        AdmittedRequest { breaker: self, successes, epoch: self.state.load().epoch, is_probe: false }
    }

    /// Replaces the state and returns the previous one. `change` may run several times.
    fn update(&self, change: impl Fn(State) -> State) -> State {
        *self.state.rcu(|state| Arc::new(change(**state)))
    }

    fn total_successes(&self) -> u64 {
        self.successes.load().iter().map(|counter| counter.0.load(Ordering::Relaxed)).sum()
    }

    /// Whether every request is admitted.
    pub fn is_closed(&self) -> bool {
        matches!(self.state.load().phase, Phase::Closed(_))
    }

    /// The state for operators, with the time until the next request is admitted if the breaker is open.
    pub fn seen(&self) -> (BreakerState, Option<Duration>) {
        match self.state.load().phase {
            Phase::Closed(_) => (BreakerState::Closed, None),
            Phase::Open { until } => (BreakerState::Open, Some(self.clock.now().until(until))),
            Phase::Probing { .. } => (BreakerState::Probing, None),
        }
    }

    /// The latest failure, if no request has succeeded since.
    pub fn failure(&self) -> Option<Arc<Failure>> {
        self.failure.load_full().filter(|failure| failure.successes == self.total_successes())
    }

    /// Moves the window on; must be called several times within half a window.
    pub fn tick(&self) {
        let Some(settings) = &self.settings else { return };
        let now = self.clock.now();
        if let Phase::Closed(window) = self.state.load().phase
            && window.is_due(settings, now)
        {
            let successes = self.total_successes();
            self.update(|state| state.at(settings, now, successes));
        }
    }

    /// Closes the breaker and discards all counts, for a new destination.
    pub fn reset(&self) {
        let (now, successes) = (self.clock.now(), self.total_successes());
        self.failure.store(None);
        self.update(|state| State { openings: 0, ..state.closed(now, successes) });
    }
}

impl AdmittedRequest<'_> {
    /// Records a response: a failure if the status is 502, 503 or 504 and not in `token_rejections`, the statuses by which
    /// the upstream rejects a token.
    pub fn record_response(self, status: StatusCode, token_rejections: &[StatusCode], upstream: &str) {
        if matches!(status.as_u16(), 502..=504) && !token_rejections.contains(&status) {
            self.record_failure(upstream, FailureCause::Status(status));
        } else {
            self.record_success(upstream);
        }
    }

    /// Records that no response head was received, and returns `error`. The lack of a free connection or of a file
    /// descriptor is no failure of the upstream.
    pub fn record_error(self, error: ForwardError, upstream: &str) -> ForwardError {
        if !matches!(error, ForwardError::Overloaded | ForwardError::NoDescriptor) {
            self.record_failure(upstream, FailureCause::Error(error.clone()));
        }
        error
    }

    fn record_success(mut self, upstream: &str) {
        let breaker = self.breaker;
        self.successes.0.fetch_add(1, Ordering::Relaxed);
        if !std::mem::take(&mut self.is_probe) {
            return;
        }
        let (now, successes, epoch) = (breaker.clock.now(), breaker.total_successes(), self.epoch);
        let before = breaker.update(|state| state.probe_succeeded(epoch, now, successes));
        if before.epoch == epoch {
            info!(upstream, "breaker closed");
        }
    }

    fn record_failure(mut self, upstream: &str, cause: FailureCause) {
        self.is_probe = false;
        let breaker = self.breaker;
        let (now, successes, epoch) = (breaker.clock.now(), breaker.total_successes(), self.epoch);
        breaker.failure.store(Some(Arc::new(Failure { at: now, cause, successes })));
        let Some(settings) = &breaker.settings else { return };
        let jitter = fastrand::f64();
        let failed = |state: State| state.failed(settings, epoch, now, successes, jitter);
        let before = breaker.update(failed);
        let Phase::Open { until } = failed(before).phase else { return };
        let pause_ms = u64::try_from(now.until(until).as_millis()).unwrap_or(u64::MAX);
        match before.phase {
            Phase::Closed(_) => warn!(upstream, pause_ms, "breaker opened"),
            Phase::Probing { .. } if before.epoch == epoch => {
                debug!(upstream, pause_ms, "breaker stays open");
            }
            Phase::Probing { .. } | Phase::Open { .. } => {}
        }
    }
}

impl Drop for AdmittedRequest<'_> {
    /// The next request becomes the probe if this probe has no outcome because its caller has left.
    fn drop(&mut self) {
        if self.is_probe {
            let (now, epoch) = (self.breaker.clock.now(), self.epoch);
            self.breaker.update(|state| state.probe_dropped(epoch, now));
        }
    }
}

impl Default for Breaker {
    /// A breaker that never opens.
    fn default() -> Self {
        Self::new(None, Clock::system())
    }
}

const fn unavailable(retry_after: Duration) -> ProxyError {
    ProxyError::UpstreamUnavailable { retry_after }
}

impl State {
    fn next(self, openings: u32, phase: Phase) -> Self {
        Self { epoch: self.epoch + 1, openings, phase }
    }

    fn closed(self, now: Moment, successes: u64) -> Self {
        self.next(self.openings, Phase::Closed(Window::new(now, successes)))
    }

    /// The state after the admission of a request, or the time after which a request may be admitted. The next request
    /// replaces a probe that has no outcome within `timeout`.
    fn admit(self, now: Moment, timeout: Duration) -> Result<Self, Duration> {
        match self.phase {
            Phase::Closed(_) => Ok(self),
            Phase::Open { until } if now < until => Err(now.until(until)),
            Phase::Probing { until } if now < until => Err(PROBE_RETRY_AFTER),
            Phase::Open { .. } | Phase::Probing { .. } => {
                Ok(self.next(self.openings, Phase::Probing { until: now + timeout }))
            }
        }
    }

    fn probe_succeeded(self, epoch: u64, now: Moment, successes: u64) -> Self {
        if self.epoch == epoch { self.closed(now, successes) } else { self }
    }

    fn probe_dropped(self, epoch: u64, now: Moment) -> Self {
        if self.epoch == epoch { self.next(self.openings, Phase::Open { until: now }) } else { self }
    }

    /// The state with the window moved to `now`.
    fn at(self, settings: &config::Breaker, now: Moment, successes: u64) -> Self {
        let Phase::Closed(window) = self.phase else { return self };
        Self { phase: Phase::Closed(window.at(settings, now, successes)), ..self }
    }

    /// The state after a failed request of `epoch`. `jitter` is from 0 to 1.
    fn failed(
        self,
        settings: &config::Breaker,
        epoch: u64,
        now: Moment,
        successes: u64,
        jitter: f64,
    ) -> Self {
        match self.phase {
            _ if self.epoch != epoch => self,
            Phase::Closed(window) => {
                let window = window.at(settings, now, successes);
                let window = Window { failures: window.failures + 1, ..window };
                if !window.has_too_many_failures(settings, successes) {
                    return Self { phase: Phase::Closed(window), ..self };
                }
                // The upstream had not recovered if the breaker opens again soon: the pauses go on doubling.
                let has_recovered = window.closed_since.until(now) >= settings.open_max;
                let openings = if has_recovered { 0 } else { self.openings };
                self.opened(settings, openings, now, jitter)
            }
            Phase::Probing { .. } => self.opened(settings, self.openings, now, jitter),
            Phase::Open { .. } => self,
        }
    }

    fn opened(self, settings: &config::Breaker, openings: u32, now: Moment, jitter: f64) -> Self {
        let pause = Backoff { first: settings.open, max: settings.open_max }.step(openings);
        let until = now + pause + pause.mul_f64(JITTER * jitter);
        self.next(openings.saturating_add(1), Phase::Open { until })
    }
}

impl Window {
    fn new(now: Moment, successes: u64) -> Self {
        Self { closed_since: now, began: now, successes, successes_before: successes, ..Self::default() }
    }

    fn is_due(&self, settings: &config::Breaker, now: Moment) -> bool {
        self.began.until(now) >= settings.window / 2
    }

    fn at(self, settings: &config::Breaker, now: Moment, successes: u64) -> Self {
        if !self.is_due(settings, now) {
            return self;
        }
        let is_far_behind = self.began.until(now) >= settings.window;
        let (failures_before, successes_before) =
            if is_far_behind { (0, successes) } else { (self.failures, self.successes) };
        Self { began: now, failures: 0, failures_before, successes, successes_before, ..self }
    }

    fn has_too_many_failures(&self, settings: &config::Breaker, successes: u64) -> bool {
        let failures = self.failures + self.failures_before;
        let all = failures + successes.saturating_sub(self.successes_before);
        failures >= settings.failures.into() && failures * 100 >= all * u64::from(settings.percent)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SETTINGS: config::Breaker = config::Breaker {
        failures: 5,
        percent: 50,
        window: Duration::from_secs(10),
        open: Duration::from_secs(5),
        open_max: Duration::from_mins(1),
    };

    fn at(millis: u64) -> Moment {
        Moment::from_nanos(1) + Duration::from_millis(1_000_000 + millis)
    }

    #[derive(Debug, PartialEq, Eq)]
    enum Admission {
        Allowed,
        Probe,
    }

    /// The state of a breaker and the total of successes, without a clock.
    #[derive(Clone, Copy, Debug)]
    struct Upstream {
        state: State,
        successes: u64,
    }

    impl Upstream {
        fn new() -> Self {
            let phase = Phase::Closed(Window::new(at(0), 0));
            Self { state: State { epoch: 0, openings: 0, phase }, successes: 0 }
        }

        fn ask(&mut self, millis: u64) -> Result<Admission, Duration> {
            self.state = self.state.admit(at(millis), SETTINGS.open_max)?;
            Ok(if self.is_probing() { Admission::Probe } else { Admission::Allowed })
        }

        fn fails(&mut self, millis: u64) {
            self.fails_of(self.state.epoch, millis);
        }

        fn fails_of(&mut self, epoch: u64, millis: u64) {
            self.state = self.state.failed(&SETTINGS, epoch, at(millis), self.successes, 0.0);
        }

        fn answers(&mut self, millis: u64) {
            self.successes += 1;
            if self.is_probing() {
                self.state = self.state.probe_succeeded(self.state.epoch, at(millis), self.successes);
            }
        }

        fn tick(&mut self, millis: u64) {
            self.state = self.state.at(&SETTINGS, at(millis), self.successes);
        }

        fn is_closed(&self) -> bool {
            matches!(self.state.phase, Phase::Closed(_))
        }

        fn is_probing(&self) -> bool {
            matches!(self.state.phase, Phase::Probing { .. })
        }
    }

    /// A breaker that opened at second 0.
    fn opened() -> Upstream {
        let mut upstream = Upstream::new();
        (0..5).for_each(|_| upstream.fails(0));
        assert!(!upstream.is_closed());
        upstream
    }

    #[test]
    fn the_breaker_opens_after_the_configured_number_of_failures() {
        let mut upstream = Upstream::new();
        for _ in 0..4 {
            upstream.fails(0);
            assert!(upstream.is_closed());
        }
        upstream.fails(10);

        assert_eq!(upstream.ask(10), Err(Duration::from_secs(5)));
        assert_eq!(upstream.ask(5009), Err(Duration::from_millis(1)));
    }

    #[test]
    fn bursts_of_failures_among_many_successes_do_not_open_the_breaker() {
        let mut upstream = Upstream::new();
        for second in 0..60 {
            upstream.tick(second * 1000);
            (0..100).for_each(|_| upstream.answers(second * 1000));
            // All at one moment, without a success in between.
            (0..20).for_each(|_| upstream.fails(second * 1000 + 500));
            assert!(upstream.is_closed(), "second {second}");
        }
    }

    #[test]
    fn an_outage_after_many_successes_opens_the_breaker_within_a_window() {
        let mut upstream = Upstream::new();
        for tick in 0..200 {
            upstream.tick(tick * 100);
            (0..100).for_each(|_| upstream.answers(tick * 100));
        }
        let opened_after = (0..100).find(|tick| {
            upstream.tick(20_000 + tick * 100);
            (0..100).for_each(|_| upstream.fails(20_000 + tick * 100));
            !upstream.is_closed()
        });
        assert!(opened_after.is_some_and(|ticks| ticks <= 100), "{opened_after:?}");
    }

    #[test]
    fn failures_before_the_window_do_not_count() {
        let mut upstream = Upstream::new();
        for minute in 0..20 {
            (0..4).for_each(|_| upstream.fails(minute * 60_000));
        }
        assert!(upstream.is_closed());
    }

    #[test]
    fn one_request_at_a_time_is_admitted_as_a_probe() {
        let mut upstream = opened();

        assert_eq!(upstream.ask(5000), Ok(Admission::Probe));
        assert_eq!(upstream.ask(5000), Err(PROBE_RETRY_AFTER));
        assert_eq!(upstream.ask(64_999), Err(PROBE_RETRY_AFTER));
        upstream.answers(64_999);
        assert_eq!(upstream.ask(64_999), Ok(Admission::Allowed));
    }

    #[test]
    fn a_probe_without_an_outcome_is_replaced_after_the_longest_pause() {
        let mut upstream = opened();
        assert_eq!(upstream.ask(5000), Ok(Admission::Probe));
        let lost = upstream.state.epoch;

        assert_eq!(upstream.ask(65_000), Ok(Admission::Probe));
        assert_eq!(upstream.ask(65_000), Err(PROBE_RETRY_AFTER));
        upstream.fails_of(lost, 65_001);
        assert!(upstream.is_probing(), "the outcome of a replaced probe is ignored");
    }

    #[test]
    fn after_a_dropped_probe_the_next_request_becomes_the_probe() {
        let mut upstream = opened();
        assert_eq!(upstream.ask(5000), Ok(Admission::Probe));
        let epoch = upstream.state.epoch;
        upstream.state = upstream.state.probe_dropped(epoch, at(5001));

        assert_eq!(upstream.ask(5001), Ok(Admission::Probe));
        let probing = upstream.state;
        assert_eq!(probing.probe_dropped(epoch, at(5002)), probing, "it was dropped before");
        assert_eq!(probing.failed(&SETTINGS, epoch, at(5002), 0, 0.0), probing, "the outcome came too late");
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_start_over_after_a_recovery() {
        let mut upstream = opened();
        let mut now = 0;
        for pause in [5, 10, 20, 40, 60, 60] {
            assert_eq!(upstream.ask(now), Err(Duration::from_secs(pause)));
            now += pause * 1000;
            assert_eq!(upstream.ask(now), Ok(Admission::Probe));
            upstream.fails(now);
        }
        now += 60_000;
        assert_eq!(upstream.ask(now), Ok(Admission::Probe));
        upstream.answers(now);
        // Closed for a short time only.
        let mut flapping = upstream;
        (0..5).for_each(|_| flapping.fails(now + 15_000));
        assert_eq!(flapping.ask(now + 15_000), Err(Duration::from_mins(1)));

        (0..5).for_each(|_| upstream.fails(now + 61_000));
        assert_eq!(upstream.ask(now + 61_000), Err(Duration::from_secs(5)));
    }

    #[test]
    fn failures_of_requests_from_before_an_outage_do_not_count_after_it() {
        let mut upstream = opened();
        assert_eq!(upstream.ask(5000), Ok(Admission::Probe));
        upstream.answers(5000);

        (0..50).for_each(|_| upstream.fails_of(0, 5001));

        assert!(upstream.is_closed());
    }

    #[test]
    fn check_refuses_while_open_and_reset_closes_the_breaker() {
        let breaker = Breaker::new(Some(SETTINGS), Clock::system());
        let successes = breaker.add_counter();
        for _ in 0..4 {
            breaker.admit(&successes).unwrap().record_error(ForwardError::Timeout, "https://api.example.com");
        }
        drop(breaker.admit(&successes).unwrap());
        assert!(breaker.check().is_ok() && breaker.is_closed(), "a dropped request is no failure");
        breaker.admit(&successes).unwrap().record_error(ForwardError::Timeout, "https://api.example.com");

        let Err(ProxyError::UpstreamUnavailable { retry_after }) = breaker.check() else {
            panic!("admitted")
        };
        assert!(retry_after > Duration::from_secs(4) && breaker.admit(&successes).is_err());
        breaker.reset();
        assert!(breaker.admit(&successes).is_ok(), "the destination is new");
    }

    #[test]
    fn only_a_gateways_5xx_is_a_failure_unless_it_rejects_the_token() {
        let breaker = Breaker::new(Some(SETTINGS), Clock::system());
        let successes = breaker.add_counter();
        let stays_closed = |status, token_rejections: &[StatusCode]| {
            let status = StatusCode::from_u16(status).unwrap();
            (0..20).for_each(|_| {
                if let Ok(admitted) = breaker.admit(&successes) {
                    admitted.record_response(status, token_rejections, "https://api.example.com");
                }
            });
            let is_closed = breaker.is_closed();
            breaker.reset();
            is_closed
        };
        for status in [200, 302, 400, 401, 403, 404, 408, 429, 499, 500, 501, 505, 507, 599] {
            assert!(stays_closed(status, &[]), "{status}");
        }
        assert!(stays_closed(503, &[StatusCode::SERVICE_UNAVAILABLE]));
        for status in [502, 503, 504] {
            assert!(!stays_closed(status, &[StatusCode::UNAUTHORIZED]), "{status}");
        }
        for error in [ForwardError::Overloaded, ForwardError::NoDescriptor] {
            for _ in 0..20 {
                breaker.admit(&successes).unwrap().record_error(error.clone(), "https://api.example.com");
            }
        }
        assert!(breaker.is_closed(), "the upstream received no request");
    }

    #[test]
    fn successes_on_one_worker_count_against_failures_on_another() {
        let breaker = Breaker::new(Some(SETTINGS), Clock::system());
        let (one, other) = (breaker.add_counter(), breaker.add_counter());
        let record = |successes: &SuccessCounter, status| {
            breaker.admit(successes).unwrap().record_response(status, &[], "https://api.example.com");
        };
        (0..1000).for_each(|_| record(&one, StatusCode::OK));
        (0..100).for_each(|_| record(&other, StatusCode::BAD_GATEWAY));
        assert!(breaker.is_closed());
        drop(one);
        record(&other, StatusCode::BAD_GATEWAY);
        assert!(breaker.is_closed(), "the successes of an ended worker still count");
    }

    #[test]
    fn a_breaker_without_settings_admits_every_request() {
        let breaker = Breaker::default();
        let successes = breaker.add_counter();
        for _ in 0..1000 {
            breaker.admit(&successes).unwrap().record_error(ForwardError::Timeout, "https://api.example.com");
        }
        assert!(breaker.is_closed());
    }

    proptest! {
        /// In any order of events: one probe at a time, refusals end, and too few failures do not open the breaker.
        #[test]
        fn any_events_open_only_after_enough_failures_and_refuse_only_for_a_time(
            steps in prop::collection::vec((0_u8..6, 0_u64..4000), 1..300),
        ) {
            let mut upstream = Upstream::new();
            let (mut now, mut since, mut probes, mut failures) = (0, 0, 0, 0);
            for (step, wait) in steps {
                now += wait;
                match step {
                    0 | 1 => match upstream.ask(now) {
                        Ok(Admission::Probe) => {
                            prop_assert!(probes == 0 || since + 60_000 <= now);
                            (probes, since) = (1, now);
                        }
                        Ok(Admission::Allowed) => prop_assert!(upstream.is_closed()),
                        Err(wait) => {
                            prop_assert!(wait > Duration::ZERO && wait <= Duration::from_mins(1));
                        }
                    },
                    2 | 3 => {
                        failures += u64::from(upstream.is_closed());
                        upstream.fails(now);
                        probes = 0;
                        if upstream.is_closed() { continue; }
                        prop_assert!(failures >= SETTINGS.failures.into());
                    }
                    4 => {
                        upstream.answers(now);
                        failures = if probes == 1 { 0 } else { failures };
                        probes = 0;
                    }
                    _ => upstream.tick(now),
                }
                prop_assert_eq!(probes == 1, upstream.is_probing());
            }
            // After the longest pause a request is admitted.
            let later = upstream.ask(now + 66_000);
            prop_assert!(later.is_ok());
        }
    }
}
