//! Sharing a credential with other replicas: whose turn a token request is, and what another replica has brought.

use std::time::Duration;

use super::schedule;
use super::{NextAction, Refresher};
use crate::clock::Moment;
use crate::token::access_token::AccessToken;
use crate::token::endpoint::TokenEndpoint;
use crate::token::limiter::{Barrier, Blocked};
use crate::token::replicas::{Occasion, Share, SharedRecord, Turn};
use crate::token::rotation::{self, GrantChoice};
use crate::token::state::file::{RequestMark, State};
use crate::token::store::Succession;

/// How long a refresher that ends waits for the store to take a refresh token.
const LAST_WRITES: Duration = Duration::from_secs(20);
/// How often a grant is shared again that another replica precedes.
const GRANT_ATTEMPTS: usize = 5;

impl<E: TokenEndpoint> Refresher<E> {
    /// Shares the credential's tokens with other replicas, if `shared` is given.
    #[must_use]
    pub fn sharing(mut self, shared: Option<SharedRecord>) -> Self {
        if let Some(shared) = &shared {
            self.fingerprints = shared.fingerprints();
        }
        self.shared = shared.map(Box::new);
        self.continue_shared();
        self
    }

    /// Continues from the number of a state with a refresh token: an earlier record does not replace it.
    pub(super) fn continue_shared(&mut self) {
        let state = self.durable.state();
        if let Some(shared) = self.shared.as_mut().filter(|_| state.refresh_token.is_some()) {
            shared.continue_from(state.shared);
        }
    }

    /// Whether a refresh token is to be written as soon as the store is back.
    pub(super) fn owes(&self) -> bool {
        self.durable.state().refresh_token.is_some()
            && self.shared.as_ref().is_some_and(|shared| shared.is_ahead())
    }

    /// Writes a refresh token that the store does not have yet, before this refresher ends.
    pub(super) async fn settle_debts(&mut self) {
        let deadline = self.clock.now() + LAST_WRITES;
        while self.owes() && self.clock.now() < deadline {
            tokio::time::sleep(Duration::from_millis(500)).await;
            self.look_at_shared().await;
        }
    }

    /// Whose turn the next token request is. Without other replicas, the turn is always this refresher's.
    pub(super) fn turn(&self) -> Turn {
        self.shared.as_ref().map_or(Turn::Mine, |shared| shared.turn())
    }

    /// The next step, if a due token request has to wait for other replicas or for the store.
    pub(super) fn waits_for_replicas(&mut self, turn: Turn) -> Option<NextAction> {
        self.shared.as_ref()?;
        let now = self.clock.now();
        let spends = matches!(self.choose_grant(), Ok(GrantChoice::RefreshToken(_)));
        let known_from = self.shared.as_ref().filter(|_| spends).and_then(|shared| shared.known_from());
        match turn {
            Turn::Open => {
                let until = self.awaits_another(now, false).or(known_from);
                Some(until.filter(|until| now < *until).map_or(NextAction::TakeTurn, NextAction::Wait))
            }
            Turn::Other(until) => {
                self.progress.send_if_modified(|progress| {
                    progress.blocked = None;
                    let was_idle = progress.underway.is_none();
                    progress.underway.get_or_insert(now);
                    was_idle
                });
                Some(NextAction::WaitForTurn(until))
            }
            Turn::Mine => self.awaits_another(now, true).or(known_from).map(NextAction::Wait),
            Turn::Away if spends && !self.may_go_on_alone() => {
                let until = self.shared_look_at().map_or(now, |look_at| look_at.max(now));
                let blocked = Blocked { until, by: Barrier::SharedStore };
                self.progress.send_if_modified(|progress| progress.blocked.replace(blocked) != Some(blocked));
                Some(NextAction::Wait(blocked.until))
            }
            Turn::Away => None,
        }
    }

    /// Until when this replica does not use a refresh token that another one has perhaps just used: that one may only be
    /// slow, and a second use could have the server revoke the token. `None` if it may be used now. Where the lease `is_held`,
    /// the other one has lost it.
    fn awaits_another(&mut self, now: Moment, is_held: bool) -> Option<Moment> {
        let doubt = self.durable.state().doubt.filter(|doubt| doubt.is_under_way)?;
        if !self.credential.rotation_grace.is_zero() || self.is_ordered {
            return None;
        }
        let current = self.store.usable();
        let until =
            current.filter(|current| !self.demands.exceed(current.generation())).map(|token| token.expires());
        let is_awaited = self.awaited == Some(doubt.token);
        if is_held && !is_awaited {
            self.awaited = Some(doubt.token);
            self.trail.at_risk(until.map_or(Duration::ZERO, |until| now.until(until)));
        }
        until.filter(|_| is_held || is_awaited)
    }

    pub(super) fn may_go_on_alone(&self) -> bool {
        self.shared.as_ref().is_none_or(|shared| shared.may_go_on_alone())
    }

