//! Whether an upstream is worth a request: it is left alone for a while when most of what it is sent fails.
//!
//! The verdict is on a share of all answers, and on a least number of failures, so that one endpoint that is broken does
//! not close the way to the healthy ones. What is open is tried again by one request at a time, after a pause that
//! doubles. All workers share one breaker; while all is well a request costs it a read, and an addition to a number that
//! is its worker's own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use crossbeam_utils::CachePadded;
use http::StatusCode;
use tracing::{debug, info, warn};

use crate::backoff::Backoff;
use crate::clock::{Clock, Moment};
use crate::config;
use crate::proxy::error::upstream::{ForwardError, Refused};

/// Others are told to come back no sooner while one request finds out how the upstream does.
const WHILE_PROBING: Duration = Duration::from_secs(1);
/// Of a pause, at the most, added at random: several daemons need not come back at the same moment.
const JITTER: f64 = 0.1;

/// Counts what becomes of requests to one upstream, and says when to send none.
#[derive(Debug)]
pub struct Breaker {
    /// `None` lets everything through.
    settings: Option<config::Breaker>,
    clock: Clock,
    state: ArcSwap<State>,
    /// All answers that were no failure, ever, by whom they were counted. One that is gone has counted what it has.
    good: ArcSwap<Vec<Arc<Good>>>,
}

/// Answers that were no failure, as one worker has counted them: a number that all add to goes from one processor to the
/// next with every request.
#[derive(Debug, Default)]
pub struct Good(CachePadded<AtomicU64>);

/// Leave to send one request, whose outcome is to be told. Dropped untold, it was nobody's failure.
#[derive(Debug)]
pub struct Leave<'b> {
    breaker: &'b Breaker,
    good: &'b Good,
    turn: u64,
    is_probe: bool,
}

/// Replaced as a whole at each change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    /// Goes on with each change of phase: what was sent before it says nothing of the phase after.
    turn: u64,
    /// How often in a row it was opened: doubles the next pause.
    openings: u32,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// All requests pass.
    Closed(Window),
    /// None does.
    Open { until: Moment },
    /// One is under way, whose outcome is waited for until then: it may be a long upload.
    Probing { until: Moment },
}

/// What is counted: this half of the window, and the half before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Window {
    /// Since when the breaker is closed.
    closed_since: Moment,
    /// When this half began.
    began: Moment,
    failed: u64,
    failed_before: u64,
    /// How many good answers there had ever been when each half began.
    good: u64,
    good_before: u64,
}

/// What a request is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Admission {
    Granted,
    Probe,
    Refused(Duration),
}

impl Breaker {
    /// A closed one.
    pub fn new(settings: Option<config::Breaker>, clock: Clock) -> Self {
        let state = State { turn: 0, openings: 0, phase: Phase::Closed(Window::new(clock.now(), 0)) };
        Self { settings, clock, state: ArcSwap::from_pointee(state), good: ArcSwap::default() }
    }

    /// Whether a request would be refused, before it waits for anything else.
    ///
    /// # Errors
    ///
    /// [`Refused`] if it would.
    pub fn check(&self) -> Result<(), Refused> {
        match self.state.load().phase {
            Phase::Open { until } => {
                let retry_after = self.clock.now().until(until);
                if retry_after.is_zero() { Ok(()) } else { Err(Refused { retry_after }) }
            }
            Phase::Probing { until } if self.clock.now() < until => {
                Err(Refused { retry_after: WHILE_PROBING })
            }
            Phase::Probing { .. } | Phase::Closed(_) => Ok(()),
        }
    }

    /// A number for a worker to count by.
    pub fn counter(&self) -> Arc<Good> {
        let counter = Arc::default();
        self.good.rcu(|all| [&all[..], &[Arc::clone(&counter)]].concat());
        counter
    }

