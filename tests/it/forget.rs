//! `bearerd forget`: removes a credential's state, unless a daemon holds it.

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStringExt;
use std::process::Command;

use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use testkit::harness::setup::CLIENT_SECRET;

use crate::check_state::{KEY, state_file, world_with_state};
use crate::harness::World;

async fn forget(world: &World, arguments: &[&str]) -> (i32, String) {
    let mut process = world.command(&[&["forget"], arguments].concat());
    let status = process.ended().await;
    (status.code().unwrap(), process.output())
}

#[tokio::test]
async fn forget_removes_the_state_of_a_stopped_daemon_which_then_starts_afresh() {
    let (folder, mut world) = world_with_state().await;
    world.process.signal(Signal::TERM);
    world.process.ended().await;

    let (code, output) = forget(&world, &["api", "--yes"]).await;

    assert_eq!(code, 0, "{output}");
    assert!(output.contains("is removed") && !state_file(&folder).exists(), "{output}");
    let (code, output) = forget(&world, &["api", "--yes"]).await;
    assert_eq!(code, 0, "{output}");
    assert!(output.contains("there is no state"), "{output}");
    world.start_again().await;
    assert_eq!(world.get("/x").await.status, 200);
    assert_eq!(world.authorization.requests(), 2);
    assert!(world.process.events("state opened with a warning").is_empty());
    world.finish().await;
}

#[tokio::test]
async fn forget_is_refused_while_a_daemon_holds_the_state() {
    let (folder, world) = world_with_state().await;
    let before = fs::read(state_file(&folder)).unwrap();

    let (code, output) = forget(&world, &["api", "--yes"]).await;

    assert_eq!(code, 1, "{output}");
    assert!(output.contains("is in use by process ") && output.contains("stop the daemon"), "{output}");
    assert_eq!(fs::read(state_file(&folder)).unwrap(), before);
    assert_eq!(world.get("/x").await.status, 200);
    world.finish().await;
}

#[tokio::test]
async fn forget_changes_nothing_without_a_confirmation_or_for_another_name() {
    let (folder, mut world) = world_with_state().await;
    world.kill().await;
    let before = fs::read(state_file(&folder)).unwrap();

    for (arguments, said) in
        [(["api"].as_slice(), "pass --yes"), (&["another", "--yes"], "no credential `another`")]
    {
        let (code, output) = forget(&world, arguments).await;
        assert_eq!(code, 1, "{output}");
        assert!(output.contains(said), "{output}");
    }

    assert_eq!(fs::read(state_file(&folder)).unwrap(), before);
    world.check();
}

/// Runs the command on a terminal on which a person types this answer.
fn answered(world: &World, answer: &str) -> (i32, String) {
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = OsString::from_vec(ptsname(&terminal, Vec::new()).unwrap().into_bytes());
    let input = fs::OpenOptions::new().read(true).write(true).open(name).unwrap();
    fs::File::from(terminal.try_clone().unwrap()).write_all(answer.as_bytes()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_bearerd"));
    command.args(["forget", "api"]).current_dir(world.folder()).stdin(input);
    let output = command.env_clear().env("API_SECRET", CLIENT_SECRET).env("STATE_KEY", KEY).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(said).unwrap())
}

#[tokio::test]
async fn forget_asks_on_a_terminal() {
    let (folder, mut world) = world_with_state().await;
    world.kill().await;

    let (code, output) = answered(&world, "no\n");
    assert_eq!(code, 1, "{output}");
    assert!(output.contains("Type `yes`") && output.contains("nothing was changed"), "{output}");
    assert!(state_file(&folder).exists());

    let (code, output) = answered(&world, "yes\n");
    assert_eq!(code, 0, "{output}");
    assert!(!state_file(&folder).exists());
    world.check();
}
