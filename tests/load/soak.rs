//! Minutes of everything at once: short tokens, errors of the token endpoint, resets of the API, revocations, SIGHUP,
//! an API that learns late of tokens, and callers of
//! both protocols, `WebSocket`s, slow callers, and callers that leave. At its end, all connections to the API are free again.

mod callers;
mod capacity;
pub(crate) mod hangups;
mod peers;
mod samples;
mod tally;

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use testkit::authorization_server::AuthorizationServer;
use tokio::time::Instant;

use self::samples::Samples;
use self::tally::Tally;
use crate::bounds::Held;
use crate::callers::Version;
use crate::figures::mib;
use crate::report::Report;
use crate::world::{Setup, World};

/// The lifetime of tokens, in seconds.
const LIFETIME: u64 = 20;
/// The part of the API's requests that are reset, in percent.
const RESETS_PERCENT: u32 = 5;
/// The quota in the configuration.
const QUOTA: (f64, Duration) = (120.0, Duration::from_mins(1));
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// The numbers of connections, by kind of caller.
const HTTP1: usize = 8;
const HTTP2: usize = 3;
const SLOW: usize = 6;
const STUCK: usize = 3;
const LEAVING: usize = 3;
const RESETTING: usize = 2;
const CHATTING: usize = 3;
const LATE: usize = 2;

/// The greatest number of requests whose callers wait for answers.
const AT_ONCE: usize = HTTP1 + HTTP2 * callers::STREAMS;

/// The state that all tasks of the soak share.
struct Soak {
    world: World,
    tally: Tally,
    began: Instant,
    time: Duration,
}

impl Soak {
    fn is_over(&self) -> bool {
        self.began.elapsed() >= self.time
    }
}

pub(crate) async fn run(bearerd: &Path, time: Duration, report: &mut Report) {
    let setup = Setup {
        limits: "write_timeout = \"5s\"",
        credential: "quota = { requests = 120, per = \"60s\" }",
        // The hundreds of handshakes of the capacity check take seconds on a loaded machine.
        route: "connect_timeout = \"30s\"",
        has_tls: true,
        lifetime: LIFETIME,
        ..Setup::default()
    };
    let world = World::start(bearerd, setup).await;
    world.api.reset(RESETS_PERCENT);
    let soak = Rc::new(Soak { world, tally: Tally::default(), began: Instant::now(), time });

    let mut tasks = Vec::new();
    for index in 0..HTTP1 {
        tasks.push(tokio::task::spawn_local(callers::asking(Rc::clone(&soak), Version::Http1, index)));
    }
    for index in 0..HTTP2 {
        tasks.push(tokio::task::spawn_local(callers::asking(Rc::clone(&soak), Version::Http2, index)));
    }
    for _ in 0..SLOW {
        tasks.push(tokio::task::spawn_local(callers::reading_slowly(Rc::clone(&soak))));
    }
    for _ in 0..STUCK {
        tasks.push(tokio::task::spawn_local(callers::reading_nothing(Rc::clone(&soak))));
    }
    for _ in 0..LEAVING {
        tasks.push(tokio::task::spawn_local(callers::leaving(Rc::clone(&soak))));
    }
    for _ in 0..RESETTING {
        tasks.push(tokio::task::spawn_local(callers::resetting(Rc::clone(&soak))));
    }
    for _ in 0..CHATTING {
        tasks.push(tokio::task::spawn_local(callers::chatting(Rc::clone(&soak))));
    }
    for _ in 0..LATE {
        tasks.push(tokio::task::spawn_local(callers::asking_late(Rc::clone(&soak))));
    }
    tasks.push(tokio::task::spawn_local(peers::failing_token_endpoints(Rc::clone(&soak))));
    tasks.push(tokio::task::spawn_local(peers::revoking(Rc::clone(&soak))));
    tasks.push(tokio::task::spawn_local(peers::hanging_up(Rc::clone(&soak))));
    let samples = Samples::taken(&soak).await;
    for task in tasks {
        task.await.unwrap();
    }
    let soak = Rc::into_inner(soak).expect("nobody asks any more");
    judge(soak, &samples, report).await;
}

async fn judge(soak: Soak, samples: &Samples, report: &mut Report) {
    let Soak { world, tally, time, .. } = soak;
    tally.show(report);
    report.none(
        "every caller got its own answer, whole, or was told, or saw that it broke off (I5)",
        &tally.all_wrong(),
    );
    // Only requests that wait for a forced refresh get its failure.
    let failed = tally.failed_token_requests();
    report.check(
        "of a failed token request hear those at most who had just been refused",
        tally.of_tokens() <= failed * AT_ONCE,
        &format!("{} of {} answers, {failed} failed token requests", tally.of_tokens(), tally.answers()),
    );
    report.check(
        "a caller that reads nothing is cut off by write_timeout, and sees that",
        tally.stuck_longest() < WRITE_TIMEOUT + Duration::from_secs(5),
        &format!("after {:.1?} at the most", tally.stuck_longest()),
    );
    report.none(
        "each SIGHUP takes the new certificate and configuration up within seconds",
        &tally.all_not_taken_up(),
    );

    let asked: Vec<usize> = world.issuers.iter().map(AuthorizationServer::requests).collect();
    report.note(&format!(
        "token requests: {asked:?}, of which {failed} failed; {} revocations",
        tally.revocations()
    ));
    for issuer in &world.issuers {
        let times: Vec<Instant> = issuer.asked().iter().map(|asked| asked.at).collect();
        report.none("token requests keep to the quota", &peers::over_quota(&times, QUOTA));
    }
    let expected = time.as_secs() / LIFETIME;
    report.check(
        "tokens were replaced before their end",
        asked.iter().all(|asked| *asked as u64 > expected),
        "",
    );

    let late = world.late.1.rejected_by_late_nodes();
    report.check(
        "an API that learns late of new tokens rejected some, and no caller heard of that",
        late > 0 || time < Duration::from_secs(LIFETIME),
        &format!("{late} requests, {} token requests", world.late.0.requests()),
    );

    let callers = HTTP1 + HTTP2 + SLOW + STUCK + LEAVING + RESETTING + CHATTING + LATE;
    let connections = (callers + 2) as u64;
    // Every answer may wait for its caller; a caller that reads nothing connects again at once.
    let (answers, streams) = (connections, (HTTP2 + RESETTING) as u64 * 8);
    let held =
        Held { connections, tls: connections, heads: connections, answers, streams, bodies: connections };
    let most = world.most_resident();
    let bound = held.bound();
    report.check("memory is below its bound", most < bound, &format!("{} of {}", mib(most), mib(bound)));
    samples.judge(report);
    callers::all_gone(&world, samples, report).await;
    capacity::all_free(&world, report).await;
    world.finish(report).await;
}
