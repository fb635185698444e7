//! The audit trail: its lines, its chain, and outputs that fail.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{BEARERD, PROMPT, Request, Setup, World, daemon, eventually, spawn};

/// What the daemon's trail is configured by; further lines are keys of `[audit]`.
fn trail(lines: &str) -> String {
    format!("[audit]\noutput = \"file:audit.jsonl\"\n{lines}")
}

/// The whole lines of a file; each must parse.
fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    text[..whole]
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}")))
        .collect()
}

/// The names of the events in a file.
fn events(path: &Path) -> Vec<String> {
    lines(path).iter().map(|line| line["event"].as_str().unwrap().to_owned()).collect()
}

/// Runs `bearerd audit verify`; returns its exit code and its output.
async fn verify(world: &World, arguments: &[&str]) -> (Option<i32>, String) {
    let arguments = [&["audit", "verify"], arguments].concat();
    let mut process = spawn(&arguments, &[], &world.folder());
    let status = process.ended().await;
    (status.code(), process.output())
}

async fn stop(world: &mut World) {
    world.process.signal(Signal::TERM);
    let began = Instant::now();
    assert_eq!(world.process.ended().await.code(), Some(0), "{}", world.process.output());
    assert!(began.elapsed() < PROMPT, "{:?}", began.elapsed());
}

async fn refresh(world: &World) {
    let (status, _) = world.admin_post("/credentials/api/refresh").await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn a_trail_is_whole_from_start_to_stop_and_shows_what_was_altered() {
    let mut world = daemon()
        .quiet()
        .file("audit.key", "abcdefghijklmnopqrstuvwxyz")
        .route(&trail("key = { file = \"audit.key\" }"))
        .start()
        .await;
    for _ in 0..3 {
        let reply = world.send(&Request::get("/x").field("Host", "other.example.com")).await;
        assert_eq!(reply.code().as_deref(), Some("host_not_allowed"));
    }
    let path = world.folder().join("audit.jsonl");
    let refused = || lines(&path).into_iter().filter(|line| line["event"] == "caller.refused");
    eventually("the refusal", async || refused().count() > 0).await;
    stop(&mut world).await;

    let all = lines(&path);
    let names = events(&path);
    assert_eq!(names.last().map(String::as_str), Some("daemon.stopped"), "{names:?}");
    assert!(names.contains(&"daemon.started".to_owned()) && names.contains(&"token.refreshed".to_owned()));
    let counts: Vec<u64> = refused()
        .map(|line| {
            assert_eq!(
                (&line["reason"], &line["client_address"]),
                (&"host_not_allowed".into(), &"127.0.0.1".into())
            );
            line["detail"].as_str().unwrap().trim_start_matches("requests: ").parse().unwrap()
        })
        .collect();
    assert_eq!(counts.iter().sum::<u64>(), 3, "{counts:?}");
    let refreshed = all.iter().find(|line| line["event"] == "token.refreshed").unwrap();
    assert_eq!((&refreshed["credential"], &refreshed["generation"]), (&"api".into(), &1.into()));
    assert_eq!(refreshed["rotations"], 0);
    assert!(refreshed["latency_ms"].is_f64() && refreshed["instance"].is_string(), "{refreshed}");
    assert!(refreshed["fingerprint"].as_str().is_some_and(|print| print.len() == 16), "{refreshed}");

    assert_eq!(verify(&world, &["--key", "audit.key", "audit.jsonl"]).await.0, Some(0));
    assert_eq!(verify(&world, &["audit.jsonl"]).await.0, Some(1), "without the key");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen("\"generation\":1", "\"generation\":2", 1)).unwrap();
    let altered = all.iter().position(|line| line["generation"] == 1).unwrap() + 1;
    let (code, said) = verify(&world, &["--key", "audit.key", "audit.jsonl"]).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&format!("audit.jsonl:{}: does not follow", altered + 1)), "{said}");
    assert_eq!(verify(&world, &["none.jsonl"]).await.0, Some(1));
    world.check();
}

