//! The state file as the refresher has it: opened, saved, refused, locked, and killed.

mod processes;

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret, SecretString};
use tempfile::TempDir;

use super::*;
use crate::causes::in_one_line;
use crate::token::access_token::{AccessToken, Generation};
use crate::token::limiter::{Barrier, Blocked, Snapshot};

const LONGEST_WAIT: Duration = Duration::from_mins(15);

fn key(byte: u8) -> StateKey {
    StateKey::parse(&SecretString::from(STANDARD.encode([byte; 32]))).unwrap()
}

fn keys() -> StateKeys {
    StateKeys::new(key(1), Vec::new())
}

fn open_with(path: &Path, keys: StateKeys) -> Result<(StateFile, FoundState), OpenError> {
    StateFile::open(path, Identity::of(&[b"api"]), keys, LONGEST_WAIT, Clock::system())
}

fn open(path: &Path) -> Result<(StateFile, FoundState), OpenError> {
    open_with(path, keys())
}

/// A state after so many rotations.
fn state(rotations: u64) -> State {
    State { refresh_token: Some(grant(rotations)), rotations, ..State::default() }
}

fn grant(rotations: u64) -> SecretString {
    SecretString::from(format!("r3fresh-{rotations}"))
}

/// How often the state that was found had been rotated.
fn rotations(found: &FoundState) -> Option<u64> {
    let state = found.state.as_ref()?;
    let token = state.refresh_token.as_ref().map(|token| token.expose_secret().to_owned());
    assert_eq!(token.as_deref(), Some(grant(state.rotations).expose_secret()));
    Some(state.rotations)
}

/// A folder with a state after three rotations, and the state's path.
fn saved() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.state");
    let (mut file, _) = open(&path).unwrap();
    file.save(&state(3)).unwrap();
    (folder, path)
}

