//! The checked configuration.

use std::sync::Arc;

use super::admin::{Admin, Health};
use super::audit::Audit;
use super::caller::Caller;
use super::credential::Credential;
use super::log::Log;
use super::pool::Pool;
use super::route::Route;
use super::server::Server;
use super::shared_store::Shared;
use super::tracing::Tracing;
use super::webhook::Webhook;

/// A checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The listeners, the requirements on callers, and the limits.
    pub server: Server,
    /// The listener of health checks and metrics alone.
    pub health: Health,
    /// The admin listener.
    pub admin: Admin,
    /// The applications that call, in the order of their names.
    pub callers: Vec<Caller>,
    /// The pools, in the order of their names.
    pub pools: Vec<Arc<Pool>>,
    /// The store through which replicas share tokens; `None` without replicas.
    pub shared: Option<Shared>,
    /// The credentials, in the order of their names.
    pub credentials: Vec<Arc<Credential>>,
    /// The routes, in the order of the file.
    pub routes: Vec<Route>,
    /// The settings of the log.
    pub log: Log,
    /// The settings of the audit trail.
    pub audit: Audit,
    /// The webhooks, in the order of the file.
    pub webhooks: Vec<Webhook>,
    /// The settings of traces; `None` if there are none.
    pub tracing: Option<Tracing>,
}
