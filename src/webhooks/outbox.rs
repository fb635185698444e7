//! The messages that wait for their delivery, and the counts of a webhook.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::telemetry::Event;

/// The most messages that wait.
const MAX_MESSAGES: usize = 1000;
/// The waits before the second and each further attempt.
const WAITS: [Duration; 6] = [
    Duration::from_secs(5),
    Duration::from_mins(5),
    Duration::from_mins(30),
    Duration::from_hours(2),
    Duration::from_hours(5),
    Duration::from_hours(10),
];
/// The longest wait that a receiver may ask for.
const MAX_WAIT: Duration = Duration::from_hours(24);

/// A message on its way.
#[derive(Clone, Debug)]
pub(super) struct Message {
    /// The same at every attempt.
    pub(super) id: String,
    pub(super) event: Arc<Event>,
    /// The attempts that have failed.
    failures: usize,
    due: Instant,
}

/// The messages of one webhook.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    queue: Mutex<Queue>,
    news: Notify,
    pub(super) delivered: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) gone: AtomicU64,
    pub(super) dropped: AtomicU64,
    is_ending: AtomicBool,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Message>,
    /// Whether a message is being delivered.
    is_delivering: bool,
    /// No attempt before this time.
    paused_until: Option<Instant>,
    /// The receiver does not exist any more.
    is_off: bool,
}

/// What became of a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Another attempt follows.
    Repeated,
    /// No further attempt follows.
    GivenUp,
}

impl Outbox {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a message; a full outbox drops the oldest one.
    pub(super) fn add(&self, id: String, event: Arc<Event>) {
        let mut queue = self.queue();
        if queue.is_off {
            drop(queue);
            self.drop_messages(1);
            return;
        }
        queue.waiting.push_back(Message { id, event, failures: 0, due: Instant::now() });
        self.shorten(&mut queue);
        drop(queue);
        self.news.notify_one();
    }

    fn shorten(&self, queue: &mut Queue) {
        while queue.waiting.len() > MAX_MESSAGES {
            queue.waiting.pop_front();
            self.drop_messages(1);
        }
    }