fn refusal(path: &Path) -> StateRefusal {
    match open(path).unwrap_err() {
        OpenError::Refused(_, refusal) => refusal,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_missing_file_is_an_empty_state_and_a_saved_state_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.state");

    let (mut file, found) = open(&path).unwrap();
    assert!(found.state.is_none() && found.warnings.is_empty());
    assert!(file.keeps_tokens());
    file.save(&state(1)).unwrap();
    file.save(&state(2)).unwrap();
    drop(file);

    let (_, found) = open(&path).unwrap();
    assert_eq!(rotations(&found), Some(2));
    assert!(found.warnings.is_empty(), "{:?}", found.warnings);
    for name in ["api.state", "api.state.lock"] {
        let mode = fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[test]
fn a_valid_token_and_a_barrier_outlive_a_restart() {
    let (_folder, path) = saved();
    let now = Clock::system().now();
    let lifetime = Duration::from_mins(10);
    let token = AccessToken::new("t", Generation::from_number(4), now, lifetime, Vec::new()).unwrap();
    let blocked = Some(Blocked { until: now + Duration::from_mins(1), by: Barrier::RetryAfter });
    let snapshot = Snapshot { blocked, failures: 1, ..Snapshot::default() };
    let (mut file, _) = open(&path).unwrap();
    file.save(&State { access_token: Some(token.clone()), limiter: snapshot, ..state(4) }).unwrap();
    drop(file);

    let state = open(&path).unwrap().1.state.unwrap();

    let found = state.access_token.unwrap();
    assert!(found.is_same_token(&token) && found.generation() == token.generation());
    assert!(found.expires() <= token.expires());
    assert!(found.expires().until(token.expires()) < Duration::from_secs(1));
    let until = state.limiter.blocked.unwrap().until;
    assert!(until.since(snapshot.blocked.unwrap().until) < Duration::from_secs(1));
    assert!(until <= Clock::system().now() + Duration::from_mins(1));
}

#[test]
fn a_path_that_is_not_a_regular_file_of_ours_is_refused() {
    let (folder, path) = saved();
    let at = |name: &str| folder.path().join(name);
    symlink(&path, at("link")).unwrap();
    symlink(at("nowhere"), at("dangling")).unwrap();
    fs::create_dir(at("folder")).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    let huge = fs::File::create(at("huge")).unwrap();
    huge.set_permissions(Permissions::from_mode(0o600)).unwrap();
    huge.set_len(1 << 30).unwrap();
    fs::write(at("empty"), "").unwrap();
    fs::set_permissions(at("empty"), Permissions::from_mode(0o600)).unwrap();

    for (name, reason) in [
        ("link", "it is a symlink"),
        ("dangling", "it is a symlink"),
        ("folder", "it is not a regular file"),
        ("pipe", "it is not a regular file"),
        ("socket", "it is not a regular file"),
        ("huge", "it is larger than 256 KiB"),
        ("empty", "it is truncated"),
    ] {
        let refusal = refusal(&at(name)).to_string();
        assert!(refusal.contains(reason), "{name}: {refusal}");
    }
    assert_eq!(fs::metadata(at("huge")).unwrap().len(), 1 << 30);
}

#[test]
fn a_refused_file_is_not_changed() {
    let (_folder, path) = saved();
    let good = fs::read(&path).unwrap();
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    for content in [bad, good[..good.len() / 2].to_vec(), b"something else".to_vec()] {
        fs::write(&path, &content).unwrap();
        for _ in 0..2 {
            open(&path).unwrap_err();
        }
        assert_eq!(fs::read(&path).unwrap(), content);
    }
    fs::write(&path, good).unwrap();
    assert_eq!(rotations(&open(&path).unwrap().1), Some(3));
}

#[test]
fn a_file_open_to_every_user_is_refused_and_one_open_to_its_group_warned_of() {
    let (_folder, path) = saved();
    for mode in [0o604, 0o602, 0o644, 0o666] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        assert!(matches!(refusal(&path), StateRefusal::Permissions(found) if found == mode));
    }
    for mode in [0o640, 0o660] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let (mut file, found) = open(&path).unwrap();
        assert!(matches!(found.warnings[..], [Warning::GroupMode(found)] if found == mode));
        file.save(&state(4)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn an_older_copy_and_a_missing_file_are_warned_of() {
    let (_folder, path) = saved();
    let older = fs::read(&path).unwrap();
    let (mut file, _) = open(&path).unwrap();
    file.save(&state(4)).unwrap();
    file.save(&state(5)).unwrap();

    fs::write(&path, &older).unwrap();
    let found = file.read().unwrap();
    assert!(matches!(found.warnings[..], [Warning::RolledBack { found: 1, latest: 3 }]));
    drop(file);
    let (mut file, found) = open(&path).unwrap();
    assert!(matches!(found.warnings[..], [Warning::RolledBack { found: 1, latest: 3 }]));
    assert_eq!(rotations(&found), Some(3));
    file.save(&state(4)).unwrap();
    drop(file);
    assert!(open(&path).unwrap().1.warnings.is_empty());

    fs::remove_file(&path).unwrap();
    let (_, found) = open(&path).unwrap();
    assert!(matches!(found.warnings[..], [Warning::Gone(4)]));
}

#[test]
fn a_file_that_a_person_has_replaced_is_read_again() {
    let (folder, path) = saved();
    let (mut file, _) = open(&path).unwrap();
    let newer = {
        fs::create_dir(folder.path().join("elsewhere")).unwrap();
        let elsewhere = folder.path().join("elsewhere/api.state");
        fs::copy(&path, &elsewhere).unwrap();
        open(&elsewhere).unwrap().0.save(&state(9)).unwrap();
        elsewhere
    };
    fs::rename(newer, &path).unwrap();

    assert_eq!(rotations(&file.read().unwrap()), Some(9));
    file.save(&state(10)).unwrap();
    drop(file);
    let (_, found) = open(&path).unwrap();
    assert_eq!(rotations(&found), Some(10));
    assert!(found.warnings.is_empty());
}

#[test]
fn a_key_is_replaced_while_the_previous_one_still_reads() {
    let (_folder, path) = saved();

    let error = open_with(&path, StateKeys::new(key(2), Vec::new())).unwrap_err();
    assert!(in_one_line(&error).contains("another key"), "{}", in_one_line(&error));
    let error = open_with(&path, StateKeys::none()).unwrap_err();
    assert!(in_one_line(&error).contains("no state_key"), "{}", in_one_line(&error));

    let (mut file, found) = open_with(&path, StateKeys::new(key(2), vec![key(1)])).unwrap();
    assert!(matches!(found.warnings[..], [Warning::OldKey]));
    file.save(&found.state.unwrap()).unwrap();
    drop(file);
    let (_, found) = open_with(&path, StateKeys::new(key(2), Vec::new())).unwrap();
    assert_eq!(rotations(&found), Some(3));
}

#[test]
fn without_a_key_a_restart_keeps_the_barrier_and_no_token() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.state");
    let (mut file, _) = open_with(&path, StateKeys::none()).unwrap();
    assert!(!file.keeps_tokens());
    let until = Clock::system().now() + Duration::from_mins(1);
    let snapshot = Snapshot {
        blocked: Some(Blocked { until, by: Barrier::Breaker }),
        failures: 5,
        ..Snapshot::default()
    };
    file.save(&State { limiter: snapshot, ..state(1) }).unwrap();
    drop(file);

    let state = open_with(&path, StateKeys::none()).unwrap().1.state.unwrap();

    assert_eq!(state.limiter.failures, 5);
    assert_eq!(state.limiter.blocked.unwrap().by, Barrier::Breaker);
    assert!(state.refresh_token.is_none());
}

#[test]
fn only_the_holder_of_the_lock_removes_leftover_temporary_files() {
    let (folder, path) = saved();
    let leftover = folder.path().join(".api.state.0123456789abcdef.tmp");
    let held = open(&path).unwrap();
    fs::write(&leftover, "half a").unwrap();

    open(&path).unwrap_err();
    assert!(leftover.exists());
    drop(held);
    open(&path).unwrap();
    assert!(!leftover.exists());
}

#[test]
fn a_second_opener_is_refused_until_the_first_is_gone() {
    let (_folder, path) = saved();
    let held = open(&path).unwrap();

    let error = open(&path).unwrap_err();
    assert!(matches!(error, OpenError::Held(..)));
    let expected = format!("is in use by process {} on ", std::process::id());
    assert!(error.to_string().contains(&expected), "{error}");

    drop(held);
    open(&path).unwrap();
}

#[test]
fn a_leftover_lock_file_excludes_nobody_and_an_irregular_one_is_refused() {
    let (folder, path) = saved();
    let lock = folder.path().join("api.state.lock");
    for content in ["process 1 on elsewhere\nwrite 00000000000000000001\n", "", "\u{1b}[31m\nwrite x\n"] {
        fs::write(&lock, content).unwrap();
        assert_eq!(rotations(&open(&path).unwrap().1), Some(3));
    }
    fs::remove_file(&lock).unwrap();
    symlink(&path, &lock).unwrap();
    assert!(matches!(open(&path).unwrap_err(), OpenError::Lock(..)));
    fs::remove_file(&lock).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&lock).status().unwrap().success());
    assert!(matches!(open(&path).unwrap_err(), OpenError::Lock(..)));
}

#[test]
fn a_missing_folder_and_a_path_without_a_name_are_errors() {
    let folder = tempfile::tempdir().unwrap();

    let error = open(&folder.path().join("no/such/api.state")).unwrap_err();
    assert!(in_one_line(&error).contains("No such file"), "{}", in_one_line(&error));
    assert!(matches!(open(Path::new("/")).unwrap_err(), OpenError::NotAFile(_)));
}

#[test]
fn a_failed_save_keeps_the_old_state_and_the_next_one_succeeds() {
    let (folder, path) = saved();
    let (mut file, _) = open(&path).unwrap();
    // The folder takes no more files, so to say: the file's name is taken by a folder.
    fs::rename(&path, folder.path().join("aside")).unwrap();
    fs::create_dir(&path).unwrap();

    let error = file.save(&state(4)).unwrap_err();
    assert!(
        matches!(error, SaveError::Disk("the temporary file cannot take the state's name", _)),
        "{error:?}"
    );
    assert!(!in_one_line(&error).contains("r3fresh"));

    fs::remove_dir(&path).unwrap();
    fs::rename(folder.path().join("aside"), &path).unwrap();
    assert_eq!(rotations(&file.read().unwrap()), Some(3));
    file.save(&state(4)).unwrap();
    drop(file);
    let (_, found) = open(&path).unwrap();
    assert_eq!(rotations(&found), Some(4));
    assert!(found.warnings.is_empty());
}

#[test]
fn a_state_file_shows_no_secret_and_can_go_to_another_thread() {
    fn is_sendable<T: Send + 'static>(_: &T) {}
    let (_folder, path) = saved();
    let opened = open(&path).unwrap();

    is_sendable(&opened);
    assert!(!format!("{opened:?}").contains("r3fresh"));
}

#[test]
fn a_removed_folder_is_followed_and_locked_once_it_exists_again() {
    let (folder, path) = saved_in_a_folder();
    let (mut file, _) = open(&path).unwrap();
    fs::remove_dir_all(path.parent().unwrap()).unwrap();

    let error = in_one_line(&file.save(&state(4)).unwrap_err());
    assert!(error.contains("cannot open the folder"), "{error}");
    fs::create_dir(path.parent().unwrap()).unwrap();
    file.save(&state(5)).unwrap();

    assert!(matches!(open(&path).unwrap_err(), OpenError::Held(..)));
    drop(file);
    let (_, found) = open(&path).unwrap();
    assert_eq!((rotations(&found), found.warnings.len()), (Some(5), 0));
    drop(folder);
}

#[test]
fn a_deleted_lock_file_is_made_and_locked_again_by_the_next_write() {
    let (folder, path) = saved();
    let (mut file, _) = open(&path).unwrap();
    fs::remove_file(folder.path().join("api.state.lock")).unwrap();

    file.save(&state(4)).unwrap();

    assert!(matches!(open(&path).unwrap_err(), OpenError::Held(..)));
    drop(file);
    let (_, found) = open(&path).unwrap();
    assert_eq!((rotations(&found), found.warnings.len()), (Some(4), 0));
}

#[test]
fn a_state_that_another_process_has_taken_over_is_neither_overwritten_nor_read() {
    type Lose = fn(&Path);
    let without_lock: Lose = |path| fs::remove_file(path.with_extension("state.lock")).unwrap();
    let without_folder: Lose = |path| {
        fs::rename(path.parent().unwrap(), path.parent().unwrap().with_extension("away")).unwrap();
        fs::create_dir(path.parent().unwrap()).unwrap();
    };
    for lose in [without_lock, without_folder] {
        let (_folder, path) = saved_in_a_folder();
        let (mut ours, _) = open(&path).unwrap();
        lose(&path);
        let (mut theirs, _) = open(&path).unwrap();
        theirs.save(&state(10)).unwrap();
        let before = fs::read(&path).unwrap();

        let error = in_one_line(&ours.save(&state(4)).unwrap_err());
        assert!(error.contains("is in use by process "), "{error}");
        assert!(matches!(ours.read().unwrap_err(), OpenError::Held(..)));
        assert_eq!(fs::read(&path).unwrap(), before);

        // The other process ends. This process goes on with the number after the other process's last write.
        drop(theirs);
        ours.save(&state(5)).unwrap();
        drop(ours);
        let (_, found) = open(&path).unwrap();
        assert_eq!((rotations(&found), found.warnings.len()), (Some(5), 0));
    }
}

/// Saves a state as [`saved`] does, in a folder within the temporary folder.
fn saved_in_a_folder() -> (TempDir, PathBuf) {
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join("state");
    fs::create_dir(&folder).unwrap();
    let path = folder.join("api.state");
    let (mut file, _) = open(&path).unwrap();
    file.save(&state(3)).unwrap();
    drop(file);
    (outer, path)
}
