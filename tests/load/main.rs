//! Load tests: `load PATH_OF_BEARERD CASE…`, as `just load` and `just soak` run them.
//!
//! A separate program and no part of `cargo test`, as it needs the release binary, many descriptors and minutes. The
//! authorization servers and the API of `testkit` run on a thread of this process; the callers are tasks of this process,
//! and slowhttptest. Each check prints a line; the exit code is 1 if a check failed.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a check that cannot be made ends by panicking; figures are for people"
)]

mod bounds;
mod callers;
mod cold;
mod drain;
mod figures;
mod memory;
mod report;
mod restart;
mod slow;
mod soak;
mod upgrade;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions};

use report::Report;

const USAGE: &str =
    "usage: load PATH_OF_BEARERD slow|idle|memory|cold|drain|restart|upgrade|hangups|soak[=MINUTES]…";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let bearerd = arguments.next().map(PathBuf::from).and_then(|path| path.canonicalize().ok());
    let cases: Vec<String> = arguments.collect();
    let bearerd = bearerd.filter(|path| path.is_file() && !cases.is_empty()).expect(USAGE);

    let descriptors = bearerd::descriptors::raise_limit();
    let mut report = Report::default();
    report.note(&format!("{descriptors} descriptors for each process (ulimit -Hn)"));
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
    runtime.block_on(async {
        for case in &cases {
            report.title(case);
            match case.split_once('=').unwrap_or((case, "10")) {
                ("slow", _) => slow::run(&bearerd, &mut report).await,
                ("idle", _) => memory::rest(&bearerd, &mut report).await,
                ("memory", _) => memory::run(&bearerd, descriptors, &mut report).await,
                ("cold", _) => cold::run(&bearerd, &mut report).await,
                ("drain", _) => drain::run(&bearerd, &mut report).await,
                ("restart", _) => restart::run(&bearerd, &mut report).await,
                ("upgrade", _) => upgrade::run(&bearerd, &mut report).await,
                ("hangups", _) => soak::hangups::run(&bearerd, &mut report).await,
                ("soak", minutes) => {
                    let minutes: f64 = minutes.parse().expect(USAGE);
                    soak::run(&bearerd, Duration::from_secs_f64(minutes * 60.0), &mut report).await;
                }
                _ => panic!("{USAGE}"),
            }
        }
    });
    // Requests in flight are not waited for.
    runtime.shutdown_background();
    report.end()
}
