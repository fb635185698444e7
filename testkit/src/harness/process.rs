//! The daemon's binary as a process: started, observed, signalled, its output kept.

use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::task::JoinHandle;

use super::{STEP_TIMEOUT, eventually};

/// How a process is started; it can be started several times.
#[derive(Clone, Debug)]
#[must_use = "a launch does nothing until it is started"]
pub struct Launch {
    binary: PathBuf,
    folder: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    has_input: bool,
    terminal: Option<PathBuf>,
    descriptors: Option<usize>,
    output_file: Option<PathBuf>,
    sockets: Vec<(String, Arc<OwnedFd>)>,
}

/// Passes standard input and, with a second socket, standard output as systemd passes sockets. The shell becomes the daemon,
/// so that its process id is the daemon's.
const PASS_SOCKETS: [&str; 3] = [
    "",
    "exec 3<&0 </dev/null; export LISTEN_PID=$$; ",
    "exec 3<&0 4<&1 </dev/null >&2; export LISTEN_PID=$$; ",
];

impl Launch {
    /// The binary in this working directory, without arguments, environment or input.
    pub fn new(binary: impl AsRef<Path>, folder: &Path) -> Self {
        Self {
            binary: binary.as_ref().to_owned(),
            folder: folder.to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
            has_input: false,
            terminal: None,
            descriptors: None,
            output_file: None,
            sockets: Vec::new(),
        }
    }

    /// The arguments, in the place of earlier ones.
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments = arguments.iter().map(ToString::to_string).collect();
        self
    }

    /// One more variable of the environment.
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// More variables of the environment.
    pub fn environment(mut self, variables: &[(String, String)]) -> Self {
        self.environment.extend_from_slice(variables);
        self
    }

    /// The test writes the input, with [`Process::type_line`].
    pub const fn with_input(mut self) -> Self {
        self.has_input = true;
        self
    }

    /// The input comes from this terminal.
    pub fn terminal(mut self, path: PathBuf) -> Self {
        self.terminal = Some(path);
        self
    }

    /// Bounds the file descriptors (`ulimit -n`).
    pub const fn descriptors(mut self, limit: usize) -> Self {
        self.descriptors = Some(limit);
        self
    }

    /// Writes the output to a file and not into memory, for processes that write much.
    pub fn output_file(mut self, path: PathBuf) -> Self {
        self.output_file = Some(path);
        self
    }

    /// Passes a socket as systemd does, at most two of them. The first takes the place of the input, the second that of the
    /// standard output. The test holds the socket too.
    pub fn socket(mut self, name: &str, socket: impl Into<OwnedFd>) -> Self {
        self.sockets.push((name.to_owned(), Arc::new(socket.into())));
        self
    }

    /// Starts the process.
    pub fn start(&self) -> Process {
        let mut command = match (self.descriptors, self.sockets.len()) {
            (None, 0) => Command::new(&self.binary),
            (limit, sockets) => {
                let limit = limit.map_or(String::new(), |limit| format!("ulimit -n {limit} && "));
                let mut command = Command::new("/bin/sh");
                command.args(["-c", &format!("{}{limit}exec \"$@\"", PASS_SOCKETS[sockets]), "sh"]);
                command.arg(&self.binary);
                command
            }
        };
        command
            .args(&self.arguments)
            .current_dir(&self.folder)
            .env_clear()
            .envs(self.environment.iter().cloned())
            .stdin(match &self.terminal {
                Some(path) => Stdio::from(File::options().read(true).write(true).open(path).unwrap()),
                None if self.has_input => Stdio::piped(),
                None => Stdio::null(),
            })
            .kill_on_drop(true);
        match &self.output_file {
            None => command.stdout(Stdio::piped()).stderr(Stdio::piped()),
            Some(path) => {
                let file = File::create(path).unwrap();
                command.stdout(file.try_clone().unwrap()).stderr(file)
            }
        };
        let passed = |index: usize| Stdio::from(self.sockets[index].1.try_clone().unwrap());
        if !self.sockets.is_empty() {
            let names: Vec<_> = self.sockets.iter().map(|(name, _)| name.as_str()).collect();
            command.env("LISTEN_FDS", names.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
            command.stdin(passed(0));
        }
        if self.sockets.len() > 1 {
            command.stdout(passed(1));
        }
        let mut child = command.spawn().unwrap();
        let kept = Arc::default();
        let stdout = child.stdout.take().map(|stdout| keep(stdout, Arc::clone(&kept)));
        let stderr = child.stderr.take().map(|stderr| keep(stderr, Arc::clone(&kept)));
        let input = child.stdin.take();
        let output = self.output_file.clone().map_or(Output::Kept(kept), Output::File);
        Process { child, output, input, readers: stdout.into_iter().chain(stderr).collect() }
    }
}

