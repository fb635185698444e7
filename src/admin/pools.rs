//! The pools in `/status`.

use serde::{Deserialize, Serialize};

use super::status::Time;

/// A pool that routes use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// The name.
    pub name: String,
    /// The names of the routes that use the pool.
    pub routes: Vec<String>,
    /// The credentials, in the order of the configuration.
    pub members: Vec<Member>,
}

/// A credential of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The credential.
    pub credential: String,
    /// Whether each route of the pool uses the credential now.
    pub usable: bool,
    /// Why a route does not: `no_token`, `held`, `token_rejected` or `throttled`.
    pub reason: Option<String>,
    /// When the reason ends.
    pub until: Option<Time>,
    /// The requests that may still go out to the API now; `null` without `api_quota`.
    pub left: Option<u64>,
    /// The requests that went out with the credential's tokens since the start.
    pub requests: u64,
}

impl Member {
    /// The credential has no usable token.
    pub const NO_TOKEN: &str = "no_token";
    /// The API rejects the credential's fresh tokens too.
    pub const HELD: &str = "held";
    /// The API has rejected the latest token, and the next one is not there yet.
    pub const TOKEN_REJECTED: &str = "token_rejected";
    /// The API refuses requests (429).
    pub const THROTTLED: &str = "throttled";
}

impl Pool {
    /// How many credentials are usable.
    pub fn usable(&self) -> usize {
        self.members.iter().filter(|member| member.usable).count()
    }
}
