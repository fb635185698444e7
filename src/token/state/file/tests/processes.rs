//! State files in processes of their own, which are killed: this test binary, run again for one test.
//!
//! A child reports to its standard error, which the test runner does not capture.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

use super::*;

/// Where a child finds the path of its state.
const PATH: &str = "BEARERD_TEST_STATE";
const KILLS: usize = 40;

/// The state's path, in a child.
fn path_of_child() -> Option<PathBuf> {
    #[expect(clippy::disallowed_methods, reason = "how a test speaks to itself in another process")]
    std::env::var_os(PATH).map(PathBuf::from)
}

struct Running {
    child: Child,
    says: BufReader<ChildStderr>,
}

impl Running {
    /// Runs one of the tests below as a child.
    fn test(name: &str, path: &Path) -> Self {
        let (_, module) = module_path!().split_once("::").unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", &format!("{module}::{name}")])
            .env(PATH, path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let says = BufReader::new(child.stderr.take().unwrap());
        Self { child, says }
    }

    /// The child's next line; `None` at its end, and for half a line.
    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        self.says.read_line(&mut line).unwrap();
        line.strip_suffix('\n').map(str::to_owned)
    }

    /// Kills it, and gives the last it said.
    fn kill(mut self) -> Option<String> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::iter::from_fn(|| self.line()).last()
    }
}

fn say(text: &str) {
    // In one piece.
    std::io::stderr().write_all(format!("{text}\n").as_bytes()).unwrap();
}

#[test]
fn a_child_rotates_as_fast_as_it_can_until_it_is_killed() {
    let Some(path) = path_of_child() else { return };
    let (mut file, found) = open(&path).unwrap();
    let mut at = rotations(&found).unwrap_or_default();
    loop {
        at += 1;
        file.save(&state(at)).unwrap();
        say(&at.to_string());
    }
}

#[test]
fn a_child_holds_the_lock_until_it_is_killed() {
    let Some(path) = path_of_child() else { return };
    let _held = open(&path).unwrap();
    say("held");
    loop {
        std::thread::sleep(Duration::from_mins(1));
    }
}

#[test]
fn a_child_tries_to_open_what_another_process_holds() {
    let Some(path) = path_of_child() else { return };
    say(&in_one_line(&open(&path).unwrap_err()));
}

#[test]
fn forty_kills_at_random_moments_lose_no_state_that_was_durable() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.state");
    let mut before = 0;
    for kill in 0..KILLS {
        let mut child = Running::test("a_child_rotates_as_fast_as_it_can_until_it_is_killed", &path);
        let first: u64 = child.line().expect("it writes").parse().unwrap();
        assert_eq!(first, before + 1, "it did not go on from where the last one was killed");
        std::thread::sleep(Duration::from_micros(fastrand::u64(..20_000)));
        let durable = child.kill().map_or(first, |last| last.parse().unwrap());

        let (file, found) = open(&path).unwrap();
        let found_at = rotations(&found).expect("there is a state");
        assert!(found.warnings.is_empty(), "kill {kill}: {:?}", found.warnings);
        assert!(found_at >= durable, "kill {kill}: {found_at} was found, {durable} was durable");
        assert!(found_at <= durable + 1, "kill {kill}: {found_at} was found, {durable} was durable");
        drop(file);
        let left: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left.len(), 2, "kill {kill}: {left:?}");
        before = found_at;
    }
}

#[test]
fn a_second_process_learns_the_holder_and_a_killed_one_holds_nothing() {
    let (_folder, path) = saved();
    let mut holder = Running::test("a_child_holds_the_lock_until_it_is_killed", &path);
    assert_eq!(holder.line().as_deref(), Some("held"));

    let expected = format!("is in use by process {} on ", holder.child.id());
    let error = open(&path).unwrap_err().to_string();
    assert!(error.contains(&expected), "{error}");
    let mut second = Running::test("a_child_tries_to_open_what_another_process_holds", &path);
    let said = second.line().unwrap();
    assert!(said.contains(&expected), "{said}");
    assert!(second.child.wait().unwrap().success());

    holder.kill();
    assert_eq!(rotations(&open(&path).unwrap().1), Some(3));
}
