//! What a 401 means: a dead token, or something that no token can mend.
//!
//! The upstream's 401 is the only sign that a token was revoked, and also what a wrong path or a missing
//! permission may answer for ever. So a route whose *fresh* token is rejected too is held: its 401s pass to the
//! caller for a while, and a permanent 401 cannot become a stream of token requests. Each route has its own
//! hold; healthy routes do not suffer from a forbidden one.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::backoff::Backoff;
use crate::clock::Moment;
use crate::token::Generation;

/// How long a route is held, time after time.
const HOLD: Backoff = Backoff { first: Duration::from_secs(30), max: Duration::from_mins(5) };
/// How long a held route must have seen nothing but 401s before it believes that its token died.
const SILENCE: Duration = Duration::from_secs(1);

/// How long after a route asked for a token a rejection of it is the verdict on the asking. A token that was
/// good for longer, or not used here at first, has died since.
const VERDICT_WITHIN: Duration = Duration::from_secs(30);

/// What to do about a 401.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Ask for another token, then replay.
    Refresh,
    /// The 401 is the answer.
    Pass,
}

/// A route's memory of rejected tokens. Read and changed without a lock.
#[derive(Debug, Default)]
pub struct Hold(ArcSwap<State>);

/// Replaced as a whole at each change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct State {
    /// Until when 401s pass; the boot if the route is not held.
    held_until: Moment,
    /// How often in a row it was held: doubles the next one.
    holds: u32,
    /// The generation that this hold's one refresh was asked for, once it was.
    refreshed_in_hold: Option<Generation>,
    /// The latest generation that the upstream accepted on this route.
    accepted: Generation,
    /// When the 401s began that no acceptance has interrupted; of the generation `accepted`.
    rejected_since: Option<Moment>,
    /// What was asked for and not yet judged.
    awaiting_verdict: Option<Asked>,
}

/// A generation in whose place another was asked for, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Asked {
    rejected: Generation,
    at: Moment,
}

impl Hold {
    /// The upstream took a token on this route. Costs a read, but for the first time after a change.
    pub fn accepted(&self, generation: Generation) {
        let state = self.0.load();
        if state.accepted < generation || (state.accepted == generation && state.rejected_since.is_some()) {
            self.0.rcu(|state| Arc::new(state.accepted(generation)));
        }
    }

    /// The upstream rejected a token that was sent for the first time.
    pub fn rejected(&self, generation: Generation, now: Moment) -> Decision {
        let before = self.0.rcu(|state| Arc::new(state.rejected(generation, now).0));
        before.rejected(generation, now).1
    }

    /// The upstream accepted a replay, whose token was asked for in the place of `rejected`: the 401 was a dead
    /// token after all.
    pub fn replay_accepted(&self, rejected: Generation, generation: Generation, now: Moment) {
        self.0.rcu(|state| Arc::new(state.accepted(generation).vindicated(rejected, now)));
    }

    /// The upstream rejected a replay, whose token was asked for because of a 401.
    pub fn replay_rejected(&self, now: Moment) {
        self.0.rcu(|state| Arc::new(state.held(now)));
    }

    /// What was asked for in the place of `rejected` did not come.
    pub fn not_replaced(&self, rejected: Generation) {
        self.0.rcu(|state| Arc::new(state.not_replaced(rejected)));
    }
}

impl State {
    fn is_held(&self, now: Moment) -> bool {
        now < self.held_until
    }

    fn accepted(self, generation: Generation) -> Self {
        if generation < self.accepted {
            return self;
        }
        let awaiting_verdict = self.awaiting_verdict.filter(|asked| asked.rejected >= generation);
        Self { accepted: generation, rejected_since: None, awaiting_verdict, ..self }
    }

    /// A refresh has helped. It ends a hold only if it was the hold's own: one that was under way before, or
    /// made for another route, says nothing of what is rejected here.
    fn vindicated(self, rejected: Generation, now: Moment) -> Self {
        if self.is_held(now) && self.refreshed_in_hold != Some(rejected) {
            return self;
        }
        Self { held_until: Moment::default(), holds: 0, ..self }
    }

    fn held(self, now: Moment) -> Self {
        if self.is_held(now) {
            return Self { awaiting_verdict: None, ..self };
        }
        Self {
            held_until: now + HOLD.step(self.holds),
            holds: self.holds.saturating_add(1),
            refreshed_in_hold: None,
            rejected_since: None,
            awaiting_verdict: None,
            ..self
        }
    }