    /// Leave to send a request now, whose good answer is counted here.
    ///
    /// # Errors
    ///
    /// [`Refused`] while the upstream is left alone.
    pub fn admit<'b>(&'b self, good: &'b Good) -> Result<Leave<'b>, Refused> {
        let state = self.state.load();
        if let Phase::Closed(_) = state.phase {
            return Ok(Leave { breaker: self, good, turn: state.turn, is_probe: false });
        }
        let (now, patience) = (self.clock.now(), self.settings.map_or(Duration::ZERO, |one| one.open_max));
        let before = self.state.rcu(|state| Arc::new(state.admitted(now, patience).0));
        let (after, admission) = before.admitted(now, patience);
        match admission {
            Admission::Granted => Ok(Leave { breaker: self, good, turn: after.turn, is_probe: false }),
            Admission::Probe => Ok(Leave { breaker: self, good, turn: after.turn, is_probe: true }),
            Admission::Refused(retry_after) => Err(Refused { retry_after }),
        }
    }

    fn good(&self) -> u64 {
        self.good.load().iter().map(|one| one.0.load(Ordering::Relaxed)).sum()
    }

    /// Whether everything is let through.
    pub fn is_closed(&self) -> bool {
        matches!(self.state.load().phase, Phase::Closed(_))
    }

    /// Lets time go on, a few times a second: what was counted long ago counts no more.
    pub fn tick(&self) {
        let Some(settings) = &self.settings else { return };
        let now = self.clock.now();
        if let Phase::Closed(window) = self.state.load().phase
            && window.is_due(settings, now)
        {
            let good = self.good();
            self.state.rcu(|state| Arc::new(state.at(settings, now, good)));
        }
    }

    /// The upstream is another one from now on.
    pub fn reset(&self) {
        let (now, good) = (self.clock.now(), self.good());
        self.state.rcu(|state| Arc::new(State { openings: 0, ..state.closed(now, good) }));
    }
}

impl Leave<'_> {
    /// The upstream answered. One that says 5xx has failed, unless it speaks of the token by that.
    pub fn answered(self, status: StatusCode, of_tokens: &[StatusCode], upstream: &str) {
        if status.is_server_error() && !of_tokens.contains(&status) {
            self.failed(upstream);
        } else {
            self.succeeded(upstream);
        }
    }

    /// It did not answer, or not to the end of its head: its failure, unless it was not even asked.
    pub fn broke_off(self, error: ForwardError, upstream: &str) -> ForwardError {
        if !matches!(error, ForwardError::Overloaded | ForwardError::NoDescriptor) {
            self.failed(upstream);
        }
        error
    }

    fn succeeded(mut self, upstream: &str) {
        let breaker = self.breaker;
        self.good.0.fetch_add(1, Ordering::Relaxed);
        if !std::mem::take(&mut self.is_probe) {
            return;
        }
        let (now, good, turn) = (breaker.clock.now(), breaker.good(), self.turn);
        let before = breaker.state.rcu(|state| Arc::new(state.answered(turn, now, good)));
        if before.turn == turn {
            info!(upstream, "breaker closed");
        }
    }

    fn failed(mut self, upstream: &str) {
        self.is_probe = false;
        let breaker = self.breaker;
        let Some(settings) = &breaker.settings else { return };
        let (now, good, turn) = (breaker.clock.now(), breaker.good(), self.turn);
        let jitter = fastrand::f64();
        let failed = |state: &State| state.failed(settings, turn, now, good, jitter);
        let before = breaker.state.rcu(|state| Arc::new(failed(state)));
        let Phase::Open { until } = failed(&before).phase else { return };
        let pause_ms = u64::try_from(now.until(until).as_millis()).unwrap_or(u64::MAX);
        match before.phase {
            Phase::Closed(_) => warn!(upstream, pause_ms, "breaker opened"),
            Phase::Probing { .. } if before.turn == turn => debug!(upstream, pause_ms, "breaker stays open"),
            Phase::Probing { .. } | Phase::Open { .. } => {}
        }
    }
}

impl Drop for Leave<'_> {
    /// A probe whose caller has left: the next request takes its place.
    fn drop(&mut self) {
        if self.is_probe {
            let (now, turn) = (self.breaker.clock.now(), self.turn);
            self.breaker.state.rcu(|state| Arc::new(state.given_up(turn, now)));
        }
    }
}

impl Default for Breaker {
    /// One that lets everything through.
    fn default() -> Self {
        Self::new(None, Clock::system())
    }
}

impl State {
    fn next(self, openings: u32, phase: Phase) -> Self {
        Self { turn: self.turn + 1, openings, phase }
    }

    fn closed(self, now: Moment, good: u64) -> Self {
        self.next(self.openings, Phase::Closed(Window::new(now, good)))
    }

