//! Operators' orders, which the refresher looks at before each step: during every wait, and after each token request.

use std::time::Duration;

use super::{NextAction, Refresher};
use crate::token::access_token::Generation;
use crate::token::endpoint::TokenEndpoint;
use crate::token::operator::{Operator, Refreshed};

impl<E: TokenEndpoint> Refresher<E> {
    /// An operator of this refresher.
    pub fn operator(&self) -> Operator {
        self.orders.operator(
            &self.credential,
            self.identity.has_refresh_token(),
            self.trail.history(),
            self.clock,
        )
    }

    /// Carries out the orders, and chooses the next step. A refresh that may not be made now is refused: an operator must
    /// not be surprised by it later.
    pub(super) async fn carry_out_orders(&mut self) -> NextAction {
        self.answer_finished_request();
        self.take_left_state().await;
        while let Some(order) = self.orders.take_grant() {
            let adopted = self.adopt(order.grant, order.received).await;
            let _ = order.reply.send(adopted);
        }
        if self.orders.refreshes.notices_request() {
            if self.obstacle.is_some() {
                self.read_secrets_again().await;
                self.take_state_from_disk().await;
            }
            self.is_ordered = true;
        }
        self.watch_end_of_refresh_token();
        let step = self.next_step();
        self.publish_standing();
        // Where another replica has the turn, an order is answered by what that one brings.
        if !matches!(step, NextAction::Wait(_)) {
            return step;
        }
        self.progress.send_if_modified(|progress| progress.underway.take().is_some());
        if self.orders.refreshes.is_requested() {
            self.orders.refreshes.respond(self.why_not());
            if std::mem::take(&mut self.is_ordered) {
                // Without the order, another barrier may hold.
                return self.next_step();
            }
        }
        step
    }

    /// Answers operators with the outcome of a token request that has ended since the previous call, whatever caused it.
    fn answer_finished_request(&mut self) {
        let progress = self.progress.borrow().clone();
        let has_ended = std::mem::replace(&mut self.finished, progress.finished) < progress.finished;
        if has_ended {
            self.is_ordered = false;
        }
        if has_ended && self.orders.refreshes.is_requested() {
            let is_same = progress.unchanged_until.is_some();
            self.orders.refreshes.respond(match progress.failure {
                Some(_) => Refreshed::Failed(progress.unavailable(self.clock.now())),
                None if is_same => self.same(),
                None => {
                    let (generation, left) = self.current();
                    Refreshed::New { generation, left }
                }
            });
        }
    }

    /// Why no token request is made now.
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