/// FLT-DSK-03.
#[tokio::test]
async fn the_chain_goes_on_over_rotations_and_restarts() {
    let mut world = daemon().quiet().route(&trail("")).start().await;
    let file = |name: &str| world.folder().join(name);
    let path = file("audit.jsonl");
    let count = async |path: &Path, least: usize| {
        eventually("lines", async || events(path).len() >= least).await;
    };
    count(&path, 2).await;
    // Renamed, with the signal and without it.
    fs::rename(&path, file("audit.1")).unwrap();
    world.process.signal(Signal::USR1);
    eventually("the new file", async || path.exists()).await;
    refresh(&world).await;
    count(&path, 1).await;
    fs::rename(&path, file("audit.2")).unwrap();
    refresh(&world).await;
    count(&path, 1).await;
    // Copied and truncated.
    fs::copy(&path, file("audit.3")).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
    refresh(&world).await;
    count(&path, 1).await;
    stop(&mut world).await;
    world.start_again().await;
    world.ready().await;
    stop(&mut world).await;

    let files = ["audit.1", "audit.2", "audit.3", "audit.jsonl"];
    let (code, said) = verify(&world, &files).await;
    assert_eq!(code, Some(0), "{said}");
    let names: Vec<String> = files.iter().flat_map(|name| events(&world.folder().join(name))).collect();
    let count = |name: &str| names.iter().filter(|event| *event == name).count();
    assert_eq!((count("daemon.started"), count("daemon.stopped")), (2, 2), "{names:?}");
    assert_eq!((count("operator.acted"), count("token.refreshed")), (3, 5), "{names:?}");
    // An earlier file that was removed does not show, one in the middle does.
    assert_eq!(verify(&world, &files[1..]).await.0, Some(0));
    assert_eq!(verify(&world, &[files[0], files[2], files[3]]).await.0, Some(1));
    world.check();
}

/// FLT-DSK-01.
#[tokio::test]
async fn on_a_full_disk_refuse_answers_503_and_recovers_without_a_restart() {
    let mut world = daemon().quiet().route(&trail("on_failure = \"refuse\"")).start().await;
    let path = world.folder().join("audit.jsonl");
    assert_eq!(world.get("/x").await.status, 200);
    eventually("the start", async || events(&path).contains(&"daemon.started".to_owned())).await;
    // Room for a part of a line.
    world.process.limit_files(Some(fs::metadata(&path).unwrap().len() + 100));
    let before = world.authorization.requests();
    refresh(&world).await;
    assert_eq!(world.token_requests_since(before), 1, "token requests go on");
    eventually("refused", async || world.get("/x").await.code().as_deref() == Some("audit_unavailable"))
        .await;
    let reply = world.get("/x").await;
    assert_eq!((reply.status, reply.get("retry-after")), (503, Some("1")));
    assert_eq!(world.admin_status("/livez").await, 200);
    refresh(&world).await;

    world.process.limit_files(None);
    eventually("accepted", async || world.get("/x").await.status == 200).await;
    stop(&mut world).await;
    let (code, said) = verify(&world, &["audit.jsonl"]).await;
    assert_eq!(code, Some(0), "{said}");
    let names = events(&path);
    let refreshed = names.iter().filter(|name| *name == "token.refreshed").count();
    assert_eq!((refreshed, names.contains(&"audit.lost".to_owned())), (3, false), "{names:?}");
    world.check();
}

/// FLT-DSK-01, and SIGKILL between two lines.
#[tokio::test]
async fn on_a_full_disk_go_on_counts_the_lost_events() {
    let mut world = daemon().quiet().route(&trail("")).start().await;
    let path = world.folder().join("audit.jsonl");
    eventually("the start", async || events(&path).contains(&"daemon.started".to_owned())).await;
    world.process.limit_files(Some(fs::metadata(&path).unwrap().len() + 100));
    refresh(&world).await;
    eventually("the failure", async || !world.process.events("audit trail not written").is_empty()).await;
    assert_eq!(world.get("/x").await.status, 200);
    world.process.limit_files(None);
    eventually("the loss", async || events(&path).contains(&"audit.lost".to_owned())).await;
    world.kill().await;
    world.start_again().await;
    world.ready().await;
    stop(&mut world).await;
    let (code, said) = verify(&world, &["audit.jsonl"]).await;
    assert_eq!(code, Some(0), "{said}");
    let lost: Vec<Value> = lines(&path).into_iter().filter(|line| line["event"] == "audit.lost").collect();
    assert!(!lost.is_empty() && lost.len() <= 2, "{lost:?}");
    assert!(lost[0]["detail"].as_str().is_some_and(|detail| detail.starts_with("events: ")), "{lost:?}");
    world.check();
}