    /// No verdict will come, and a hold has its one refresh still before it.
    fn not_replaced(self, rejected: Generation) -> Self {
        Self {
            refreshed_in_hold: self.refreshed_in_hold.filter(|asked| *asked != rejected),
            awaiting_verdict: self.awaiting_verdict.filter(|asked| asked.rejected != rejected),
            ..self
        }
    }

    fn rejected(self, generation: Generation, now: Moment) -> (Self, Decision) {
        if self.is_held(now) {
            return self.rejected_in_hold(generation, now);
        }
        // A fresh token that this route had asked for, and whoever asked has gone: this is the verdict.
        let is_verdict = |asked: Asked| asked.rejected < generation && asked.at.until(now) < VERDICT_WITHIN;
        if self.awaiting_verdict.is_some_and(is_verdict) {
            return (self.held(now), Decision::Pass);
        }
        (self.asking(generation, now), Decision::Refresh)
    }

    fn rejected_in_hold(self, generation: Generation, now: Moment) -> (Self, Decision) {
        // A token that was never accepted here says nothing by being rejected.
        if self.accepted != generation {
            return (self, Decision::Pass);
        }
        let since = self.rejected_since.unwrap_or(now);
        if since.until(now) >= SILENCE && self.refreshed_in_hold.is_none() {
            let asking = Self { refreshed_in_hold: Some(generation), ..self.asking(generation, now) };
            return (asking, Decision::Refresh);
        }
        (Self { rejected_since: Some(since), ..self }, Decision::Pass)
    }

