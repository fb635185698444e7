//! The one place through which events go to their readers.
//!
//! [`Events`] outlives every reload: it keeps the [history](super::history) of each credential by name, so that neither
//! a reload nor another refresher resets a count.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::broadcast;

use super::event::{Event, Name};
use super::history::History;
use super::spans::Spans;

/// How many events a slow reader of [`Events::subscribe`] may lag behind.
const SUBSCRIBED_EVENTS: usize = 256;

/// A reader of events that must not miss one, such as the audit trail or a webhook.
pub trait Sink: fmt::Debug + Send + Sync {
    /// Takes an event. Returns at once, whatever becomes of the event.
    fn take(&self, event: &Arc<Event>);
}

/// Hands events to their readers, and keeps the history of credentials.
#[derive(Clone, Debug)]
pub struct Events(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    instance: String,
    spans: Option<Spans>,
    sinks: ArcSwap<Vec<Arc<dyn Sink>>>,
    subscribers: broadcast::Sender<Arc<Event>>,
    histories: Mutex<BTreeMap<Arc<str>, Arc<History>>>,
    /// How many events of each name were recorded, in the order of [`Name::ALL`].
    recorded: [AtomicU64; Name::ALL.len()],
}

impl Default for Events {
    fn default() -> Self {
        Self::new(String::new())
    }
}

impl Events {
    /// The events of the daemon of this name, without readers but the log.
    pub fn new(instance: String) -> Self {
        Self::traced(instance, None)
    }

    /// As [`new`](Self::new), with spans of token requests.
    pub fn traced(instance: String, spans: Option<Spans>) -> Self {
        Self(Arc::new(Shared {
            instance,
            spans,
            sinks: ArcSwap::default(),
            subscribers: broadcast::channel(SUBSCRIBED_EVENTS).0,
            histories: Mutex::default(),
            recorded: Default::default(),
        }))
    }

    /// The daemon's name in events.
    pub fn instance(&self) -> &str {
        &self.0.instance
    }

    /// Where the spans of token requests end; `None` without traces.
    pub fn spans(&self) -> Option<&Spans> {
        self.0.spans.as_ref()
    }

    /// Hands an event to all readers. Waits for none of them.
    pub fn record(&self, event: Event) {
        event.log();
        self.record_unlogged(event);
    }

    /// Hands an event to all readers but the log, which has a line of its own about it.
    pub fn record_unlogged(&self, event: Event) {
        let event = Arc::new(event);
        self.0.recorded[event.name as usize].fetch_add(1, Ordering::Relaxed);
        for sink in self.0.sinks.load().iter() {
            sink.take(&event);
        }
        // An error means that nobody has subscribed.
        let _ = self.0.subscribers.send(event);
    }

    /// How many events of this name were recorded since the start.
    pub fn recorded(&self, name: Name) -> u64 {
        self.0.recorded[name as usize].load(Ordering::Relaxed)
    }

    /// Replaces the sinks.
    pub fn set_sinks(&self, sinks: Vec<Arc<dyn Sink>>) {
        self.0.sinks.store(Arc::new(sinks));
    }

    /// The events from now on. A subscriber that lags behind misses events.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Event>> {
        self.0.subscribers.subscribe()
    }

    /// The history of the credential of this name, which begins with the first call.
    pub fn history(&self, credential: &str) -> Arc<History> {
        let mut histories = self.0.histories.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(histories.entry(Arc::from(credential)).or_default())
    }

    /// Forgets the histories of all credentials but these.
    pub fn keep_only<'a>(&self, credentials: impl Iterator<Item = &'a str>) {
        let names: Vec<&str> = credentials.collect();
        let mut histories = self.0.histories.lock().unwrap_or_else(PoisonError::into_inner);
        histories.retain(|name, _| names.contains(&&**name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::event::Name;

    #[derive(Debug, Default)]
    struct Taken(Mutex<Vec<Name>>);

    impl Sink for Taken {
        fn take(&self, event: &Arc<Event>) {
            self.0.lock().unwrap().push(event.name);
        }
    }

    #[test]
    fn an_event_reaches_every_reader() {
        let events = Events::new("bearerd-1".to_owned());
        let sink = Arc::new(Taken::default());
        events.record(Event::now(Name::DaemonStarted));
        events.set_sinks(vec![Arc::clone(&sink) as _]);
        let mut subscriber = events.subscribe();

        events.record(Event::now(Name::ConfigurationReloaded));

        assert_eq!(*sink.0.lock().unwrap(), [Name::ConfigurationReloaded]);
        assert_eq!(subscriber.try_recv().unwrap().name, Name::ConfigurationReloaded);
        assert!(subscriber.try_recv().is_err());
    }

    #[test]
    fn a_history_outlives_its_refresher_and_ends_with_its_credential() {
        let events = Events::default();
        let first = events.history("a");
        events.history("b");
        assert!(Arc::ptr_eq(&first, &events.history("a")));

        events.keep_only(["a"].into_iter());
        assert!(Arc::ptr_eq(&first, &events.history("a")));
        events.keep_only(std::iter::empty());
        assert!(!Arc::ptr_eq(&first, &events.history("a")));
    }
}