    fn drop_messages(&self, count: usize) {
        self.dropped.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// How many messages are not delivered yet.
    pub(super) fn queued(&self) -> usize {
        let queue = self.queue();
        queue.waiting.len() + usize::from(queue.is_delivering)
    }

    /// Waits for a message that is due. `None` at the end, once none waits.
    pub(super) async fn next(&self) -> Option<Message> {
        loop {
            let is_ending = self.is_ending.load(Ordering::Relaxed);
            let due = {
                let mut queue = self.queue();
                match queue.take(is_ending) {
                    Ok(message) => return Some(message),
                    Err(_) if is_ending => return None,
                    Err(due) => due,
                }
            };
            match due {
                Some(due) => tokio::select! {
                    () = sleep_until(due) => {}
                    () = self.news.notified() => {}
                },
                None => self.news.notified().await,
            }
        }
    }

    /// The message was delivered.
    pub(super) fn was_delivered(&self) {
        self.delivered.fetch_add(1, Ordering::Relaxed);
        self.queue().is_delivering = false;
    }

    /// The attempt failed; the receiver may ask to wait. `chance` is from 0 to 1.
    pub(super) fn has_failed(&self, mut message: Message, asked: Option<Duration>, chance: f64) -> Next {
        self.failed.fetch_add(1, Ordering::Relaxed);
        let mut queue = self.queue();
        queue.is_delivering = false;
        let now = Instant::now();
        let asked = asked.map(|asked| asked.min(MAX_WAIT));
        queue.paused_until = asked.map(|asked| now + asked);
        let wait = WAITS.get(message.failures).filter(|_| !self.is_ending.load(Ordering::Relaxed));
        let Some(wait) = wait else {
            drop(queue);
            self.drop_messages(1);
            return Next::GivenUp;
        };
        message.failures += 1;
        message.due = now + wait.mul_f64(1.0 + 0.2 * chance).max(asked.unwrap_or_default());
        // Older than what has come meanwhile.
        queue.waiting.push_front(message);
        self.shorten(&mut queue);
        Next::Repeated
    }

    /// The receiver does not exist any more: nothing is sent until it is switched on.
    pub(super) fn switch_off(&self) {
        self.gone.fetch_add(1, Ordering::Relaxed);
        let mut queue = self.queue();
        (queue.is_off, queue.is_delivering) = (true, false);
        let count = queue.waiting.drain(..).count() + 1;
        drop(queue);
        self.drop_messages(count);
    }

    /// Sends messages again.
    pub(super) fn switch_on(&self) {
        let mut queue = self.queue();
        (queue.is_off, queue.paused_until) = (false, None);
    }

    /// Lets each waiting message have one more attempt, at once.
    pub(super) fn end(&self) {
        self.is_ending.store(true, Ordering::Relaxed);
        self.news.notify_one();
    }
}

impl Queue {
    /// Takes the message that is due first. Otherwise answers when one is due, if any is.
    fn take(&mut self, is_ending: bool) -> Result<Message, Option<Instant>> {
        let first = self.waiting.iter().enumerate().min_by_key(|(_, message)| message.due);
        let Some((index, due)) = first.map(|(index, message)| (index, message.due)) else { return Err(None) };
        let due = self.paused_until.map_or(due, |paused| paused.max(due));
        if due > Instant::now() && !is_ending {
            return Err(Some(due));
        }
        self.is_delivering = true;
        self.waiting.remove(index).ok_or(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::event::Name;

    fn add(outbox: &Outbox, id: &str) {
        outbox.add(id.to_owned(), Arc::new(Event::now(Name::Recovered)));
    }

    fn counts(outbox: &Outbox) -> [u64; 4] {
        [&outbox.delivered, &outbox.failed, &outbox.gone, &outbox.dropped]
            .map(|count| count.load(Ordering::Relaxed))
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_is_repeated_after_growing_waits_and_given_up_at_last() {
        let outbox = Outbox::default();
        add(&outbox, "a");
        let began = Instant::now();
        let mut times = Vec::new();
        loop {
            let message = outbox.next().await.unwrap();
            assert_eq!((message.id.as_str(), outbox.queued()), ("a", 1));
            times.push(began.elapsed().as_secs());
            if outbox.has_failed(message, None, 0.0) == Next::GivenUp {
                break;
            }
        }
        assert_eq!(times, [0, 5, 305, 2105, 9305, 27_305, 63_305]);
        assert_eq!((counts(&outbox), outbox.queued()), ([0, 7, 0, 1], 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_receiver_that_asks_to_wait_gets_nothing_meanwhile() {
        let outbox = Outbox::default();
        add(&outbox, "a");
        let message = outbox.next().await.unwrap();
        outbox.has_failed(message, Some(Duration::from_mins(1)), 0.0);
        add(&outbox, "b");
        let began = Instant::now();
        for _ in 0..2 {
            outbox.next().await.unwrap();
            outbox.was_delivered();
            assert!((60..62).contains(&began.elapsed().as_secs()));
        }
        assert_eq!(counts(&outbox), [2, 1, 0, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn other_messages_do_not_wait_for_one_that_failed() {
        let outbox = Outbox::default();
        add(&outbox, "a");
        let message = outbox.next().await.unwrap();
        outbox.has_failed(message, None, 1.0);
        add(&outbox, "b");
        assert_eq!(outbox.next().await.unwrap().id, "b");
        outbox.was_delivered();
        let began = Instant::now();
        assert_eq!(outbox.next().await.unwrap().id, "a");
        assert_eq!(began.elapsed().as_secs(), 6);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_outbox_drops_the_oldest_and_counts_it() {
        let outbox = Outbox::default();
        for number in 0..MAX_MESSAGES + 3 {
            add(&outbox, &number.to_string());
        }
        assert_eq!((outbox.queued(), counts(&outbox)[3]), (MAX_MESSAGES, 3));
        assert_eq!(outbox.next().await.unwrap().id, "3");
    }

    #[tokio::test(start_paused = true)]
    async fn a_receiver_that_is_gone_gets_nothing_until_it_is_switched_on() {
        let outbox = Outbox::default();
        add(&outbox, "a");
        add(&outbox, "b");
        outbox.next().await.unwrap();
        outbox.switch_off();
        add(&outbox, "c");
        assert_eq!((outbox.queued(), counts(&outbox)), (0, [0, 0, 1, 3]));
        outbox.switch_on();
        add(&outbox, "d");
        assert_eq!(outbox.next().await.unwrap().id, "d");
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_end_each_message_has_one_attempt_at_once() {
        let outbox = Outbox::default();
        add(&outbox, "a");
        let message = outbox.next().await.unwrap();
        outbox.has_failed(message, Some(Duration::from_hours(1)), 0.0);
        add(&outbox, "b");
        outbox.end();
        let began = Instant::now();
        while let Some(message) = outbox.next().await {
            assert_eq!(outbox.has_failed(message, None, 0.0), Next::GivenUp);
        }
        assert_eq!((began.elapsed(), counts(&outbox)), (Duration::ZERO, [0, 3, 0, 2]));
    }
}
