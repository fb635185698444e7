//! The log in a file: rotation, SIGUSR1, and outputs that take nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::UnixStream;

use crate::harness::{Caller, PROMPT, Process, Request, daemon, eventually, spawn};

/// A daemon that writes its log to a file and refuses every request.
struct Logging {
    folder: TempDir,
    process: Process,
}

impl Logging {
    /// Starts with this `log.output`, relative to the folder that `prepare` is given.
    async fn start(output: &str, prepare: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        prepare(folder.path());
        let socket = folder.path().join("b.sock");
        let configuration = format!(
            "[server]\nlisten = \"unix:{}\"\nworkers = 1\n[admin]\nlisten = \"127.0.0.1:0\"\n[log]\noutput = \"{output}\"\n\
             [[routes]]\npath = \"/none\"\nupstream = \"http://127.0.0.1:1\"\ncredential = \"none\"\n",
            socket.display()
        );
        fs::write(folder.path().join("proxy.toml"), configuration).unwrap();
        let process = spawn(&["run"], &[], folder.path());
        eventually("the socket", async || UnixStream::connect(&socket).await.is_ok()).await;
        Self { folder, process }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn caller(&self) -> Caller {
        Caller::over(UnixStream::connect(self.path("b.sock")).await.unwrap(), "localhost")
    }

    /// Sends a request whose line has this path.
    async fn request(&self, number: usize) {
        assert_eq!(self.caller().await.send(&Request::get(&format!("/{number}"))).await.status, 404);
    }

    /// The numbers of the requests in a file; each line must parse.
    fn numbers(&self, name: &str) -> Vec<usize> {
        let text = fs::read_to_string(self.path(name)).unwrap_or_default();
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        let events = text[..whole].lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        events.filter_map(|event| event["url_path"].as_str()?.trim_start_matches('/').parse().ok()).collect()
    }

    async fn has(&self, name: &str, number: usize) {
        eventually("a line in the file", async || self.numbers(name).contains(&number)).await;
    }

    async fn stop(mut self) {
        let began = Instant::now();
        self.process.signal(Signal::TERM);
        assert_eq!(self.process.ended().await.code(), Some(0), "{}", self.process.output());
        assert!(began.elapsed() < PROMPT, "{:?}", began.elapsed());
    }
}

/// FLT-DSK-03.
#[tokio::test]
async fn a_rotation_by_renaming_and_sigusr1_loses_no_line_under_load() {
    const REQUESTS: usize = 300;
    let logging = Logging::start("file:log/b.log", |_| {}).await;
    let rotate = async {
        for round in 0..5 {
            logging.has("log/b.log", round * 50 + 20).await;
            fs::rename(logging.path("log/b.log"), logging.path(&format!("log/b.{round}"))).unwrap();
            logging.process.signal(Signal::USR1);
            eventually("the new file", async || logging.path("log/b.log").exists()).await;
        }
    };
    let load = async {
        for number in 0..REQUESTS {
            logging.request(number).await;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::join!(rotate, load);
    logging.has("log/b.log", REQUESTS - 1).await;
    let files = (0..5).map(|round| format!("log/b.{round}")).chain(["log/b.log".to_owned()]);
    let all: Vec<usize> = files.flat_map(|name| logging.numbers(&name)).collect();
    assert_eq!(all, (0..REQUESTS).collect::<Vec<_>>());
    logging.stop().await;
}

/// FLT-DSK-03.
#[tokio::test]
async fn a_truncated_file_and_a_deleted_folder_are_written_again() {
    let logging = Logging::start("file:log/b.log", |_| {}).await;
    logging.request(1).await;
    logging.has("log/b.log", 1).await;
    fs::File::options().write(true).open(logging.path("log/b.log")).unwrap().set_len(0).unwrap();
    logging.request(2).await;
    logging.has("log/b.log", 2).await;
    assert_eq!(logging.numbers("log/b.log"), [2]);

    fs::remove_dir_all(logging.path("log")).unwrap();
    logging.process.signal(Signal::USR1);
    eventually("the file again", async || logging.path("log/b.log").exists()).await;
    logging.request(3).await;
    logging.has("log/b.log", 3).await;

    // Where the folder cannot be made, the old file stays in use, and says why.
    fs::rename(logging.path("log"), logging.path("moved")).unwrap();
    fs::write(logging.path("log"), "in the way").unwrap();
    logging.process.signal(Signal::USR1);
    logging.request(4).await;
    logging.has("moved/b.log", 4).await;
    eventually("the report", async || {
        fs::read_to_string(logging.path("moved/b.log")).unwrap().contains("file not opened again")
    })
    .await;
    logging.stop().await;
}

#[tokio::test]
async fn a_full_disk_or_a_pipe_that_nobody_reads_delays_nothing() {
    let pipe = |folder: &Path| {
        mknodat(CWD, folder.join("pipe"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    };
    for output in ["file:/dev/full", "file:pipe"] {
        let logging = Logging::start(output, pipe).await;
        let began = Instant::now();
        for number in 0..50 {
            logging.request(number).await;
        }
        assert!(began.elapsed() < PROMPT, "{output}: {:?}", began.elapsed());
        logging.process.signal(Signal::USR1);
        logging.request(50).await;
        if output == "file:pipe" {
            // Lines go on once somebody reads.
            let (path, logging) = (logging.path("pipe"), &logging);
            let (sender, receiver) = std::sync::mpsc::channel();
            std::thread::spawn(move || {
                let mut lines =
                    std::io::BufRead::lines(std::io::BufReader::new(fs::File::open(path).unwrap()));
                // The log has lines about its own output, too.
                let line = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains("url_path")));
                let _ = sender.send(line.unwrap().unwrap());
            });
            let line = async {
                let mut line = None;
                eventually("a line", async || {
                    line = line.take().or_else(|| receiver.try_recv().ok());
                    logging.request(51).await;
                    line.is_some()
                })
                .await;
                line.unwrap()
            };
            let event: Value = serde_json::from_str(&line.await).unwrap();
            // Of the latest requests: lines that still waited are written too.
            let path = event["url_path"].as_str().unwrap();
            assert!(path.trim_start_matches('/').parse::<u32>().is_ok(), "{event}");
        }
        logging.stop().await;
    }
}

#[tokio::test]
async fn sigusr1_without_a_file_ends_nothing() {
    let world = daemon().quiet().start().await;
    for _ in 0..3 {
        world.process.signal(Signal::USR1);
    }
    eventually("the signal", async || !world.process.events("files opened again").is_empty()).await;
    assert_eq!(world.get("/x").await.status, 200);
    world.finish().await;
}

#[tokio::test]
async fn a_log_that_cannot_be_opened_prevents_the_start_with_a_reason() {
    let world = daemon().quiet().start().await;
    world.configure(|text| text.replace("[log]", "[log]\noutput = \"file:/proc/none/b.log\""));
    let mut second = world.another();
    assert_eq!(second.ended().await.code(), Some(1));
    assert!(second.output().contains("the log cannot be written (`log.output`): "), "{}", second.output());
    world.finish().await;
}

#[tokio::test]
async fn a_log_on_standard_output_leaves_standard_error_empty() {
    let world = daemon().quiet().route("[log]\noutput = \"stdout\"").start().await;
    assert_eq!(world.get("/x").await.status, 200);
    world.process.event("request").await;
    world.finish().await;
}