    /// Whether the other replicas have this state.
    pub(super) fn is_shared(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.is_written())
    }

    /// Takes up the refresh token that another replica was too late to share. Answers whether there is one.
    pub(super) fn take_late_into(&mut self, state: &mut State) -> bool {
        let late = self.shared.as_mut().and_then(|shared| shared.take_late());
        late.is_some_and(|late| {
            rotation::take_up(state, late.belonging_to(&self.credential), self.identity.value())
        })
    }

    /// Takes the turn, unless another replica has it, and adopts what others have written.
    pub(super) async fn take_turn(&mut self) {
        let ours = self.state_before_request();
        let Some(shared) = &mut self.shared else { return };
        if let Some(theirs) = shared.take(&ours).await {
            self.adopt_shared(theirs).await;
        }
        // Who cannot know whether the refresh token is the latest leaves the turn to others.
        let spends = matches!(self.choose_grant(), Ok(GrantChoice::RefreshToken(_)));
        if spends && self.shared.as_ref().is_some_and(|shared| shared.known_from().is_some()) {
            self.end_turn().await;
        }
    }

    /// Lets other replicas have the turn.
    pub(super) async fn end_turn(&mut self) {
        if let Some(shared) = &mut self.shared {
            shared.give_back().await;
        }
    }

    /// Adopts what others have written, if so.
    pub(super) async fn look_at_shared(&mut self) {
        let ours = self.state_before_request();
        let Some(shared) = &mut self.shared else { return };
        if let Some(theirs) = shared.look(&ours).await {
            self.adopt_shared(theirs).await;
        }
    }

    /// When to look next.
    pub(super) fn shared_look_at(&self) -> Option<Moment> {
        self.shared.as_ref().map(|shared| shared.look_at())
    }

    /// Shares a state. An answer of the token endpoint is announced to the other replicas.
    pub(super) async fn share(&mut self, state: &mut State, occasion: Occasion) -> Share {
        let Some(shared) = &mut self.shared else { return Share::Done };
        let written = shared.write(state, occasion).await;
        state.shared = shared.number();
        written
    }

    /// Makes the state after an answer durable: in the store, then on disk. Answers the state of another replica that has
    /// written before.
    pub(super) async fn save_answer(&mut self, mut state: State, occasion: Occasion) -> Option<Box<State>> {
        let share = self.share(&mut state, occasion).await;
        self.durable.save(state).await;
        match share {
            Share::Lost(theirs) => theirs,
            Share::Done | Share::Away => None,
        }
    }

    /// Shares the grant that a person has handed over, whatever the other replicas have written.
    pub(super) async fn share_grant(&mut self, state: &mut State) {
        for _ in 0..GRANT_ATTEMPTS {
            if !matches!(self.share(state, Occasion::Success).await, Share::Lost(_)) {
                return;
            }
        }
    }

    /// Makes no token request, of which the others may have been told.
    pub(super) async fn withdraw_request(&mut self, mut before: State) {
        let _ = self.share(&mut before, Occasion::Failure).await;
        self.durable.save(before).await;
        self.lose_turn(None).await;
    }

    /// Makes no token request, because another replica has the turn, and uses what it has written.
    pub(super) async fn lose_turn(&mut self, theirs: Option<Box<State>>) {
        self.end_turn().await;
        self.progress.send_modify(|progress| progress.underway = None);
        if let Some(theirs) = theirs {
            self.adopt_shared(*theirs).await;
        }
    }

    /// Among how many replicas the quota is divided while the store is away.
    pub(super) fn replicas(&self) -> u64 {
        self.shared.as_ref().map_or(1, |shared| shared.replicas())
    }

    /// Uses what another replica has written: its token, its waits and the used part of the quota.
    pub(super) async fn adopt_shared(&mut self, found: State) {
        let mut state = found.belonging_to(&self.credential);
        let now = self.clock.now();
        let is_rejected = self.notices_rejection();
        self.limiter.restore(state.limiter);
        let ours = RequestMark::of(self.identity.request_identity());
        if state.request.is_some_and(|theirs| theirs != ours) && self.unlatched != state.request {
            // The rejection of another secret says nothing about ours.
            self.unlatched = state.request;
            self.limiter.release_latch();
        }
        let latest = self.store.latest();
        let theirs = state.access_token.take().filter(|token| token.is_usable(now));
        let is_same =
            theirs.as_ref().zip(latest.as_ref()).is_some_and(|(one, other)| one.is_same_token(other));
        let generation = latest.as_ref().map_or(state.generation, |latest| latest.generation());
        let token = theirs.map(|token| {
            if is_same {
                token.with_generation(generation)
            } else if token.generation() > generation || latest.is_none() {
                token
            } else {
                // Both have counted alone while the store was away.
                token.with_generation(generation.next())
            }
        });
        state.generation = token.as_ref().map_or(generation, AccessToken::generation).max(state.generation);
        let is_answered = match (&token, &latest) {
            (Some(token), Some(latest)) if is_same => {
                token.issued().since(latest.issued()) > schedule::SAME_ANSWER
            }
            (token, _) => token.is_some(),
        };
        state.access_token =
            token.clone().or_else(|| latest.as_deref().filter(|latest| latest.is_usable(now)).cloned());
        state.shared = self.shared.as_ref().map_or(0, |shared| shared.number());
        self.no_turn_before = Moment::default();
        if is_answered {
            self.obstacle = None;
        }
        if let Some(token) = token.filter(|_| is_answered) {
            self.due = self.planned(&token, state.refresh_token_end);
            self.trail.set_rotations(state.rotations);
            let issued = self.issued(&token, now);
            if is_same {
                // The server issues no other token: another request would be as vain.
                self.same_token = self.same_token.max(1);
                self.no_forced_before = schedule::no_forced_before(now, self.same_token);
                self.due = schedule::ask_again_at(now, self.due, token.expires(), self.same_token);
                self.demands.withdraw_beyond(token.generation());
            } else {
                self.same_token = 0;
                self.no_forced_before = Moment::default();
            }
            self.publish(token, if is_rejected { Succession::Forced } else { Succession::Scheduled });
            if !is_same {
                self.trail.adopted(issued);
            }
        }
        let blocked = self.limiter.blocked().filter(|blocked| now < blocked.until);
        let no_forced_before = self.no_forced_before;
        self.progress.send_modify(|progress| {
            progress.underway = None;
            progress.blocked = blocked;
            if is_answered {
                progress.failure = None;
                progress.unchanged_until = is_same.then_some(no_forced_before);
            }
        });
        self.durable.save(state).await;
    }
}
