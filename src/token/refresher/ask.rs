//! One token request of the loop, from the secrets that it is made with to what becomes of its answer.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;

use super::Refresher;
use crate::token::client::TokenEndpoint;
use crate::token::error::TokenError;
use crate::token::rotation::asking_with;

impl<E: TokenEndpoint> Refresher<E> {
    pub(super) async fn ask(&mut self) {
        self.progress.send_modify(|progress| {
            progress.underway = true;
            progress.blocked = None;
        });
        self.identity.read_again().await;
        let Ok(in_use) = self.in_use() else {
            // It was there a moment ago: the next step says what is wrong.
            self.progress.send_modify(|progress| progress.underway = false);
            return;
        };
        let asking = in_use.as_ref().map(|in_use| asking_with(self.identity.value(), in_use.token.clone()));
        let identity = asking.as_ref().unwrap_or_else(|| self.identity.value());
        let sent = self.clock.now();
        let current = self.store.latest();
        let request = self.endpoint.request(&self.credential, identity, current.as_deref());
        // A panic in there must not take the loop with it.
        let outcome = AssertUnwindSafe(request)
            .catch_unwind()
            .await
            .unwrap_or_else(|_| Err(TokenError::Network("the request panicked".to_owned())));
        let latency = sent.until(self.clock.now());
        // It may have been rejected meanwhile, and is about to be replaced.
        self.notices_rejection();
        let answered = outcome.map(|grant| (self.accept(&grant, sent), grant.refresh_token));
        match answered {
            Ok((Ok(token), new)) => self.succeeded(token, in_use, new.as_ref(), latency).await,
            Ok((Err(error), new)) => {
                // No access token for us, and yet the refresh token may be another now.
                let mut state = self.durable.state().clone();
                if in_use.is_some_and(|in_use| in_use.answered(new.as_ref(), &mut state)) {
                    self.durable.save(state).await;
                }
                self.failed(error, None, latency).await;
            }
            Err(error) => self.failed(error, in_use, latency).await,
        }
    }
}
