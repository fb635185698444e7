//! The store that replicas share: its connection, and the task that counts the replicas.

use tokio::task::JoinSet;

use crate::clock::Clock;
use crate::config::Config;
#[cfg(feature = "redis")]
use crate::config::Shared as Settled;
use crate::telemetry::Events;
use crate::token::replicas::Shared;
#[cfg(feature = "redis")]
use crate::token::replicas::redis::Address;

/// The handle of the store, which connects at once; `None` without replicas.
#[cfg(feature = "redis")]
pub(super) fn connect(
    config: &Config,
    instance: &str,
    events: &Events,
    clock: Clock,
    tasks: &mut JoinSet<&'static str>,
) -> Option<Shared> {
    use crate::token::replicas::Settings;
    use crate::token::replicas::redis::RedisStore;

    let shared = config.shared.as_ref()?;
    let store = RedisStore::new(address(shared), &shared.prefix, shared.operation_timeout);
    let settings = Settings {
        keys: shared.keys(),
        expected_replicas: shared.expected_replicas.into(),
        when_away: shared.when_away,
    };
    let shared = Shared::new(Box::new(store), settings, instance.to_owned(), events.clone(), clock);
    let beating = shared.clone();
    tasks.spawn(async move {
        beating.beat().await;
        "the heartbeat of this replica"
    });
    Some(shared)
}

/// The store's address, user and password.
#[cfg(feature = "redis")]
pub(crate) fn address(shared: &Settled) -> Address {
    Address {
        url: shared.url.to_string(),
        username: shared.username.clone(),
        password: shared.password.as_ref().map(|password| password.initial().clone()),
        roots: shared.authorities.clone(),
        sentinels: shared.sentinels.clone(),
        sentinel_primary: shared.sentinel_master.clone(),
    }
}

/// A build without the feature `redis` accepts no `[shared]`.
#[cfg(not(feature = "redis"))]
pub(super) const fn connect(
    _: &Config,
    _: &str,
    _: &Events,
    _: Clock,
    _: &mut JoinSet<&'static str>,
) -> Option<Shared> {
    None
}
