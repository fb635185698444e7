//! Shared requests: any number of requests made at once cause one piece of work, whose outcome all requesters receive.
//!
//! A [`channel`] has any number of [`Requester`]s and one [`Responder`]. The pieces of work are numbered from 1; a request
//! raises the wanted number to that of the next piece of work that begins.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{Notify, watch};

/// The highest number that anybody has asked for, and a signal to the one task that works towards that number.
#[derive(Debug, Default)]
struct Wanted {
    number: AtomicU64,
    signal: Notify,
}

impl Wanted {
    /// Asks for this number, and wakes the task if nobody has asked for a number so high before.
    fn raise_to(&self, number: u64) {
        if self.number.fetch_max(number, Ordering::SeqCst) < number {
            self.signal.notify_one();
        }
    }

    /// Whether a number above this one is asked for.
    fn exceeds(&self, number: u64) -> bool {
        self.number.load(Ordering::SeqCst) > number
    }

    /// Waits until a higher number is asked for.
    ///
    /// # Cancel safety
    ///
    /// A signal that is sent while nobody waits is kept for the next call.
    async fn raised(&self) {
        self.signal.notified().await;
    }
}

/// Makes requests, and receives the outcome of the work that they cause.
#[derive(Clone, Debug)]
pub struct Requester<T> {
    shared: Arc<Shared>,
    latest: watch::Receiver<Latest<T>>,
}

/// Does the work that is requested. There is one to a channel.
#[derive(Debug)]
pub struct Responder<T> {
    shared: Arc<Shared>,
    latest: watch::Sender<Latest<T>>,
    /// The highest wanted number that [`Responder::notices_request`] has seen.
    noticed: u64,
}

#[derive(Debug, Default)]
struct Shared {
    wanted: Wanted,
    /// The number of the latest piece of work that has begun.
    begun: AtomicU64,
}

/// The latest piece of work that has ended. The outcome is none before the first.
#[derive(Debug)]
struct Latest<T> {
    number: u64,
    outcome: Option<T>,
}

/// Why a requester received no outcome.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum NoOutcome {
    /// The time is up, and the work goes on.
    #[error("the work is still under way")]
    UnderWay,
    /// The responder is gone: nobody does the work.
    #[error("nobody does the work any more")]
    Gone,
}

/// A requester, which can be cloned, and the responder.
pub fn channel<T>() -> (Requester<T>, Responder<T>) {
    let shared = Arc::new(Shared::default());
    let (latest, receiver) = watch::channel(Latest { number: 0, outcome: None });
    let requester = Requester { shared: Arc::clone(&shared), latest: receiver };
    (requester, Responder { shared, latest, noticed: 0 })
}

impl<T> Requester<T> {
    /// Requests work that begins from now on, without waiting for its outcome. Answers the number of that work.
    pub fn request(&self) -> u64 {
        let number = self.shared.begun.load(Ordering::SeqCst) + 1;
        self.shared.wanted.raise_to(number);
        number
    }
}

impl<T: Clone> Requester<T> {
    /// Requests work that begins from now on, and waits for its outcome.
    ///
    /// # Errors
    ///
    /// [`NoOutcome`] when the time is up or the responder is gone.
    ///
    /// # Cancel safety
    ///
    /// The request stays in force.
    pub async fn outcome(&self, within: Duration) -> Result<T, NoOutcome> {
        let number = self.request();
        let mut latest = self.latest.clone();
        match tokio::time::timeout(within, latest.wait_for(|latest| latest.number >= number)).await {
            Ok(Ok(latest)) => latest.outcome.clone().ok_or(NoOutcome::Gone),
            Ok(Err(_)) => Err(NoOutcome::Gone),
            Err(_) => Err(NoOutcome::UnderWay),
        }
    }
}

impl<T> Responder<T> {
    /// Another requester.
    pub fn requester(&self) -> Requester<T> {
        Requester { shared: Arc::clone(&self.shared), latest: self.latest.subscribe() }
    }

    /// Whether work is requested that has not ended.
    pub fn is_requested(&self) -> bool {
        self.shared.wanted.exceeds(self.latest.borrow().number)
    }

