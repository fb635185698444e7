//! Reloads of the configuration, between those who want one and the one who does it.
//!
//! Whoever wants a reload wants one that begins after the wish: a thousand wishes at once share one, and those that come
//! while one is under way share the next, as it may have read its file before.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::{Notify, watch};

/// The shortest time from one reload to the next, whoever wants them.
const PAUSE: Duration = Duration::from_millis(100);

/// What a reload came to.
pub type Outcome = Result<Reloaded, NotReloaded>;

/// A configuration that is in force, and how it differs from the one before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Reloaded {
    /// By host and path.
    pub routes: Difference,
    /// By name.
    pub credentials: Difference,
    /// By address.
    pub listeners: Difference,
    /// Keys of the rest that have another value.
    pub settings: Vec<&'static str>,
    /// Credentials that are new or changed, and have no token yet.
    pub without_token: Vec<String>,
    /// Keys that have another value, which counts from the next start on.
    pub restart_needed: Vec<&'static str>,
    /// What the configuration is warned of.
    pub warnings: Vec<String>,
}

/// How two lists of named things differ.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// How many are as they were.
    pub kept: usize,
    /// Those that were there before, and otherwise.
    pub changed: Vec<String>,
    /// Those that were not there before.
    pub added: Vec<String>,
    /// Those that are there no more.
    pub removed: Vec<String>,
}

/// Why all is as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotReloaded {
    /// Whether the configuration must change, or what it names on this machine.
    pub is_of_the_configuration: bool,
    /// What is wrong; several lines, with their places in the file.
    pub problems: String,
}

