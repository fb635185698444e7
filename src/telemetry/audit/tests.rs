//! The audit trail in a folder of its own.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::verify::Verification;
use super::*;
use crate::telemetry::event::Name;

fn settings(path: &Path) -> Settings {
    Settings { output: AuditOutput::File(path.to_owned()), on_failure: OnAuditFailure::GoOn, key: None }
}

fn start(settings: &Settings) -> Arc<Audit> {
    Audit::start(settings, "bearerd-1".to_owned(), Arc::default()).unwrap().unwrap()
}

fn record(audit: &Audit, detail: &str) {
    let detail = Some(detail.to_owned());
    audit.take(&Arc::new(Event { detail, ..Event::now(Name::TokenRefreshed) }));
}

/// The events and details of a file, whose chain must be whole.
fn read(path: &Path) -> Vec<(String, String)> {
    let text = fs::read(path).unwrap();
    let digests = [Digest::new(None)];
    let check = |line, remark: verify::Remark| assert!(!remark.is_fault(), "{line}: {}", remark.message());
    Verification::new(&digests).file(&text[..], check).unwrap();
    let objects = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let member = |object: &Value, name: &str| object[name].as_str().unwrap_or_default().to_owned();
    objects
        .map(|line| serde_json::from_slice::<Value>(line).unwrap())
        .map(|object| (member(&object, "event"), member(&object, "detail")))
        .collect()
}

fn refreshed(details: &[&str]) -> Vec<(String, String)> {
    details.iter().map(|detail| ("token.refreshed".to_owned(), (*detail).to_owned())).collect()
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log/audit.jsonl");
    (folder, path)
}

#[tokio::test]
async fn the_chain_goes_on_over_restarts() {
    let (_folder, path) = folder();
    for run in 0..3 {
        let audit = start(&settings(&path));
        record(&audit, &format!("{run}a"));
        record(&audit, &format!("{run}b"));
        audit.finish().await;
        let counters = &audit.shared.counters;
        assert_eq!((counters.events(), counters.failures()), (2, 0));
    }
    assert_eq!(read(&path), refreshed(&["0a", "0b", "1a", "1b", "2a", "2b"]));
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text.matches("\"previous\":null").count(), 1, "{text}");
}

#[tokio::test]
async fn lost_events_become_a_line_with_their_count() {
    let (_folder, path) = folder();
    let audit = start(&settings(&path));
    audit.shared.lost.store(3, Ordering::Relaxed);
    record(&audit, "next");
    audit.finish().await;
    let lines = read(&path);
    assert_eq!(lines[0], ("audit.lost".to_owned(), "events: 3".to_owned()));
    assert_eq!(lines[1..], refreshed(&["next"]));
    assert_eq!(audit.shared.lost.load(Ordering::Relaxed), 0);
}

/// FLT-DSK-01.
#[tokio::test]
async fn on_a_full_disk_go_on_counts_and_refuse_closes_the_gate() {
    if !Path::new("/dev/full").exists() {
        return;
    }
    for on_failure in [OnAuditFailure::GoOn, OnAuditFailure::Refuse] {
        let audit = start(&Settings { on_failure, ..settings(Path::new("/dev/full")) });
        record(&audit, "a");
        record(&audit, "b");
        let gate = audit.gate();
        assert_eq!(gate.is_some(), on_failure == OnAuditFailure::Refuse);
        let is_failing = || audit.shared.is_failing.load(Ordering::Relaxed);
        while audit.shared.counters.failures() < 2 || !is_failing() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(gate.is_none_or(|gate| gate.is_closed()));
        audit.finish().await;
        assert_eq!(audit.shared.counters.events(), 0);
    }
}

#[tokio::test]
async fn a_refusing_trail_keeps_its_events_and_recovers() {
    let (_folder, path) = folder();
    let audit = start(&Settings { on_failure: OnAuditFailure::Refuse, ..settings(&path) });
    // A folder in the place of the file, which is closed first.
    let moved = path.with_extension("old");
    record(&audit, "a");
    while audit.shared.counters.events() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    fs::rename(&path, &moved).unwrap();
    std::os::unix::fs::symlink("/dev/full", &path).unwrap();
    record(&audit, "b");
    record(&audit, "c");
    let gate = audit.gate().unwrap();
    while !gate.is_closed() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    fs::remove_file(&path).unwrap();
    while gate.is_closed() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    audit.finish().await;
    assert_eq!((read(&moved), read(&path)), (refreshed(&["a"]), refreshed(&["b", "c"])));
}

#[tokio::test]
async fn a_trail_that_is_off_opens_nothing() {
    let settings = Settings { output: AuditOutput::Off, ..settings(Path::new("/none")) };
    assert!(Audit::start(&settings, String::new(), Arc::default()).unwrap().is_none());
}