    /// Whether work is requested that has not ended, and this was not so at the previous call.
    pub fn notices_request(&mut self) -> bool {
        let wanted = self.shared.wanted.number.load(Ordering::SeqCst);
        self.is_requested() && std::mem::replace(&mut self.noticed, wanted) < wanted
    }

    /// Waits until work is requested that was not requested before.
    ///
    /// # Cancel safety
    ///
    /// A request that is made while nobody waits is kept for the next call.
    pub async fn requested(&self) {
        self.shared.wanted.raised().await;
    }

    /// Waits until work is requested that has not begun.
    ///
    /// # Cancel safety
    ///
    /// No request is lost.
    pub async fn next(&self) {
        while !self.shared.wanted.exceeds(self.shared.begun.load(Ordering::SeqCst)) {
            self.requested().await;
        }
    }

    /// Begins the next piece of work: a request that is made from now on is for the one after.
    pub fn begin(&self) {
        self.shared.begun.fetch_add(1, Ordering::SeqCst);
    }

    /// Ends the next piece of work, begun or not, and hands its outcome to everyone who has requested that work.
    pub fn respond(&self, outcome: T) {
        let number = self.latest.borrow().number + 1;
        // First: whoever requests from here on must not receive this outcome.
        self.shared.begun.fetch_max(number, Ordering::SeqCst);
        self.latest.send_replace(Latest { number, outcome: Some(outcome) });
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const WITHIN: Duration = Duration::from_mins(1);

    #[tokio::test(start_paused = true)]
    async fn a_thousand_requests_share_one_outcome() {
        let (requester, mut responder) = channel();
        assert!(!responder.notices_request());
        let mut all: Vec<_> = (0..1000).map(|_| Box::pin(requester.outcome(WITHIN))).collect();
        assert!(all.iter_mut().all(|one| one.now_or_never().is_none()));
        assert!(responder.requested().now_or_never().is_some());
        assert!(responder.notices_request() && !responder.notices_request());

        responder.respond(7);

        for one in all {
            assert_eq!(one.await, Ok(7));
        }
        assert!(!responder.is_requested());
        assert!(responder.requested().now_or_never().is_none(), "one signal for all of them");
    }

    #[tokio::test(start_paused = true)]
    async fn requests_made_after_the_work_has_begun_share_the_next_outcome() {
        let (requester, responder) = channel();
        let mut early = Box::pin(requester.outcome(WITHIN));
        assert!(early.as_mut().now_or_never().is_none());
        responder.next().await;
        responder.begin();
        let mut late: Vec<_> = (0..1000).map(|_| Box::pin(requester.outcome(WITHIN))).collect();
        assert!(late.iter_mut().all(|one| one.now_or_never().is_none()));

        responder.respond("first");

        assert_eq!(early.await, Ok("first"));
        assert!(late.iter_mut().all(|one| one.now_or_never().is_none()), "their work has not begun");
        responder.next().await;
        responder.begin();
        responder.respond("second");
        for one in late {
            assert_eq!(one.await, Ok("second"));
        }
        assert!(responder.next().now_or_never().is_none(), "nobody requests more");
    }

    #[tokio::test(start_paused = true)]
    async fn a_requester_that_leaves_withdraws_nothing() {
        let (requester, responder) = channel::<()>();
        assert_eq!(requester.outcome(Duration::from_secs(5)).await, Err(NoOutcome::UnderWay));

        assert!(responder.is_requested());
        assert!(responder.next().now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn requesters_learn_that_the_responder_is_gone() {
        let (requester, responder) = channel::<()>();
        let mut waiting = Box::pin(requester.outcome(WITHIN));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(responder);

        assert_eq!(waiting.await, Err(NoOutcome::Gone));
        assert_eq!(requester.outcome(WITHIN).await, Err(NoOutcome::Gone));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wanted_number_wakes_the_task_only_when_it_rises() {
        let wanted = Wanted::default();
        wanted.raise_to(3);
        assert!(wanted.raised().now_or_never().is_some());
        wanted.raise_to(3);
        wanted.raise_to(2);
        assert!(wanted.raised().now_or_never().is_none());
        assert!(wanted.exceeds(2) && !wanted.exceeds(3));
    }
}
