//! A log of ten thousand lines a second on a pipe that nobody reads: requests go on, memory keeps its bound, and each lost line
//! is counted and reported.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use futures_util::future::join_all;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use testkit::authorization_server::AuthorizationServer;
use tokio::net::UnixStream;
use tokio::time::Instant;

use crate::harness::{Caller, Http2Caller, PROMPT, Process, Request, Upstream, command, eventually};

const CALLERS: usize = 8;
/// The time of the load, and the lines that it makes at least: ten thousand a second.
const LOAD: Duration = Duration::from_secs(3);
const LINES: u64 = 30_000;
/// The queue of the log (16 MiB), and the memory of the allocator and of the callers' connections.
const GROWTH_KIB: u64 = 28 * 1024;
const DROPPED: &str = "log lines were dropped: the log could not be written in time";

/// A daemon whose log, at the lowest level, goes to a pipe. The test holds the pipe open and does not read it.
struct Piped {
    folder: TempDir,
    process: Process,
    _pipe: File,
    _peers: (AuthorizationServer, Upstream),
}

impl Piped {
    async fn start(output: &str) -> Self {
        let authorization =
            AuthorizationServer::start("client-of-a-log", "secret-of-a-log", None).await.unwrap();
        let api = Upstream::start(None, authorization.introspection(), true).await;
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let configuration = format!(
            "[server]\nlisten = \"unix:b.sock\"\nworkers = 2\n[admin]\nlisten = \"unix:admin.sock\"\n\
             [log]\nlevel = \"trace\"\nformat = \"json\"\noutput = \"{output}\"\n\
             [credentials.api]\ntoken_url = \"{}\"\nclient_id = \"client-of-a-log\"\nclient_secret = {{ env = \"SECRET\" }}\n\
             [[routes]]\nupstream = \"{}\"\ncredential = \"api\"\n",
            authorization.token_url(),
            api.url()
        );
        std::fs::write(folder.path().join("proxy.toml"), configuration).unwrap();
        let held = File::options().read(true).write(true).open(&pipe).unwrap();
        let launch = command(&["run"], &[], folder.path()).variable("SECRET", "secret-of-a-log");
        let process = if output.starts_with("file:") { launch } else { launch.output_file(pipe) }.start();
        let piped = Self { folder, process, _pipe: held, _peers: (authorization, api) };
        eventually("a token", async || {
            UnixStream::connect(piped.path("b.sock")).await.is_ok() && piped.admin("/readyz").await.0 == 200
        })
        .await;
        piped
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn admin(&self, path: &str) -> (u16, String) {
        let Ok(stream) = UnixStream::connect(self.path("admin.sock")).await else {
            return (0, String::new());
        };
        let mut caller = Caller::over(stream, "localhost");
        caller.write(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes()).await;
        let reply = caller.read().await.unwrap();
        (reply.status, reply.text())
    }

    /// How many lines were lost, according to the metrics.
    async fn lost(&self) -> u64 {
        let (_, scrape) = self.admin("/metrics").await;
        let line = scrape.lines().find_map(|line| line.strip_prefix("bearerd_log_lines_dropped_total "));
        line.unwrap().split('.').next().unwrap().parse().unwrap()
    }

    /// Sends requests on several connections for this time. Answers the longest time of one.
    async fn load(&self, time: Duration) -> Duration {
        let began = Instant::now();
        let callers = (0..CALLERS).map(async |_| {
            let stream = UnixStream::connect(self.path("b.sock")).await.unwrap();
            let mut caller = Http2Caller::over(stream, "http://localhost".to_owned()).await;
            let mut longest = Duration::ZERO;
            while began.elapsed() < time {
                let sent = Instant::now();
                assert_eq!(caller.send(&Request::get("/x")).await.status, 200);
                longest = longest.max(sent.elapsed());
            }
            longest
        });
        join_all(callers).await.into_iter().max().unwrap()
    }

    /// Sends requests whose lines are as long as lines can be.
    async fn load_of_long_lines(&self) {
        let stream = UnixStream::connect(self.path("b.sock")).await.unwrap();
        let mut caller = Caller::over(stream, "localhost");
        let long = format!("/status/404/{}", "x".repeat(50_000));
        for _ in 0..300 {
            assert_eq!(caller.send(&Request::get(&long)).await.status, 404);
        }
    }

    /// Reads the pipe: lines are whole, as many are reported as lost as were, and further requests are logged.
    async fn reports_what_was_lost(mut self) {
        let reader = BufReader::new(File::open(self.path("pipe")).unwrap());
        let (reported, is_logged) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (sum, is_seen) = (Arc::clone(&reported), Arc::clone(&is_logged));
        let reading = thread::spawn(move || {
            for line in reader.lines() {
                let event: Value = serde_json::from_str(&line.unwrap()).unwrap();
                if event["message"] == DROPPED {
                    sum.fetch_add(event["lines"].as_u64().unwrap(), Ordering::Relaxed);
                }
                is_seen.fetch_or(event["url_path"] == "/afterwards", Ordering::Relaxed);
            }
        });
        eventually("the report", async || reported.load(Ordering::Relaxed) == self.lost().await).await;
        let mut caller = Caller::over(UnixStream::connect(self.path("b.sock")).await.unwrap(), "localhost");
        assert_eq!(caller.send(&Request::get("/afterwards")).await.status, 200);
        eventually("the line", async || is_logged.load(Ordering::Relaxed)).await;

        self.stop().await;
        drop(self);
        reading.join().unwrap();
    }

    /// Ends the process, which takes no longer than without a log.
    async fn stop(&mut self) {
        let began = Instant::now();
        self.process.signal(Signal::TERM);
        assert_eq!(self.process.ended_within(2 * PROMPT).await.code(), Some(0));
        assert!(began.elapsed() < PROMPT, "{:?}", began.elapsed());
    }
}

#[tokio::test]
async fn ten_thousand_lines_a_second_that_nobody_reads_delay_no_request_and_are_counted() {
    for output in ["stderr", "stdout", "file:pipe"] {
        let mut piped = Piped::start(output).await;
        let resident = piped.process.resident_kib();
        if output == "file:pipe" {
            piped.load_of_long_lines().await;
        }
        piped.load(Duration::from_millis(200)).await;
        let (lost, began, mut longest) = (piped.lost().await, Instant::now(), Duration::ZERO);
        let mut more = 0;
        // A machine that is busy with other things takes longer.
        while began.elapsed() < LOAD || (more < LINES && began.elapsed() < 10 * LOAD) {
            longest = longest.max(piped.load(LOAD / 3).await);
            more = piped.lost().await - lost;
        }

        let grown = piped.process.resident_kib().saturating_sub(resident);
        let seen = format!(
            "{output}: {more} lines lost in {:?}, {longest:?} for a request, {grown} KiB more",
            began.elapsed()
        );
        assert!(more >= LINES, "{seen}");
        assert!(longest < PROMPT, "{seen}");
        assert!(grown < GROWTH_KIB, "{seen}");
        if output == "file:pipe" {
            piped.reports_what_was_lost().await;
        } else {
            // The end waits for no reader either.
            piped.stop().await;
        }
    }
}
