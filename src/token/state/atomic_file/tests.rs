//! A file that is replaced as a whole: every system call fails or is the last, on a real disk and on one that forgets.

mod forgetful;
mod unreliable;

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use rustix::io::Errno;
use tempfile::TempDir;

use super::*;
use crate::token::state::disk::{Folder, Status};
use forgetful::ForgetfulDisk;
use unreliable::{Plan, Unreliable};

const NAME: &str = "api.state";
/// The errors of a disk that is full, broken or closed to us.
const ERRORS: [Errno; 5] = [Errno::NOSPC, Errno::DQUOT, Errno::IO, Errno::ROFS, Errno::ACCESS];

fn old() -> Vec<u8> {
    vec![b'o'; 300]
}

fn new() -> Vec<u8> {
    vec![b'n'; 250]
}

fn on<D: Disk>(disk: D) -> AtomicFile<D> {
    AtomicFile::new(disk, OsStr::new(NAME))
}

fn real(folder: &TempDir) -> Folder {
    Folder::open(folder.path()).unwrap()
}

/// A folder that holds the old content, or nothing.
fn folder(has_old: bool) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    if has_old {
        on(real(&folder)).replace(&old()).unwrap();
    }
    folder
}

fn content<D: Disk>(disk: D) -> Option<Vec<u8>> {
    on(disk).read().unwrap().map(|content| content.bytes)
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_write_is_synced_before_it_is_renamed_and_the_folder_after_that() {
    let folder = folder(true);
    let disk = Unreliable::new(real(&folder), Plan::Well);

    on(&disk).replace(&new()).unwrap();

    assert_eq!(disk.calls(), ["create", "write", "write", "write", "sync", "rename", "sync_folder"]);
    assert_eq!(content(real(&folder)), Some(new()));
    assert_eq!(names(folder.path()), [NAME]);
}

#[test]
fn a_crash_before_or_after_any_call_leaves_the_old_or_the_new_content() {
    for (has_old, after) in [(false, false), (false, true), (true, false), (true, true)] {
        for at in 0..7 {
            let folder = folder(has_old);
            let plan = if after { Plan::DieAfter(at) } else { Plan::DieBefore(at) };
            let disk = Unreliable::new(real(&folder), plan);
            let outcome = on(&disk).replace(&new());
            assert_eq!(disk.calls().len(), at + usize::from(after), "it did not die");

            let is_renamed = disk.calls().contains(&"rename");
            let expected = if is_renamed { Some(new()) } else { has_old.then(old) };
            assert!(outcome.is_ok() == (plan == Plan::DieAfter(6)), "{plan:?}: {outcome:?}");
            assert_eq!(content(real(&folder)), expected, "{plan:?}");

            // The next start.
            let next = on(real(&folder));
            next.remove_leftovers();
            assert!(names(folder.path()).iter().all(|name| name == NAME), "{plan:?}");
            next.replace(&new()).unwrap();
            assert_eq!(content(real(&folder)), Some(new()));
        }
    }
}

#[test]
fn after_an_error_at_any_call_the_content_is_whole_and_a_retry_succeeds() {
    let steps = [
        "a temporary file cannot be made",
        "the temporary file cannot be written",
        "the temporary file cannot be written",
        "the temporary file cannot be written",
        "the temporary file cannot be synced",
        "the temporary file cannot take the state's name",
        "the folder cannot be synced",
    ];
    for errno in ERRORS {
        for (at, expected) in steps.into_iter().enumerate() {
            let folder = folder(true);
            let disk = Unreliable::new(real(&folder), Plan::FailOnce(at, errno));
            let durable = on(&disk);

            let error = durable.replace(&new()).unwrap_err();
            let SaveError::Disk(step, source) = error else { panic!("{error:?}") };
            assert_eq!((step, source.raw_os_error()), (expected, Some(errno.raw_os_error())));
            let is_renamed = at == 6;
            assert_eq!(content(real(&folder)), Some(if is_renamed { new() } else { old() }));
            assert_eq!(names(folder.path()), [NAME], "{errno:?} at {at}");

            durable.replace(&new()).unwrap();
            assert_eq!(content(real(&folder)), Some(new()));
            assert_eq!(names(folder.path()), [NAME]);
        }
    }
}

#[test]
fn a_disk_that_keeps_failing_leaves_a_temporary_file_until_the_next_start() {
    for at in 0..7 {
        let folder = folder(true);
        let disk = Unreliable::new(real(&folder), Plan::FailFrom(at, Errno::ROFS));
        let durable = on(&disk);
        for _ in 0..3 {
            durable.replace(&new()).unwrap_err();
        }
        assert_eq!(content(real(&folder)), Some(if at == 6 { new() } else { old() }));

        on(real(&folder)).remove_leftovers();
        assert_eq!(names(folder.path()), [NAME]);
    }
}

#[test]
fn after_a_failed_sync_another_temporary_file_is_written() {
    let folder = folder(true);
    let disk = Unreliable::new(real(&folder), Plan::FailOnce(4, Errno::IO));
    let durable = on(&disk);

    durable.replace(&new()).unwrap_err();
    durable.replace(&new()).unwrap();

    let made = disk.created();
    assert_eq!(made.len(), 2);
    assert_ne!(made[0], made[1]);
}

#[test]
fn interrupted_calls_go_on() {
    let folder = folder(true);
    for at in 1..4 {
        let disk = Unreliable::new(real(&folder), Plan::FailOnce(at, Errno::INTR));
        on(&disk).replace(&new()).unwrap();
        assert_eq!(content(real(&folder)), Some(new()));
    }
}

/// Every process death, followed by every power cut that could come with it.
#[test]
fn a_power_cut_leaves_the_old_or_new_content_and_after_success_the_new() {
    let plans = (0..7).flat_map(|at| [Plan::DieBefore(at), Plan::DieAfter(at)]).chain([Plan::Well]);
    for (plan, has_old) in plans.flat_map(|plan| [(plan, true), (plan, false)]) {
        let disk = ForgetfulDisk::default();
        if has_old {
            on(&disk).replace(&old()).unwrap();
        }
        let outcome = on(&Unreliable::new(&disk, plan)).replace(&new());
        let worlds = disk.worlds_after_a_power_cut();
        assert!(!worlds.is_empty());
        for world in worlds {
            let found = content(&world);
            let is_new = found == Some(new());
            assert!(is_new || (outcome.is_err() && found == has_old.then(old)), "{plan:?}: {found:?}");
            on(&world).remove_leftovers();
            assert!((&world).names().unwrap().iter().all(|name| name == NAME));
        }
    }
}

#[test]
fn content_that_was_read_survives_a_power_cut() {
    let disk = ForgetfulDisk::default();
    on(&disk).replace(&old()).unwrap();
    on(&Unreliable::new(&disk, Plan::DieBefore(6))).replace(&new()).unwrap_err();

    assert_eq!(content(&disk), Some(new()));

    for world in disk.worlds_after_a_power_cut() {
        assert_eq!(content(&world), Some(new()));
    }
}

#[test]
fn the_model_disk_loses_unsynced_data() {
    let disk = ForgetfulDisk::default();
    on(&disk).replace(&old()).unwrap();
    // A writer that does not sync.
    let mut file = (&disk).create(OsStr::new("new")).unwrap();
    (&disk).write(&mut file, &new()).unwrap();
    (&disk).rename(OsStr::new("new"), OsStr::new(NAME)).unwrap();

    let found: Vec<Vec<u8>> =
        disk.worlds_after_a_power_cut().iter().map(|world| content(world).unwrap()).collect();
    assert!(found.contains(&old()) && found.contains(&new()) && found.contains(&Vec::new()));
}

#[test]
fn only_its_own_temporary_files_are_removed() {
    let folder = folder(true);
    let others = [
        ".api.state.0123456789abcdef.tmp~",
        ".api.state.0123456789abcde.tmp",
        ".api.state.0123456789abcdeg.tmp",
        ".api.state2.0123456789abcdef.tmp",
        ".other.state.0123456789abcdef.tmp",
        "api.state.lock",
        "api.state.tmp",
    ];
    for name in others.iter().chain(&[".api.state.0123456789abcdef.tmp"]) {
        fs::write(folder.path().join(name), "x").unwrap();
    }

    on(real(&folder)).remove_leftovers();

    let mut expected: Vec<&str> = others.into_iter().chain([NAME]).collect();
    expected.sort_unstable();
    assert_eq!(names(folder.path()), expected);
}

#[test]
fn a_file_of_another_user_is_refused() {
    let folder = folder(true);
    let status = Status { is_regular: true, bytes: 300, mode: 0o600, other_owner: Some(4711) };
    let disk = Unreliable::new(real(&folder), Plan::Well).with_status(status);

    let refusal = on(&disk).read().unwrap_err();

    assert!(matches!(refusal, StateRefusal::Owner(4711)), "{refusal:?}");
}

#[test]
fn a_file_that_grows_during_a_read_is_read_up_to_the_limit() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(NAME), vec![0; MAX_STATE_BYTES + 1]).unwrap();
    let status = Status { is_regular: true, bytes: 10, mode: 0o600, other_owner: None };
    let disk = Unreliable::new(real(&folder), Plan::Well).with_status(status);

    assert!(matches!(on(&disk).read().unwrap_err(), StateRefusal::TooLarge));
}

#[test]
fn a_state_too_large_to_be_read_again_is_not_written() {
    let folder = folder(true);

    let error = on(real(&folder)).replace(&vec![0; MAX_STATE_BYTES + 1]).unwrap_err();

    assert!(matches!(error, SaveError::TooLarge(_)));
    assert_eq!(content(real(&folder)), Some(old()));
}
