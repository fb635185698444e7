//! What an operator orders: looked at before each step, so in every wait and after each request.

use std::time::Duration;

use super::{NextAction, Refresher};
use crate::token::access_token::Generation;
use crate::token::endpoint::TokenEndpoint;
use crate::token::operator::{Operator, Refreshed};

impl<E: TokenEndpoint> Refresher<E> {
    /// By whom orders are given.
    pub fn operator(&self) -> Operator {
        let grant = self.credential.grant_name();
        self.orders.operator(grant, self.identity.has_refresh_token(), self.clock)
    }

    /// Carries out what was ordered, and says what to do next. Whoever wishes for a token that may not be asked for now
    /// is told so, and the wish is over: it is not to be fulfilled long after.
    pub(super) async fn carry_out_orders(&mut self) -> NextAction {
        self.answer_finished_request();
        while let Some(order) = self.orders.take_grant() {
            let outcome = self.adopt(order.grant, order.received).await;
            let _ = order.reply.send(outcome);
        }
        if self.orders.notices_refresh_request() {
            if self.obstacle.is_some() {
                self.read_secrets_again().await;
                self.take_state_from_disk().await;
            }
            // Whoever asks may have mended what was wrong.
            self.limiter.release_latch();
        }
        let step = self.next_step();
        if matches!(step, NextAction::Wait(_)) && self.orders.is_refresh_requested() {
            self.orders.respond(self.why_not());
        }
        step
    }

    /// Tells what a request came to that has ended since the last look, whatever it was made for.
    fn answer_finished_request(&mut self) {
        let progress = self.progress.borrow().clone();
        let has_ended = std::mem::replace(&mut self.finished, progress.finished) < progress.finished;
        if has_ended && self.orders.is_refresh_requested() {
            let is_same = progress.unchanged_until.is_some();
            self.orders.respond(match progress.failure {
                Some(_) => Refreshed::Failed(progress.unavailable(self.clock.now())),
                None if is_same => self.same(),
                None => {
                    let (generation, left) = self.current();
                    Refreshed::New { generation, left }
                }
            });
        }
    }

    /// Why no token is asked for now.
    fn why_not(&self) -> Refreshed {
        let now = self.clock.now();
        let would_be_same = now < self.no_forced_before && now < self.due && self.obstacle.is_none();
        if would_be_same { self.same() } else { Refreshed::Refused(self.progress.borrow().unavailable(now)) }
    }

    fn same(&self) -> Refreshed {
        let (generation, left) = self.current();
        Refreshed::Same { generation, left, again_in: self.clock.now().until(self.no_forced_before) }
    }

    fn current(&self) -> (Generation, Duration) {
        let left = |expires| self.clock.now().until(expires);
        let latest = self.store.latest();
        latest.map_or_else(Default::default, |token| (token.generation(), left(token.expires())))
    }
}
