//! The rejection hold of a route: protects the token endpoint from a permanent 401.
//!
//! An upstream answers 401 for a revoked token, but also for a wrong path or a missing permission, which no token
//! remedies. A route whose *fresh* token is rejected too is therefore held: for a while its 401s pass to the caller
//! and trigger no refresh. Each route has its own hold, so that a forbidden route does not affect other routes.
//!
//! The record also says which generations the route has accepted, and whether its requests carry the previous token for
//! now, because the upstream does not know the new one yet.

use std::cmp::Ordering::{Equal, Greater, Less};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::backoff::Backoff;
use crate::clock::Moment;
use crate::telemetry::metrics::traffic::Unauthorized;
use crate::token::{Generation, Verdicts};

/// The length of consecutive holds.
const HOLD: Backoff = Backoff { first: Duration::from_secs(30), max: Duration::from_mins(5) };
/// How long a held route must have received nothing but 401s before an accepted token counts as revoked.
const MIN_REJECTED: Duration = Duration::from_secs(1);
/// How long after a refresh a rejection of its token means that the refresh did not help. A later rejection means that
/// the new token has been revoked in turn.
const REFRESH_OUTCOME_WINDOW: Duration = Duration::from_secs(30);

/// How long requests carry the previous token after the upstream rejected the current one and accepted the previous one.
const PREFERENCE: Duration = Duration::from_secs(5);

/// The action on a 401.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Request another token and replay the request.
    Refresh,
    /// Pass the 401 to the caller.
    Pass,
}

/// A hold in force, for operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// When the hold began.
    pub since: Moment,
    /// When the hold ends.
    pub until: Moment,
    /// Why no refresh helps.
    pub cause: Unauthorized,
}

/// A route's record of accepted and rejected tokens. Lock-free.
#[derive(Debug, Default)]
pub struct RejectionHold {
    state: ArcSwap<State>,
    /// Until when requests carry the previous token, in nanoseconds since boot; 0 where they carry the current one.
    previous_until: AtomicU64,
}

/// Replaced as a whole at each change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct State {
    /// The beginning of the latest hold.
    held_since: Moment,
    /// The end of the hold; [`Moment::default`] if the route is not held.
    held_until: Moment,
    /// Why the latest hold began.
    cause: Option<Unauthorized>,
    /// Consecutive holds so far; each doubles the next one.
    holds: u32,
    /// The rejected generation that this hold's one refresh replaces, once that is requested.
    refreshed_in_hold: Option<Generation>,
    /// The latest generation that the upstream accepted on this route.
    accepted: Generation,
    /// Which of the generations up to `accepted` the upstream has accepted: bit `n` stands for the `n`-th before it.
    accepted_before: u64,
    /// When generation `accepted` was first rejected with no acceptance since.
    rejected_since: Option<Moment>,
    /// The latest refresh whose token the upstream has neither accepted nor rejected.
    pending_refresh: Option<Refresh>,
}

/// A refresh that this route requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Refresh {
    rejected: Generation,
    at: Moment,
}

impl RejectionHold {
    /// Records that the upstream accepted a token. A read, except for the first call after a change.
    pub fn accepted(&self, generation: Generation) {
        let state = self.state.load();
        let is_known = match state.accepted.cmp(&generation) {
            Less => false,
            Equal => state.rejected_since.is_none(),
            Greater => state.has_accepted(generation),
        };
        if !is_known {
            self.state.rcu(|state| Arc::new(state.accepted(generation)));
        }
    }

    /// Whether the upstream has accepted this token, as far as the record goes back.
    pub fn has_accepted(&self, generation: Generation) -> bool {
        self.state.load().has_accepted(generation)
    }

    /// Records that the upstream rejected a request's token, and decides what to do.
    pub fn rejected(&self, generation: Generation, now: Moment) -> Decision {
        let before = self.state.rcu(|state| Arc::new(state.rejected(generation, now).0));
        before.rejected(generation, now).1
    }

