//! Upgrades under load: a rolling update as Kubernetes makes it, and one instance after the other behind `HAProxy`. No request
//! fails. The upgrade through a socket of systemd is among the restarts.

mod balancer;
mod fleet;
mod rollout;

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use testkit::harness::Upstream;
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, spawn_local};

use crate::callers::{Connection, Version, new_id};
use crate::report::Report;

/// Callers that keep their connections, by version, and callers with a connection for each request.
const HTTP1: usize = 12;
const HTTP2: usize = 3;
const CONNECTING: usize = 6;
/// Callers whose answers take a while.
const SLOW: usize = 6;
const SLOW_PATH: &str = "/slow/1500";
/// The longest pause of a caller between two requests, in milliseconds.
const PAUSE: u64 = 200;

pub(crate) async fn run(bearerd: &Path, report: &mut Report) {
    rollout::run(bearerd, report).await;
    balancer::run(bearerd, report).await;
}

/// What leads callers to an instance: the address that the next connection goes to.
pub(crate) type Way = Rc<dyn Fn() -> SocketAddr>;

/// Callers that send requests until they are stopped.
pub(crate) struct Load {
    asking: Vec<JoinHandle<()>>,
    tally: Rc<Tally>,
}

#[derive(Debug, Default)]
struct Tally {
    answered: Cell<usize>,
    failed: RefCell<Vec<String>>,
    /// Requests on a connection that had answered before and closed meanwhile. Every HTTP client sends them again (RFC 9110
    /// §9.2.2), and the API must not have seen them.
    unanswered: RefCell<Vec<String>>,
    longest: Cell<Duration>,
    is_over: Cell<bool>,
}

impl Load {
    pub(crate) fn start(way: &Way, versions: &[Version]) -> Self {
        let tally = Rc::new(Tally::default());
        let asking = |count: usize, version, path: &'static str, keeps: bool| {
            let (way, tally) = (Rc::clone(way), Rc::clone(&tally));
            (0..count)
                .map(move |_| spawn_local(ask(Rc::clone(&way), Rc::clone(&tally), version, path, keeps)))
        };
        let mut all: Vec<_> = asking(HTTP1, Version::Http1, "/x", true).collect();
        all.extend(asking(CONNECTING, Version::Http1, "/x", false));
        all.extend(asking(SLOW, Version::Http1, SLOW_PATH, true));
        if versions.contains(&Version::Http2) {
            all.extend(asking(HTTP2, Version::Http2, "/x", true));
        }
        Self { asking: all, tally }
    }

    /// Lets the callers finish their requests, and reports. Returns the longest time of a request.
    pub(crate) async fn stop(self, what: &str, api: &Upstream, report: &mut Report) -> Duration {
        self.tally.is_over.set(true);
        for asking in self.asking {
            asking.await.unwrap();
        }
        let (answered, longest) = (self.tally.answered.get(), self.tally.longest.get());
        let unanswered = self.tally.unanswered.borrow();
        let again = unanswered.len();
        let figures =
            format!("{answered}, {longest:.1?} at most, {again} sent again as a connection had closed");
        report.check("callers were answered", answered > 100, &figures);
        let lost = unanswered.iter().filter(|id| !api.settle(id).is_empty());
        self.tally.failed.borrow_mut().extend(lost.map(|id| format!("{id}: reached the API, no answer")));
        report.none(what, &self.tally.failed.borrow());
        longest
    }
}

async fn ask(way: Way, tally: Rc<Tally>, version: Version, path: &'static str, keeps: bool) {
    while !tally.is_over.get() {
        let address = way();
        let mut connection = match connect(address, version).await {
            Ok(connection) => connection,
            Err(error) => {
                tally.failed.borrow_mut().push(format!("{address}: {error}"));
                tokio::time::sleep(Duration::from_millis(PAUSE)).await;
                continue;
            }
        };
        let mut has_answered = false;
        while !tally.is_over.get() && connection.is_ready().await {
            let id = new_id();
            match connection.ask(&id, path, None).await {
                Ok(answer) if answer.status == 200 && answer.is_complete => {
                    has_answered = true;
                    tally.answered.set(tally.answered.get() + 1);
                    tally.longest.set(tally.longest.get().max(answer.took));
                }
                Ok(answer) => tally.failed.borrow_mut().push(format!("{address}: {answer:?}")),
                Err(_) if has_answered => {
                    tally.unanswered.borrow_mut().push(id);
                    break;
                }
                Err(error) => tally.failed.borrow_mut().push(format!("{address}: {error:?}")),
            }
            if !keeps {
                break;
            }
            tokio::time::sleep(Duration::from_millis(fastrand::u64(0..=PAUSE))).await;
        }
    }
}

async fn connect(address: SocketAddr, version: Version) -> io::Result<Connection> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Connection::over(Box::new(stream), version, format!("localhost:{}", address.port()), "http").await
}
