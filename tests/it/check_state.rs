//! `bearerd check` reports the same problems of states as `run`, beside a running daemon too.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::harness::{Process, World, daemon, spawn};

pub(crate) const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
const OTHER_KEY: &str = "ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA=";

/// A daemon that has written its state, and the folder of the state.
pub(crate) async fn world_with_state() -> (TempDir, World) {
    let folder = tempfile::tempdir().unwrap();
    mode(folder.path(), 0o700);
    let world = daemon()
        .server(&format!("state_dir = \"{}\"", folder.path().display()))
        .environment("STATE_KEY", KEY)
        .credential("state_key = { env = \"STATE_KEY\" }")
        .start()
        .await;
    (folder, world)
}

async fn check(world: &World) -> (i32, String) {
    ended(world.command(&["check"])).await
}

async fn ended(mut process: Process) -> (i32, String) {
    let status = process.ended().await;
    (status.code().unwrap(), process.output())
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

pub(crate) fn state_file(folder: &TempDir) -> PathBuf {
    folder.path().join("api.state")
}

#[tokio::test]
async fn check_accepts_a_running_daemons_state_and_leaves_it_unchanged() {
    let (folder, world) = world_with_state().await;
    let before = fs::read(state_file(&folder)).unwrap();
    let names = || fs::read_dir(folder.path()).unwrap().count();
    let files = names();

    let (code, output) = check(&world).await;

    assert_eq!((code, output.as_str()), (0, "proxy.toml: ok (1 route, 1 credential)\n"));
    assert_eq!((fs::read(state_file(&folder)).unwrap(), names()), (before, files));
    assert_eq!(world.get("/x").await.status, 200);
    world.finish().await;
}

#[tokio::test]
async fn check_reports_a_state_that_the_daemon_would_refuse_with_file_and_remedy() {
    let (folder, mut world) = world_with_state().await;
    world.kill().await;
    let path = state_file(&folder);
    let whole = fs::read(&path).unwrap();
    let config = world.folder().join("proxy.toml");
    let text = fs::read_to_string(&config).unwrap();
    for (content, permissions, config_text, said, remedy) in [
        (&whole, 0o604, text.clone(), "its mode 0604 gives every user access", "chmod 600"),
        (
            &whole,
            0o600,
            text.replace("{ env = \"STATE_KEY\" }", &format!("\"{OTHER_KEY}\"")),
            "it is encrypted under another key",
            "as state_key_previous",
        ),
    ] {
        fs::write(&path, content).unwrap();
        mode(&path, permissions);
        fs::write(&config, config_text).unwrap();

        let (code, output) = check(&world).await;

        assert_eq!(code, 78, "{output}");
        assert!(output.contains(said) && output.contains(remedy), "{output}");
        assert!(output.contains("proxy.toml:") && output.contains("[credentials.api]"), "{output}");
        assert!(!output.contains(OTHER_KEY), "{output}");
        assert_eq!(fs::read(&path).unwrap(), *content);
        // `run` says the same.
        let (code, output) = ended(world.another()).await;
        assert_eq!(code, 78, "{said}");
        assert!(output.contains(said) && output.contains(remedy), "{output}");
    }
    world.check();
}

#[tokio::test]
async fn check_warns_of_a_state_that_the_daemon_starts_without() {
    let (folder, mut world) = world_with_state().await;
    world.kill().await;
    let path = state_file(&folder);
    let whole = fs::read(&path).unwrap();
    let config = world.folder().join("proxy.toml");
    let text = fs::read_to_string(&config).unwrap();
    let of_another_client = text.replace("client_id = \"", "client_id = \"another-");
    for (content, config_text, said) in [
        (whole[..whole.len() / 2].to_vec(), &text, "the daemon's start moves it aside: it is truncated"),
        (b"{}".to_vec(), &text, "the daemon's start moves it aside: it is not a state of bearerd"),
        (whole, &of_another_client, "is discarded: an access token, the waits"),
    ] {
        fs::write(&path, &content).unwrap();
        fs::write(&config, config_text).unwrap();

        let (code, output) = check(&world).await;

        assert_eq!(code, 0, "{output}");
        assert!(output.contains(said) && output.contains("1 warning"), "{output}");
        assert_eq!(fs::read(&path).unwrap(), content);
    }
    world.check();
}

#[tokio::test]
async fn check_warns_of_an_unusual_state() {
    let (folder, world) = world_with_state().await;
    mode(folder.path(), 0o755);
    mode(&state_file(&folder), 0o640);

    let (code, output) = check(&world).await;

    assert_eq!(code, 0, "{output}");
    assert!(output.contains("the mode 0755 of") && output.contains("chmod 700"), "{output}");
    assert!(output.contains("the mode 0640 of the state file gives its group access"), "{output}");
    assert!(output.contains("2 warnings"), "{output}");
    world.finish().await;
}

const DISK: &str = "[server]\nlisten = \"127.0.0.1:0\"\nstate_dir = \"disk\"\n[admin]\nlisten = \"127.0.0.1:0\"\n\
                    [credentials.a]\ntoken_url = \"https://127.0.0.1:1/\"\nclient_id = \"x\"\n\
                    client_secret = { env = \"PATH\" }\n\
                    [[routes]]\nupstream = \"https://127.0.0.1:1\"\ncredential = \"a\"\n";

/// The exit code and the output of a command of another program, which is installed wherever the tests run.
fn ended_in(folder: &Path, program: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = std::process::Command::new(program);
    let ended = command.args(arguments).current_dir(folder).output();
    let ended =
        ended.unwrap_or_else(|error| panic!("{program}, a part of util-linux, does not start: {error}"));
    let output = String::from_utf8(ended.stdout).unwrap() + &String::from_utf8(ended.stderr).unwrap();
    (ended.status.code(), output)
}

#[test]
fn check_and_run_agree_about_a_folder_that_is_not_writable() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("disk")).unwrap();
    fs::write(folder.path().join("proxy.toml"), DISK).unwrap();
    mode(&folder.path().join("disk"), 0o500);
    for command in ["check", "run"] {
        // Root may write to every folder, unless root has no capability to do so.
        let (code, output) = if rustix::process::geteuid().is_root() {
            let without = ["--bounding-set=-dac_override,-dac_read_search", crate::harness::BEARERD, command];
            ended_in(folder.path(), "setpriv", &without)
        } else {
            ended_in(folder.path(), crate::harness::BEARERD, &[command])
        };
        assert_eq!(code, Some(78), "{command}: {output}");
        assert!(
            output.contains("Permission denied") && output.contains("the daemon's own"),
            "{command}: {output}"
        );
    }
}