    /// Records that the upstream accepted a replay with a token that was requested in place of `rejected`.
    pub fn replay_accepted(&self, rejected: Generation, generation: Generation, now: Moment) {
        self.state.rcu(|state| Arc::new(state.accepted(generation).refreshed(rejected, now)));
    }

    /// Records that the upstream rejected a replay with a requested token: the hold begins.
    pub fn replay_rejected(&self, now: Moment) {
        self.state.rcu(|state| Arc::new(state.held(now, Unauthorized::FreshTokenRejected)));
    }

    /// Records that the authorization server issued the rejected token again: the hold begins.
    pub fn same_token_again(&self, rejected: Generation, now: Moment) {
        let held = |state: State| state.not_replaced(rejected).held(now, Unauthorized::SameTokenAgain);
        self.state.rcu(|state| Arc::new(held(**state)));
    }

    /// The hold in force, for operators.
    pub fn seen(&self, now: Moment) -> Option<Held> {
        let State { held_since: since, held_until: until, cause, .. } = **self.state.load();
        (now < until).then_some(Held { since, until, cause: cause? })
    }

    /// Records that no token could be had in place of `rejected`, or that none is wanted any more.
    pub fn not_replaced(&self, rejected: Generation) {
        self.state.rcu(|state| Arc::new(state.not_replaced(rejected)));
    }

    /// Lets requests carry the previous token for a while: the upstream does not know the current one yet.
    pub fn prefer_previous(&self, now: Moment) {
        self.previous_until.store((now + PREFERENCE).as_nanos(), Ordering::Relaxed);
    }

    /// Lets requests carry the current token again.
    pub fn prefer_current(&self) {
        self.previous_until.store(0, Ordering::Relaxed);
    }

    /// Whether requests carry the previous token. One relaxed load where they do not.
    pub fn prefers_previous(&self, now: impl FnOnce() -> Moment) -> bool {
        match self.previous_until.load(Ordering::Relaxed) {
            0 => false,
            until => now() < Moment::from_nanos(until),
        }
    }
}

impl Verdicts for RejectionHold {
    /// On a held route, a token that the upstream has not accepted, or has rejected since.
    fn rejects(&self, generation: Generation, now: Moment) -> bool {
        let state = self.state.load();
        let is_accepted = if state.accepted == generation {
            state.rejected_since.is_none()
        } else {
            state.has_accepted(generation)
        };
        state.is_held(now) && !is_accepted
    }
}

impl State {
    fn is_held(&self, now: Moment) -> bool {
        now < self.held_until
    }

    fn has_accepted(self, generation: Generation) -> bool {
        self.accepted_before & bit(generation, self.accepted) != 0
    }

    fn accepted(self, generation: Generation) -> Self {
        if generation < self.accepted {
            let accepted_before = self.accepted_before | bit(generation, self.accepted);
            return Self { accepted_before, ..self };
        }
        let newer = u32::try_from(generation.number() - self.accepted.number()).unwrap_or(u32::MAX);
        let accepted_before = self.accepted_before.checked_shl(newer).unwrap_or(0) | 1;
        let pending_refresh = self.pending_refresh.filter(|refresh| refresh.rejected >= generation);
        Self { accepted: generation, accepted_before, rejected_since: None, pending_refresh, ..self }
    }

    /// After a refresh that helped. Only the hold's own refresh ends the hold: a refresh that began before the hold, or
    /// for another route, proves nothing about this route.
    fn refreshed(self, rejected: Generation, now: Moment) -> Self {
        if self.is_held(now) && self.refreshed_in_hold != Some(rejected) {
            return self;
        }
        Self { held_until: Moment::default(), holds: 0, ..self }
    }

