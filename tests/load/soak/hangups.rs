//! A hundred SIGHUPs under load: no request fails, and no resource is leaked.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::Instant;

use super::samples::Samples;
use super::tally::Tally;
use super::{HTTP1, HTTP2, Soak, callers};
use crate::callers::Version;
use crate::report::Report;
use crate::world::{Setup, World};

const HANGUPS: usize = 100;
/// Longer than the daemon's pause between two reloads.
const PAUSE: Duration = Duration::from_millis(150);
/// Time before the first SIGHUP, in which all buffers reach their size.
const CALM: Duration = Duration::from_secs(10);

pub(crate) async fn run(bearerd: &Path, report: &mut Report) {
    let setup = Setup { has_tls: true, ..Setup::default() };
    let world = World::start(bearerd, setup).await;
    let time = CALM + PAUSE * u32::try_from(HANGUPS).unwrap() + Duration::from_secs(5);
    let soak = Rc::new(Soak { world, tally: Tally::default(), began: Instant::now(), time });
    let callers = [(Version::Http1, HTTP1), (Version::Http2, HTTP2)];
    let callers =
        callers.into_iter().flat_map(|(version, count)| (0..count).map(move |index| (version, index)));
    let mut tasks: Vec<_> = callers
        .map(|(version, index)| tokio::task::spawn_local(callers::asking(Rc::clone(&soak), version, index)))
        .collect();
    tasks.push(tokio::task::spawn_local(hanging_up(Rc::clone(&soak))));
    let samples = Samples::taken(&soak).await;
    for task in tasks {
        task.await.unwrap();
    }
    let Soak { world, tally, .. } = Rc::into_inner(soak).expect("nobody asks any more");

    tally.show(report);
    let round = world.api.round();
    let failures = [tally.failures(), tally.all_wrong()].concat();
    report.none(&format!("SIGHUP {HANGUPS} times, {} requests: none fails", tally.answers()), &failures);
    report.check("the last configuration is in force", round == HANGUPS, &format!("that of SIGHUP {round}"));
    samples.judge(report);
    callers::all_gone(&world, &samples, report).await;
    world.finish(report).await;
}

/// Sends SIGHUPs, each with another certificate and configuration.
async fn hanging_up(soak: Rc<Soak>) {
    tokio::time::sleep(CALM).await;
    for round in 1..=HANGUPS {
        let _ = soak.world.renew_certificate();
        soak.world.write_round(round);
        soak.world.signal(Signal::HUP);
        tokio::time::sleep(PAUSE).await;
    }
}
