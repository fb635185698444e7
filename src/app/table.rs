//! Builds the routing table of a configuration, with the upstreams and discoveries of its routes.

use std::sync::Arc;

use super::StartError;
use super::upstreams::{Discovering, InForce, Upstreams};
use crate::clock::Clock;
use crate::config;
use crate::config::Config;
use crate::proxy::limits::slots::Seats;
use crate::proxy::route::{Route, Table};
use crate::tls::client::Trust;
use crate::token::TokenSource;

pub(super) struct Served {
    pub(super) table: Table,
    pub(super) upstreams: InForce,
    /// Discoveries to be started.
    pub(super) discoveries: Vec<Discovering>,
    /// Credentials whose discoveries go on.
    pub(super) discovered: Vec<String>,
}

/// Builds the routing table, with whatever of the one `before` can stay.
///
/// # Errors
///
/// [`StartError`]: an upstream cannot be set up, and nothing has changed.
pub(super) fn serve(
    config: &Config,
    trust: &Trust,
    sources: &[TokenSource],
    (clock, descriptors): (Clock, &Arc<Seats>),
    (before, table_before): (&InForce, Option<&Table>),
) -> Result<Served, StartError> {
    let mut table = Table::default();
    let has_named_callers = config.routes.iter().any(|route| !route.callers.is_empty());
    let routes = (config.routes.as_slice(), before);
    let mut upstreams = Upstreams::new(trust, sources, clock, Arc::clone(descriptors), routes);
    for route in &config.routes {
        let upstream = upstreams.of(route)?;
        let token = route
            .credential
            .as_ref()
            .and_then(|credential| sources.iter().find(|source| source.name() == credential.name).cloned());
        let (host, path) = (route.host.as_deref(), route.path.as_str());
        let must_be_plain = has_named_callers || config.routes.iter().any(|other| is_behind(other, route));
        let entry = Route::new(route, upstream, token, must_be_plain);
        table.add(host, path, entry.remembering(table_before.and_then(|table| table.at(host, path))));
    }
    let (upstreams, discoveries, discovered) = upstreams.into_parts();
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
