//! A thousand connections of slowhttptest that send a head, send a body or read an answer slowly.

use std::io::{ErrorKind, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::process::Command;
use tokio::time::Instant;

use crate::bounds::Held;
use crate::callers::{Connection, Version, new_id};
use crate::figures::{median, mib, millis, quantile};
use crate::report::Report;
use crate::world::{Setup, World};

const CONNECTIONS: u64 = 1000;
/// Callers that ask at this pace, which leaves a core idle.
const CALLERS: usize = 4;
const PAUSE: Duration = Duration::from_millis(4);
const WINDOW: Duration = Duration::from_millis(1500);
const ROUNDS: usize = 7;
/// The system's memory for an unread answer in the daemon's socket on loopback.
const SOCKET_BYTES: u64 = 768 * 1024;

/// The access log's error for an answer that was not read in time.
const UNTAKEN: &str = "the caller stopped reading the response";

/// A way to be slow.
struct Mode {
    name: &'static str,
    arguments: &'static [&'static str],
    path: &'static str,
    limits: &'static str,
    /// The time-out that ends each connection, and the seconds until then.
    timeout: (&'static str, u64),
    held: Held,
}

impl Mode {
    const fn is_read(&self) -> bool {
        self.held.answers > 0
    }
}

pub(crate) async fn run(bearerd: &Path, report: &mut Report) {
    let held = Held { connections: CONNECTIONS + 100, ..Held::default() };
    let modes = [
        Mode {
            name: "slow heads",
            arguments: &["-H", "-i", "2", "-x", "24"],
            path: "/x",
            limits: "",
            timeout: ("header_timeout", 11),
            held: Held { heads: CONNECTIONS, ..held },
        },
        Mode {
            name: "slow bodies",
            arguments: &["-B", "-i", "2", "-x", "10", "-s", "8192"],
            path: "/echo",
            limits: "",
            timeout: ("body_rate", 8),
            held: Held { bodies: CONNECTIONS, ..held },
        },
        Mode {
            name: "slow reading",
            arguments: &["-X", "-w", "256", "-y", "512", "-n", "5", "-z", "8"],
            path: "/big/2000000",
            limits: "write_timeout = \"10s\"",
            timeout: ("write_timeout", 12),
            held: Held { answers: CONNECTIONS, ..held },
        },
    ];
    for mode in &modes {
        attack(bearerd, report, mode).await;
    }
    others_latency(bearerd, report).await;
}

/// Runs slowhttptest beside callers that measure their answers.
async fn attack(bearerd: &Path, report: &mut Report, mode: &Mode) {
    let setup = Setup { limits: mode.limits, route: "connections = 2000", ..Setup::default() };
    let world = World::start(bearerd, setup).await;
    let connections = if mode.is_read() { room_for(report) } else { CONNECTIONS };
    let folder = tempfile::tempdir().unwrap();
    let count = connections.to_string();
    let began = Instant::now();
    let mut attacker = Command::new("slowhttptest")
        .args(mode.arguments)
        .args([
            "-c",
            &count,
            "-r",
            "500",
            "-l",
            if mode.is_read() { "30" } else { "60" },
            "-p",
            "3",
            "-g",
            "-o",
            "report",
        ])
        .args(["-u", &format!("http://localhost:{}{}", world.address.port(), mode.path)])
        .current_dir(folder.path())
        .env("TERM", "dumb")
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(folder.path().join("out")).unwrap())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()
        .expect("missing peer: slowhttptest (apt-get install slowhttptest)");
    let (mut answers, mut tcp) = (Vec::new(), 0);
    while attacker.try_wait().unwrap().is_none() {
        answers.extend(ask_for(&world, Duration::from_millis(500)).await);
        tcp = tcp.max(tcp_bytes());
    }
    let took = began.elapsed();
    let said = std::fs::read_to_string(folder.path().join("out")).unwrap();
    let (timeout, seconds) = mode.timeout;
    let (seen, is_available) = statistics(&folder.path().join("report.csv"));
    // slowhttptest does not notice the reset of a connection that it reads slowly.
    let untaken = world.logged(UNTAKEN) as u64;
    let is_all_closed = if mode.is_read() {
        untaken >= connections
    } else {
        said.contains("No open connections left") && took.as_secs() <= seconds + 8
    };

    let name = mode.name;
    let good: Vec<Duration> = answers.iter().flatten().copied().collect();
    let bad = answers.len() - good.len();
    report.check(
        &format!("{name}, {connections} connections: bearerd stays available"),
        bad == 0 && !good.is_empty() && is_available,
        &format!("{} answers to others, {bad} failed; p99 {}", good.len(), millis(quantile(&good, 0.99))),
    );
    report.check(
        &format!("{name}: {timeout} closes every one of them"),
        is_all_closed && seen == connections,
        &format!(
            "{seen} seen, {untaken} cut off as they read nothing; all of it took {:.1} s",
            took.as_secs_f64()
        ),
    );
    let (most, bound) = (world.most_resident(), mode.held.bound());
    report.check(
        &format!("{name}: memory is below its bound"),
        most < bound,
        &format!("{} of {}; {} in the system's TCP buffers", mib(most), mib(bound), mib(tcp)),
    );
    world.finish(report).await;
}