    /// A probe has as long as `patience`; after that another may take its place.
    fn admitted(self, now: Moment, patience: Duration) -> (Self, Admission) {
        match self.phase {
            Phase::Closed(_) => (self, Admission::Granted),
            Phase::Open { until } if now < until => (self, Admission::Refused(now.until(until))),
            Phase::Probing { until } if now < until => (self, Admission::Refused(WHILE_PROBING)),
            Phase::Open { .. } | Phase::Probing { .. } => {
                (self.next(self.openings, Phase::Probing { until: now + patience }), Admission::Probe)
            }
        }
    }

    /// A probe was answered.
    fn answered(self, turn: u64, now: Moment, good: u64) -> Self {
        if self.turn == turn { self.closed(now, good) } else { self }
    }

    fn given_up(self, turn: u64, now: Moment) -> Self {
        if self.turn == turn { self.next(self.openings, Phase::Open { until: now }) } else { self }
    }

    /// The window as it is at this moment.
    fn at(self, settings: &config::Breaker, now: Moment, good: u64) -> Self {
        match self.phase {
            Phase::Closed(window) => Self { phase: Phase::Closed(window.at(settings, now, good)), ..self },
            Phase::Open { .. } | Phase::Probing { .. } => self,
        }
    }

    /// A request of that turn failed. `jitter` is from 0 to 1.
    fn failed(self, settings: &config::Breaker, turn: u64, now: Moment, good: u64, jitter: f64) -> Self {
        if self.turn != turn {
            return self;
        }
        match self.phase {
            Phase::Closed(window) => {
                let window = window.at(settings, now, good);
                let window = Window { failed: window.failed + 1, ..window };
                if !window.is_too_bad(settings, good) {
                    return Self { phase: Phase::Closed(window), ..self };
                }
                // One that opens again soon had only seemed to be well.
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
    fn new(now: Moment, good: u64) -> Self {
        Self { closed_since: now, began: now, good, good_before: good, ..Self::default() }
    }

    fn is_due(&self, settings: &config::Breaker, now: Moment) -> bool {
        self.began.until(now) >= settings.window / 2
    }

    fn at(self, settings: &config::Breaker, now: Moment, good: u64) -> Self {
        if !self.is_due(settings, now) {
            return self;
        }
        let is_far_behind = self.began.until(now) >= settings.window;
        let (failed_before, good_before) = if is_far_behind { (0, good) } else { (self.failed, self.good) };
        Self { began: now, failed: 0, failed_before, good, good_before, ..self }
    }

    fn is_too_bad(&self, settings: &config::Breaker, good: u64) -> bool {
        let failed = self.failed + self.failed_before;
        let all = failed + good.saturating_sub(self.good_before);
        failed >= settings.failures.into() && failed * 100 >= all * u64::from(settings.percent)
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

    /// A breaker and the good answers so far, moved by hand.
    #[derive(Clone, Copy, Debug)]
    struct Upstream {
        state: State,
        good: u64,
    }

    impl Upstream {
        fn new() -> Self {
            let phase = Phase::Closed(Window::new(at(0), 0));
            Self { state: State { turn: 0, openings: 0, phase }, good: 0 }
        }

        fn ask(&mut self, millis: u64) -> Admission {
            let (state, admission) = self.state.admitted(at(millis), SETTINGS.open_max);
            self.state = state;
            admission
        }

        fn fails(&mut self, millis: u64) {
            self.fails_of(self.state.turn, millis);
        }

        fn fails_of(&mut self, turn: u64, millis: u64) {
            self.state = self.state.failed(&SETTINGS, turn, at(millis), self.good, 0.0);
        }

        fn answers(&mut self, millis: u64) {
            self.good += 1;
            if self.is_probing() {
                self.state = self.state.answered(self.state.turn, at(millis), self.good);
            }
        }

        fn tick(&mut self, millis: u64) {
            self.state = self.state.at(&SETTINGS, at(millis), self.good);
        }

        fn is_closed(&self) -> bool {
            matches!(self.state.phase, Phase::Closed(_))
        }

        fn is_probing(&self) -> bool {
            matches!(self.state.phase, Phase::Probing { .. })
        }
    }

    /// Opened at second 0.
    fn opened() -> Upstream {
        let mut upstream = Upstream::new();
        (0..5).for_each(|_| upstream.fails(0));
        assert!(!upstream.is_closed());
        upstream
    }

    #[test]
    fn an_upstream_that_only_fails_is_left_alone_after_a_few_failures() {
        let mut upstream = Upstream::new();
        for _ in 0..4 {
            upstream.fails(0);
            assert!(upstream.is_closed());
        }
        upstream.fails(10);

        assert_eq!(upstream.ask(10), Admission::Refused(Duration::from_secs(5)));
        assert_eq!(upstream.ask(5009), Admission::Refused(Duration::from_millis(1)));
    }

    #[test]
    fn one_bad_endpoint_among_many_good_answers_closes_no_way_even_in_a_burst() {
        let mut upstream = Upstream::new();
        for second in 0..60 {
            upstream.tick(second * 1000);
            (0..100).for_each(|_| upstream.answers(second * 1000));
            // All in one moment, with nothing good in between.
            (0..20).for_each(|_| upstream.fails(second * 1000 + 500));
            assert!(upstream.is_closed(), "second {second}");
        }
    }

    #[test]
    fn an_outage_after_much_good_opens_within_a_window() {
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
    fn what_failed_long_ago_counts_no_more() {
        let mut upstream = Upstream::new();
        for minute in 0..20 {
            (0..4).for_each(|_| upstream.fails(minute * 60_000));
        }
        assert!(upstream.is_closed());
    }

    #[test]
    fn one_request_at_a_time_finds_out_whether_it_is_well_again() {
        let mut upstream = opened();

        assert_eq!(upstream.ask(5000), Admission::Probe);
        assert_eq!(upstream.ask(5000), Admission::Refused(WHILE_PROBING));
        assert_eq!(upstream.ask(64_999), Admission::Refused(WHILE_PROBING));
        upstream.answers(64_999);
        assert_eq!(upstream.ask(64_999), Admission::Granted);
    }

    #[test]
    fn a_probe_without_an_end_is_waited_for_no_longer_than_the_longest_pause() {
        let mut upstream = opened();
        assert_eq!(upstream.ask(5000), Admission::Probe);
        let lost = upstream.state.turn;

        assert_eq!(upstream.ask(65_000), Admission::Probe);
        assert_eq!(upstream.ask(65_000), Admission::Refused(WHILE_PROBING));
        upstream.fails_of(lost, 65_001);
        assert!(upstream.is_probing(), "it says nothing of now");
    }

    #[test]
    fn a_probe_that_is_given_up_leaves_its_place_to_the_next() {
        let mut upstream = opened();
        assert_eq!(upstream.ask(5000), Admission::Probe);
        let turn = upstream.state.turn;
        upstream.state = upstream.state.given_up(turn, at(5001));

        assert_eq!(upstream.ask(5001), Admission::Probe);
        let probing = upstream.state;
        assert_eq!(probing.given_up(turn, at(5002)), probing, "given up before");
        assert_eq!(probing.failed(&SETTINGS, turn, at(5002), 0, 0.0), probing, "its outcome came too late");
    }

    #[test]
    fn pauses_double_to_the_longest_and_begin_anew_once_it_has_been_well_for_as_long() {
        let mut upstream = opened();
        let mut now = 0;
        for pause in [5, 10, 20, 40, 60, 60] {
            assert_eq!(upstream.ask(now), Admission::Refused(Duration::from_secs(pause)));
            now += pause * 1000;
            assert_eq!(upstream.ask(now), Admission::Probe);
            upstream.fails(now);
        }
        now += 60_000;
        assert_eq!(upstream.ask(now), Admission::Probe);
        upstream.answers(now);
        // Well for a moment only.
        let mut flapping = upstream;
        (0..5).for_each(|_| flapping.fails(now + 15_000));
        assert_eq!(flapping.ask(now + 15_000), Admission::Refused(Duration::from_mins(1)));

        (0..5).for_each(|_| upstream.fails(now + 61_000));
        assert_eq!(upstream.ask(now + 61_000), Admission::Refused(Duration::from_secs(5)));
    }

    #[test]
    fn what_was_sent_before_an_outage_says_nothing_of_what_comes_after_it() {
        let mut upstream = opened();
        assert_eq!(upstream.ask(5000), Admission::Probe);
        upstream.answers(5000);

        (0..50).for_each(|_| upstream.fails_of(0, 5001));

        assert!(upstream.is_closed());
    }

    #[test]
    fn a_request_learns_at_once_that_it_would_be_refused_and_all_share_the_verdict() {
        let breaker = Breaker::new(Some(SETTINGS), Clock::system());
        let good = breaker.counter();
        for _ in 0..4 {
            breaker.admit(&good).unwrap().failed("https://api.example.com");
        }
        drop(breaker.admit(&good).unwrap());
        assert!(breaker.check().is_ok() && breaker.is_closed(), "who leaves is nobody's failure");
        breaker.admit(&good).unwrap().failed("https://api.example.com");

        let refused = breaker.check().unwrap_err();
        assert!(refused.retry_after > Duration::from_secs(4) && breaker.admit(&good).is_err());
        breaker.reset();
        assert!(breaker.admit(&good).is_ok(), "it is another upstream now");
    }

    #[test]
    fn a_5xx_is_a_failure_unless_it_speaks_of_the_token_and_no_4xx_ever_is() {
        let breaker = Breaker::new(Some(SETTINGS), Clock::system());
        let good = breaker.counter();
        let says = |status, of_tokens: &[StatusCode]| {
            let status = StatusCode::from_u16(status).unwrap();
            (0..20).for_each(|_| {
                if let Ok(leave) = breaker.admit(&good) {
                    leave.answered(status, of_tokens, "https://api.example.com");
                }
            });
            let is_closed = breaker.is_closed();
            breaker.reset();
            is_closed
        };
        for status in [200, 302, 400, 401, 403, 404, 408, 429, 499] {
            assert!(says(status, &[]), "{status}");
        }
        assert!(says(500, &[StatusCode::INTERNAL_SERVER_ERROR]));
        for status in [500, 502, 503, 504, 599] {
            assert!(!says(status, &[StatusCode::UNAUTHORIZED]), "{status}");
        }
        for ours in [ForwardError::Overloaded, ForwardError::NoDescriptor] {
            for _ in 0..20 {
                breaker.admit(&good).unwrap().broke_off(ours.clone(), "https://api.example.com");
            }
        }
        assert!(breaker.is_closed(), "it was not even asked");
    }

    #[test]
    fn the_good_answers_of_one_worker_stand_up_for_an_upstream_that_fails_on_another() {
        let breaker = Breaker::new(Some(SETTINGS), Clock::system());
        let (one, other) = (breaker.counter(), breaker.counter());
        let ask = |good: &Good, status| {
            breaker.admit(good).unwrap().answered(status, &[], "https://api.example.com");
        };
        (0..1000).for_each(|_| ask(&one, StatusCode::OK));
        (0..100).for_each(|_| ask(&other, StatusCode::BAD_GATEWAY));
        assert!(breaker.is_closed());
        drop(one);
        ask(&other, StatusCode::BAD_GATEWAY);
        assert!(breaker.is_closed(), "what a worker has counted stays counted");
    }

    #[test]
    fn one_that_is_off_lets_everything_through() {
        let breaker = Breaker::default();
        let good = breaker.counter();
        for _ in 0..1000 {
            breaker.admit(&good).unwrap().failed("https://api.example.com");
        }
        assert!(breaker.is_closed());
    }

    proptest! {
        /// Whatever comes in whatever order: a probe is alone, a refusal ends, and too few failures open nothing.
        #[test]
        fn whatever_happens_it_never_opens_for_few_failures_and_always_lets_one_through_in_time(
            steps in prop::collection::vec((0_u8..6, 0_u64..4000), 1..300),
        ) {
            let mut upstream = Upstream::new();
            let (mut now, mut since, mut probes, mut failures) = (0, 0, 0, 0);
            for (step, wait) in steps {
                now += wait;
                match step {
                    0 | 1 => match upstream.ask(now) {
                        Admission::Probe => {
                            prop_assert!(probes == 0 || since + 60_000 <= now);
                            (probes, since) = (1, now);
                        }
                        Admission::Granted => prop_assert!(upstream.is_closed()),
                        Admission::Refused(wait) => {
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
            // A little later somebody gets through, whatever has become of the others.
            let later = upstream.ask(now + 66_000);
            prop_assert!(!matches!(later, Admission::Refused(_)));
        }
    }
}
