//! The store that replicas share: its connection, and the task that counts the replicas.

use tokio::task::JoinSet;

use crate::clock::Clock;
use crate::config::Config;
use crate::telemetry::Events;
use crate::token::replicas::Shared;

/// Why the store cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SharedError {
    /// The file of the certificate authorities cannot be read.
    #[error("the certificate authorities of the shared store cannot be read")]
    Authorities(#[source] std::io::Error),
    /// The address is none.
    #[cfg(feature = "redis")]
    #[error("the address of the shared store is not usable")]
    Address(#[source] crate::token::replicas::redis::IllegalAddress),
}

/// Whether the store could be set up. Does not connect.
#[cfg_attr(
    not(feature = "redis"),
    expect(clippy::unnecessary_wraps, reason = "fails with the feature alone")
)]
pub(super) fn check(config: &Config) -> Result<(), SharedError> {
    #[cfg(feature = "redis")]
    if let Some(shared) = &config.shared {
        built::address(shared)?;
    }
    #[cfg(not(feature = "redis"))]
    let _ = config;
    Ok(())
}

/// The handle of the store, which connects at once; `None` without replicas.
#[cfg_attr(
    not(feature = "redis"),
    expect(clippy::unnecessary_wraps, reason = "fails with the feature alone")
)]
pub(super) fn connect(
    config: &Config,
    instance: &str,
    events: &Events,
    clock: Clock,
    tasks: &mut JoinSet<&'static str>,
) -> Result<Option<Shared>, SharedError> {
    #[cfg(feature = "redis")]
    if let Some(shared) = &config.shared {
        let shared = built::connect(shared, instance, events, clock)?;
        let beating = shared.clone();
        tasks.spawn(async move {
            beating.beat().await;
            "the heartbeat of this replica"
        });
        return Ok(Some(shared));
    }
    #[cfg(not(feature = "redis"))]
    let _ = (config, instance, events, clock, tasks);
    Ok(None)
}

#[cfg(feature = "redis")]
mod built {
    use super::SharedError;
    use crate::clock::Clock;
    use crate::config;
    use crate::telemetry::Events;
    use crate::token::replicas::redis::{Address, RedisStore};
    use crate::token::replicas::{Settings, Shared};

    pub(super) fn address(shared: &config::Shared) -> Result<Address, SharedError> {
        let roots = shared.ca_file.as_ref().map(std::fs::read).transpose();
        let address = Address {
            url: shared.url.to_string(),
            username: shared.username.clone(),
            password: shared.password.as_ref().map(|password| password.initial().clone()),
            roots: roots.map_err(SharedError::Authorities)?,
            sentinels: shared.sentinels.clone(),
            sentinel_primary: shared.sentinel_master.clone(),
        };
        address.check().map_err(SharedError::Address)?;
        Ok(address)
    }

    pub(super) fn connect(
        shared: &config::Shared,
        instance: &str,
        events: &Events,
        clock: Clock,
    ) -> Result<Shared, SharedError> {
        let store = RedisStore::new(address(shared)?, &shared.prefix, shared.operation_timeout);
        let settings = Settings {
            keys: config::shared_keys(shared),
            expected_replicas: shared.expected_replicas.into(),
            when_away: shared.when_away,
        };
        Ok(Shared::new(Box::new(store), settings, instance.to_owned(), events.clone(), clock))
    }
}
