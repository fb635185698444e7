//! SIGTERM under load: requests in flight are answered, and idle connections are closed at once.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::Instant;

use crate::callers::{Answer, Connection, Version, new_id};
use crate::report::Report;
use crate::world::{PERSON, Setup, World};

/// The duration of the answers in flight.
const SLOW: Duration = Duration::from_secs(5);
const HTTP1: usize = 100;
const HTTP2: (usize, usize) = (10, 20);
/// Callers that send one request after another.
const BUSY: usize = 16;
const IDLE: usize = 50;

/// The outcomes of the requests.
#[derive(Debug, Default)]
struct Tally {
    answered: Cell<usize>,
    failed: RefCell<Vec<String>>,
    /// Requests after the signal over a closing connection, which the daemon did not accept.
    turned_away: Cell<usize>,
    is_stopping: Cell<bool>,
}

impl Tally {
    fn note(&self, what: &str, began_before: bool, answer: Result<Answer, hyper::Error>) -> bool {
        match answer {
            Ok(answer) if answer.status == 200 && answer.is_complete => {
                self.answered.set(self.answered.get() + 1);
                return true;
            }
            Err(_) if !began_before => self.turned_away.set(self.turned_away.get() + 1),
            Ok(answer) => self.failed.borrow_mut().push(format!("{what}: {answer:?}")),
            Err(error) => self.failed.borrow_mut().push(format!("{what}: {error}")),
        }
        false
    }
}

pub(crate) async fn run(bearerd: &Path, report: &mut Report) {
    for has_tls in [false, true] {
        // Enough connections for all requests at once.
        let route = "connections = 500";
        let world = World::start(bearerd, Setup { route, has_tls, ..Setup::default() }).await;
        under_load(Rc::new(world), report).await;
    }
}

async fn under_load(world: Rc<World>, report: &mut Report) {
    let tally = Rc::new(Tally::default());
    let mut asking = Vec::new();
    for index in 0..HTTP1 {
        let mut connection = Connection::open(&world, Version::Http1).await.unwrap();
        asking.push(slow(&tally, async move |id| connection.ask(id, &slow_path(index), None).await));
    }
    for _ in 0..HTTP2.0 {
        let connection = Connection::open(&world, Version::Http2).await.unwrap();
        for index in 0..HTTP2.1 {
            let mut stream = connection.share().unwrap();
            asking.push(slow(&tally, async move |id| stream.ask(id, &slow_path(index), None).await));
        }
        // The connection stays open until its streams have ended.
        asking.push(tokio::task::spawn_local(async move {
            tokio::time::sleep(SLOW + Duration::from_secs(2)).await;
            drop(connection);
        }));
    }
    let mut idle = Vec::new();
    for index in 0..IDLE {
        let version = if index % 2 == 0 { Version::Http1 } else { Version::Http2 };
        let mut connection = Connection::open(&world, version).await.unwrap();
        assert_eq!(connection.ask(&new_id(), "/x", None).await.unwrap().status, 200);
        idle.push(connection);
    }
    for index in 0..BUSY {
        let version = if index % 2 == 0 { Version::Http1 } else { Version::Http2 };
        asking.push(tokio::task::spawn_local(busy(Rc::clone(&world), version, Rc::clone(&tally))));
    }
    // Until all requests have reached the API.
    tokio::time::sleep(Duration::from_secs(2)).await;

    let began = Instant::now();
    tally.is_stopping.set(true);
    world.signal(Signal::TERM);
    let mut closed = 0;
    for connection in &mut idle {
        closed += usize::from(connection.is_closed(Duration::from_secs(1)).await);
    }
    let idle_took = began.elapsed();
    // The accepting thread may learn of the stop a moment later than the workers.
    let mut refused_after = None;
    while refused_after.is_none() && began.elapsed() < Duration::from_secs(1) {
        let is_refused = Connection::open(&world, Version::Http1).await.is_err();
        refused_after = is_refused.then(|| began.elapsed());
    }
    for one in asking {
        one.await.unwrap();
    }
    let mut world = Rc::into_inner(world).expect("nobody asks any more");
    let code = world.ended().await;
    let took = began.elapsed();

    let in_flight = HTTP1 + HTTP2.0 * HTTP2.1;
    let over = if world.tls.is_some() { ", over TLS" } else { "" };
    report.note(&format!(
        "{} answered, {} asked after the signal over a connection that was closing",
        tally.answered.get(),
        tally.turned_away.get()
    ));
    report.none(
        &format!("SIGTERM with {in_flight} answers in flight and {BUSY} callers at it{over}: none fails"),
        &tally.failed.borrow(),
    );
    report.check(
        "idle connections are closed at once",
        closed == IDLE && idle_took < Duration::from_secs(2),
        &format!("{closed} in {idle_took:.1?}"),
    );
    report.check("new ones are not accepted", refused_after.is_some(), &format!("after {refused_after:.1?}"));
    report.check(
        "bearerd ends with 0 when the last is answered",
        code == Some(0) && took < SLOW + Duration::from_secs(3),
        &format!("{code:?} after {took:.1?}"),
    );
    world.finish(report).await;
}

/// A path of the API over HTTP/1.1 or over HTTP/2, in turn.
fn slow_path(index: usize) -> String {
    let whose = if index.is_multiple_of(2) { "" } else { PERSON };
    format!("{whose}/slow/{}", SLOW.as_millis())
}

fn slow<A>(tally: &Rc<Tally>, mut ask: A) -> tokio::task::JoinHandle<()>
where
    A: AsyncFnMut(&str) -> Result<Answer, hyper::Error> + 'static,
{
    let tally = Rc::clone(tally);
    tokio::task::spawn_local(async move {
        let answer = ask(&new_id()).await;
        tally.note("in flight", true, answer);
    })
}

/// Sends one request after another until the daemon refuses.
async fn busy(world: Rc<World>, version: Version, tally: Rc<Tally>) {
    loop {
        let Ok(mut connection) = Connection::open(&world, version).await else {
            if !tally.is_stopping.get() {
                tally.failed.borrow_mut().push("refused before the signal".to_owned());
            }
            return;
        };
        while connection.is_ready().await {
            let began_before = !tally.is_stopping.get();
            let answer = connection.ask(&new_id(), "/slow/20", None).await;
            if !tally.note("at it", began_before, answer) {
                return;
            }
        }
    }
}
