//! Requests that were refused, by caller and code: reported once a minute with their number.
//!
//! Each worker counts for itself and hands over its counts in its sweeps. The first refusal of a caller for a code is reported
//! at once, further ones after a minute.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::event::{Event, Name};
use super::events::Events;

/// The least time between two events about a caller and a code.
const REPORT_INTERVAL: Duration = Duration::from_mins(1);
/// How often it is looked which events are due.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// The most callers and codes that are told apart.
const MAX_CALLERS: usize = 4096;
/// The most counts that wait to be taken.
const QUEUE: usize = 1024;

/// Who was refused, and why.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Refused {
    /// The caller's address; `None` for a Unix socket, or for callers that are not told apart.
    pub address: Option<IpAddr>,
    /// The caller's name.
    pub caller: Option<Box<str>>,
    /// The code of the refusals.
    pub code: &'static str,
}

/// Where workers hand over their counts.
pub type Counts = Sender<(Refused, u64)>;

/// Refusals that are not reported yet.
#[derive(Debug)]
struct Pending {
    count: u64,
    reported: Option<Instant>,
}

/// Makes events from the counts of workers.
#[derive(Debug)]
pub struct RefusedCallers {
    counts: Receiver<(Refused, u64)>,
    pending: HashMap<Refused, Pending>,
    events: Events,
}

impl RefusedCallers {
    /// A place for the counts of workers, and what makes events from them.
    pub fn new(events: Events) -> (Counts, Self) {
        let (sender, counts) = channel(QUEUE);
        (sender, Self { counts, pending: HashMap::new(), events })
    }

    /// Makes events until asked to end; at the end of all counts so far.
    pub async fn run(mut self, mut end: oneshot::Receiver<()>) {
        let mut looks = interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some((refused, count)) = self.counts.recv() => self.add(refused, count),
                _ = looks.tick() => self.report(false),
                _ = &mut end => break,
            }
        }
        while let Ok((refused, count)) = self.counts.try_recv() {
            self.add(refused, count);
        }
        self.report(true);
    }

    fn add(&mut self, mut refused: Refused, count: u64) {
        if self.pending.len() >= MAX_CALLERS && !self.pending.contains_key(&refused) {
            (refused.address, refused.caller) = (None, None);
        }
        self.pending.entry(refused).or_insert(Pending { count: 0, reported: None }).count += count;
    }

    /// Makes the events that are due, and forgets callers that were not refused for a minute.
    fn report(&mut self, is_last: bool) {
        let (now, events) = (Instant::now(), &self.events);
        self.pending.retain(|refused, pending| {
            let is_due = pending.reported.is_none_or(|reported| now - reported >= REPORT_INTERVAL);
            if (is_due || is_last) && pending.count > 0 {
                events.record(event(refused, pending.count));
                (pending.count, pending.reported) = (0, Some(now));
                return true;
            }
            !is_due
        });
    }
}

fn event(refused: &Refused, count: u64) -> Event {
    Event {
        actor: refused.caller.as_deref().map(str::to_owned),
        client_address: refused.address,
        reason: Some(refused.code),
        detail: Some(format!("requests: {count}")),
        ..Event::now(Name::CallerRefused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(last: u8, code: &'static str) -> Refused {
        Refused { address: Some([192, 0, 2, last].into()), caller: None, code }
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_is_reported_once_a_minute_for_each_code() {
        let events = Events::default();
        let mut reader = events.subscribe();
        let (counts, callers) = RefusedCallers::new(events);
        let (end, ended) = oneshot::channel();
        let mut task = tokio::task::JoinSet::new();
        task.spawn(callers.run(ended));
        for (who, count) in [(refused(1, "a"), 2), (refused(1, "b"), 1), (refused(2, "a"), 1)] {
            counts.send((who, count)).await.unwrap();
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        let mut first: Vec<_> = std::iter::from_fn(|| reader.try_recv().ok())
            .map(|event| {
                (event.client_address.unwrap().to_string(), event.reason, event.detail.clone().unwrap())
            })
            .collect();
        first.sort();
        let expected =
            |address: &str, code, detail: &str| (address.to_owned(), Some(code), detail.to_owned());
        assert_eq!(
            first,
            [
                expected("192.0.2.1", "a", "requests: 2"),
                expected("192.0.2.1", "b", "requests: 1"),
                expected("192.0.2.2", "a", "requests: 1"),
            ]
        );

        for _ in 0..5 {
            counts.send((refused(1, "a"), 1)).await.unwrap();
        }
        tokio::time::sleep(Duration::from_secs(50)).await;
        assert!(reader.try_recv().is_err(), "within the minute");
        tokio::time::sleep(Duration::from_secs(15)).await;
        assert_eq!(reader.try_recv().unwrap().detail.as_deref(), Some("requests: 5"));

        counts.send((refused(1, "a"), 1)).await.unwrap();
        end.send(()).unwrap();
        task.join_next().await.unwrap().unwrap();
        assert_eq!(reader.try_recv().unwrap().detail.as_deref(), Some("requests: 1"), "at the end");
    }

    #[tokio::test(start_paused = true)]
    async fn many_callers_take_a_bounded_place() {
        let (_counts, mut callers) = RefusedCallers::new(Events::default());
        for number in 0..2 * u32::try_from(MAX_CALLERS).unwrap() {
            let address = Some(std::net::Ipv4Addr::from(number).into());
            callers.add(Refused { address, caller: None, code: "a" }, 1);
        }
        assert!(callers.pending.len() <= MAX_CALLERS + 1);
        callers.report(false);
        tokio::time::sleep(REPORT_INTERVAL).await;
        callers.report(false);
        assert!(callers.pending.is_empty());
    }
}
