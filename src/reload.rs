//! Reloads of the configuration, between those who request one and the task that carries it out.
//!
//! Reloads requested during a reload are merged into one, which begins after that reload: its file may have been read before
//! the request.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::shared_request;
use crate::shared_request::{NoOutcome, Requester, Responder};

/// The shortest time between the beginnings of two reloads.
const MIN_INTERVAL: Duration = Duration::from_millis(100);

/// The outcome of a reload.
pub type Outcome = Result<Reloaded, NotReloaded>;

/// How the configuration that is in force now differs from the one before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Reloaded {
    /// Routes, by host and path.
    pub routes: Difference,
    /// Credentials, by name.
    pub credentials: Difference,
    /// Listeners, by address.
    pub listeners: Difference,
    /// Other keys whose value has changed.
    pub settings: Vec<&'static str>,
    /// New or changed credentials that have no token yet.
    pub without_token: Vec<String>,
    /// Keys whose new value takes effect at the next start.
    pub restart_needed: Vec<&'static str>,
    /// Warnings about the configuration.
    pub warnings: Vec<String>,
}

/// How two lists of named items differ.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The number of unchanged items.
    pub kept: usize,
    /// Items whose value has changed.
    pub changed: Vec<String>,
    /// Items that are new.
    pub added: Vec<String>,
    /// Items that are gone.
    pub removed: Vec<String>,
}

/// Why a configuration was not taken over. The one before stays in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotReloaded {
    /// Whether the configuration must be changed; otherwise something on this machine that the configuration names.
    pub is_of_the_configuration: bool,
    /// The problems: several lines, with their positions in the file.
    pub problems: String,
}

impl Difference {
    /// Compares two lists of items by their names.
    pub fn of<T: PartialEq>(before: &[T], after: &[T], name: impl Fn(&T) -> String) -> Self {
        let mut left: Vec<(String, &T)> = before.iter().map(|one| (name(one), one)).collect();
        let mut difference = Self::default();
        for one in after {
            let called = name(one);
            // An address with port 0 may be there more than once.
            let at = left.iter().position(|(other, before)| *other == called && *before == one);
            match at.or_else(|| left.iter().position(|(other, _)| *other == called)) {
                None => difference.added.push(called),
                Some(at) => {
                    let (_, before) = left.swap_remove(at);
                    if before == one {
                        difference.kept += 1;
                    } else {
                        difference.changed.push(called);
                    }
                }
            }
        }
        difference.removed.extend(left.into_iter().map(|(called, _)| called));
        difference.removed.sort();
        difference
    }

    /// Whether the lists are equal.
    pub const fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.added.is_empty() && self.removed.is_empty()
    }
}

/// Both ends.
pub fn channel() -> (Reloads, ReloadRequests) {
    let (requester, responder) = shared_request::channel();
    (Reloads(requester), ReloadRequests { responder, last: None })
}

/// Requests reloads.
#[derive(Clone, Debug)]
pub struct Reloads(Requester<Arc<Outcome>>);

/// Receives the requests for reloads, and answers them.
#[derive(Debug)]
pub struct ReloadRequests {
    responder: Responder<Arc<Outcome>>,
    /// When the last reload began.
    last: Option<tokio::time::Instant>,
}

impl Reloads {
    /// Requests a reload that begins from now on.
    pub fn request(&self) {
        self.0.request();
    }

    /// Requests a reload that begins from now on, and waits for its outcome.
    ///
    /// # Errors
    ///
    /// [`NoOutcome`] when the time is up, or when the daemon stops.
    ///
    /// # Cancel safety
    ///
    /// The request stays in force.
    pub async fn reload(&self, within: Duration) -> Result<Arc<Outcome>, NoOutcome> {
        self.0.outcome(within).await
    }
}

impl ReloadRequests {
    /// Waits until a reload is requested that has not begun, and marks it as begun; not sooner than [`MIN_INTERVAL`] after
    /// the last one.
    ///
    /// # Cancel safety
    ///
    /// No request is lost.
    pub async fn next(&mut self) {
        self.responder.next().await;
        if let Some(last) = self.last {
            tokio::time::sleep_until(last + MIN_INTERVAL).await;
        }
        self.last = Some(tokio::time::Instant::now());
        self.responder.begin();
    }

    /// Answers all who requested the reload that has begun.
    pub fn respond(&self, outcome: Outcome) {
        self.responder.respond(Arc::new(outcome));
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_difference_names_new_removed_and_changed_items() {
        let before = [("a", 1), ("b", 2), ("c", 3), ("z", 0), ("z", 0)];
        let after = [("d", 4), ("c", 5), ("a", 1), ("z", 0)];

        let difference = Difference::of(&before, &after, |(name, _)| (*name).to_owned());

        let expected =
            Difference { kept: 2, changed: names(&["c"]), added: names(&["d"]), removed: names(&["b", "z"]) };
        assert_eq!(difference, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reload_requested_during_a_reload_is_the_next_one() {
        let (reloads, mut requests) = channel();
        let within = Duration::from_mins(1);
        let mut early = Box::pin(reloads.reload(within));
        assert!(early.as_mut().now_or_never().is_none());
        requests.next().await;
        let mut late = Box::pin(reloads.reload(within));
        assert!(late.as_mut().now_or_never().is_none());

        requests.respond(Ok(Reloaded::default()));

        assert!(early.await.unwrap().is_ok());
        assert!(late.as_mut().now_or_never().is_none(), "its reload has not begun");
        requests.next().await;
        requests.respond(Err(NotReloaded { is_of_the_configuration: true, problems: "odd".to_owned() }));
        assert!(late.await.unwrap().is_err());
        assert!(requests.next().now_or_never().is_none(), "nobody requests another");
    }

    #[tokio::test(start_paused = true)]
    async fn reloads_keep_a_distance() {
        let (reloads, mut requests) = channel();
        let began = tokio::time::Instant::now();
        for _ in 0..11 {
            reloads.request();
            requests.next().await;
            requests.respond(Ok(Reloaded::default()));
        }
        assert!(began.elapsed() >= 10 * MIN_INTERVAL, "{:?}", began.elapsed());
    }
}