/// A `bearerd` that runs or has ended. Dropping the value kills the process.
#[derive(Debug)]
pub struct Process {
    child: Child,
    output: Output,
    input: Option<ChildStdin>,
    readers: Vec<JoinHandle<()>>,
}

/// Both outputs of a process.
#[derive(Debug)]
enum Output {
    Kept(Arc<Mutex<String>>),
    File(PathBuf),
}

impl Process {
    /// Writes a line to the input.
    pub async fn type_line(&mut self, line: &str) {
        let input = self.input.as_mut().expect("it has an input");
        input.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    /// Closes the input.
    pub fn end_input(&mut self) {
        self.input = None;
    }

    /// The process's id.
    pub fn id(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// Whether its end has not been waited for.
    pub fn is_running(&self) -> bool {
        self.child.id().is_some()
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.id()).unwrap()).unwrap()
    }

    /// The processor time that the process has used.
    pub fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
    }

    /// A number of `/proc/PID/status`, such as `VmRSS:` (KiB) or `Threads:`.
    pub fn status(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// How many threads have this name.
    pub fn threads(&self, name: &str) -> u64 {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.id())).unwrap();
        let names =
            threads.filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("comm")).ok());
        names.filter(|found| found.trim_end() == name).count() as u64
    }

    /// The resident memory, in KiB.
    pub fn resident_kib(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// How many file descriptors are open; `None` if the user may not see that.
    pub fn descriptors(&self) -> Option<usize> {
        Some(std::fs::read_dir(format!("/proc/{}/fd", self.id())).ok()?.count())
    }

    /// How many threads and how many file descriptors there are.
    pub fn threads_and_descriptors(&self) -> (usize, usize) {
        (usize::try_from(self.status("Threads:")).unwrap(), self.descriptors().unwrap())
    }

    /// All output so far.
    pub fn output(&self) -> String {
        match &self.output {
            Output::Kept(kept) => kept.lock().unwrap().clone(),
            Output::File(path) if path.is_file() => {
                String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned()
            }
            // A pipe that the test reads itself.
            Output::File(_) => String::new(),
        }
    }

    /// Waits for a log event with this message, and returns the first one.
    pub async fn event(&self, message: &str) -> serde_json::Value {
        let missing = format!("the log event {message:?}");
        eventually(&missing, async || !self.events(message).is_empty()).await;
        self.events(message).swap_remove(0)
    }

    /// All log events with this message, in the order of time: lines of two workers may be written in another one.
    pub fn events(&self, message: &str) -> Vec<serde_json::Value> {
        let mut events: Vec<_> = self
            .output()
            .lines()
            .filter(|line| line.contains(message))
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .filter(|event| event["message"] == message)
            .collect();
        events.sort_by_cached_key(|event| event["timestamp"].as_str().map(str::to_owned));
        events
    }

    /// Waits for a log event that names an address, and returns the address.
    pub async fn logged_address(&self, message: &str) -> SocketAddr {
        let event = self.event(message).await;
        let address = event["address"].as_str().unwrap();
        // A unix socket has none.
        let is_unix = address.starts_with("unix:");
        if is_unix { SocketAddr::from(([0, 0, 0, 0], 0)) } else { address.parse().unwrap() }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Bounds the size of the files that the process writes, in bytes: a full disk in effect. `None` removes the bound.
    pub fn limit_files(&self, bytes: Option<u64>) {
        let pid = Some(self.pid());
        let before = prlimit(pid, Resource::Fsize, Rlimit { current: Some(1 << 30), maximum: None });
        let maximum = before.unwrap().maximum;
        prlimit(pid, Resource::Fsize, Rlimit { current: bytes, maximum }).unwrap();
    }

    /// Waits until the process has ended and all its output has been read.
    pub async fn ended(&mut self) -> ExitStatus {
        self.ended_within(STEP_TIMEOUT).await
    }

    /// The same for a process that does more than one step before its end.
    pub async fn ended_within(&mut self, time: Duration) -> ExitStatus {
        let status = tokio::time::timeout(time, self.child.wait()).await;
        let status = status.unwrap_or_else(|_| panic!("did not end:\n{}", self.output())).unwrap();
        for reader in self.readers.drain(..) {
            let _ = tokio::time::timeout(Duration::from_secs(5), reader).await;
        }
        status
    }
}

fn keep<R: AsyncRead + Unpin + Send + 'static>(reading: R, kept: Arc<Mutex<String>>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut lines = BufReader::new(reading).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let mut kept = kept.lock().unwrap();
            kept.push_str(&line);
            kept.push('\n');
        }
    })
}
