//! Webhooks: events as HTTP requests to receivers of the operator's choice.
//!
//! Each webhook has a bounded [`outbox`] and a task that delivers its messages, one at a time, and repeats failed attempts.
//! Taking an event never waits, so that no receiver delays a refresh. A message has the members of the audit line, and no
//! secret.

mod address;
mod delivery;
mod outbox;
mod payload;
mod selection;
mod signature;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{info, warn};
use uuid::Builder;

pub use self::delivery::WebhookError;
use self::delivery::{Attempt, Receiver};
use self::outbox::{Next, Outbox};
use self::selection::Selection;
use crate::clock::wall_clock;
use crate::config::Webhook;
use crate::telemetry::event::timestamp;
use crate::telemetry::{Event, Sink};
use crate::tls::client::Trust;

/// How long the last deliveries may take.
const LAST_DELIVERIES_TIMEOUT: Duration = Duration::from_secs(3);

/// All webhooks of the daemon.
#[derive(Debug)]
pub struct Webhooks {
    instance: String,
    hooks: ArcSwap<Vec<Arc<Hook>>>,
}

/// Receivers that are ready to be used.
#[derive(Debug)]
pub struct Receivers(Vec<Receiver>);

impl Receivers {
    /// The receivers of these webhooks.
    ///
    /// # Errors
    ///
    /// [`WebhookError`], with the name of the webhook.
    pub fn new(webhooks: &[Webhook], trust: &Trust) -> Result<Self, (String, WebhookError)> {
        let receiver = |webhook: &Webhook| {
            Receiver::new(webhook.clone(), trust).map_err(|error| (webhook.name.clone(), error))
        };
        webhooks.iter().map(receiver).collect::<Result<_, _>>().map(Self)
    }
}

/// A webhook, which outlives reloads that keep its name and its URL.
#[derive(Debug)]
struct Hook {
    receiver: ArcSwap<Receiver>,
    outbox: Outbox,
    selection: Mutex<Selection>,
    /// Delivers the messages; ends when dropped.
    task: Mutex<JoinSet<()>>,
}

/// A webhook as operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookStatus {
    /// The name, or the origin without one.
    pub name: String,
    /// The origin of the URL; the rest may be a secret.
    pub origin: String,
    /// Messages that the receiver has accepted.
    pub delivered: u64,
    /// Attempts that failed, without those that found the receiver gone.
    pub failed: u64,
    /// Attempts that found the receiver gone (410).
    pub gone: u64,
    /// Messages that were given up.
    pub dropped: u64,
    /// Messages that wait for their delivery.
    pub queued: usize,
}

impl WebhookStatus {
    /// The attempts by outcome, as the metrics have them.
    pub const fn outcomes(&self) -> [(&'static str, u64); 3] {
        [("delivered", self.delivered), ("failed", self.failed), ("gone", self.gone)]
    }
}

impl Webhooks {
    /// The webhooks of the daemon `instance`; none so far.
    pub fn new(instance: String) -> Self {
        Self { instance, hooks: ArcSwap::default() }
    }

    /// Delivers to these receivers from now on. A webhook with the name and URL of an earlier one continues it: with its
    /// waiting messages and its counts, and switched on again.
    pub fn change(&self, Receivers(receivers): Receivers) {
        let before = self.hooks.load_full();
        let hooks: Vec<_> = receivers.into_iter().map(|receiver| self.hook(receiver, &before)).collect();
        for gone in before.iter().filter(|hook| !hooks.iter().any(|other| Arc::ptr_eq(hook, other))) {
            drop(gone.take_task());
        }
        self.hooks.store(Arc::new(hooks));
    }