/// The user of a daemon that this process does not run as.
const DAEMON: Option<u32> = Some(65532);

/// Only root can give files to another user, and only root's `check` judges for another user.
#[tokio::test]
async fn check_by_root_judges_a_state_for_the_owner_of_its_folder() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let (folder, mut world) = world_with_state().await;
    world.process.signal(rustix::process::Signal::TERM);
    assert!(world.process.ended().await.success());
    let names = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
    let names: Vec<PathBuf> = names.chain([folder.path().to_owned()]).collect();
    for path in &names {
        std::os::unix::fs::chown(path, DAEMON, DAEMON).unwrap();
    }

    let (code, output) = check(&world).await;
    assert!(
        code == 0 && output.contains("belongs to the user with id 65532: its files were checked"),
        "{output}"
    );
    let (code, output) = ended(world.command(&["run"])).await;
    assert!(code == 78 && output.contains("belongs to the user"), "a daemon of root refuses: {output}");

    for (name, said) in
        [("api.state", "belongs to the user with id 0"), ("api.state.lock", "Permission denied")]
    {
        let path = folder.path().join(name);
        std::os::unix::fs::chown(&path, Some(0), Some(0)).unwrap();
        let (code, output) = check(&world).await;
        assert!(code == 78 && output.contains(said), "{name}: {output}");
        std::os::unix::fs::chown(&path, DAEMON, DAEMON).unwrap();
    }
    mode(folder.path(), 0o500);
    let (code, output) = check(&world).await;
    assert!(code == 78 && output.contains("cannot write in"), "{output}");
    mode(folder.path(), 0o700);
    fs::set_permissions(folder.path().join("api.state"), fs::Permissions::from_mode(0o644)).unwrap();
    let (code, output) = check(&world).await;
    assert!(code == 78 && output.contains("every user"), "{output}");
    world.check();
}

#[tokio::test]
async fn check_reports_a_missing_folder_once_for_all_its_states() {
    let folder = tempfile::tempdir().unwrap();
    let credential = |name: &str| {
        format!(
            "[credentials.{name}]\ntoken_url = \"https://as.example.com/t\"\nclient_id = \"x\"\n\
             client_secret = {{ env = \"SECRET\" }}\n"
        )
    };
    let config = format!(
        "[server]\nstate_dir = \"not-there\"\n{}{}[[routes]]\nupstream = \"https://api.example.com\"\ncredential = \"a\"\n",
        credential("a"),
        credential("b")
    );
    fs::write(folder.path().join("proxy.toml"), config).unwrap();
    let environment = [("SECRET".to_owned(), "x".to_owned())];

    let (code, output) = ended(spawn(&["check"], &environment, folder.path())).await;

    assert_eq!(code, 78);
    assert_eq!(output.matches("cannot open the folder of the state file").count(), 1, "{output}");
    assert!(output.contains("No such file") && output.contains("mkdir -m 700 not-there"), "{output}");
}

#[tokio::test]
async fn check_does_not_call_a_file_in_the_folders_place_missing() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    let config = "[server]\nstate_dir = \"file\"\n[credentials.a]\ntoken_url = \"https://as.example.com/t\"\n\
                  client_id = \"x\"\nclient_secret = { env = \"SECRET\" }\n[[routes]]\n\
                  upstream = \"https://api.example.com\"\ncredential = \"a\"\n";
    fs::write(folder.path().join("proxy.toml"), config).unwrap();
    let environment = [("SECRET".to_owned(), "x".to_owned())];

    for command in ["check", "run"] {
        let (code, output) = ended(spawn(&[command], &environment, folder.path())).await;

        assert_eq!(code, 78, "{output}");
        assert!(output.contains("Not a directory") && output.contains("the daemon's own"), "{output}");
        assert!(!output.contains("mkdir"), "{output}");
    }
}

