//! The daemon's own binary as a process: started, watched, signalled, and its output kept.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};

use super::{PATIENCE, eventually};

/// A running (or ended) `bearerd`.
#[derive(Debug)]
pub struct Process {
    child: Child,
    output: Arc<Mutex<String>>,
    input: Option<ChildStdin>,
    readers: Vec<tokio::task::JoinHandle<()>>,
}

impl Process {
    /// Starts `bearerd` with these arguments and nothing in its environment but this.
    pub fn spawn(arguments: &[&str], environment: &[(String, String)], folder: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bearerd"));
        command.args(arguments);
        Self::start(command, Stdio::null(), environment, folder)
    }

    /// The same, with an input that a test writes.
    pub fn spawn_with_input(arguments: &[&str], environment: &[(String, String)], folder: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bearerd"));
        command.args(arguments);
        Self::start(command, Stdio::piped(), environment, folder)
    }

    /// The same with so many file descriptors at the most.
    pub fn spawn_with_descriptors(
        limit: usize,
        arguments: &[&str],
        environment: &[(String, String)],
        folder: &Path,
    ) -> Self {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "ulimit -n $0 && exec \"$@\"", &limit.to_string()]);
        command.arg(env!("CARGO_BIN_EXE_bearerd")).args(arguments);
        Self::start(command, Stdio::null(), environment, folder)
    }

    fn start(mut command: Command, input: Stdio, environment: &[(String, String)], folder: &Path) -> Self {
        let mut child = command
            .current_dir(folder)
            .env_clear()
            .envs(environment.iter().cloned())
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let output = Arc::new(Mutex::new(String::new()));
        let readers = vec![
            keep(child.stdout.take().unwrap(), Arc::clone(&output)),
            keep(child.stderr.take().unwrap(), Arc::clone(&output)),
        ];
        let input = child.stdin.take();
        Self { child, output, input, readers }
    }

    /// Writes a line to its input.
    pub async fn type_line(&mut self, line: &str) {
        let input = self.input.as_mut().expect("it has an input");
        input.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    /// Ends its input.
    pub fn end_input(&mut self) {
        self.input = None;
    }

    pub fn id(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// The time that it has spent computing so far.
    pub fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
    }

    /// The memory it has, in KiB.
    pub fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Its threads and its file descriptors.
    pub fn threads_and_descriptors(&self) -> (usize, usize) {
        let count = |what| std::fs::read_dir(format!("/proc/{}/{what}", self.id())).unwrap().count();
        (count("task"), count("fd"))
    }

    /// Everything it has written so far.
    pub fn output(&self) -> String {
        self.output.lock().unwrap().clone()
    }

    /// Waits for an event of the log with this message.
    pub async fn event(&self, message: &str) -> serde_json::Value {
        eventually(message, async || !self.events(message).is_empty()).await;
        self.events(message).swap_remove(0)
    }

    /// All events of the log with this message.
    pub fn events(&self, message: &str) -> Vec<serde_json::Value> {
        self.output()
            .lines()
            .filter(|line| line.contains(message))
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .filter(|event| event["message"] == message)
            .collect()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).unwrap()));
        kill_process(pid.expect("it runs"), signal).unwrap();
    }

    /// Lets it write so many bytes to a file and no more: what a full disk comes to. `None` is without limit again.
    pub fn limit_files(&self, bytes: Option<u64>) {
        let pid = self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).unwrap())).expect("it runs");
        let before = prlimit(Some(pid), Resource::Fsize, Rlimit { current: Some(1 << 30), maximum: None });
        let maximum = before.unwrap().maximum;
        prlimit(Some(pid), Resource::Fsize, Rlimit { current: bytes, maximum }).unwrap();
    }

    /// Waits for its end, and for the last of its output.
    pub async fn ended(&mut self) -> ExitStatus {
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        let status = status.unwrap_or_else(|_| panic!("did not end:\n{}", self.output())).unwrap();
        for reader in self.readers.drain(..) {
            let _ = tokio::time::timeout(Duration::from_secs(5), reader).await;
        }
        status
    }
}

fn keep<R: AsyncRead + Unpin + Send + 'static>(
    reading: R,
    output: Arc<Mutex<String>>,
) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let mut lines = BufReader::new(reading).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let mut output = output.lock().unwrap();
            output.push_str(&line);
            output.push('\n');
        }
    })
}
