//! `[shared]`: the store through which replicas share tokens.

use std::time::Duration;

use url::Url;

use super::secret::Secret;
use super::state_key::StateKey;

/// The store through which replicas share tokens, and how they do.
#[derive(Clone, Debug, PartialEq)]
pub struct Shared {
    /// `redis://` or `rediss://`, without user information.
    pub url: Url,
    /// The user; `None` for the default one.
    pub username: Option<String>,
    /// The password.
    pub password: Option<Secret>,
    /// The authorities to trust instead of the system's, in PEM.
    pub authorities: Option<Vec<u8>>,
    /// The host and port of each sentinel.
    pub sentinels: Vec<(String, u16)>,
    /// The name of the primary that the sentinels know.
    pub sentinel_master: String,
    /// The key that seals what is shared.
    pub key: Secret,
    /// Keys that were in use before.
    pub previous_keys: Vec<Secret>,
    /// The beginning of all keys in the store.
    pub prefix: String,
    /// The longest time of an operation.
    pub operation_timeout: Duration,
    /// The number of replicas that is assumed while the store is away; 0 for the number that was counted last.
    pub expected_replicas: u32,
    /// What a grant that rotates its refresh token does while the store is away.
    pub when_away: WhenAway,
}

/// What a grant that rotates its refresh token does while the store is away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenAway {
    /// Uses the access token to its end, and makes no token request.
    #[default]
    Stop,
    /// Goes on alone, where this replica made the latest token request.
    LastHolder,
}

impl Shared {
    /// The key that seals what is shared, then the previous ones.
    pub fn keys(&self) -> Vec<StateKey> {
        std::iter::once(&self.key).chain(&self.previous_keys).map(StateKey::checked).collect()
    }
}
