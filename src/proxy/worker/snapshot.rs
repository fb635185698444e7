//! The configuration in force on a worker: routes, upstreams and limits, replaced as one by a reload.
//!
//! A request uses the [`Service`] that is in force at its beginning to its end. An upstream that the next routing table has
//! too keeps its pool; each connection of any other upstream ends with its last request.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::config::{Http1Options, Limits};
use crate::proxy::body::replay::AttemptBody;
use crate::proxy::downstream::protocol::End;
use crate::proxy::downstream::request_body::ClientBody;
use crate::proxy::downstream::serve::{Answer, Downstream, Serve};
use crate::proxy::downstream::state::ClientConnection;
use crate::proxy::service::Service;
use crate::proxy::service::response::ResponseBody;
use crate::proxy::service::settings::ServiceSettings;
use crate::proxy::upstream::Upstream;
use crate::proxy::upstream::pool::Pool;
use crate::telemetry::metrics::traffic::Meter;

type WorkersPool = Pool<AttemptBody<ClientBody>>;

/// A configuration for a worker.
#[derive(Debug)]
pub struct Configuration {
    /// The number of the worker, from 0.
    pub worker: usize,
    /// The settings that all workers share.
    pub service_settings: Arc<ServiceSettings>,
    /// The upstreams, in the order of their indices.
    pub upstreams: Vec<Arc<Upstream>>,
}

/// A reload on a worker.
#[derive(Debug)]
pub struct Change {
    /// The new configuration.
    pub configuration: Configuration,
    /// The numbers of all listening sockets from now on. A connection with any other number ends gracefully.
    pub listen_sockets: Vec<u32>,
    /// Resolves once the worker serves by the change.
    pub done: oneshot::Sender<()>,
}

/// The configuration in force on one worker, with a connection pool for each upstream.
pub struct Snapshot {
    service: RefCell<Rc<Service>>,
    /// The listening sockets of the last change; `None`, for all listening sockets, before the first change.
    listen_sockets: RefCell<Option<Vec<u32>>>,
}

fn set_header_case(pools: &[Rc<WorkersPool>], settings: &ServiceSettings) {
    for pool in pools {
        pool.set_header_case(settings.http1.header_case);
    }
}

impl Snapshot {
    /// The configuration at the start.
    pub fn new(configuration: Configuration) -> Self {
        let Configuration { worker, service_settings, upstreams } = configuration;
        let pools: Vec<_> = upstreams.into_iter().map(Pool::new).collect();
        set_header_case(&pools, &service_settings);
        Self {
            service: RefCell::new(Rc::new(Service::new(service_settings, worker, pools))),
            listen_sockets: RefCell::default(),
        }
    }

    fn service(&self) -> Rc<Service> {
        Rc::clone(&self.service.borrow())
    }

    /// The shortest response timeout of a route.
    pub fn shortest_timeout(&self) -> Option<Duration> {
        self.service().shared.table.routes().iter().map(|route| route.timeout).min()
    }

    /// The counts of this worker.
    pub fn meter(&self) -> Rc<Meter> {
        Rc::clone(&self.service.borrow().meter)
    }

    /// Puts another configuration in force, with the numbers of all listening sockets from now on.
    pub fn change(&self, configuration: Configuration, listen_sockets: Vec<u32>) {
        let Configuration { worker, service_settings, upstreams } = configuration;
        let before = self.service();
        let mut pools: Vec<Rc<WorkersPool>> = Vec::new();
        for upstream in upstreams {
            let mut known = before.pools.iter().chain(&pools);
            let same = known.find(|pool| Arc::ptr_eq(&pool.upstream, &upstream)).map(Rc::clone);
            pools.push(same.unwrap_or_else(|| Pool::new(upstream)));
        }
        set_header_case(&pools, &service_settings);
        let is_gone = |pool: &&Rc<WorkersPool>| !pools.iter().any(|other| Rc::ptr_eq(pool, other));
        let gone: Vec<_> = before.pools.iter().filter(is_gone).map(Rc::clone).collect();
        let service = Service::new(service_settings, worker, pools).continuing(&before);
        *self.service.borrow_mut() = Rc::new(service);
        *self.listen_sockets.borrow_mut() = Some(listen_sockets);
        for pool in gone {
            pool.retire();
        }
    }

    /// Judges a connection's peer by the configuration in force. If its listening socket is closed, it ends gracefully.
    pub fn judge(&self, client: &ClientConnection) {
        let peer = self.service().shared.networks.judge_again(client.peer.get());
        client.judged(peer);
        if self.listen_sockets.borrow().as_ref().is_some_and(|all| !all.contains(&peer.listen_socket)) {
            client.end(End::Gracefully);
        }
    }

    /// Ends connections to upstreams that have been idle for too long, and moves the circuit breakers' windows on.
    pub fn sweep(&self, now: Instant) {
        let service = self.service();
        service.sweep();
        for pool in &service.pools {
            pool.reap(now);
            pool.upstream.breaker.tick();
        }
    }
}

impl Serve for Snapshot {
    type Body = ResponseBody;

    fn limits(&self) -> Arc<Limits> {
        Arc::clone(&self.service().shared.limits)
    }

    fn http1(&self) -> Http1Options {
        self.service().shared.http1
    }

    fn answer(&self, request: Request<ClientBody>, downstream: Downstream) -> Answer<ResponseBody> {
        self.service().answer(request, downstream)
    }
}