    fn held(self, now: Moment, cause: Unauthorized) -> Self {
        if self.is_held(now) {
            return Self { pending_refresh: None, ..self };
        }
        Self {
            held_since: now,
            cause: Some(cause),
            held_until: now + HOLD.step(self.holds),
            holds: self.holds.saturating_add(1),
            refreshed_in_hold: None,
            rejected_since: Some(now),
            pending_refresh: None,
            ..self
        }
    }

    /// After a failed refresh: a hold may try its one refresh again.
    fn not_replaced(self, rejected: Generation) -> Self {
        Self {
            refreshed_in_hold: self.refreshed_in_hold.filter(|generation| *generation != rejected),
            pending_refresh: self.pending_refresh.filter(|refresh| refresh.rejected != rejected),
            ..self
        }
    }

    fn rejected(self, generation: Generation, now: Moment) -> (Self, Decision) {
        if self.is_held(now) {
            return self.rejected_in_hold(generation, now);
        }
        // The token of this route's own refresh is rejected, and the request that wanted it was never replayed.
        let is_outcome = |refresh: Refresh| {
            refresh.rejected < generation && refresh.at.until(now) < REFRESH_OUTCOME_WINDOW
        };
        if self.pending_refresh.is_some_and(is_outcome) {
            return (self.held(now, Unauthorized::FreshTokenRejected), Decision::Pass);
        }
        (self.refreshing(generation, now), Decision::Refresh)
    }

    fn rejected_in_hold(self, generation: Generation, now: Moment) -> (Self, Decision) {
        // The rejection of a token that this route has never accepted does not show a revocation.
        if self.accepted != generation {
            return (self, Decision::Pass);
        }
        let since = self.rejected_since.unwrap_or(now);
        if since.until(now) >= MIN_REJECTED && self.refreshed_in_hold.is_none() {
            let state = Self { refreshed_in_hold: Some(generation), ..self.refreshing(generation, now) };
            return (state, Decision::Refresh);
        }
        (Self { rejected_since: Some(since), ..self }, Decision::Pass)
    }

    fn refreshing(self, rejected: Generation, now: Moment) -> Self {
        Self { pending_refresh: Some(Refresh { rejected, at: now }), ..self }
    }
}