impl Difference {
    /// Of two lists, by what each one is called and whether two of one name are the same.
    pub fn of<T>(
        before: &[T],
        after: &[T],
        name: impl Fn(&T) -> String,
        same: impl Fn(&T, &T) -> bool,
    ) -> Self {
        let mut left: Vec<(String, &T)> = before.iter().map(|one| (name(one), one)).collect();
        let mut difference = Self::default();
        for one in after {
            let called = name(one);
            // An address with port 0 may be there more than once.
            let at = left.iter().position(|(other, before)| *other == called && same(before, one));
            match at.or_else(|| left.iter().position(|(other, _)| *other == called)) {
                None => difference.added.push(called),
                Some(at) => {
                    let (_, before) = left.swap_remove(at);
                    if same(before, one) {
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

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.added.is_empty() && self.removed.is_empty()
    }
}

/// Both ends.
pub fn channel() -> (Reloads, Wishes) {
    let wish = Arc::new(Wish::default());
    let (told, seen) = watch::channel(Told::default());
    (Reloads { wish: Arc::clone(&wish), told: seen }, Wishes { wish, told, last: None })
}

/// Wants reloads.
#[derive(Clone, Debug)]
pub struct Reloads {
    wish: Arc<Wish>,
    told: watch::Receiver<Told>,
}

/// Hears what is wanted, and tells what became of it.
#[derive(Debug)]
pub struct Wishes {
    wish: Arc<Wish>,
    told: watch::Sender<Told>,
    /// When the last one began.
    last: Option<tokio::time::Instant>,
}

/// Up to which reload is wanted, and which has begun. Wanting the same one again changes nothing.
#[derive(Debug, Default)]
struct Wish {
    wanted: AtomicU64,
    begun: AtomicU64,
    raised: Notify,
}

/// The latest outcome, and of which reload.
#[derive(Debug, Default)]
struct Told {
    number: u64,
    outcome: Option<Arc<Outcome>>,
}

/// Why nothing is known of a wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotTold {
    /// It goes on.
    UnderWay,
    /// The daemon is stopping.
    Stopping,
}

impl Reloads {
    /// Wants a reload that begins from now on, and says which that is.
    pub fn want(&self) -> u64 {
        let wanted = self.wish.begun.load(Ordering::SeqCst) + 1;
        if self.wish.wanted.fetch_max(wanted, Ordering::SeqCst) < wanted {
            self.wish.raised.notify_one();
        }
        wanted
    }

    /// The same, and waits for what becomes of it.
    ///
    /// # Errors
    ///
    /// [`NotTold`] when the time is up, or when the daemon stops.
    ///
    /// # Cancel safety
    ///
    /// The wish goes on.
    pub async fn reload(&self, within: Duration) -> Result<Arc<Outcome>, NotTold> {
        let wanted = self.want();
        let mut told = self.told.clone();
        match tokio::time::timeout(within, told.wait_for(|told| told.number >= wanted)).await {
            Ok(Ok(told)) => told.outcome.clone().ok_or(NotTold::Stopping),
            Ok(Err(_)) => Err(NotTold::Stopping),
            Err(_) => Err(NotTold::UnderWay),
        }
    }
}

impl Wishes {
    /// Waits until a reload is wanted that has not begun; it has then. They come one after another, and not too fast.
    ///
    /// # Cancel safety
    ///
    /// No wish is lost.
    pub async fn next(&mut self) {
        while self.wish.wanted.load(Ordering::SeqCst) <= self.wish.begun.load(Ordering::SeqCst) {
            self.wish.raised.notified().await;
        }
        if let Some(last) = self.last {
            tokio::time::sleep_until(last + PAUSE).await;
        }
        self.last = Some(tokio::time::Instant::now());
        self.wish.begun.fetch_add(1, Ordering::SeqCst);
    }

    /// Tells all who want it what became of it.
    pub fn tell(&self, outcome: Outcome) {
        self.told.send_modify(|told| {
            told.number += 1;
            told.outcome = Some(Arc::new(outcome));
        });
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
    fn a_difference_names_what_is_new_gone_or_otherwise() {
        let before = [("a", 1), ("b", 2), ("c", 3), ("z", 0), ("z", 0)];
        let after = [("d", 4), ("c", 5), ("a", 1), ("z", 0)];

        let difference =
            Difference::of(&before, &after, |(name, _)| (*name).to_owned(), |(_, a), (_, b)| a == b);

        let expected =
            Difference { kept: 2, changed: names(&["c"]), added: names(&["d"]), removed: names(&["b", "z"]) };
        assert_eq!(difference, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_wishes_share_one_reload_and_those_that_come_meanwhile_the_next() {
        let (reloads, mut wishes) = channel();
        let patience = Duration::from_mins(1);
        let mut early: Vec<_> = (0..1000).map(|_| Box::pin(reloads.reload(patience))).collect();
        assert!(early.iter_mut().all(|wish| wish.now_or_never().is_none()));

        wishes.next().await;
        let mut late: Vec<_> = (0..1000).map(|_| Box::pin(reloads.reload(patience))).collect();
        assert!(late.iter_mut().all(|wish| wish.now_or_never().is_none()));
        wishes.tell(Ok(Reloaded::default()));

        for wish in early {
            assert!(wish.await.unwrap().is_ok());
        }
        assert!(late.iter_mut().all(|wish| wish.now_or_never().is_none()), "theirs has not begun");
        wishes.next().await;
        wishes.tell(Err(NotReloaded { is_of_the_configuration: true, problems: "odd".to_owned() }));
        for wish in late {
            assert!(wish.await.unwrap().is_err());
        }
        assert!(wishes.next().now_or_never().is_none(), "nobody wants another");
    }

    #[tokio::test(start_paused = true)]
    async fn reloads_keep_a_distance() {
        let (reloads, mut wishes) = channel();
        let began = tokio::time::Instant::now();
        for _ in 0..11 {
            reloads.want();
            wishes.next().await;
            wishes.tell(Ok(Reloaded::default()));
        }
        assert!(began.elapsed() >= 10 * PAUSE, "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_is_told_when_there_will_be_no_reload() {
        let (reloads, wishes) = channel();
        let mut waits = Box::pin(reloads.reload(Duration::from_secs(5)));
        assert!(waits.as_mut().now_or_never().is_none());
        drop(wishes);
        assert_eq!(waits.await.unwrap_err(), NotTold::Stopping);

        let (reloads, _wishes) = channel();
        assert_eq!(reloads.reload(Duration::from_secs(5)).await.unwrap_err(), NotTold::UnderWay);
    }
}
