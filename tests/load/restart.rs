//! Upgrades under load with a socket that systemd would hold: another binary takes the place of the running one, and a restart
//! refuses no connection and fails no request.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::report::Report;
use crate::world::{Setup, World};

const CALLERS: usize = 32;
const RESTARTS: usize = 5;
/// Far longer than a restart takes.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
struct Tally {
    answered: Cell<usize>,
    failed: RefCell<Vec<String>>,
    longest: Cell<Duration>,
    is_over: Cell<bool>,
}

pub(crate) async fn run(bearerd: &Path, report: &mut Report) {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let installed = folder.path().join("bearerd");
    install(bearerd, &installed);
    let mut world = World::start(&installed, Setup { socket: Some(socket), ..Setup::default() }).await;
    let (address, tally) = (world.address, Rc::new(Tally::default()));
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| tokio::task::spawn_local(ask_again_and_again(address, Rc::clone(&tally))))
        .collect();
    let mut codes = Vec::new();
    for _ in 0..RESTARTS {
        tokio::time::sleep(Duration::from_secs(1)).await;
        install(bearerd, &installed);
        codes.push(world.restart().await);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    tally.is_over.set(true);
    for caller in callers {
        caller.await.unwrap();
    }
    report.note(&format!("{} answered", tally.answered.get()));
    report.none(
        &format!("{RESTARTS} upgrades with {CALLERS} callers, a connection for each request: none refused, none fails"),
        &tally.failed.borrow(),
    );
    report.check(
        "bearerd ends with 0 each time",
        codes.iter().all(|code| *code == Some(0)),
        &format!("{codes:?}"),
    );
    let longest = tally.longest.get();
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

async fn ask_again_and_again(address: SocketAddr, tally: Rc<Tally>) {
    while !tally.is_over.get() {
        let began = Instant::now();
        match ask(address).await {
            Ok(answer) if answer.starts_with("HTTP/1.1 200 ") => tally.answered.set(tally.answered.get() + 1),
            Ok(answer) => tally.failed.borrow_mut().push(answer),
            Err(error) => tally.failed.borrow_mut().push(error.to_string()),
        }
        tally.longest.set(tally.longest.get().max(began.elapsed()));
    }
}

/// One request over a connection of its own.
async fn ask(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!(
        "GET /x HTTP/1.1\r\nhost: {address}\r\n{}: {}\r\nconnection: close\r\n\r\n",
        testkit::harness::request::TEST_ID,
        crate::callers::new_id()
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
