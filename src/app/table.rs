//! Builds the routing table of a configuration, with the upstreams and discoveries of its routes.

use std::sync::Arc;

use super::StartError;
use super::upstreams::{Continued, Discovering, InForce, Resources, Upstreams};

use crate::config;
use crate::config::{Config, Credential};
use crate::proxy::route::{Route, Table};

pub(super) struct Served {
    pub(super) table: Table,
    pub(super) upstreams: InForce,
    /// Discoveries to be started.
    pub(super) discoveries: Vec<Discovering>,
    /// Discoveries that continue.
    pub(super) discovered: Vec<Continued>,
}

/// Builds the routing table, and keeps the upstreams and routes in force that the configuration leaves unchanged.
///
/// # Errors
///
/// [`StartError`]: an upstream cannot be set up, and nothing has changed.
pub(super) fn serve(
    config: &Config,
    resources: Resources<'_>,
    in_force: &InForce,
    previous: Option<&Table>,
) -> Result<Served, StartError> {
    let mut table = Table::default();
    let has_named_callers = config.routes.iter().any(|route| !route.callers.is_everyone());
    let mut upstreams = Upstreams::new(resources, &config.routes, in_force);
    for route in &config.routes {
        let upstream = upstreams.of(route)?;
        let source = |credential: &Arc<Credential>| {
            resources.sources.iter().find(|source| source.name() == credential.name).cloned()
        };
        let member = |credential: &Arc<Credential>| {
            Some((source(credential)?, resources.budgets.of(&credential.name).cloned()))
        };
        let members = route.credentials().iter().filter_map(member);
        let (host, path) = (route.host.as_deref(), route.path.as_str());
        let must_be_plain = has_named_callers || config.routes.iter().any(|other| is_behind(other, route));
        let entry = Route::new(route, upstream, members, must_be_plain);
        table.add(host, path, entry.with_records_of(previous.and_then(|table| table.find(host, path))));
    }
    let (upstreams, discoveries, discovered) = upstreams.into_parts()?;
    Ok(Served { table, upstreams, discoveries, discovered })
}

/// Whether `other` has rules and takes paths that `route` would take without it. Another spelling of such a path must
/// not bypass the rules.
fn is_behind(other: &config::Route, route: &config::Route) -> bool {
    let has_rules = other.rules.allow.is_some() || !other.rules.deny.is_empty();
    let is_host = other.host.is_none() || route.host.is_none() || other.host == route.host;
    let rest = other.path.strip_prefix(&route.path).unwrap_or_default();
    let is_below = rest.starts_with('/') || (route.path.ends_with('/') && !rest.is_empty());
    has_rules && is_host && is_below
}
