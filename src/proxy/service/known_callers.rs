//! The caller of a request among the configured callers, and what this worker counts of each.

use std::rc::Rc;
use std::sync::Arc;

use http::Request;

use super::exchange::{Exchange, Identity};
use super::outcome::CallerLabels;
use crate::proxy::callers::{Callers, Identified, Unidentified};
use crate::telemetry::metrics::callers::OTHER_CALLER;
use crate::telemetry::metrics::traffic::Meter;

/// The callers as one worker knows them.
pub(super) struct KnownCallers {
    callers: Arc<Callers>,
    /// In the order of the indices.
    labels: Vec<Rc<CallerLabels>>,
    unidentified: Rc<CallerLabels>,
}

impl KnownCallers {
    /// The callers of a configuration, whose requests `meter` counts.
    pub(super) fn new(callers: Arc<Callers>, meter: &Meter) -> Self {
        let labels = |name: &String| CallerLabels { name: Some(name.clone()), meter: meter.caller(name) };
        let labels = callers.names().iter().map(labels).map(Rc::new).collect();
        let unidentified = Rc::new(CallerLabels { name: None, meter: meter.caller(OTHER_CALLER) });
        Self { callers, labels, unidentified }
    }

    /// Finds out whose a request is. A request from an address that is not allowed is nobody's.
    ///
    /// Nothing is awaited before this: what the connection keeps belongs to the configuration in force.
    pub(super) fn identify<B>(&self, request: &Request<B>, exchange: &mut Exchange) {
        let peer = exchange.caller.peer.get();
        let caller = if peer.is_allowed {
            let connection = exchange.caller.identified(|names| self.callers.of_connection(names, &peer));
            let forwarded = exchange.forwarded_address();
            self.callers.identify(request.headers(), request.uri().query(), connection, forwarded)
        } else {
            Err(Unidentified::Unknown)
        };
        let labels = match caller {
            Ok(Identified { caller, .. }) => &self.labels[caller.get()],
            Err(_) => &self.unidentified,
        };
        exchange.identity = Some(Identity { caller, labels: Rc::clone(labels) });
    }
}
