//! A rolling update of `deploy/kubernetes`, as the kubelet and the nodes' proxies carry it out: a new pod is ready, an old pod
//! receives SIGTERM, and only later do the nodes stop sending connections to the old pod. Connections stay with their pod.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use super::fleet::{Fleet, Instance, Place};
use super::{Load, Way};
use crate::callers::Version;
use crate::report::Report;

/// How long nodes send new connections to a pod that is being stopped, and none to a pod that has become ready.
const ENDPOINT_DELAY: Duration = Duration::from_secs(3);
const PODS: usize = 2;

/// What the manifests say.
struct Manifest {
    /// Lines of `[server]`.
    server: String,
    grace: Duration,
}

impl Manifest {
    fn read() -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/kubernetes/base");
        let config = std::fs::read_to_string(folder.join("proxy.toml")).unwrap();
        let server = config.lines().filter(|line| line.starts_with("drain") || line.starts_with("workers"));
        let server: Vec<_> = server.collect();
        assert_eq!(server.len(), 3, "{server:?}");
        let deployment = std::fs::read_to_string(folder.join("deployment.yaml")).unwrap();
        let grace = deployment.split("terminationGracePeriodSeconds: ").nth(1).unwrap();
        let grace = grace.split_whitespace().next().unwrap().parse().unwrap();
        Self { server: server.join("\n"), grace: Duration::from_secs(grace) }
    }
}

/// A Service: the pods that nodes send new connections to.
#[derive(Default)]
struct Service(RefCell<Vec<SocketAddr>>);

impl Service {
    fn replace(&self, old: Place, new: Place) {
        let mut endpoints = self.0.borrow_mut();
        let one = endpoints.iter_mut().find(|endpoint| **endpoint == old.address).unwrap();
        *one = new.address;
    }

    fn any(&self) -> SocketAddr {
        let endpoints = self.0.borrow();
        endpoints[fastrand::usize(..endpoints.len())]
    }
}

pub(super) async fn run(bearerd: &Path, report: &mut Report) {
    let manifest = Manifest::read();
    let mut fleet = Fleet::start(bearerd, manifest.server).await;
    let (service, mut pods) = (Rc::new(Service::default()), Vec::<Instance>::new());
    for _ in 0..PODS {
        let pod = fleet.instance(Place::free()).await;
        service.0.borrow_mut().push(pod.place.address);
        pods.push(pod);
    }
    let way: Way = {
        let service = Rc::clone(&service);
        Rc::new(move || service.any())
    };
    let load = Load::start(&way, &[Version::Http1, Version::Http2]);
    tokio::time::sleep(Duration::from_secs(1)).await;

    let (mut ends, mut renewed) = (Vec::new(), Vec::new());
    for mut old in pods {
        let new = fleet.instance(Place::free()).await;
        old.terminate();
        tokio::time::sleep(ENDPOINT_DELAY).await;
        service.replace(old.place, new.place);
        ends.push(old.end(manifest.grace.saturating_sub(ENDPOINT_DELAY)).await);
        renewed.push(new);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    load.stop(
        &format!("a rolling update of {PODS} pods in Kubernetes: no request fails"),
        &fleet.api,
        report,
    )
    .await;
    for mut pod in renewed {
        pod.terminate();
        ends.push(pod.end(manifest.grace).await);
    }
    report.check(
        "each pod has answered, and ends with 0 within its grace period",
        ends.iter().all(|end| *end == Some((Some(0), true))),
        &format!("{ends:?}"),
    );
    fleet.finish(report);
}