    fn hook(&self, receiver: Receiver, before: &[Arc<Hook>]) -> Arc<Hook> {
        let is_same = |hook: &&Arc<Hook>| {
            let earlier = hook.receiver.load();
            earlier.webhook.name == receiver.webhook.name && earlier.webhook.url == receiver.webhook.url
        };
        if let Some(hook) = before.iter().find(is_same) {
            hook.receiver.store(Arc::new(receiver));
            hook.outbox.switch_on();
            return Arc::clone(hook);
        }
        let hook = Arc::new(Hook {
            receiver: ArcSwap::from_pointee(receiver),
            outbox: Outbox::default(),
            selection: Mutex::default(),
            task: Mutex::default(),
        });
        let mut task = JoinSet::new();
        task.spawn(run(Arc::clone(&hook), self.instance.clone()));
        *hook.task.lock().unwrap_or_else(PoisonError::into_inner) = task;
        hook
    }

    /// The webhooks in the order of the configuration.
    pub fn status(&self) -> Vec<WebhookStatus> {
        self.hooks.load().iter().map(|hook| hook.status()).collect()
    }

    /// Makes one more attempt for each message that waits. Returns after a bounded time, whatever the receivers do.
    pub async fn finish(&self) {
        let hooks = self.hooks.load_full();
        for hook in hooks.iter() {
            hook.outbox.end();
        }
        let all = async {
            for mut task in hooks.iter().map(|hook| hook.take_task()) {
                while task.join_next().await.is_some() {}
            }
        };
        let _ = timeout(LAST_DELIVERIES_TIMEOUT, all).await;
        for WebhookStatus { name, queued, .. } in self.status().iter().filter(|status| status.queued > 0) {
            warn!(webhook = name, messages = queued, "webhook messages were not delivered before the stop");
        }
    }
}

impl Sink for Webhooks {
    fn take(&self, event: &Arc<Event>) {
        for hook in self.hooks.load().iter() {
            let receiver = hook.receiver.load();
            let mut selection = hook.selection.lock().unwrap_or_else(PoisonError::into_inner);
            if selection.takes(event, receiver.webhook.events.as_deref()) {
                hook.outbox.add(message_id(), Arc::clone(event));
            }
        }
    }
}

impl Hook {
    fn take_task(&self) -> JoinSet<()> {
        std::mem::take(&mut *self.task.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn status(&self) -> WebhookStatus {
        let receiver = self.receiver.load();
        let Outbox { delivered, failed, gone, dropped, .. } = &self.outbox;
        let [delivered, failed, gone, dropped] =
            [delivered, failed, gone, dropped].map(|count| count.load(Ordering::Relaxed));
        WebhookStatus {
            name: receiver.webhook.name.clone(),
            origin: receiver.webhook.url.origin(),
            delivered,
            failed,
            gone,
            dropped,
            queued: self.outbox.queued(),
        }
    }
}

/// Delivers the messages of a webhook, until the end.
async fn run(hook: Arc<Hook>, instance: String) {
    let mut is_failing = false;
    while let Some(message) = hook.outbox.next().await {
        let receiver = hook.receiver.load_full();
        let webhook = &receiver.webhook.name;
        match receiver.deliver(&message, &instance).await {
            Attempt::Delivered => {
                hook.outbox.was_delivered();
                if std::mem::take(&mut is_failing) {
                    info!(webhook, "webhook delivered again");
                }
            }
            Attempt::Gone => {
                hook.outbox.switch_off();
                warn!(webhook, "webhook switched off until the next reload: the receiver answered 410");
            }
            Attempt::Failed { why, asked } => {
                let id = message.id.clone();
                if !std::mem::replace(&mut is_failing, true) {
                    warn!(webhook, error = why, "webhook not delivered");
                }
                if hook.outbox.has_failed(message, asked, fastrand::f64()) == Next::GivenUp {
                    warn!(webhook, id, error = why, "webhook message given up");
                }
            }
        }
    }
}

/// A new identifier of a message: a UUID of version 7.
fn message_id() -> String {
    let mut random = [0; 10];
    fastrand::fill(&mut random);
    let now: Timestamp = timestamp(wall_clock());
    let millis = u64::try_from(now.as_millisecond()).unwrap_or_default();
    format!("msg_{}", Builder::from_unix_timestamp_millis(millis, &random).into_uuid().simple())
}
