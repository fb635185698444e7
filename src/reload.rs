//! Requests for reloads of the configuration, and the outcomes of reloads.
//!
//! Reloads requested during a reload are merged into one, which begins after that reload: the file may have been read
//! before the request.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::shared_request::{self, Requester, Responder};

/// The shortest time between the beginnings of two reloads.
const MIN_INTERVAL: Duration = Duration::from_millis(100);

/// The outcome of a reload.
pub type Outcome = Result<Reloaded, NotReloaded>;

/// How the configuration in force differs from the previous one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Reloaded {
    /// Routes, by name.
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

/// Why a reload failed. The previous configuration stays in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotReloaded {
    /// Whether the configuration must change; otherwise the problem is on this machine, such as a port in use.
    pub is_of_the_configuration: bool,
    /// The problems, in several lines, with their positions in the file.
    pub problems: String,
}

impl Difference {
    /// Compares two lists of items by their names.
    pub fn of<T: PartialEq>(before: &[T], after: &[T], name: impl Fn(&T) -> String) -> Self {
        let mut left: Vec<(String, &T)> = before.iter().map(|one| (name(one), one)).collect();
        let mut difference = Self::default();
        for one in after {
            let called = name(one);
            // A list may contain an address with port 0 more than once.
            let at = left.iter().position(|(other, before)| *other == called && *before == one);
            match at.or_else(|| left.iter().position(|(other, _)| *other == called)) {
                None => difference.added.push(called),
                Some(at) if left.swap_remove(at).1 == one => difference.kept += 1,
                Some(_) => difference.changed.push(called),
            }
        }
        difference.removed.extend(left.into_iter().map(|(called, _)| called));
        difference.removed.sort();
        difference
    }
}

/// A sender and the receiver of requests for reloads.
pub fn channel() -> (Reloads, ReloadRequests) {
    let (requester, responder) = shared_request::channel();
    (requester, ReloadRequests { responder, last: None })
}

/// Requests reloads, each of which begins after the request.
pub type Reloads = Requester<Arc<Outcome>>;

/// Receives the requests for reloads, and answers them.
#[derive(Debug)]
pub struct ReloadRequests {
    responder: Responder<Arc<Outcome>>,
    /// When the last reload began.
    last: Option<tokio::time::Instant>,
}

impl ReloadRequests {
    /// Waits until a reload is requested, at least [`MIN_INTERVAL`] after the last one, and marks the reload as begun.
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

    /// Sends the outcome to all requesters of the reload that has begun.
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
        let mut early = Box::pin(reloads.outcome(within));
        assert!(early.as_mut().now_or_never().is_none());
        requests.next().await;
        let mut late = Box::pin(reloads.outcome(within));
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
