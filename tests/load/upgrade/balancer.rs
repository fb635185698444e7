//! Two instances behind `HAProxy`, with the configuration of docs/deploy/load-balancer.md: one is upgraded after the other.

use std::net::TcpListener;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use testkit::harness::eventually;
use testkit::harness::process::Launch;

use super::fleet::{Fleet, Place};
use super::{Load, Way};
use crate::callers::Version;
use crate::report::Report;

const PAGE: &str = include_str!("../../../docs/deploy/load-balancer.md");
const PLACES: [&str; 2] = ["10.0.0.11", "10.0.0.12"];
/// Longer than `HAProxy` needs to use an instance again: `inter` and `rise` of the page, and some more.
const UP_AGAIN: Duration = Duration::from_millis(2500);
const LONGEST_STOP: Duration = Duration::from_secs(30);

/// A block of the page.
fn block(language: &str) -> &'static str {
    let block = PAGE.split(&format!("```{language}\n")).nth(1).unwrap();
    block.split("```").next().unwrap()
}

pub(super) async fn run(bearerd: &Path, report: &mut Report) {
    let Some(haproxy) =
        ["/usr/sbin/haproxy", "/usr/local/sbin/haproxy"].into_iter().find(|path| Path::new(path).is_file())
    else {
        report.check("HAProxy is installed (apt-get install haproxy)", false, "");
        return;
    };
    let server: Vec<_> = block("toml fragment").lines().filter(|line| line.starts_with("drain")).collect();
    assert_eq!(server.len(), 2, "{server:?}");
    let mut fleet = Fleet::start(bearerd, server.join("\n")).await;
    let mut instances = [fleet.instance(Place::free()).await, fleet.instance(Place::free()).await];

    let entry = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    // No retry of the balancer hides a refused connection.
    let mut configuration = block("haproxy").replace("mode http\n", "mode http\n    retries 0\n");
    configuration = configuration.replace("10.0.0.10:80", &entry.to_string());
    for (address, instance) in PLACES.into_iter().zip(&instances) {
        let Place { address: own, health } = instance.place;
        let written = format!("{address}:8080 port 9091");
        assert!(configuration.contains(&written), "{configuration}");
        configuration = configuration.replace(&written, &format!("{own} port {}", health.port()));
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("haproxy.cfg"), configuration).unwrap();
    let balancer = Launch::new(haproxy, folder.path()).arguments(&["-db", "-f", "haproxy.cfg"]).start();
    eventually("HAProxy", async || tokio::net::TcpStream::connect(entry).await.is_ok()).await;

    let way: Way = Rc::new(move || entry);
    let load = Load::start(&way, &[Version::Http1]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut ends = Vec::new();
    for instance in &mut instances {
        let place = instance.place;
        instance.terminate();
        ends.push(instance.end(LONGEST_STOP).await);
        *instance = fleet.instance(place).await;
        tokio::time::sleep(UP_AGAIN).await;
    }
    load.stop(
        "an upgrade of two instances behind HAProxy, one after the other: no request fails",
        &fleet.api,
        report,
    )
    .await;
    for instance in &mut instances {
        instance.terminate();
        ends.push(instance.end(LONGEST_STOP).await);
    }
    report.check(
        "each instance has answered, and ends with 0",
        ends.iter().all(|end| *end == Some((Some(0), true))),
        &format!("{ends:?}"),
    );
    drop(balancer);
    fleet.finish(report);
}
