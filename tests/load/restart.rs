//! Upgrades under load with a socket that systemd would hold: another binary takes the place of the running one, and a restart
//! refuses no connection and fails no request.

use std::net::TcpListener;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use crate::callers::Version;
use crate::report::Report;
use crate::upgrade::{Load, Way};
use crate::world::{Setup, World};

const RESTARTS: usize = 5;
/// Far longer than a restart takes.
const LONGEST_WAIT: Duration = Duration::from_secs(8);

pub(crate) async fn run(bearerd: &Path, report: &mut Report) {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let installed = folder.path().join("bearerd");
    install(bearerd, &installed);
    let mut world = World::start(&installed, Setup { socket: Some(socket), ..Setup::default() }).await;
    let address = world.address;
    let way: Way = Rc::new(move || address);
    let load = Load::start(&way, &[Version::Http1]);
    let mut codes = Vec::new();
    for _ in 0..RESTARTS {
        tokio::time::sleep(Duration::from_secs(1)).await;
        install(bearerd, &installed);
        codes.push(world.restart().await);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let what =
        format!("{RESTARTS} upgrades with a socket of systemd: no connection is refused, no request fails");
    let longest = load.stop(&what, &world.api, report).await;
    report.check(
        "bearerd ends with 0 each time",
        codes.iter().all(|code| *code == Some(0)),
        &format!("{codes:?}"),
    );
    report.check(
        "requests wait for the next process",
        longest < LONGEST_WAIT,
        &format!("{longest:.1?} at most"),
    );
    world.finish(report).await;
}

/// Puts a copy in the place of the installed binary, as a package manager does.
fn install(bearerd: &Path, installed: &Path) {
    let next = installed.with_extension("next");
    std::fs::copy(bearerd, &next).unwrap();
    std::fs::rename(&next, installed).unwrap();
}