/// FLT-DSK-02.
#[tokio::test]
async fn a_pipe_that_nobody_reads_delays_nothing_and_counts_as_a_failure() {
    for on_failure in ["go_on", "refuse"] {
        let folder = tempfile::tempdir().unwrap();
        let pipe: PathBuf = folder.path().join("pipe");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let audit = format!("[audit]\noutput = \"file:{}\"\non_failure = \"{on_failure}\"", pipe.display());
        let mut world = daemon().quiet().route(&audit).start().await;
        eventually("the failure", async || !world.process.events("audit trail not written").is_empty()).await;
        let began = Instant::now();
        for _ in 0..20 {
            let expected = if on_failure == "refuse" { 503 } else { 200 };
            assert_eq!(world.get("/x").await.status, expected);
        }
        assert!(began.elapsed() < PROMPT, "{:?}", began.elapsed());
        stop(&mut world).await;
        world.check();
    }
}

#[tokio::test]
async fn a_reload_changes_what_follows_a_failure_and_keeps_the_output() {
    let world = daemon().quiet().route("[audit]\noutput = \"file:/dev/full\"").start().await;
    eventually("the failure", async || !world.process.events("audit trail not written").is_empty()).await;
    assert_eq!(world.get("/x").await.status, 200);
    world.configure(|text| text.replace("[audit]\n", "[audit]\non_failure = \"refuse\"\n"));
    assert_eq!(world.reload().await["settings"], "audit.on_failure");
    assert_eq!(world.get("/x").await.code().as_deref(), Some("audit_unavailable"));
    world.configure(|text| text.replace("file:/dev/full", "stdout"));
    world.reload().await;
    let event = world.process.event("some keys count from the next start on").await;
    assert_eq!(event["keys"], "audit.output");
    world.finish().await;
}

#[tokio::test]
async fn a_trail_that_cannot_be_opened_prevents_the_start_with_a_reason() {
    let world = daemon().quiet().start().await;
    world.configure(|text| format!("{text}\n[audit]\noutput = \"file:/proc/none/audit.jsonl\"\n"));
    let mut second = world.another();
    assert_eq!(second.ended().await.code(), Some(1));
    assert!(
        second.output().contains("the audit trail cannot be opened (`audit.output`)"),
        "{}",
        second.output()
    );
    world.finish().await;
}

/// FLT-DSK-01 on a file system that is full indeed, where the system lets a test mount one; otherwise the limits on the size
/// of files above are the only test.
#[tokio::test]
async fn on_a_full_tmpfs_refuse_answers_503_and_recovers_when_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let (disk, script) = (folder.path().join("disk"), folder.path().join("bearerd"));
    fs::create_dir(&disk).unwrap();
    let unshare = "unshare --user --map-root-user --mount";
    let mounts = format!("mount -t tmpfs -o size=64k tmpfs '{}'", disk.display());
    let probe = Command::new("sh").args(["-c", &format!("{unshare} sh -c \"{mounts}\"")]).output();
    if !probe.is_ok_and(|probe| probe.status.success()) {
        return;
    }
    let text =
        format!("#!/bin/sh\nexec {unshare} sh -c \"{mounts} && exec {BEARERD} \\\"\\$@\\\"\" sh \"$@\"\n");
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let lines = format!("[audit]\noutput = \"file:{}/audit.jsonl\"\non_failure = \"refuse\"", disk.display());
    let world = Setup::new(&script).quiet().route(&lines).start().await;
    // The disk as the daemon sees it.
    let seen = PathBuf::from(format!("/proc/{}/root{}", world.process.id(), disk.display()));
    eventually("the start", async || {
        events(&seen.join("audit.jsonl")).contains(&"daemon.started".to_owned())
    })
    .await;
    let filled = fs::write(seen.join("ballast"), vec![0; 1 << 20]).unwrap_err();
    assert_eq!(filled.kind(), std::io::ErrorKind::StorageFull);

    eventually("refused", async || {
        refresh(&world).await;
        world.get("/x").await.code().as_deref() == Some("audit_unavailable")
    })
    .await;
    fs::remove_file(seen.join("ballast")).unwrap();

    eventually("accepted", async || world.get("/x").await.status == 200).await;
    world.finish().await;
}