    fn asking(self, rejected: Generation, now: Moment) -> Self {
        Self { awaiting_verdict: Some(Asked { rejected, at: now }), ..self }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const G1: Generation = Generation::from_number(1);
    const G2: Generation = Generation::from_number(2);
    const G3: Generation = Generation::from_number(3);

    fn at(seconds: u64) -> Moment {
        Moment::from_nanos(1) + Duration::from_secs(1000 + seconds)
    }

    /// A route whose fresh token was rejected too, at second 0.
    fn held_route() -> Hold {
        let hold = Hold::default();
        assert_eq!(hold.rejected(G1, at(0)), Decision::Refresh);
        hold.replay_rejected(at(0));
        hold
    }

    #[test]
    fn a_rejected_token_is_replaced_however_young_it_is() {
        let hold = Hold::default();
        hold.accepted(G1);
        assert_eq!(hold.rejected(G1, at(0)), Decision::Refresh);

        hold.replay_accepted(G1, G2, at(0));
        assert_eq!(hold.rejected(G2, at(0)), Decision::Refresh);
    }

    #[test]
    fn a_route_is_held_when_a_fresh_token_is_rejected_too() {
        let hold = held_route();

        assert_eq!(hold.rejected(G2, at(1)), Decision::Pass);
        assert_eq!(hold.rejected(G2, at(29)), Decision::Pass);
        assert_eq!(hold.rejected(G2, at(30)), Decision::Refresh, "the hold is over");
    }

    #[test]
    fn holds_double_to_five_minutes_and_an_accepted_replay_resets_them() {
        let hold = Hold::default();
        let mut now = 0;
        for (generation, length) in (1..).zip([30, 60, 120, 240, 300, 300]) {
            assert_eq!(hold.rejected(Generation::from_number(2 * generation), at(now)), Decision::Refresh);
            hold.replay_rejected(at(now));
            assert!(hold.0.load().is_held(at(now + length - 1)), "{length}");
            assert!(!hold.0.load().is_held(at(now + length)), "{length}");
            now += length;
        }
        hold.rejected(Generation::from_number(100), at(now));
        hold.replay_accepted(Generation::from_number(100), Generation::from_number(101), at(now));
        hold.rejected(Generation::from_number(101), at(now));
        hold.replay_rejected(at(now));
        assert!(!hold.0.load().is_held(at(now + 30)));
    }

    #[test]
    fn a_revoked_token_is_replaced_on_a_held_route_that_had_accepted_it() {
        let hold = held_route();
        hold.accepted(G2);

        assert_eq!(hold.rejected(G2, at(5)), Decision::Pass);
        assert_eq!(hold.rejected(G2, at(6)), Decision::Refresh);
        assert_eq!(hold.rejected(G2, at(7)), Decision::Pass, "once per hold");
    }

    #[test]
    fn a_hold_ends_when_its_own_refresh_has_helped() {
        let hold = held_route();
        hold.accepted(G2);
        hold.rejected(G2, at(5));
        assert_eq!(hold.rejected(G2, at(6)), Decision::Refresh);

        hold.replay_accepted(G2, G3, at(6));

        assert_eq!(hold.rejected(G3, at(7)), Decision::Refresh, "no longer held");
    }

    #[test]
    fn a_hold_does_not_end_because_of_a_refresh_that_was_under_way_before_it() {
        let hold = Hold::default();
        // Two requests with the same dead token: one finds the fresh one good, one is forbidden.
        assert_eq!(hold.rejected(G1, at(0)), Decision::Refresh);
        assert_eq!(hold.rejected(G1, at(0)), Decision::Refresh);
        hold.replay_rejected(at(1));

        hold.replay_accepted(G1, G2, at(1));

        assert_eq!(hold.rejected(G2, at(2)), Decision::Pass, "still held");
    }

    #[test]
    fn a_hold_keeps_its_refresh_where_no_token_could_be_had() {
        let hold = held_route();
        hold.accepted(G2);
        hold.rejected(G2, at(5));
        assert_eq!(hold.rejected(G2, at(6)), Decision::Refresh);
        hold.not_replaced(G2);

        assert_eq!(hold.rejected(G2, at(7)), Decision::Refresh);
    }

    #[test]
    fn a_token_that_was_asked_for_long_ago_and_dies_now_is_replaced() {
        let hold = Hold::default();
        assert_eq!(hold.rejected(G1, at(0)), Decision::Refresh);

        // Whoever asked has gone, and nobody used the route for an hour.
        assert_eq!(hold.rejected(G2, at(3600)), Decision::Refresh);
    }

    #[test]
    fn a_refresh_that_failed_awaits_no_verdict() {
        let hold = Hold::default();
        assert_eq!(hold.rejected(G1, at(0)), Decision::Refresh);
        hold.not_replaced(G1);

        assert_eq!(hold.rejected(G2, at(1)), Decision::Refresh);
    }

    #[test]
    fn one_forbidden_path_among_healthy_ones_does_not_ask_for_tokens() {
        let hold = held_route();
        for second in 0..30 {
            hold.accepted(G2);
            assert_eq!(hold.rejected(G2, at(second)), Decision::Pass, "{second}");
        }
    }

    #[test]
    fn a_token_that_was_never_accepted_on_a_held_route_is_no_reason() {
        let hold = held_route();

        for second in 0..30 {
            assert_eq!(hold.rejected(G2, at(second)), Decision::Pass);
        }
    }

    #[test]
    fn a_caller_that_leaves_before_its_replay_does_not_make_a_stream_of_requests() {
        let hold = Hold::default();
        assert_eq!(hold.rejected(G1, at(0)), Decision::Refresh);

        // Nobody replayed; the next caller finds the fresh token rejected.
        assert_eq!(hold.rejected(G2, at(3)), Decision::Pass);
        assert_eq!(hold.rejected(G2, at(4)), Decision::Pass);
        // After the hold another refresh is due, and its token is judged likewise.
        assert_eq!(hold.rejected(G3, at(40)), Decision::Refresh);
    }

    #[test]
    fn a_late_401_of_an_old_token_changes_nothing_for_the_new_one() {
        let hold = Hold::default();
        hold.rejected(G1, at(0));
        hold.replay_accepted(G1, G2, at(0));

        hold.accepted(G1);
        assert_eq!(hold.0.load().accepted, G2);
    }

    proptest! {
        /// Whatever happens, a route whose tokens are all rejected asks at most twice per hold.
        #[test]
        fn a_permanent_401_never_becomes_a_stream_of_token_requests(
            steps in proptest::collection::vec((0u64..5, any::<bool>()), 1..400),
        ) {
            let hold = Hold::default();
            let (mut now, mut generation, mut asked) = (0, 1, 0u64);
            for (seconds, replays) in steps {
                now += seconds;
                if hold.rejected(Generation::from_number(generation), at(now)) == Decision::Refresh {
                    asked += 1;
                    generation += 1;
                    if replays {
                        hold.replay_rejected(at(now));
                    }
                }
            }
            prop_assert!(asked <= 2 + 2 * (now / HOLD.first.as_secs() + 1), "{asked} requests in {now} s");
        }

    }
}