/// How many slow readers the system's TCP memory allows; above the middle value of `tcp_mem` all connections of the
/// machine are slow.
fn room_for(report: &Report) -> u64 {
    let limits = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_mem").unwrap();
    let pressure: u64 = limits.split_whitespace().nth(1).unwrap().parse().unwrap();
    let room = pressure * rustix::param::page_size() as u64 * 3 / 4 / SOCKET_BYTES;
    if room < CONNECTIONS {
        report.note(&format!("net.ipv4.tcp_mem has room for {room} slow readers, and not for {CONNECTIONS}"));
    }
    room.min(CONNECTIONS)
}

/// The memory of the system's TCP sockets, in bytes.
pub(crate) fn tcp_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/net/sockstat").unwrap();
    let line = text.lines().find(|line| line.starts_with("TCP:")).unwrap();
    let pages: u64 = line.rsplit_once("mem ").unwrap().1.trim().parse().unwrap();
    pages * rustix::param::page_size() as u64
}

/// The number of connections, and whether all probes were answered.
fn statistics(file: &Path) -> (u64, bool) {
    let text = std::fs::read_to_string(file).unwrap();
    let number = |cell: &str| cell.trim().parse::<u64>().unwrap();
    // Seconds, Closed, Pending, Connected, Service Available.
    let rows: Vec<Vec<u64>> = text.lines().skip(1).map(|row| row.split(',').map(number).collect()).collect();
    let seen = rows.iter().map(|row| row[1..4].iter().sum()).max().unwrap_or(0);
    (seen, rows.iter().all(|row| row[4] > 0))
}

/// Sends requests at a steady pace; returns the duration of each answer, or `None` without an answer.
async fn ask_for(world: &World, time: Duration) -> Vec<Option<Duration>> {
    let one = async |_| {
        let mut connection = Connection::open(world, Version::Http1).await.ok();
        let (began, mut took) = (Instant::now(), Vec::new());
        while began.elapsed() < time {
            let answer = match &mut connection {
                Some(connection) => connection.ask(&new_id(), "/x", None).await.ok(),
                None => None,
            };
            took.push(
                answer.filter(|answer| answer.status == 200 && answer.is_complete).map(|answer| answer.took),
            );
            tokio::time::sleep(PAUSE).await;
        }
        took
    };
    join_all((0..CALLERS).map(one)).await.into_iter().flatten().collect()
}

/// The p99 of callers, with and without a thousand connections that send their heads slowly, in alternating windows.
async fn others_latency(bearerd: &Path, report: &mut Report) {
    let world = World::start(bearerd, Setup::default()).await;
    let _ = ask_for(&world, WINDOW).await;
    let (mut alone, mut beside, mut failed) = (Vec::new(), Vec::new(), 0);
    for _ in 0..ROUNDS {
        for (is_slow, p99) in [(false, &mut alone), (true, &mut beside)] {
            let slow = is_slow.then(|| SlowHeads::start(world.address));
            tokio::time::sleep(Duration::from_millis(300)).await;
            let answers = ask_for(&world, WINDOW).await;
            if let Some(slow) = slow {
                report_if(report, slow.stop());
            }
            let good: Vec<Duration> = answers.iter().flatten().copied().collect();
            failed += answers.len() - good.len();
            p99.push(quantile(&good, 0.99));
        }
    }
    let (alone, beside) = (median(&alone), median(&beside));
    let ratio = beside.as_secs_f64() / alone.as_secs_f64();
    let is_strict = if ratio < 2.0 { "less than doubled" } else { "NOT less than doubled" };
    report.note(&format!("others' p99 is {is_strict}: {} instead of {}", millis(beside), millis(alone)));
    // A shared machine adds a few milliseconds at random.
    let is_so = failed == 0 && (ratio < 3.0 || beside < alone + Duration::from_millis(5));
    report.check(
        &format!("{CONNECTIONS} slow heads leave others' p99 as it is, or nearly"),
        is_so,
        &format!("{ratio:.2} times, medians of {ROUNDS} windows each; {failed} failed"),
    );
    world.finish(report).await;
}

fn report_if(report: &Report, lost: usize) {
    if lost > 0 {
        report.note(&format!("{lost} of the slow connections had ended by themselves"));
    }
}

/// Connections that never complete their heads, on a thread of their own.
struct SlowHeads {
    is_stopped: Arc<AtomicBool>,
    thread: JoinHandle<usize>,
}

impl SlowHeads {
    fn start(address: SocketAddr) -> Self {
        let is_stopped = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&is_stopped);
        let mut sockets: Vec<std::net::TcpStream> =
            (0..CONNECTIONS).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
        for socket in &mut sockets {
            socket.set_nonblocking(true).unwrap();
            socket.write_all(b"GET /x HTTP/1.1\r\nhost: localhost\r\n").unwrap();
        }
        let thread = std::thread::spawn(move || {
            let mut lost = 0;
            for index in (0..sockets.len()).cycle() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                if sockets[index].write_all(b"x").is_err_and(|error| error.kind() != ErrorKind::WouldBlock) {
                    lost += 1;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            lost
        });
        Self { is_stopped, thread }
    }

    /// Closes the connections; returns how many writes failed.
    fn stop(self) -> usize {
        self.is_stopped.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}
