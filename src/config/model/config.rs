//! The configuration as a whole.

use std::sync::Arc;

use super::admin::Admin;
use super::credential::Credential;
use super::log::Log;
use super::route::Route;
use super::server::Server;

/// A configuration that has been checked as a whole.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who may call, and within which limits.
    pub server: Server,
    /// The operator's own address.
    pub admin: Admin,
    /// The identities, by name.
    pub credentials: Vec<Arc<Credential>>,
    /// Which requests go where.
    pub routes: Vec<Route>,
    /// What is written of all this.
    pub log: Log,
}
