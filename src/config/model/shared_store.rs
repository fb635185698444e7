//! `[shared]`: the store through which replicas share tokens.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::ExposeSecret;
use url::Url;

use super::secret::Secret;

/// The store through which replicas share tokens, and how they do.
#[derive(Clone, Debug)]
pub struct Shared {
    /// `redis://` or `rediss://`, without user information.
    pub url: Url,
    /// The user; `None` for the default one.
    pub username: Option<String>,
    /// The password.
    pub password: Option<Secret>,
    /// PEM file with the authorities to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// The sentinels, as `HOST:PORT`.
    pub sentinels: Vec<String>,
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

impl PartialEq for Shared {
    fn eq(&self, other: &Self) -> bool {
        let secrets = |shared: &Self| {
            let secrets = shared.password.iter().chain([&shared.key]).chain(&shared.previous_keys);
            secrets.map(|secret| secret.initial().expose_secret().to_owned()).collect::<Vec<_>>()
        };
        let settings = |shared: &Self| {
            let Self { url, username, ca_file, sentinels, sentinel_master, prefix, .. } = shared.clone();
            (url, username, ca_file, sentinels, sentinel_master, prefix)
        };
        let rest = |shared: &Self| (shared.operation_timeout, shared.expected_replicas, shared.when_away);
        settings(self) == settings(other) && rest(self) == rest(other) && secrets(self) == secrets(other)
    }
}