/// The bit of [`State::accepted_before`] that stands for a generation; none if it is later than `accepted` or too old.
fn bit(generation: Generation, accepted: Generation) -> u64 {
    let older = accepted.number().checked_sub(generation.number());
    older.and_then(|older| 1_u64.checked_shl(u32::try_from(older).ok()?)).unwrap_or(0)
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
    fn held_route() -> RejectionHold {
        let hold = RejectionHold::default();
        assert_eq!(hold.rejected(G1, at(0)), Decision::Refresh);
        hold.replay_rejected(at(0));
        hold
    }

    #[test]
    fn a_rejected_token_is_replaced_whatever_its_age() {
        let hold = RejectionHold::default();
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
        let hold = RejectionHold::default();
        let mut now = 0;
        for (generation, length) in (1..).zip([30, 60, 120, 240, 300, 300]) {
            assert_eq!(hold.rejected(Generation::from_number(2 * generation), at(now)), Decision::Refresh);
            hold.replay_rejected(at(now));
            assert!(hold.state.load().is_held(at(now + length - 1)), "{length}");
            assert!(!hold.state.load().is_held(at(now + length)), "{length}");
            now += length;
        }
        hold.rejected(Generation::from_number(100), at(now));
        hold.replay_accepted(Generation::from_number(100), Generation::from_number(101), at(now));
        hold.rejected(Generation::from_number(101), at(now));
        hold.replay_rejected(at(now));
        assert!(!hold.state.load().is_held(at(now + 30)));
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
    fn a_hold_ends_when_its_own_refresh_helps() {
        let hold = held_route();
        hold.accepted(G2);
        hold.rejected(G2, at(5));
        assert_eq!(hold.rejected(G2, at(6)), Decision::Refresh);

        hold.replay_accepted(G2, G3, at(6));

        assert_eq!(hold.rejected(G3, at(7)), Decision::Refresh, "no longer held");
    }

    #[test]
    fn a_hold_is_not_ended_by_a_refresh_that_began_before_it() {
        let hold = RejectionHold::default();
        // Two requests carry the same revoked token. The fresh one is accepted for one of them; the other is forbidden.
        assert_eq!(hold.rejected(G1, at(0)), Decision::Refresh);
        assert_eq!(hold.rejected(G1, at(0)), Decision::Refresh);
        hold.replay_rejected(at(1));

        hold.replay_accepted(G1, G2, at(1));

        assert_eq!(hold.rejected(G2, at(2)), Decision::Pass, "still held");
    }

    #[test]
    fn a_failed_refresh_does_not_use_up_the_holds_one_refresh() {
        let hold = held_route();
        hold.accepted(G2);
        hold.rejected(G2, at(5));
        assert_eq!(hold.rejected(G2, at(6)), Decision::Refresh);
        hold.not_replaced(G2);

        assert_eq!(hold.rejected(G2, at(7)), Decision::Refresh);
    }

    #[test]
    fn a_token_rejected_long_after_its_refresh_is_replaced() {
        let hold = RejectionHold::default();
        assert_eq!(hold.rejected(G1, at(0)), Decision::Refresh);

        // The requester has left, and the route was unused for an hour.
        assert_eq!(hold.rejected(G2, at(3600)), Decision::Refresh);
    }

    #[test]
    fn a_failed_refresh_has_no_outcome_to_wait_for() {
        let hold = RejectionHold::default();
        assert_eq!(hold.rejected(G1, at(0)), Decision::Refresh);
        hold.not_replaced(G1);

        assert_eq!(hold.rejected(G2, at(1)), Decision::Refresh);
    }

    #[test]
    fn a_forbidden_path_on_a_healthy_route_triggers_no_refresh() {
        let hold = held_route();
        for second in 0..30 {
            hold.accepted(G2);
            assert_eq!(hold.rejected(G2, at(second)), Decision::Pass, "{second}");
        }
    }

    #[test]
    fn a_held_route_does_not_replace_a_token_that_it_never_accepted() {
        let hold = held_route();

        for second in 0..30 {
            assert_eq!(hold.rejected(G2, at(second)), Decision::Pass);
        }
    }

    #[test]
    fn callers_that_leave_before_their_replay_cause_one_refresh_per_hold() {
        let hold = RejectionHold::default();
        assert_eq!(hold.rejected(G1, at(0)), Decision::Refresh);

        // No replay follows; the next request has the fresh token, which is rejected.
        assert_eq!(hold.rejected(G2, at(3)), Decision::Pass);
        assert_eq!(hold.rejected(G2, at(4)), Decision::Pass);
        // The hold has ended.
        assert_eq!(hold.rejected(G3, at(40)), Decision::Refresh);
    }

    #[test]
    fn a_late_response_for_an_old_token_changes_nothing_for_the_new_one() {
        let hold = RejectionHold::default();
        hold.rejected(G1, at(0));
        hold.replay_accepted(G1, G2, at(0));

        hold.accepted(G1);
        assert_eq!(hold.state.load().accepted, G2);
    }

    #[test]
    fn a_withdrawn_demand_leaves_no_refresh_whose_outcome_counts() {
        let hold = RejectionHold::default();
        hold.accepted(G1);
        assert_eq!(hold.rejected(G1, at(0)), Decision::Refresh);
        // The upstream accepts the token again.
        hold.accepted(G1);
        hold.not_replaced(G1);

        // A scheduled renewal follows, and its token is rejected.
        assert_eq!(hold.rejected(G2, at(5)), Decision::Refresh, "no hold");
    }

    #[test]
    fn requests_carry_the_previous_token_for_a_while_after_it_was_accepted() {
        let hold = RejectionHold::default();
        assert!(!hold.prefers_previous(|| at(0)));
        hold.prefer_previous(at(0));
        assert!(hold.prefers_previous(|| at(4)) && !hold.prefers_previous(|| at(5)));
        hold.prefer_previous(at(5));
        hold.prefer_current();
        assert!(!hold.prefers_previous(|| at(5)));
    }

    /// One event on a route.
    #[derive(Clone, Copy, Debug)]
    enum Event {
        Accepted(u64),
        Rejected(u64),
        ReplayAccepted(u64),
        ReplayRejected,
        NotReplaced(u64),
        Wait(u64),
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let generation = 1u64..8;
        let event = prop_oneof![
            3 => generation.clone().prop_map(Event::Accepted),
            3 => generation.clone().prop_map(Event::Rejected),
            1 => generation.clone().prop_map(Event::ReplayAccepted),
            1 => Just(Event::ReplayRejected),
            1 => generation.prop_map(Event::NotReplaced),
            2 => (0u64..40).prop_map(Event::Wait),
        ];
        proptest::collection::vec(event, 1..200)
    }

    proptest! {
        /// Whatever happens in whatever order: the record of accepted tokens is exact, a route that is not held refreshes
        /// unless its own refresh was in vain, and a held one refreshes once and only a token that it had accepted.
        #[test]
        fn the_record_is_exact_and_a_hold_refreshes_once(events in events(), base in 0u64..200) {
            let hold = RejectionHold::default();
            let generation = |number: u64| Generation::from_number(base + number);
            let mut accepted = std::collections::BTreeSet::new();
            let mut now = 0;
            for event in events {
                let before = **hold.state.load();
                match event {
                    Event::Wait(seconds) => now += seconds,
                    Event::Accepted(number) => {
                        accepted.insert(number);
                        hold.accepted(generation(number));
                    }
                    Event::ReplayAccepted(number) => {
                        accepted.insert(number + 1);
                        hold.replay_accepted(generation(number), generation(number + 1), at(now));
                    }
                    Event::ReplayRejected => hold.replay_rejected(at(now)),
                    Event::NotReplaced(number) => hold.not_replaced(generation(number)),
                    Event::Rejected(number) => {
                        let decision = hold.rejected(generation(number), at(now));
                        let state = **hold.state.load();
                        if before.is_held(at(now)) {
                            let may_refresh = before.refreshed_in_hold.is_none()
                                && before.accepted == generation(number)
                                && before.rejected_since.is_some();
                            prop_assert!(decision == Decision::Pass || may_refresh);
                        } else if decision == Decision::Pass {
                            prop_assert!(before.pending_refresh.is_some() && state.is_held(at(now)));
                        }
                        if decision == Decision::Refresh {
                            let refresh = Refresh { rejected: generation(number), at: at(now) };
                            prop_assert_eq!(state.pending_refresh, Some(refresh));
                        }
                    }
                }
                for number in 1..10 {
                    prop_assert_eq!(hold.has_accepted(generation(number)), accepted.contains(&number));
                }
            }
        }

        #[test]
        fn the_record_reaches_sixty_four_generations_back(steps in proptest::collection::vec(1u64..80, 1..30)) {
            let hold = RejectionHold::default();
            let (mut latest, mut accepted) = (0, Vec::new());
            for step in steps {
                latest += step;
                accepted.push(latest);
                hold.accepted(Generation::from_number(latest));
            }
            for number in 1..=latest + 1 {
                let is_recent = accepted.contains(&number) && latest - number < 64;
                prop_assert_eq!(hold.has_accepted(Generation::from_number(number)), is_recent, "{}", number);
            }
        }

        /// A route that rejects every token requests at most two for each hold.
        #[test]
        fn a_permanent_401_never_becomes_a_stream_of_token_requests(
            steps in proptest::collection::vec((0u64..5, any::<bool>()), 1..400),
        ) {
            let hold = RejectionHold::default();
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