/// Mounts a file system of its own, as any user or as root.
#[test]
fn check_and_run_agree_about_a_disk_without_space_or_read_only() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("disk")).unwrap();
    fs::write(folder.path().join("proxy.toml"), DISK).unwrap();
    let may_mount = |unshare: &&[&str]| {
        let mount = [*unshare, &["mount", "-t", "tmpfs", "none", "disk"]].concat();
        ended_in(folder.path(), "unshare", &mount).0 == Some(0)
    };
    let unshare = [&["--user", "--map-root-user", "--mount"][..], &["--mount"]].into_iter().find(may_mount);
    let unshare = unshare.expect(
        "the system lets this user mount nothing: run the test as root, or allow it with \
         sysctl kernel.apparmor_restrict_unprivileged_userns=0 or kernel.unprivileged_userns_clone=1",
    );
    let fill = |with: &str, command: &str| {
        let script = format!(
            "mount -t tmpfs -o mode=700,size=64k,nr_inodes=64 none disk; {with}; exec timeout 2 {} {command}",
            crate::harness::BEARERD,
        );
        ended_in(folder.path(), "unshare", &[unshare, &["sh", "-c", &script]].concat())
    };
    let files = "for i in $(seq 70); do touch disk/$i; done 2> /dev/null";
    let bytes = "head -c 100000 /dev/zero > disk/full 2> /dev/null";
    for command in ["check", "run"] {
        let (code, output) = fill(files, command);
        assert_eq!(code, Some(78), "{command}: {output}");
        assert!(output.contains("No space left") && output.contains("free space on the disk"), "{output}");
    }

    let read_only = "mount -o remount,ro disk";
    for command in ["check", "run"] {
        let (code, output) = fill(read_only, command);
        assert!(code == Some(78) && output.contains("Read-only file system"), "{command}: {output}");
    }

    let (code, output) = fill(bytes, "check");
    assert!(code == Some(0) && output.contains("warning: the disk of disk is full"), "{output}");
    let (_, output) = fill(bytes, "run");
    assert!(output.contains("\"started\"") && output.contains("No space left"), "{output}");
}

#[tokio::test]
async fn check_and_run_refuse_an_output_of_log_or_audit_trail_that_cannot_be_opened() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    fs::create_dir(folder.path().join("dir")).unwrap();
    for (section, said) in
        [("log", "the log cannot be written"), ("audit", "the audit trail cannot be opened")]
    {
        for (output, why) in [("dir", "is a directory"), ("file/x", "not a directory")] {
            let config = DISK.replace("state_dir = \"disk\"\n", "")
                + &format!("[{section}]\noutput = \"file:{output}\"\n");
            fs::write(folder.path().join("proxy.toml"), config).unwrap();
            for command in ["check", "run"] {
                let environment = [("PATH".to_owned(), "/bin".to_owned())];
                let (code, shown) = ended(spawn(&[command], &environment, folder.path())).await;
                assert_ne!(code, 0, "{command} {output}: {shown}");
                assert!(shown.contains(said), "{command} {output}: {shown}");
                assert!(shown.to_lowercase().contains(why), "{command} {output}: {shown}");
            }
        }
    }
    let config = DISK.replace("state_dir = \"disk\"\n", "") + "[audit]\noutput = \"file:new/folder/audit\"\n";
    fs::write(folder.path().join("proxy.toml"), config).unwrap();
    let (code, shown) =
        ended(spawn(&["check"], &[("PATH".to_owned(), "/bin".to_owned())], folder.path())).await;
    assert_eq!(code, 0, "{shown}");
    assert!(!folder.path().join("new").exists(), "check makes nothing");
}

/// Sockets in folders that are not there, at other files, and at one path in two spellings.
#[tokio::test]
async fn check_refuses_a_unix_socket_that_run_cannot_bind() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    let list = "\"unix:s\", \"unix:./s\"";
    for (listen, said) in [
        ("\"unix:none/s\"", "cannot listen on unix:none/s (server.listen): No such file"),
        ("\"unix:file\"", "cannot listen on unix:file (server.listen): what is there is no socket"),
        (list, "unix:./s and unix:s cannot both be listened on"),
    ] {
        let config = format!(
            "[server]\nlisten = [{listen}]\n[admin]\nlisten = \"127.0.0.1:0\"\n\
             [[routes]]\nupstream = \"http://127.0.0.1:1\"\ncredential = \"none\"\n"
        );
        fs::write(folder.path().join("proxy.toml"), config).unwrap();
        for command in ["check", "run"] {
            let (code, output) = ended(spawn(&[command], &[], folder.path())).await;
            assert!(if command == "check" { code == 78 } else { code != 0 }, "{command}: {output}");
            assert!(output.contains(said), "{command}: {output}");
        }
    }
}
